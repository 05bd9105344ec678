"""Containers: written by revision, their claims on GPUs, and the lists that people and the loops read."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses
from types import MappingProxyType
from typing import Any

import pytest

from muster.errors import StaleWrite
from muster.model.account import Role
from muster.model.container import Address, ContainerStatus, Reason, StopRequest
from muster.model.ids import ContainerId, ContainerUuid
from muster.model.quantity import GIB, Range
from muster.store.port import ContainerQuery, Transaction, Window
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
