"""The virtual loop: it jumps over waits, never ahead of an answer from outside, and names a deadlock."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from muster.clock import wait_for_event
from muster.testing.clock import Deadlock, FakeClock, Outstanding, VirtualLoop


def test_hours_pass_in_no_time_and_in_order() -> None:
    loop = VirtualLoop()
    clock = FakeClock(loop)
    seen: list[str] = []

    async def later(seconds: float, word: str) -> None:
        await clock.sleep(seconds)
        seen.append(word)

    async def scenario() -> None:
        await asyncio.gather(later(7200, "b"), later(3600, "a"), later(7200, "c"))

    loop.run_until_complete(scenario())
    assert seen == ["a", "b", "c"]
    assert clock.monotonic() == 7200
    loop.close()


def test_time_stands_still_while_an_outside_call_is_under_way() -> None:
    outstanding = Outstanding()
    loop = VirtualLoop(outstanding)
    release = threading.Event()
    threads = ThreadPoolExecutor(1)

    async def scenario() -> None:
        timer = asyncio.create_task(asyncio.sleep(5))
        with outstanding.call():
            working = loop.run_in_executor(threads, release.wait)
            loop.call_soon(release.set)
            await working
            assert loop.time() == 0
        await timer
        assert loop.time() == 5

    loop.run_until_complete(scenario())
    threads.shutdown()
    loop.close()


def test_what_goes_to_the_loops_own_threads_is_done_at_once() -> None:
    loop = VirtualLoop()
    assert loop.run_until_complete(asyncio.wait_for(asyncio.to_thread(threading.get_ident), 1)) == threading.get_ident()
    assert loop.time() == 0
    loop.close()


def test_a_wait_that_nothing_will_ever_end_is_named() -> None:
    loop = VirtualLoop()
    waiting = loop.create_task(asyncio.Event().wait())
    with pytest.raises(Deadlock):
        loop.run_until_complete(waiting)
    waiting.cancel()
    loop.run_until_complete(asyncio.wait((waiting,)))
    loop.close()


def test_waiting_for_an_event_or_a_time_ends_with_the_first() -> None:
    loop = VirtualLoop()
    clock = FakeClock(loop)

    async def scenario() -> None:
        event = asyncio.Event()
        await wait_for_event(event, clock, 3)
        assert clock.monotonic() == 3
        loop.call_later(1, event.set)
        await wait_for_event(event, clock, 60)
        assert clock.monotonic() == 4

    loop.run_until_complete(scenario())
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_waiting_for_a_moment_always_reaches_it_however_near_it_is() -> None:
    loop = VirtualLoop()
    clock = FakeClock(loop)

    async def scenario() -> None:
        await clock.sleep(600)
        due = clock.monotonic() + 1e-10
        for _ in range(3):
            await clock.sleep(due - clock.monotonic())
        assert clock.monotonic() >= due

    loop.run_until_complete(scenario())
    loop.close()
