"""Functions as transactions: all or nothing, one state, in order, and whole although the caller was cancelled.

Stores run on threads of their own, so a test that must hold a transaction open blocks that thread (``Held``).
"""
# ruff: noqa: D102 - the names of the tests are sentences

import asyncio
import dataclasses
import threading
from collections.abc import Sequence

import pytest

from muster.errors import StaleWrite, StoreError, StoreUnavailable
from muster.model.account import Account
from muster.model.deployment import Deployment
from muster.model.ids import AccountId, DeploymentId
from muster.store.port import Changes, DeploymentQuery, Store, Transaction
from muster.testing.conformance.store.world import (
    DEADLINE_SECONDS,
    START,
    OpenStore,
    World,
    a_spec,
    a_world,
    in_a_world,
)


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


class TransactionConformance:
    """``read``, ``write`` and ``aclose``."""

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
