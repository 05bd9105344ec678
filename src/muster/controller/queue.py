"""A queue of keys for one loop: deduplicated, never the same key twice at once, now or later.

A key that is added while it is being processed comes again afterwards, so no change is lost between "loaded" and
"done". A key that is added for later and then for sooner comes once, sooner. There is one reader.
"""

import asyncio
import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

from muster.clock import Clock, wait_for_event

Key = TypeVar("Key", bound=Hashable)


class KeyedQueue(Generic[Key]):
    """See the module's text. Not thread-safe: it belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: dict[Key, None] = {}  # insertion order is service order
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._tiebreak = itertools.count()
        self._changed = asyncio.Event()

    def add(self, key: Key) -> None:
        """Ask for ``key`` to be processed as soon as may be."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        else:
            self._ready[key] = None
        self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for ``key`` in ``seconds``, unless it is asked for sooner."""
        if seconds <= 0:
            self.add(key)
            return
        if key in self._ready:
            return
        due = self._clock.monotonic() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._tiebreak), key))
            self._changed.set()

    async def get(self) -> Key:
        """Wait for a key; the caller must call ``done`` with it."""
        while True:
            self._promote()
            if self._ready:
                key = next(iter(self._ready))
                del self._ready[key]
                self._active.add(key)
                return key
            await self._wait()

    def done(self, key: Key) -> None:
        """Say that ``key`` has been processed."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _promote(self) -> None:
        now = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                self.add(key)

    async def _wait(self) -> None:
        self._changed.clear()
        if not self._heap:
            await self._changed.wait()
            return
        await wait_for_event(self._changed, self._clock, self._heap[0][0] - self._clock.monotonic())
