"""Time as an argument: whoever needs to know or to wait is given a ``Clock``.

Pure code receives ``now`` as a plain value. Loops receive the clock, so that a test can hold time still and move it
by hand. ``monotonic`` is for durations and deadlines inside one process; ``now`` is for what is stored or shown.
"""

import asyncio
import datetime
import time
from typing import Protocol


class Clock(Protocol):
    """What a loop may know about time."""

    def now(self) -> datetime.datetime:
        """Return the wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences have a meaning."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; zero or less only yields to other tasks."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime.datetime:
        """Return the wall-clock time, aware, in UTC."""
        return datetime.datetime.now(datetime.UTC)

    def monotonic(self) -> float:
        """Return seconds that never go backwards; only differences have a meaning."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; zero or less only yields to other tasks."""
        await asyncio.sleep(max(0.0, seconds))


async def wait_for_event(event: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Return when ``event`` is set or ``seconds`` have passed by ``clock``, whichever is first."""
    waits = (asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(seconds)))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
