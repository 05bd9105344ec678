"""The queue and the loop that runs on it, in virtual time."""

import asyncio
import datetime
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest

from muster.controller.loop import ReconcileLoop
from muster.controller.queue import KeyedQueue
from muster.errors import EngineUnavailable, StaleWrite
from muster.testing.clock import FakeClock, VirtualLoop


def in_virtual_time(scenario: Callable[[FakeClock], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario(FakeClock(loop)))
    finally:
        loop.close()


def test_a_key_added_twice_comes_once() -> None:
    async def scenario(clock: FakeClock) -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock)
        for key in ("a", "b", "a"):
            queue.add(key)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await queue.get()

    in_virtual_time(scenario)


def test_a_key_added_while_it_is_processed_comes_again_afterwards_and_not_before() -> None:
    async def scenario(clock: FakeClock) -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock)
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await queue.get()
        queue.done("a")
        assert await queue.get() == "a"

    in_virtual_time(scenario)


def test_a_key_for_later_comes_at_its_time_and_a_sooner_wish_wins() -> None:
    async def scenario(clock: FakeClock) -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock)
        queue.add_after("late", 10)
        queue.add_after("late", 30)
        queue.add_after("soon", 10)
        queue.add_after("soon", 2)
        arrived = [(await queue.get(), round(clock.monotonic(), 3)) for _ in range(2)]
        assert arrived == [("soon", 2), ("late", 10)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await queue.get()

    in_virtual_time(scenario)


def test_now_replaces_later() -> None:
    async def scenario(clock: FakeClock) -> None:
        queue: KeyedQueue[str] = KeyedQueue(clock)
        queue.add_after("a", 10)
        queue.add("a")
        assert await queue.get() == "a"
        assert clock.monotonic() == 0
        queue.done("a")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await queue.get()

    in_virtual_time(scenario)


class Recorder:
    """A reconciler that does as it is told and remembers when it was asked."""

    name = "recorder"

    def __init__(self, clock: FakeClock, *answers: Exception | datetime.timedelta | None) -> None:
        self.clock = clock
        self.answers = list(answers)
        self.asked: list[tuple[str, float]] = []
        self.at_once = 0
        self.most_at_once = 0

    async def keys(self) -> Iterable[str]:
        return ["a"]

    async def reconcile(self, key: str) -> datetime.datetime | None:
        self.asked.append((key, round(self.clock.monotonic(), 2)))
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await self.clock.sleep(0.01)
        self.at_once -= 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return None if answer is None else self.clock.now() + answer


async def run_for(loop: ReconcileLoop[str], clock: FakeClock, seconds: float) -> None:
    running = asyncio.create_task(loop.run())
    await clock.sleep(seconds)
    running.cancel()
    await asyncio.wait((running,))


def test_the_full_pass_repairs_a_lost_wake_up() -> None:
    async def scenario(clock: FakeClock) -> None:
        recorder = Recorder(clock)
        await run_for(ReconcileLoop(recorder, clock, full_pass_seconds=30), clock, 65)
        assert [when for _, when in recorder.asked] == [0, 30, 60]

    in_virtual_time(scenario)


def test_a_reconciler_is_asked_again_when_it_said_so() -> None:
    async def scenario(clock: FakeClock) -> None:
        recorder = Recorder(clock, datetime.timedelta(seconds=5))
        await run_for(ReconcileLoop(recorder, clock, full_pass_seconds=1000), clock, 20)
        assert [when for _, when in recorder.asked] == [0, 5.01]

    in_virtual_time(scenario)


def test_errors_are_retried_with_backoff_stale_writes_at_once_and_unavailability_as_told() -> None:
    async def scenario(clock: FakeClock) -> None:
        recorder = Recorder(
            clock, StaleWrite("x"), ValueError("x"), ValueError("y"), EngineUnavailable("x", retry_after_seconds=7)
        )
        await run_for(ReconcileLoop(recorder, clock, full_pass_seconds=1000), clock, 60)
        assert [when for _, when in recorder.asked] == [0, 0.01, 0.22, 0.63, 7.64]

    in_virtual_time(scenario)


def test_keys_run_side_by_side_up_to_the_bound_and_one_key_never_twice_at_once() -> None:
    async def scenario(clock: FakeClock) -> None:
        recorder = Recorder(clock)
        loop = ReconcileLoop(recorder, clock, at_once=3, full_pass_seconds=1000)
        for key in "bcdefgh":
            loop.wake(key)
        await run_for(loop, clock, 10)
        assert recorder.most_at_once == 3
        assert sorted(key for key, _ in recorder.asked) == list("abcdefgh")

        alone = Recorder(clock)
        busy = ReconcileLoop(alone, clock, at_once=3, full_pass_seconds=1000)
        running = asyncio.create_task(busy.run())
        for _ in range(10):
            busy.wake("a")
            await clock.sleep(0.001)
        await clock.sleep(1)
        running.cancel()
        await asyncio.wait((running,))
        assert alone.most_at_once == 1

    in_virtual_time(scenario)


def test_a_key_rests_after_a_look_and_a_burst_is_answered_together() -> None:
    async def scenario(clock: FakeClock) -> None:
        recorder = Recorder(clock)
        loop = ReconcileLoop(recorder, clock, full_pass_seconds=1000, busy_share=0.02)
        running = asyncio.create_task(loop.run())
        await clock.sleep(10)
        for _ in range(20):
            loop.wake("a")
            await clock.sleep(0.01)
        await clock.sleep(10)
        running.cancel()
        await asyncio.wait((running,))
        assert [when for _, when in recorder.asked] == [0, 10, 10.5]

    in_virtual_time(scenario)
