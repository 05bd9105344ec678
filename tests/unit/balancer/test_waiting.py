"""Tasks and threads wait for leases without losing one."""

import asyncio
import random
import threading

import pytest

from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.errors import QueueTimeout
from tests.unit.balancer.servers import dead, endpoint_set, until


def a_gate(*ids: str, concurrency: int = 1) -> Gate:
    gate = Gate(Balancer("s", random.Random(1), concurrency=concurrency))
    gate.update(endpoint_set(*(dead(each) for each in ids)))
    return gate


def soon(gate: Gate, seconds: float = 5.0) -> float:
    return gate.monotonic() + seconds


def test_a_waiter_that_is_cancelled_right_after_it_was_granted_gives_its_lease_back() -> None:
    async def scenario() -> None:
        gate = a_gate("a")
        waiter = AsyncWaiter(gate)
        running = await waiter.acquire(deadline=soon(gate))
        unlucky = asyncio.ensure_future(waiter.acquire(deadline=soon(gate)))
        patient = asyncio.ensure_future(waiter.acquire(deadline=soon(gate)))
        await until(lambda: gate.statistics().waiting == 2)
        gate.release(running)  # grants to the unlucky one, whose task has not run yet …
        assert gate.statistics().in_flight == 1
        unlucky.cancel()  # … and never learns of it
        lease = await patient
        with pytest.raises(asyncio.CancelledError):
            await unlucky
        gate.release(lease)
        assert gate.statistics().in_flight == 0

    asyncio.run(scenario())


def test_a_timeout_takes_the_waiter_out_of_the_queue() -> None:
    async def scenario() -> None:
        gate = a_gate("a")
        waiter = AsyncWaiter(gate)
        lease = await waiter.acquire(deadline=soon(gate))
        with pytest.raises(QueueTimeout):
            await waiter.acquire(deadline=soon(gate, 0.02))
        assert gate.statistics().waiting == 0
        gate.release(lease)

    asyncio.run(scenario())


def test_a_sleeper_wakes_for_a_replica_that_returns() -> None:
    """Nothing happens while it sleeps but the passing of time."""

    async def scenario() -> None:
        gate = a_gate("a")
        waiter = AsyncWaiter(gate)
        gate.release(await waiter.acquire(deadline=soon(gate)), Outcome.UNREACHABLE)
        lease = await waiter.acquire(deadline=soon(gate), tried=frozenset("a"))
        assert lease.is_trial
        gate.release(lease)

    asyncio.run(scenario())


def test_a_release_in_a_thread_wakes_a_task() -> None:
    async def scenario() -> None:
        gate = a_gate("a")
        waiter = AsyncWaiter(gate)
        running = await waiter.acquire(deadline=soon(gate))
        waiting = asyncio.ensure_future(waiter.acquire(deadline=soon(gate)))
        await until(lambda: gate.statistics().waiting == 1)
        await asyncio.to_thread(gate.release, running)
        gate.release(await asyncio.wait_for(waiting, 1))

    asyncio.run(scenario())


def test_tasks_and_threads_share_one_queue_in_order() -> None:
    async def scenario() -> None:
        gate = a_gate("a")
        order: list[str] = []
        running = await AsyncWaiter(gate).acquire(deadline=soon(gate))

        def by_thread() -> None:
            lease = ThreadWaiter(gate).acquire(deadline=soon(gate))
            order.append("thread")
            gate.release(lease)

        async def by_task() -> None:
            lease = await AsyncWaiter(gate).acquire(deadline=soon(gate))
            order.append("task")
            gate.release(lease)

        thread = threading.Thread(target=by_thread)
        thread.start()
        await until(lambda: gate.statistics().waiting == 1)
        task = asyncio.ensure_future(by_task())
        await until(lambda: gate.statistics().waiting == 2)
        gate.release(running)
        await task
        thread.join()
        assert order == ["thread", "task"]

    asyncio.run(scenario())


def test_many_impatient_threads_and_tasks_leak_nothing() -> None:
    async def scenario() -> None:
        gate = a_gate("a", "b", concurrency=2)
        most = 0
        lock = threading.Lock()
        held: set[Lease] = set()

        def note(lease: Lease) -> None:
            nonlocal most
            with lock:
                held.add(lease)
                most = max(most, len(held))

        def done(lease: Lease, outcome: Outcome) -> None:
            with lock:
                held.discard(lease)
            gate.release(lease, outcome)

        def by_thread(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(100):
                try:
                    lease = ThreadWaiter(gate).acquire(deadline=soon(gate, rng.uniform(0.0001, 0.01)))
                except QueueTimeout:
                    continue
                note(lease)
                done(lease, rng.choice([Outcome.OK, Outcome.FAILED]))

        async def by_task(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(100):
                try:
                    async with asyncio.timeout(rng.uniform(0.0001, 0.01)):
                        lease = await AsyncWaiter(gate).acquire(deadline=soon(gate))
                except TimeoutError:
                    continue
                note(lease)
                try:
                    await asyncio.sleep(0)
                finally:
                    done(lease, Outcome.OK)

        threads = [threading.Thread(target=by_thread, args=(seed,)) for seed in range(4)]
        for each in threads:
            each.start()
        await asyncio.gather(*(by_task(seed) for seed in range(8)))
        for each in threads:
            await asyncio.to_thread(each.join)
        assert most <= 4
        found = gate.statistics()
        assert (found.in_flight, found.waiting) == (0, 0)
        assert found.granted == found.released

    asyncio.run(scenario())
