"""Deployments: written by revision, listed by account, counted, and told when they are not settled."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses
import datetime
from typing import Any

import pytest

from muster.errors import Conflict, StaleWrite
from muster.model.account import Role
from muster.model.container import ContainerStatus
from muster.model.deployment import DeploymentStatus, Requirements
from muster.model.ids import DeploymentId
from muster.store.port import Counts, DeploymentQuery, Transaction, Window
from muster.testing.conformance.store.world import START, OpenStore, World, a_spec, at, ids, in_a_world


class DeploymentConformance:
    """``Deployments``."""

    def test_a_new_deployment_is_running_and_of_the_first_version(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment(env={"SECRET": "value"}, requirements=Requirements(gpu_num=2))
            assert await world.store.read(lambda tx: tx.deployments.get(deployment.id)) == deployment
            assert deployment.status is DeploymentStatus.RUNNING
            assert (deployment.version, deployment.revision) == ("v1", 0)
            assert deployment.account_id == world.account.id
            assert deployment.created_at == deployment.updated_at == deployment.edited_at == START
            assert deployment.created_at.utcoffset() == datetime.timedelta(0)
            assert await world.store.read(lambda tx: tx.deployments.get(DeploymentId("other"))) is None

        in_a_world(open_store, scenario)

    def test_an_id_is_given_once(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            await world.deployment("d1")
            with pytest.raises(Conflict):
                await world.deployment("d1")

        in_a_world(open_store, scenario)

    def test_an_update_writes_all_but_identity(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            wanted = dataclasses.replace(
                deployment,
                spec=a_spec("letters", replica_num=4),
                status=DeploymentStatus.STOPPED,
                version="v2",
                updated_at=at(1),
                edited_at=at(2),
                stopped_at=at(3),
                deleted_at=at(4),
            )
            written = await world.store.write(lambda tx: tx.deployments.update(wanted))
            assert written == dataclasses.replace(wanted, revision=1)
            assert await world.store.read(lambda tx: tx.deployments.get(deployment.id)) == written

        in_a_world(open_store, scenario)

    def test_an_update_of_an_old_revision_writes_nothing(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            old = await world.deployment()
            new = await world.store.write(lambda tx: tx.deployments.update(dataclasses.replace(old, updated_at=at(1))))
            with pytest.raises(StaleWrite):
                await world.store.write(lambda tx: tx.deployments.update(old))
            assert await world.store.read(lambda tx: tx.deployments.get(old.id)) == new

        in_a_world(open_store, scenario)

    def test_a_times_zone_does_not_change_the_moment(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            east = at(5).astimezone(datetime.timezone(datetime.timedelta(hours=8)))
            await world.store.write(lambda tx: tx.deployments.update(dataclasses.replace(deployment, updated_at=east)))
            stored = await world.store.read(lambda tx: tx.deployments.get(deployment.id))
            assert stored is not None
            assert stored.updated_at == at(5)
            assert stored.updated_at.utcoffset() == datetime.timedelta(0)

        in_a_world(open_store, scenario)

    def test_a_list_is_of_one_account_newest_first_in_windows_without_deleted_ones(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            await world.deployment("foreign", account=other)
            made = [await world.deployment(f"d{number}") for number in range(5)]
            gone = dataclasses.replace(made[2], deleted_at=at(1))
            await world.store.write(lambda tx: tx.deployments.update(gone))

            async def find(**fields: Any) -> tuple[list[str], int]:
                query = DeploymentQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx: tx.deployments.find(query))
                return ids(page.items), page.total

            assert await find() == (["d4", "d3", "d1", "d0"], 4)
            assert await find(window=Window(0, 3)) == (["d4", "d3", "d1"], 4)
            assert await find(window=Window(3, 3)) == (["d0"], 4)
            assert await find(window=Window(9, 3)) == ([], 4)
            assert await find(deployment_id=DeploymentId("foreign")) == ([], 0)
            assert await find(deployment_id=DeploymentId("d1")) == (["d1"], 1)

        in_a_world(open_store, scenario)

    def test_a_list_is_filtered_by_name_and_status(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            await world.deployment("d1", name="digits")
            stopped = await world.deployment("d2", name="digits")
            await world.deployment("d3", name="letters")
            await world.store.write(
                lambda tx: tx.deployments.update(dataclasses.replace(stopped, status=DeploymentStatus.STOPPED))
            )

            async def find(**fields: Any) -> list[str]:
                query = DeploymentQuery(world.account.id, **fields)
                return ids((await world.store.read(lambda tx: tx.deployments.find(query))).items)

            assert await find(name="digits") == ["d2", "d1"]
            assert await find(status=DeploymentStatus.RUNNING) == ["d3", "d1"]
            assert await find(name="digits", status=DeploymentStatus.STOPPED) == ["d2"]

        in_a_world(open_store, scenario)

    def test_a_name_stands_for_the_oldest_that_is_live(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            await world.deployment("foreign", account=other)
            stopped, deleted, oldest = [await world.deployment(f"d{number}") for number in range(3)]
            await world.deployment("d3")

            def end(tx: Transaction) -> None:
                tx.deployments.update(dataclasses.replace(stopped, status=DeploymentStatus.STOPPED))
                tx.deployments.update(dataclasses.replace(deleted, deleted_at=at(1)))

            await world.store.write(end)
            found = await world.store.read(lambda tx: tx.deployments.oldest_live(world.account.id, "digits"))
            assert found == oldest
            assert await world.store.read(lambda tx: tx.deployments.oldest_live(world.account.id, "none")) is None

        in_a_world(open_store, scenario)

    def test_unsettled_are_the_wanted_and_those_with_a_live_container(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            def names(tx: Transaction) -> list[str]:
                return sorted(tx.deployments.unsettled())

            made = {name: await world.deployment(name) for name in ("wanted", "live", "unplaced", "draining", "over")}
            await world.placed(made["live"], "c1", 0, status=ContainerStatus.RUNNING)
            await world.container(made["unplaced"], "c2")
            await world.placed(made["draining"], "c3", 1, status=ContainerStatus.SHUTTING_DOWN)
            await world.placed(made["over"], "c4", status=ContainerStatus.SHUTDOWN)
            assert await world.store.read(names) == sorted(made)

            def stop(tx: Transaction) -> None:
                for name in ("live", "unplaced", "draining"):
                    tx.deployments.update(dataclasses.replace(made[name], status=DeploymentStatus.STOPPED))
                tx.deployments.update(dataclasses.replace(made["over"], deleted_at=at(1)))

            await world.store.write(stop)
            assert await world.store.read(names) == ["live", "unplaced", "wanted"]

        in_a_world(open_store, scenario)

    def test_counts_are_of_placed_containers_by_how_far_they_are(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment, empty = await world.deployment("d1"), await world.deployment("d2")
            await world.container(deployment, "unplaced")
            for gpu, status in enumerate(ContainerStatus):
                await world.placed(
                    deployment,
                    f"c{gpu}",
                    gpu,
                    gpu + 100,
                    status=status,
                    is_ready=status is ContainerStatus.RUNNING,
                )
            await world.placed(deployment, "again", status=ContainerStatus.SHUTDOWN)
            counts = await world.store.read(lambda tx: tx.deployments.counts([deployment.id, empty.id]))
            assert counts == {
                deployment.id: Counts(starting=4, running=1, finished=2, ready=1, price_milliyuan=2 * 1980),
                empty.id: Counts(),
            }

        in_a_world(open_store, scenario)

    def test_those_that_are_not_deleted_are_counted_by_status(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            assert await world.store.read(lambda tx: tx.deployments.status_counts()) == {}
            made = [await world.deployment(f"d{number}") for number in range(4)]

            def change(tx: Transaction) -> None:
                tx.deployments.update(dataclasses.replace(made[0], status=DeploymentStatus.STOPPED))
                tx.deployments.update(dataclasses.replace(made[1], deleted_at=at(1)))

            await world.store.write(change)
            assert await world.store.read(lambda tx: tx.deployments.status_counts()) == {
                DeploymentStatus.RUNNING: 2,
                DeploymentStatus.STOPPED: 1,
            }

        in_a_world(open_store, scenario)
