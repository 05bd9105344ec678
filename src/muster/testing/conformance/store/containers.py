"""Containers: written by revision, their claims on GPUs, and the lists that people and the loops read."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses
from types import MappingProxyType
from typing import Any

import pytest

from muster.errors import StaleWrite
from muster.model.account import Account, Role
from muster.model.container import Address, Container, ContainerStatus, Reason, StopRequest
from muster.model.deployment import Deployment
from muster.model.ids import ContainerId, ContainerUuid, ImageUuid
from muster.model.quantity import GIB, Range
from muster.store.port import ContainerQuery, ReuseFigures, Transaction, Window
from muster.testing.conformance.store.world import START, OpenStore, World, a_placement, at, ids, in_a_world


class ContainerConformance:
    """``Containers``."""

    def test_a_new_container_is_of_its_deployments_version_and_unplaced(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            container = await world.container(deployment, "c1")
            assert await world.store.read(lambda tx: tx.containers.get(container.id)) == container
            assert (container.deployment_id, container.account_id) == (deployment.id, deployment.account_id)
            assert (container.version, container.revision) == ("v1", 0)
            assert (container.placement, container.uuid, container.status) == (None, None, None)
            assert await world.store.read(lambda tx: tx.containers.get(ContainerId("other"))) is None

        in_a_world(open_store, scenario)

    def test_an_update_of_a_container_writes_all_but_identity(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            container = await world.container(deployment, "c1")
            wanted = dataclasses.replace(
                container,
                version="v2",
                updated_at=at(1),
                generation=2,
                stop=StopRequest(Reason.SCALED_IN, at(2), no_cache=True, cmd_before_shutdown="bye"),
                placement=a_placement(1, 3),
                uuid=ContainerUuid("uuid-c1"),
                status=ContainerStatus.SHUTTING_DOWN,
                addresses=MappingProxyType({6006: Address("127.0.0.1", 40001), 6008: Address("::1", 40002)}),
                is_ready=True,
                reason=Reason.OOM_KILLED,
                message="内存",
                exit_code=137,
                started_at=at(3),
                stopped_at=at(4),
                released_at=at(5),
            )
            written = await world.change(wanted)
            assert written == dataclasses.replace(wanted, revision=1)
            assert await world.store.read(lambda tx: tx.containers.get(container.id)) == written
            assert await world.store.read(lambda tx: tx.containers.by_uuid(ContainerUuid("uuid-c1"))) == written
            assert await world.store.read(lambda tx: tx.containers.by_uuid(ContainerUuid("uuid-c2"))) is None

        in_a_world(open_store, scenario)

    def test_an_update_of_an_old_revision_of_a_container_writes_nothing(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            old = await world.container(await world.deployment(), "c1")
            new = await world.change(old, message="first")
            with pytest.raises(StaleWrite):
                await world.change(old, message="second", placement=a_placement(0))
            assert await world.store.read(lambda tx: tx.containers.get(old.id)) == new
            assert await world.store.read(lambda tx: tx.containers.claims()) == {}

        in_a_world(open_store, scenario)

    def test_a_gpu_is_claimed_by_one_container_until_it_is_shut_down(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            holder = await world.placed(deployment, "c1", 0, 1)
            waiting = await world.container(deployment, "c2")
            with pytest.raises(StaleWrite):
                await world.change(waiting, placement=a_placement(1, 2))
            assert await world.store.read(lambda tx: tx.containers.get(waiting.id)) == waiting
            assert await world.store.read(lambda tx: tx.containers.claims()) == {"m1": {0, 1}}
            holder = await world.change(holder, status=ContainerStatus.SHUTTING_DOWN)
            with pytest.raises(StaleWrite):
                await world.change(waiting, placement=a_placement(1, 2))
            await world.change(holder, status=ContainerStatus.SHUTDOWN)
            assert await world.store.read(lambda tx: tx.containers.claims()) == {}
            await world.change(waiting, placement=a_placement(1, 2))
            assert await world.store.read(lambda tx: tx.containers.claims()) == {"m1": {1, 2}}

        in_a_world(open_store, scenario)

    def test_the_same_index_on_another_machine_is_another_gpu(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            await world.placed(deployment, "c1", 0)
            await world.placed(deployment, "c2", placement=a_placement(0, machine="m2"))
            assert await world.store.read(lambda tx: tx.containers.claims()) == {"m1": {0}, "m2": {0}}

        in_a_world(open_store, scenario)

    def test_a_refused_claim_leaves_the_rest_of_the_function_intact(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            await world.placed(deployment, "c1", 1)
            second, third = await world.container(deployment, "c2"), await world.container(deployment, "c3")

            def work(tx: Transaction) -> None:
                with pytest.raises(StaleWrite):
                    tx.containers.update(dataclasses.replace(second, placement=a_placement(0, 1)))
                tx.containers.update(dataclasses.replace(third, placement=a_placement(0)))

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.containers.get(second.id)) == second
            assert await world.store.read(lambda tx: tx.containers.claims()) == {"m1": {0, 1}}

        in_a_world(open_store, scenario)

    def test_of_a_deployment_are_all_unfinished_and_the_latest_finished(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment, other = await world.deployment("d1"), await world.deployment("d2")
            await world.placed(other, "foreign", 7)
            await world.placed(deployment, "late", status=ContainerStatus.SHUTDOWN, stopped_at=at(300))
            await world.placed(deployment, "early", status=ContainerStatus.SHUTDOWN, stopped_at=at(100))
            await world.placed(deployment, "middle", status=ContainerStatus.SHUTDOWN, stopped_at=at(200))
            await world.placed(deployment, "runs", 0, status=ContainerStatus.RUNNING)
            await world.container(deployment, "waits")
            await world.container(deployment, "given-up", stop=StopRequest(Reason.SCALED_IN, at(50)))

            async def of(limit: int) -> list[str]:
                return ids(
                    await world.store.read(lambda tx: tx.containers.of_deployment(deployment.id, finished_limit=limit))
                )

            assert await of(0) == ["runs", "waits"]
            assert await of(1) == ["late", "runs", "waits"]
            assert await of(3) == ["late", "early", "middle", "runs", "waits"]
            assert await of(50) == ["late", "early", "middle", "runs", "waits", "given-up"]

        in_a_world(open_store, scenario)

    def test_a_list_is_of_placed_containers_of_one_account_newest_first_in_windows(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.placed(await world.deployment("foreign", account=other), "foreign", 9)
            deployment = await world.deployment()
            await world.container(deployment, "unplaced")
            for gpu in range(4):
                await world.placed(deployment, f"c{gpu}", gpu)

            async def find(**fields: Any) -> tuple[list[str], int]:
                query = ContainerQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx: tx.containers.find(query))
                return ids(page.items), page.total

            assert await find() == (["c3", "c2", "c1", "c0"], 4)
            assert await find(window=Window(1, 2)) == (["c2", "c1"], 4)
            assert await find(container_uuid=foreign.uuid) == ([], 0)
            assert await find(deployment_id=foreign.deployment_id) == ([], 0)

        in_a_world(open_store, scenario)

    def test_a_list_is_filtered(self, open_store: OpenStore) -> None:
        cases: list[tuple[dict[str, Any], list[str]]] = [
            ({"deployment_id": "d1"}, ["cheap", "gone"]),
            ({"deployment_id": "d2"}, ["dear"]),
            ({"container_uuid": "uuid-dear"}, ["dear"]),
            ({"created_from": at(2)}, ["dear", "cheap"]),
            ({"created_to": at(2)}, ["cheap", "gone"]),
            ({"created_from": at(2), "created_to": at(2)}, ["cheap"]),
            ({"gpu_name": "L20"}, ["dear"]),
            ({"cpu_num": Range(17)}, ["dear"]),
            ({"cpu_num": Range(0, 16)}, ["cheap", "gone"]),
            ({"memory_bytes": Range.exactly(64 * GIB)}, ["cheap", "gone"]),
            ({"price_milliyuan": Range(3000, 4000)}, ["dear"]),
            ({"is_released": True}, ["gone"]),
            ({"is_released": False}, ["dear", "cheap"]),
            ({"statuses": frozenset({ContainerStatus.RUNNING})}, ["dear"]),
            ({"statuses": frozenset({ContainerStatus.CREATING, ContainerStatus.SHUTDOWN})}, ["cheap", "gone"]),
            ({"gpu_name": "L20", "is_released": True}, []),
        ]

        async def scenario(world: World) -> None:
            first, second = await world.deployment("d1"), await world.deployment("d2")
            await world.placed(first, "gone", 0, status=ContainerStatus.SHUTDOWN, released_at=at(9))
            await world.placed(first, "cheap", 1)
            large = a_placement(2, gpu_name="L20", cpu_num=32, memory_bytes=96 * GIB, price_milliyuan=3500)
            await world.placed(second, "dear", placement=large, status=ContainerStatus.RUNNING)

            async def find(**fields: Any) -> tuple[list[str], int]:
                query = ContainerQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx: tx.containers.find(query))
                return ids(page.items), page.total

            for fields, found in cases:
                assert await find(**fields) == (found, len(found)), fields

        in_a_world(open_store, scenario)

    def test_those_that_wait_and_those_on_machines_are_told_oldest_first(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            await world.container(deployment, "waits-1")
            await world.placed(deployment, "runs", 0, status=ContainerStatus.RUNNING)
            await world.container(deployment, "given-up", stop=StopRequest(Reason.SCALED_IN, START))
            await world.placed(deployment, "over", status=ContainerStatus.SHUTDOWN)
            await world.placed(deployment, "released", status=ContainerStatus.SHUTDOWN, released_at=at(9))
            await world.container(deployment, "waits-2")
            assert ids(await world.store.read(lambda tx: tx.containers.unplaced())) == ["waits-1", "waits-2"]
            assert ids(await world.store.read(lambda tx: tx.containers.on_machines())) == ["runs", "over"]

        in_a_world(open_store, scenario)

    def test_the_pool_is_told_by_account_most_recently_stopped_first(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.deployment("foreign", account=other)
            deployment = await world.deployment()

            async def ended(name: str, owner: Deployment, stopped: int, **fields: Any) -> Container:
                ends = {"status": ContainerStatus.SHUTDOWN, "stopped_at": at(stopped), **fields}
                return await world.placed(owner, name, 0, **ends)

            await ended("early", deployment, 100, is_pooled=True, discard_at=at(900))
            late = await ended("late", deployment, 300, is_pooled=True)
            await ended("theirs", foreign, 200, is_pooled=True)
            await ended("kept", deployment, 400)

            async def pooled(account: Account | None = None) -> list[str]:
                owner = None if account is None else account.id
                return ids(await world.store.read(lambda tx: tx.containers.pooled(owner)))

            assert await pooled() == ["late", "theirs", "early"]
            assert await pooled(world.account) == ["late", "early"]
            assert await pooled(other) == ["theirs"]
            await world.change(late, is_pooled=False, discard_at=at(301))
            assert await pooled(world.account) == ["early"]

        in_a_world(open_store, scenario)

    def test_who_takes_a_container_over_is_known_until_its_end(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            old = await world.placed(deployment, "old", 0, status=ContainerStatus.SHUTDOWN, released_at=at(5))
            assert old.uuid is not None

            async def taker(uuid: ContainerUuid) -> Container | None:
                return await world.store.read(lambda tx: tx.containers.taker_of(uuid))

            assert await taker(old.uuid) is None
            # One that gave up gives it back to the pool, from which another one may take it.
            await world.placed(deployment, "gave-up", 1, reused_from=old.uuid, released_at=at(6))
            assert await taker(old.uuid) is None
            new = await world.placed(deployment, "new", 0, reused_from=old.uuid)
            assert await taker(old.uuid) == new
            assert await taker(ContainerUuid("uuid-new")) is None
            await world.change(new, released_at=at(7))
            assert await taker(old.uuid) is None

        in_a_world(open_store, scenario)

    def test_reuse_saves_what_it_is_sooner_than_the_average_fresh_start_of_its_image(
        self, open_store: OpenStore
    ) -> None:
        async def scenario(world: World) -> None:
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            ours = await world.deployment("ours", reuse_container=True)
            plain = await world.deployment("plain")
            theirs = await world.deployment("theirs", account=other, reuse_container=True)
            made = iter(range(100))

            async def start(owner: Deployment, took: float | None, *, image: str = "a", reuses: bool = False) -> None:
                number = next(made)
                await world.placed(
                    owner,
                    f"c{number}",
                    number,
                    image=ImageUuid(image),
                    image_reference=f"{image}:1",
                    reused_from=ContainerUuid(f"uuid-old-{number}") if reuses else None,
                    placed_at=at(1000),
                    started_at=None if took is None else at(1000 + took),
                )

            async def figures(account: Account | None = None) -> ReuseFigures:
                owner = None if account is None else account.id
                return await world.store.read(lambda tx: tx.containers.reuse_figures(owner))

            assert await figures() == await figures(world.account) == ReuseFigures()
            await start(ours, 20.0)
            await start(ours, None)  # not up yet
            await start(plain, 40.0)  # could not have reused anything, but tells what a fresh start costs
            assert await figures() == ReuseFigures(starts=1)
            await start(ours, 0.5, reuses=True)
            await start(ours, None, reuses=True)
            await start(ours, 31.0, reuses=True)  # slower than a fresh one: saved nothing, costs nothing
            await start(ours, 1.0, image="b", reuses=True)  # of which there is no fresh start
            await start(theirs, 8.0)
            await start(theirs, 3.0, reuses=True)
            for account, starts, reuses, saved in (
                (world.account, 4, 3, 29.5),
                (other, 2, 1, 5.0),  # by its own starts, whatever others' take
                (None, 6, 4, 34.5),
            ):
                found = await figures(account)
                assert (found.starts, found.reuses) == (starts, reuses)
                assert found.seconds_saved == pytest.approx(saved, abs=0.01)

        in_a_world(open_store, scenario)

    def test_those_whose_life_is_not_over_are_counted_by_status(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            assert await world.store.read(lambda tx: tx.containers.unfinished_counts()) == {}
            await world.container(deployment, "waits")
            await world.container(deployment, "given-up", stop=StopRequest(Reason.SCALED_IN, START))
            await world.placed(deployment, "c0", 0, status=ContainerStatus.RUNNING)
            await world.placed(deployment, "c1", 1, status=ContainerStatus.RUNNING)
            await world.placed(deployment, "c2", 2, status=ContainerStatus.SHUTTING_DOWN)
            await world.placed(deployment, "over", status=ContainerStatus.SHUTDOWN)
            assert await world.store.read(lambda tx: tx.containers.unfinished_counts()) == {
                None: 1,
                ContainerStatus.RUNNING: 2,
                ContainerStatus.SHUTTING_DOWN: 1,
            }

        in_a_world(open_store, scenario)
