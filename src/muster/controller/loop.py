"""The contract of a loop, and what runs it: *when* to reconcile is decided here, *what* to do in each reconciler.

A reconciler is given a key and never an event: it loads, decides, commits and acts on what it finds. Wake-ups carry
no data; a periodic full pass asks the reconciler for the keys that need a look and so repairs whatever a lost wake-up
missed. Different keys run at the same time, one key never does.

Errors meet policy here and in ``api/envelope.py``, nowhere else:

* ``StaleWrite``: somebody else wrote first; again at once;
* ``EngineUnavailable``: again after what the engine asked for, or later;
* anything else: logged, again with backoff. A loop never dies of one key.
"""

import asyncio
import datetime
import logging
from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from muster.clock import Clock, wait_for_event
from muster.controller.queue import KeyedQueue
from muster.errors import EngineUnavailable, MusterError, StaleWrite

Key = TypeVar("Key", bound=Hashable)
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0

_log = logging.getLogger(__name__)


class Reconciler(Protocol[Key]):
    """Moves one noun one step."""

    @property
    def name(self) -> str:
        """What the loop is called in logs."""
        ...

    async def keys(self) -> Iterable[Key]:
        """Return every key that needs a look (others are allowed)."""
        ...

    async def reconcile(self, key: Key) -> datetime.datetime | None:
        """Bring one thing one step closer to what is wanted; return when to look again though nothing changed."""
        ...


class ReconcileLoop(Generic[Key]):
    """Runs one reconciler until it is cancelled.

    ``busy_share``: the largest part of the time that looks at one key may take; after each the key rests accordingly,
    so the first wake-up after a quiet time is answered at once and a burst of them together. It is for keys of which
    a look costs as much as what they hold.
    """

    def __init__(
        self,
        reconciler: Reconciler[Key],
        clock: Clock,
        *,
        at_once: int = 16,
        full_pass_seconds: float = 30.0,
        busy_share: float = 1.0,
    ) -> None:
        self._reconciler = reconciler
        self._clock = clock
        self._queue: KeyedQueue[Key] = KeyedQueue(clock)
        self._slots = asyncio.Semaphore(at_once)
        self._full_pass_seconds = full_pass_seconds
        self._rest_per_second = 1 / busy_share - 1
        self._failures: dict[Key, int] = {}
        self._pass_wanted = asyncio.Event()

    def wake(self, key: Key) -> None:
        """Ask for a look at ``key`` soon."""
        self._queue.add(key)

    def wake_all(self) -> None:
        """Ask for a full pass soon: something happened of which nobody can say what it touched."""
        self._pass_wanted.set()

    async def run(self) -> None:
        """Reconcile for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._full_passes(), name=f"{self._reconciler.name} full pass")
            while True:
                await self._slots.acquire()
                key = await self._queue.get()
                group.create_task(self._process(key), name=f"{self._reconciler.name} {key}")

    async def _process(self, key: Key) -> None:
        begun = self._clock.monotonic()
        try:
            wake_at = await self._reconciler.reconcile(key)
        except StaleWrite:
            self._queue.add(key)
        except Exception as error:  # noqa: BLE001  a loop outlives whatever one key throws at it
            self._queue.add_after(key, self._backoff(key, error))
        else:
            self._failures.pop(key, None)
            if wake_at is not None:
                self._queue.add_after(key, (wake_at - self._clock.now()).total_seconds())
        finally:
            self._slots.release()
            await self._rest(self._clock.monotonic() - begun)
            self._queue.done(key)

    async def _rest(self, took_seconds: float) -> None:
        if rest_seconds := took_seconds * self._rest_per_second:
            await self._clock.sleep(rest_seconds)

    def _backoff(self, key: Key, error: Exception) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay: float = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 10))
        if isinstance(error, EngineUnavailable):
            delay = max(delay, error.retry_after_seconds)
        _log.warning(
            "%s %s failed %d times in a row, again in %.1f s: %s",
            self._reconciler.name,
            key,
            failures,
            delay,
            error,
            exc_info=None if isinstance(error, MusterError) else error,
        )
        return delay

    async def _full_passes(self) -> None:
        while True:
            try:
                for key in await self._reconciler.keys():
                    self._queue.add(key)
            except Exception as error:  # noqa: BLE001  the next pass may succeed
                _log.warning(
                    "%s full pass failed: %s",
                    self._reconciler.name,
                    error,
                    exc_info=None if isinstance(error, MusterError) else error,
                )
            await wait_for_event(self._pass_wanted, self._clock, self._full_pass_seconds)
            self._pass_wanted.clear()
