"""What every store must do: the sentences of ``muster.store.port``, as tests.

Subclass ``StoreConformance`` in a test module and give it a fixture ``open_store``: a function that opens the same,
at first empty, database each time it is called, so that a test can open it twice, or again. Stores run on threads of
their own here; a test that must hold a transaction open blocks that thread.
"""
# ruff: noqa: D102 - the names of the tests are sentences

import asyncio
import dataclasses
import datetime
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import pytest

from muster.errors import Conflict, CursorExpired, StaleWrite, StoreError, StoreUnavailable
from muster.model.account import Account, Role
from muster.model.container import Address, Container, ContainerStatus, Placement, Reason, StopRequest
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentStatus, DeploymentType, Requirements
from muster.model.event import Cursor, EventKind, NewEvent
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, ImageUuid, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.store.port import (
    Changes,
    ContainerQuery,
    Counts,
    DeploymentQuery,
    EventQuery,
    Store,
    Transaction,
    Window,
)

OpenStore = Callable[[], Store]
T = TypeVar("T")

START = datetime.datetime(2026, 3, 2, 9, 14, 31, 123456, tzinfo=datetime.UTC)
DEADLINE_SECONDS = 10.0


def at(seconds: float) -> datetime.datetime:
    """Return a moment after the start of the test's world."""
    return START + datetime.timedelta(seconds=seconds)


def a_spec(name: str = "digits", **fields: Any) -> DeploymentSpec:
    """Return a specification."""
    return DeploymentSpec(
        name=name, **{"type": DeploymentType.REPLICA_SET, "image": ImageUuid("image-1"), "cmd": "serve", **fields}
    )


def a_placement(*gpus: int, machine: str = "m1", **fields: Any) -> Placement:
    """Return a placement on these GPUs."""
    values: dict[str, Any] = {
        "data_center": "lab-a",
        "gpu_name": "RTX 4090",
        "cpu_num": 16,
        "memory_bytes": 64 * GIB,
        "price_milliyuan": 1980,
        **fields,
    }
    return Placement(machine_id=MachineId(machine), gpu_indices=gpus, **values)


def a_machine(machine_id: str, **fields: Any) -> Machine:
    """Return a machine of four GPUs."""
    values: dict[str, Any] = {
        "data_center": "lab-a",
        "gpu_name": "RTX 4090",
        "gpu_num": 4,
        "cpu_num": 64,
        "memory_bytes": 256 * GIB,
        "cuda": 128,
        "price_milliyuan": 1980,
        **fields,
    }
    return Machine(id=MachineId(machine_id), **values)


class World:
    """A store with one account, and short ways to fill it."""

    def __init__(self, store: Store, account: Account) -> None:
        self.store = store
        self.account = account
        self._made = 0

    async def deployment(self, deployment_id: str = "d1", *, account: Account | None = None, **spec: Any) -> Deployment:
        """Write a deployment."""
        owner = (account or self.account).id
        return await self.store.write(
            lambda tx: tx.deployments.add(owner, DeploymentId(deployment_id), a_spec(**spec), START)
        )

    async def container(self, deployment: Deployment, container_id: str, **fields: Any) -> Container:
        """Write a container that looks like this."""
        self._made += 1
        now = at(self._made)

        def work(tx: Transaction) -> Container:
            container = tx.containers.add(deployment, ContainerId(container_id), now)
            return tx.containers.update(dataclasses.replace(container, **fields)) if fields else container

        return await self.store.write(work)

    async def placed(
        self,
        deployment: Deployment,
        container_id: str,
        *gpus: int,
        status: ContainerStatus = ContainerStatus.CREATING,
        **fields: Any,
    ) -> Container:
        """Write a placed container."""
        return await self.container(
            deployment,
            container_id,
            **{
                "placement": a_placement(*gpus),
                "uuid": ContainerUuid(f"uuid-{container_id}"),
                "status": status,
                **fields,
            },
        )

    async def change(self, container: Container, **fields: Any) -> Container:
        """Write some fields of a container."""
        return await self.store.write(lambda tx: tx.containers.update(dataclasses.replace(container, **fields)))

    async def event(self, container: Container, **fields: Any) -> int:
        """Record something about a container; returns the event's id."""
        values: dict[str, Any] = {
            "account_id": container.account_id,
            "deployment_id": container.deployment_id,
            "container_id": container.id,
            "container_uuid": container.uuid or ContainerUuid("uuid"),
            "kind": EventKind.STATUS,
            "status": ContainerStatus.RUNNING,
            "created_at": START,
            **fields,
        }
        return (await self.store.write(lambda tx: tx.events.append(NewEvent(**values)))).id


@asynccontextmanager
async def a_world(open_store: OpenStore) -> AsyncIterator[World]:
    """Open the store, add an account, close in the end."""
    store = open_store()
    try:
        yield World(store, await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, START)))
    finally:
        await store.aclose()


def in_a_world(open_store: OpenStore, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario against a new world."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS * 2), a_world(open_store) as world:
            await scenario(world)

    asyncio.run(run())


class Held:
    """Work that holds its transaction open until the test lets it go."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._released = threading.Event()

    async def begun(self) -> None:
        """Return when a transaction has arrived."""
        assert await asyncio.to_thread(self._begun.wait, DEADLINE_SECONDS)

    def release(self) -> None:
        """Let it go on."""
        self._released.set()

    def wait(self) -> None:
        """Block the work that calls this."""
        self._begun.set()
        assert self._released.wait(DEADLINE_SECONDS)

    def read(self, tx: Transaction) -> Sequence[Account]:
        """Read, then block."""
        accounts = tx.accounts.all()
        self.wait()
        return accounts


def ids(items: Sequence[Any]) -> list[Any]:
    """Return what identifies each item."""
    return [item.id for item in items]


class TransactionConformance:
    """``read``, ``write``, ``on_commit`` and ``aclose``."""

    def test_a_write_survives_closing_and_opening_again(self, open_store: OpenStore) -> None:
        async def run() -> None:
            async with a_world(open_store) as world:
                written = await world.deployment()
            again = open_store()
            assert await again.read(lambda tx: tx.deployments.get(written.id)) == written
            await again.aclose()

        asyncio.run(run())

    def test_a_function_that_raises_writes_nothing(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            heard: list[Changes] = []
            world.store.on_commit(heard.append)

            def work(tx: Transaction) -> None:
                tx.deployments.add(world.account.id, DeploymentId("d1"), a_spec(), START)
                raise LookupError("changed my mind")

            with pytest.raises(LookupError, match="changed my mind"):
                await world.store.write(work)
            assert await world.store.read(lambda tx: tx.deployments.get(DeploymentId("d1"))) is None
            assert heard == []
            await world.deployment("d1")

        in_a_world(open_store, scenario)

    def test_a_read_refuses_writes(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            with pytest.raises(StoreError):
                await world.store.read(
                    lambda tx: tx.deployments.add(world.account.id, DeploymentId("d1"), a_spec(), START)
                )
            assert await world.store.read(lambda tx: tx.deployments.get(DeploymentId("d1"))) is None

        in_a_world(open_store, scenario)

    def test_a_read_sees_one_state_while_writes_go_on(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            await world.deployment("d1")
            held = Held()

            def work(tx: Transaction) -> tuple[int, int]:
                before = tx.deployments.find(DeploymentQuery(world.account.id)).total
                held.wait()
                return before, tx.deployments.find(DeploymentQuery(world.account.id)).total

            reading = asyncio.create_task(world.store.read(work))
            await held.begun()
            await world.deployment("d2")
            held.release()
            assert await reading == (1, 1)
            assert await world.store.read(lambda tx: tx.deployments.find(DeploymentQuery(world.account.id)).total) == 2

        in_a_world(open_store, scenario)

    def test_writes_are_serialised(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment(replica_num=0)

            def increment(tx: Transaction) -> None:
                seen = tx.deployments.get(deployment.id)
                assert seen is not None
                spec = dataclasses.replace(seen.spec, replica_num=seen.spec.replica_num + 1)
                tx.deployments.update(dataclasses.replace(seen, spec=spec))

            await asyncio.gather(*(world.store.write(increment) for _ in range(25)))
            final = await world.store.read(lambda tx: tx.deployments.get(deployment.id))
            assert final is not None
            assert (final.spec.replica_num, final.revision) == (25, 25)

        in_a_world(open_store, scenario)

    def test_of_two_stores_that_write_the_same_revision_one_is_stale(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            deployment = await world.deployment()
            other = open_store()

            async def write(store: Store, replicas: int) -> Deployment:
                spec = dataclasses.replace(deployment.spec, replica_num=replicas)
                return await store.write(lambda tx: tx.deployments.update(dataclasses.replace(deployment, spec=spec)))

            outcomes = await asyncio.gather(write(world.store, 2), write(other, 3), return_exceptions=True)
            await other.aclose()
            (stale,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            (won,) = [outcome for outcome in outcomes if isinstance(outcome, Deployment)]
            assert isinstance(stale, StaleWrite)
            assert await world.store.read(lambda tx: tx.deployments.get(deployment.id)) == won

        in_a_world(open_store, scenario)

    def test_listeners_hear_of_each_commit_once_and_in_order(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            heard: list[Changes] = []
            threads: set[int] = set()
            world.store.on_commit(heard.append)
            world.store.on_commit(lambda _: threads.add(threading.get_ident()))
            deployments = await asyncio.gather(*(world.deployment(f"d{number}") for number in range(10)))
            assert sorted(change.deployments for change in heard) == sorted(
                frozenset({deployment.id}) for deployment in deployments
            )
            in_order = sorted(deployments, key=lambda deployment: deployment.number)
            assert [change.deployments for change in heard] == [frozenset({each.id}) for each in in_order]
            assert threads == {threading.get_ident()}

        in_a_world(open_store, scenario)

    def test_a_listener_finds_what_it_hears_of_already_committed(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            found: list[asyncio.Task[Deployment | None]] = []

            def look(changes: Changes) -> None:
                (key,) = changes.deployments
                found.append(asyncio.create_task(world.store.read(lambda tx: tx.deployments.get(key))))

            world.store.on_commit(look)
            deployment = await world.deployment()
            assert await asyncio.gather(*found) == [deployment]

        in_a_world(open_store, scenario)

    def test_the_changes_of_one_function_are_told_together(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first, second = await world.deployment("d1"), await world.deployment("d2")
            container = await world.placed(second, "c1", 0)
            heard: list[Changes] = []
            world.store.on_commit(heard.append)

            def work(tx: Transaction) -> None:
                tx.deployments.update(first)
                tx.containers.update(container)
                tx.events.append(
                    NewEvent(
                        account_id=container.account_id,
                        deployment_id=container.deployment_id,
                        container_id=container.id,
                        container_uuid=ContainerUuid("uuid-c1"),
                        kind=EventKind.STATUS,
                        status=ContainerStatus.CREATING,
                        created_at=START,
                    )
                )

            await world.store.write(work)
            assert heard == [Changes(frozenset({first.id, second.id}), frozenset({container.id}), has_events=True)]

        in_a_world(open_store, scenario)

    def test_a_write_that_changes_nothing_calls_nobody(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            machine = a_machine("m1")
            await world.store.write(lambda tx: tx.machines.put(machine))
            await world.store.write(lambda tx: tx.accounts.add_token(world.account.id, "hash", "pre", START))
            await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-1"), "local", "local", START))
            heard: list[Changes] = []
            world.store.on_commit(heard.append)
            await world.store.write(lambda tx: tx.deployments.unsettled())
            await world.store.write(lambda tx: tx.machines.put(machine))
            await world.store.write(lambda tx: tx.accounts.add_token(world.account.id, "hash", "pre", START))
            await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-1"), "local", "local", at(1)))
            await world.store.read(lambda tx: tx.deployments.unsettled())
            assert heard == []

        in_a_world(open_store, scenario)

    def test_a_write_that_has_begun_is_finished_and_told_although_its_caller_was_cancelled(
        self, open_store: OpenStore
    ) -> None:
        async def scenario(world: World) -> None:
            heard: list[Changes] = []
            world.store.on_commit(heard.append)
            held = Held()

            def work(tx: Transaction) -> None:
                tx.deployments.add(world.account.id, DeploymentId("d1"), a_spec(), START)
                held.wait()

            writing = asyncio.create_task(world.store.write(work))
            await held.begun()
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            held.release()
            await world.deployment("d2")  # comes after it: the transaction was not left open
            assert [change.deployments for change in heard] == [frozenset({"d1"}), frozenset({"d2"})]
            assert await world.store.read(lambda tx: tx.deployments.get(DeploymentId("d1"))) is not None

        in_a_world(open_store, scenario)

    def test_a_begun_write_that_fails_after_its_caller_was_cancelled_writes_nothing(
        self, open_store: OpenStore
    ) -> None:
        async def scenario(world: World) -> None:
            held = Held()

            def work(tx: Transaction) -> None:
                tx.deployments.add(world.account.id, DeploymentId("d1"), a_spec(), START)
                held.wait()
                raise LookupError

            writing = asyncio.create_task(world.store.write(work))
            await held.begun()
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            held.release()
            await world.deployment("d2")
            assert await world.store.read(lambda tx: tx.deployments.get(DeploymentId("d1"))) is None

        in_a_world(open_store, scenario)

    def test_a_cancelled_read_leaves_nothing_open(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            for _ in range(10):  # more often than a store is likely to have connections
                held = Held()
                reading = asyncio.create_task(world.store.read(held.read))
                await held.begun()
                reading.cancel()
                held.release()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            await world.deployment("d1")
            assert await world.store.read(lambda tx: tx.deployments.get(DeploymentId("d1"))) is not None

        in_a_world(open_store, scenario)

    def test_closing_finishes_the_writes_under_way(self, open_store: OpenStore) -> None:
        async def run() -> None:
            async with a_world(open_store) as world:
                heard: list[Changes] = []
                world.store.on_commit(heard.append)
                held = Held()

                def work(tx: Transaction) -> None:
                    held.wait()
                    tx.deployments.add(world.account.id, DeploymentId("d1"), a_spec(), START)

                writing = asyncio.create_task(world.store.write(work))
                queued = asyncio.create_task(world.deployment("d2"))
                await held.begun()
                closing = asyncio.create_task(world.store.aclose())
                await asyncio.sleep(0)
                assert not closing.done()
                held.release()
                await closing
                assert [change.deployments for change in heard] == [frozenset({"d1"}), frozenset({"d2"})]
                await asyncio.gather(writing, queued)
                with pytest.raises(StoreUnavailable):
                    await world.store.read(lambda tx: tx.accounts.all())
            again = open_store()
            total = await again.read(lambda tx: tx.deployments.find(DeploymentQuery(AccountId(1))).total)
            await again.aclose()
            assert total == 2

        asyncio.run(run())


class AccountConformance:
    """``Accounts``."""

    def test_an_account_is_found_by_id_name_and_token(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            account = world.account

            def work(tx: Transaction) -> Account:
                tx.accounts.add_token(account.id, "hash-1", "mst_ab", START)
                tx.accounts.add_token(account.id, "hash-2", "mst_cd", START)
                return tx.accounts.add("bob", Role.ADMIN, at(1))

            bob = await world.store.write(work)

            def look(tx: Transaction) -> list[Account | None]:
                accounts = tx.accounts
                return [
                    accounts.get(account.id),
                    accounts.by_name("ann"),
                    accounts.by_token("hash-1"),
                    accounts.by_token("hash-2"),
                    accounts.by_token("hash-3"),
                    accounts.by_name("Ann"),
                    accounts.get(AccountId(99)),
                ]

            assert await world.store.read(look) == [account] * 4 + [None] * 3
            assert await world.store.read(lambda tx: tx.accounts.all()) == [account, bob]
            assert (bob.role, bob.created_at) == (Role.ADMIN, at(1))

        in_a_world(open_store, scenario)

    def test_a_name_is_given_once(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            with pytest.raises(Conflict, match="ann"):
                await world.store.write(lambda tx: tx.accounts.add("ann", Role.ADMIN, START))
            assert len(await world.store.read(lambda tx: tx.accounts.all())) == 1

        in_a_world(open_store, scenario)


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

    def test_an_update_writes_all_but_identity(self, open_store: OpenStore) -> None:
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

    def test_an_update_of_an_old_revision_writes_nothing(self, open_store: OpenStore) -> None:
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
            for fields, found in cases:
                query = ContainerQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx, query=query: tx.containers.find(query))  # type: ignore[misc]
                assert (ids(page.items), page.total) == (found, len(found)), fields

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


class CatalogueConformance:
    """``Machines`` and ``Images``."""

    def test_a_machine_is_written_new_or_changed(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first, second = a_machine("m2"), a_machine("m1", cuda=0, address="10.0.0.7", cpu_arch="arm")

            def work(tx: Transaction) -> None:
                tx.machines.put(a_machine("m2", gpu_name="L20"))
                tx.machines.put(second)
                tx.machines.put(first)

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.machines.offered()) == [second, first]
            assert await world.store.read(lambda tx: tx.machines.get(MachineId("m2"))) == first
            assert await world.store.read(lambda tx: tx.machines.get(MachineId("m3"))) is None

        in_a_world(open_store, scenario)

    def test_a_retired_machine_is_known_but_not_offered_until_it_is_put_again(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            kept, retired = a_machine("m1"), a_machine("m2")

            def work(tx: Transaction) -> None:
                tx.machines.put(kept)
                tx.machines.put(retired)
                tx.machines.retire_all_but(frozenset({kept.id}))

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.machines.offered()) == [kept]
            assert await world.store.read(lambda tx: tx.machines.get(retired.id)) == retired
            await world.store.write(lambda tx: tx.machines.put(retired))
            assert await world.store.read(lambda tx: tx.machines.offered()) == [kept, retired]
            await world.store.write(lambda tx: tx.machines.retire_all_but(frozenset()))
            assert await world.store.read(lambda tx: tx.machines.offered()) == []

        in_a_world(open_store, scenario)

    def test_a_base_image_is_everybodys_and_keeps_its_number_when_it_changes(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            uuid = ImageUuid("base-image-1")
            first = await world.store.write(lambda tx: tx.images.put_base(uuid, "local", "local", START))
            await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-2"), "b", "b:1", at(1)))
            again = await world.store.write(lambda tx: tx.images.put_base(uuid, "local", "local:2", at(2)))
            assert again == dataclasses.replace(first, reference="local:2", updated_at=at(2))
            assert again.account_id is None
            assert await world.store.read(lambda tx: tx.images.get(world.account.id, uuid)) == again
            assert await world.store.read(lambda tx: tx.images.get(world.account.id, ImageUuid("image-9"))) is None
            page = await world.store.read(lambda tx: tx.images.find(None, Window(0, 1)))
            assert ([image.uuid for image in page.items], page.total) == (["base-image-2"], 2)
            assert (await world.store.read(lambda tx: tx.images.find(world.account.id, Window()))).total == 0

        in_a_world(open_store, scenario)


class EventConformance:
    """``Events``."""

    def test_an_event_is_read_as_it_was_written(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)
            values: dict[str, Any] = {"reason": Reason.OOM_KILLED, "message": "内存", "exit_code": 137}
            await world.event(container, **values)
            (event,) = await world.store.read(lambda tx: tx.events.after(Cursor(0)))
            assert (event.container_id, event.container_uuid) == (container.id, container.uuid)
            assert (event.reason, event.message, event.exit_code) == (Reason.OOM_KILLED, "内存", 137)
            assert (event.kind, event.status, event.created_at) == (EventKind.STATUS, ContainerStatus.RUNNING, START)

        in_a_world(open_store, scenario)

    def test_events_follow_the_order_of_commits_and_a_cursor_skips_none(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            assert await world.store.read(lambda tx: tx.events.last()) == 0
            deployment = await world.deployment()
            container = await world.placed(deployment, "c1", 0)
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.placed(await world.deployment("d2", account=other), "c2", 1)
            written = [
                await world.event(container),
                await world.event(foreign),
                await world.event(container, kind=EventKind.READY),
                await world.event(container, kind=EventKind.UNREADY),
            ]
            assert written == sorted(set(written))

            async def after(cursor: int, **options: Any) -> list[int]:
                return ids(await world.store.read(lambda tx: tx.events.after(Cursor(cursor), **options)))

            assert await after(0) == written
            assert await after(written[1]) == written[2:]
            assert await after(written[-1]) == []
            assert await after(0, limit=2) == written[:2]
            assert await after(0, account_id=other.id) == [written[1]]
            assert await after(written[0], account_id=world.account.id) == written[2:]
            assert await world.store.read(lambda tx: tx.events.last()) == written[-1]

        in_a_world(open_store, scenario)

    def test_a_list_is_of_one_account_newest_first_in_windows(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first = await world.placed(await world.deployment("d1"), "c1", 0)
            second = await world.placed(await world.deployment("d2"), "c2", 1)
            other = await world.store.write(lambda tx: tx.accounts.add("bob", Role.MEMBER, START))
            foreign = await world.placed(await world.deployment("d3", account=other), "c3", 2)
            await world.event(foreign)
            own = [await world.event(first), await world.event(second), await world.event(first)]
            ready = await world.event(first, kind=EventKind.READY)

            async def find(**fields: Any) -> tuple[list[int], int]:
                query = EventQuery(world.account.id, **fields)
                page = await world.store.read(lambda tx: tx.events.find(query))
                return ids(page.items), page.total

            newest_first = own[::-1]
            assert await find() == (newest_first, 3)
            assert await find(window=Window(1, 1)) == ([own[1]], 3)
            assert await find(deployment_id=first.deployment_id) == ([own[2], own[0]], 2)
            assert await find(container_uuid=second.uuid) == ([own[1]], 1)
            assert await find(container_uuid=foreign.uuid) == ([], 0)
            assert await find(kinds=frozenset({EventKind.READY, EventKind.UNREADY})) == ([ready], 1)
            assert await find(kinds=frozenset(EventKind)) == ([ready, *newest_first], 4)

        in_a_world(open_store, scenario)

    def test_a_cursor_before_pruned_events_has_expired(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)
            written = [await world.event(container) for _ in range(4)]
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(written[0]))) == 1
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(written[1]))) == 1
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(written[0]))) == 0
            with pytest.raises(CursorExpired):
                await world.store.read(lambda tx: tx.events.after(Cursor(written[0])))
            found = await world.store.read(lambda tx: tx.events.after(Cursor(written[1])))
            assert ids(found) == written[2:]

        in_a_world(open_store, scenario)

    def test_the_last_cursor_never_goes_back(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            container = await world.placed(await world.deployment(), "c1", 0)
            last = [await world.event(container) for _ in range(3)][-1]
            assert await world.store.write(lambda tx: tx.events.prune(Cursor(last + 1000))) == 3
            assert await world.store.read(lambda tx: tx.events.last()) == last
            assert await world.store.read(lambda tx: tx.events.after(Cursor(last))) == []
            assert await world.event(container) > last

        in_a_world(open_store, scenario)


class StoreConformance(
    TransactionConformance,
    AccountConformance,
    DeploymentConformance,
    ContainerConformance,
    CatalogueConformance,
    EventConformance,
):
    """Every sentence of the port. Subclass it as ``Test…`` beside a fixture ``open_store``."""
