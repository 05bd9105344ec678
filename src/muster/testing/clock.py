"""Time that stands still until everybody waits for it: an event loop, and the clock that reads it.

``VirtualLoop`` runs tasks as any loop does, but when all of them wait it jumps to the next timer instead of sleeping.
So ``asyncio.sleep``, ``asyncio.timeout`` and every timer take no real time and fire in order, and a test of ten
minutes is done in milliseconds. The jump is made only when no call to the outside is under way (``Outstanding`` counts
them): a thread or a process that is still working is waited for in real time, so time never runs ahead of an answer.

Refused: a clock that counts yields to guess that the loop is idle; only the selector knows.
"""

import asyncio
import contextlib
import datetime
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple, Unpack

from muster.testing.executor import InlineExecutor

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH = datetime.datetime(2026, 3, 2, 9, 0, tzinfo=datetime.UTC)
_INLINE = InlineExecutor()
_REAL_PATIENCE_SECONDS = 0.01
_SHORTEST_SECONDS = 1e-6
"""A loop fires timers a nanosecond early. Time that only moves by waiting would then never reach a moment that is
nearer than that, and whoever waits for it would spin."""


class Deadlock(AssertionError):
    """Every task waits, no timer is set and nothing outside is under way: nothing will ever happen again."""


class Outstanding:
    """Counts calls to the outside that have begun and not ended."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Count one call while the block runs."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is moved by waiting for it."""

    def __init__(self, outstanding: Outstanding | None = None) -> None:
        self._virtual_seconds = 0.0
        super().__init__(_Selector(self, outstanding or Outstanding()))

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._virtual_seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Do at once what is meant for the loop's own threads, so that time never runs ahead of its result."""
        return super().run_in_executor(executor or _INLINE, func, *args)

    def advance(self, seconds: float) -> None:
        """Move time; only the selector should."""
        self._virtual_seconds += seconds


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop, outstanding: Outstanding) -> None:
        super().__init__()
        self._loop = loop
        self._outstanding = outstanding

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self._outstanding.count:
            return super().select(_REAL_PATIENCE_SECONDS)
        if timeout is None:
            raise Deadlock("every task waits for something that will never happen")
        self._loop.advance(timeout)
        return ready


class FakeClock:
    """The clock of a ``VirtualLoop``. ``skew`` moves the wall clock alone, as an operator or NTP would."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: datetime.datetime = EPOCH) -> None:
        self._loop = loop
        self._epoch = epoch
        self.skew = datetime.timedelta()

    def now(self) -> datetime.datetime:
        """Return the virtual wall-clock time, aware, in UTC."""
        return self._epoch + datetime.timedelta(seconds=self._loop.time()) + self.skew

    def monotonic(self) -> float:
        """Return the loop's virtual seconds."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Return after virtual seconds, at least a microsecond if any."""
        await asyncio.sleep(max(_SHORTEST_SECONDS, seconds) if seconds > 0 else 0)
