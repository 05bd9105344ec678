"""What is counted without being there any more: pruned containers and events, and what they told."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses
import datetime
from typing import Any

import pytest

from muster.model.account import Role
from muster.model.container import Container, ContainerStatus, Reason, StopRequest
from muster.model.deployment import Deployment
from muster.model.event import Cursor, EventKind
from muster.model.ids import ContainerUuid, ImageUuid, MachineId
from muster.store.port import Counts, EventQuery, ReuseFigures
from muster.testing.conformance.store.world import START, OpenStore, World, a_placement, at, ids, in_a_world


async def ended(world: World, deployment: Deployment, name: str, **fields: Any) -> Container:
    """Write a container that ran, failed, and was released."""
    values: dict[str, Any] = {
        "status": ContainerStatus.SHUTDOWN,
        "reason": Reason.ERROR,
        "started_at": at(10),
        "stopped_at": at(20),
        "released_at": at(30),
        **fields,
    }
    return await world.placed(deployment, name, **values)


async def proved(world: World, deployment: Deployment) -> None:
    """Write that a deployment's version is good."""
    good = dataclasses.replace(deployment, stable_version=deployment.version)
    await world.store.write(lambda tx: tx.deployments.update(good))


class PruningConformance:
    """``Containers.completed``, ``failures`` and ``prune``; ``Events.last_before`` and totals."""

    def test_completed_are_those_that_ran_and_came_to_their_own_end(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            asked = StopRequest(Reason.STOPPED_BY_USER, START)
            made = [
                await ended(world, deployment, "good", reason=Reason.COMPLETED, exit_code=0),
                await ended(world, deployment, "bad", reason=Reason.ERROR, exit_code=1),
                await ended(world, deployment, "large", reason=Reason.OOM_KILLED),
                await ended(world, deployment, "asked", stop=asked, reason=Reason.STOPPED_BY_USER),
                await ended(world, deployment, "asked-and-failed", stop=asked, reason=Reason.ERROR),
                await ended(world, deployment, "lost", reason=Reason.MACHINE_LOST),
                await ended(world, deployment, "never-ran", reason=Reason.ERROR, started_at=None),
                await world.placed(deployment, "runs", 0, status=ContainerStatus.RUNNING, started_at=at(10)),
                await world.container(deployment, "waits"),
            ]
            await ended(world, await world.deployment("d2"), "foreign", reason=Reason.COMPLETED)
            assert [each.is_completed for each in made] == [True] * 3 + [False] * 6
            assert await world.store.read(lambda tx: tx.containers.completed(deployment.id)) == 3

        in_a_world(open_store, scenario)

    def test_failures_are_what_nobody_wanted_by_machine_and_reason(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.deployment("d2", account=other)
            on_second = a_placement(machine="m2")
            never_good = await world.deployment("d3")
            await ended(world, never_good, "its own fault", reason=Reason.START_FAILED)
            await proved(world, deployment)
            await proved(world, foreign)
            await ended(world, deployment, "a", reason=Reason.ERROR)
            await ended(world, deployment, "b", reason=Reason.ERROR)
            await ended(world, deployment, "c", reason=Reason.OOM_KILLED, placement=on_second)
            await ended(world, deployment, "old", reason=Reason.ERROR, stopped_at=at(5))
            await ended(world, deployment, "good", reason=Reason.COMPLETED)
            await ended(world, deployment, "wanted", reason=Reason.SCALED_IN)
            await ended(world, foreign, "theirs", reason=Reason.MACHINE_LOST)
            mine = {MachineId("m1"): {Reason.ERROR: 2}, MachineId("m2"): {Reason.OOM_KILLED: 1}}
            assert await world.store.read(lambda tx: tx.containers.failures(at(6), world.account.id)) == mine
            everybodys = {**mine, MachineId("m1"): {Reason.ERROR: 2, Reason.MACHINE_LOST: 1}}
            assert await world.store.read(lambda tx: tx.containers.failures(at(6))) == everybodys
            assert await world.store.read(lambda tx: tx.containers.failures(at(21))) == {}

        in_a_world(open_store, scenario)

    def test_pruned_containers_are_still_counted(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            for number in range(5):
                reason = Reason.COMPLETED if number < 3 else Reason.MACHINE_LOST
                await ended(world, deployment, f"c{number}", reason=reason, released_at=at(100 + number))
            unplaced = await world.container(
                deployment, "unplaced", stop=StopRequest(Reason.SCALED_IN, START), released_at=at(100)
            )
            kept = await ended(world, deployment, "kept", released_at=None)

            async def prune(before: float, at_most: int) -> int:
                return await world.store.write(lambda tx: tx.containers.prune(at(before), at_most))

            assert await prune(100, 10) == 0
            assert [await prune(104, 2) for _ in range(4)] == [2, 2, 1, 0]
            left = await world.store.read(lambda tx: tx.containers.of_deployment(deployment.id))
            assert ids(left) == ["c4", kept.id]
            assert await world.store.read(lambda tx: tx.containers.get(unplaced.id)) is None
            counts = await world.store.read(lambda tx: tx.deployments.counts([deployment.id]))
            assert counts == {deployment.id: Counts(finished=6, completed=4)}
            assert await world.store.read(lambda tx: tx.containers.completed(deployment.id)) == 4

        in_a_world(open_store, scenario)

    def test_what_an_unreleased_container_took_over_stays(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            old = await ended(world, deployment, "old")
            taker = await world.placed(
                deployment, "taker", 0, status=ContainerStatus.RUNNING, reused_from=ContainerUuid("uuid-old")
            )

            async def prune() -> int:
                return await world.store.write(lambda tx: tx.containers.prune(at(1000), 10))

            assert await prune() == 0
            assert await world.store.read(lambda tx: tx.containers.get(old.id)) == old
            await world.change(taker, status=ContainerStatus.SHUTDOWN, released_at=at(2000))
            assert await prune() == 1

        in_a_world(open_store, scenario)

    def test_pruning_changes_no_figure_of_reuse(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment(reuse_container=True)

            async def start(name: str, took: float, *, released: float, reuses: bool = False) -> None:
                await ended(
                    world,
                    deployment,
                    name,
                    image=ImageUuid("a"),
                    image_reference="a:1",
                    reused_from=ContainerUuid("uuid-gone") if reuses else None,
                    placed_at=at(1000),
                    started_at=at(1000 + took),
                    released_at=at(released),
                )

            async def figures() -> list[ReuseFigures]:
                return [
                    await world.store.read(lambda tx: tx.containers.reuse_figures(world.account.id)),
                    await world.store.read(lambda tx: tx.containers.reuse_figures()),
                ]

            await start("slow", 20.0, released=1)
            await start("slower", 40.0, released=2)
            await start("quick", 1.0, released=3, reuses=True)
            await start("quicker", 0.5, released=4, reuses=True)
            before = await figures()
            assert (before[0].starts, before[0].reuses) == (4, 2)
            assert before[0].seconds_saved == pytest.approx(58.5, abs=0.01)
            for _ in range(4):
                assert await world.store.write(lambda tx: tx.containers.prune(at(1000), 1)) == 1
                for was, now in zip(before, await figures(), strict=True):
                    assert (now.starts, now.reuses) == (was.starts, was.reuses)
                    assert now.seconds_saved == pytest.approx(was.seconds_saved, abs=0.01)
            await start("later", 10.0, released=5000, reuses=True)
            assert (await figures())[0].seconds_saved == pytest.approx(58.5 + 20.0, abs=0.01)

        in_a_world(open_store, scenario)

    def test_the_last_event_before_a_moment_is_found_a_batch_at_a_time(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)

            async def last_before(moment: datetime.datetime, at_most: int) -> int:
                return await world.store.read(lambda tx: tx.events.last_before(moment, at_most))

            assert await last_before(at(100), 10) == 0
            written = [await world.event(container, created_at=at(seconds)) for seconds in (1, 2, 3, 50, 4)]
            assert await last_before(at(1), 10) == 0
            assert await last_before(at(3), 10) == written[1]
            assert await last_before(at(100), 3) == written[2]
            # one that a clock has dated too late keeps those after it, which are not older in the order of the log
            assert await last_before(at(10), 10) == written[2]
            assert await last_before(at(100), 10) == written[4]

        in_a_world(open_store, scenario)

    def test_totals_follow_what_is_appended_and_pruned(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first = await world.placed(await world.deployment("d1"), "c1", 0)
            second = await world.placed(await world.deployment("d2"), "c2", 1)
            written = [await world.event(each) for each in (first, second, first, first)]
            await world.event(first, kind=EventKind.READY)

            async def total(**fields: Any) -> int:
                query = EventQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx: tx.events.find(query))
                assert page.total == len(page.items)
                return page.total

            async def totals() -> list[int]:
                return [
                    await total(),
                    await total(kinds=frozenset(EventKind)),
                    await total(deployment_id=first.deployment_id),
                    await total(deployment_id=second.deployment_id),
                    await total(container_uuid=first.uuid),
                ]

            assert await totals() == [4, 5, 3, 1, 3]
            await world.store.write(lambda tx: tx.events.prune(Cursor(written[1])))
            assert await totals() == [2, 3, 2, 0, 2]
            await world.event(second)
            assert await totals() == [3, 4, 2, 1, 2]

        in_a_world(open_store, scenario)
