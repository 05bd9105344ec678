"""What API keys have used, counted once for all processes of a gateway: rates, and requests under way.

A small piece of memory that they all map (``memfd_create``; a file would outlive them), one slot for each key: the
theoretical arrival time of the generic cell rate algorithm (ITU-T I.371), in seconds of the host's monotonic clock,
and for each process how many requests of the key it has under way. A slot is read and written under a lock on its
bytes (POSIX, by process), held for microseconds; so a limit is exact, however the kernel spreads connections.

A process that is killed leaves its column as it is; whoever watches over the processes clears it. The kernel gives up
its lock. Half of a change cannot be seen: what is written last is the one number that counts.

Refused: a share of the limit for each process (wrong as soon as one client keeps one connection), a server to ask (a
round trip for each request), and the broker, which need not be there.

Which key has which slot: the parent decides (``Slots``), and keeps it over reloads, so that what is under way stays
counted.
"""

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Self

from muster.gateway.keys import Key
from muster.gateway.port import Refused

SLOTS = 32_768
"""Three times the keys that a file may hold: those that a reload removed keep theirs while something is under way."""
_TIME = struct.Struct("=d")
_COUNT = struct.Struct("=I")
_LONGEST_RETRY_SECONDS = 3600.0


class Ledger:
    """One process's view; ``column`` is its number among ``columns`` processes."""

    def __init__(self, descriptor: int, columns: int, column: int = 0) -> None:
        self.descriptor = descriptor
        self._column = column
        self._columns = columns
        self._slot_bytes = _TIME.size + _COUNT.size * columns
        self._counts = struct.Struct(f"={columns}I")
        self._memory = mmap.mmap(descriptor, self._slot_bytes * SLOTS)

    @classmethod
    def create(cls, columns: int) -> Self:
        """Return an empty one, for a parent to hand on by its descriptor."""
        descriptor = os.memfd_create("muster-gateway-ledger")
        os.ftruncate(descriptor, (_TIME.size + _COUNT.size * columns) * SLOTS)
        return cls(descriptor, columns)

    def close(self) -> None:
        """Let go of it; what it says stays for those who have it."""
        self._memory.close()
        os.close(self.descriptor)

    def enter(self, key: Key, now: float) -> Refused | None:
        """Count a request of a key that has a slot; or say which of its limits it would exceed, and count nothing."""
        assert key.slot is not None
        with self._locked(key.slot) as at:
            arrival = now
            rate, memory = key.requests_per_second, self._memory
            if rate is not None:
                (arrival,) = _TIME.unpack_from(memory, at)
                if arrival > now + key.burst / rate + _SKEW_SECONDS:
                    arrival = now  # no request of this limit sets it so far ahead: a reload has raised it
                arrival = max(now, arrival) + 1 / rate
                ahead = arrival - now - key.burst / rate
                if ahead > _ROUNDING:
                    return _too_fast(key, rate, ahead)
            if key.concurrency is not None:
                under_way = sum(self._counts.unpack_from(memory, at + _TIME.size))
                if under_way >= key.concurrency:
                    return _too_many(key, under_way)
            if rate is not None:
                _TIME.pack_into(memory, at, arrival)
            if key.concurrency is not None:
                self._add(at, 1)
            return None

    def leave(self, key: Key) -> None:
        """Count that a request of a key is over."""
        if key.concurrency is None:
            return
        assert key.slot is not None
        with self._locked(key.slot) as at:
            self._add(at, -1)

    def under_way(self, slot: int) -> int:
        """Return how many requests of a slot are under way in all processes."""
        with self._locked(slot) as at:
            return sum(self._counts.unpack_from(self._memory, at + _TIME.size))

    def forget(self, column: int, slots: Collection[int]) -> None:
        """Count that nothing is under way in a process: it has died."""
        for slot in slots:
            with self._locked(slot) as at:
                _COUNT.pack_into(self._memory, at + _TIME.size + _COUNT.size * column, 0)

    def reset(self, slot: int) -> None:
        """Make a slot as new."""
        with self._locked(slot) as at:
            self._memory[at : at + self._slot_bytes] = bytes(self._slot_bytes)

    def _add(self, at: int, change: int) -> None:
        place = at + _TIME.size + _COUNT.size * self._column
        (count,) = _COUNT.unpack_from(self._memory, place)
        _COUNT.pack_into(self._memory, place, max(0, count + change))

    @contextlib.contextmanager
    def _locked(self, slot: int) -> Iterator[int]:
        """Return where a slot begins, and have it alone meanwhile."""
        at = slot * self._slot_bytes
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, self._slot_bytes, at)
        try:
            yield at
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, self._slot_bytes, at)


_SKEW_SECONDS = 1.0
"""Longer than a process takes from reading the clock to having the lock; others may have been there meanwhile."""
_ROUNDING = 1e-9
"""Sums of fractions of a second may be too large by less than this."""


def _too_fast(key: Key, rate: float, ahead: float) -> Refused:
    what = f"may send {rate:g} requests per second, {key.burst} of them at once"
    wait = min(ahead, _LONGEST_RETRY_SECONDS)
    return Refused(429, "rate_limited", _again(key, what), retry_after_seconds=wait, key=key.name)


def _too_many(key: Key, under_way: int) -> Refused:
    what = f"may have {key.concurrency} requests under way and has {under_way}"
    return Refused(429, "concurrency", _again(key, what), retry_after_seconds=1.0, key=key.name)


def _again(key: Key, what: str) -> str:
    return f"the API key {key.name!r} {what}: wait, then try again"


class Slots:
    """Gives each key a slot, for as long as the key is known or something of it is under way."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._slots: dict[str, int] = {}
        self._gone: frozenset[str] = frozenset()

    @property
    def used(self) -> Collection[int]:
        """All slots that are somebody's."""
        return self._slots.values()

    def assign(self, names: Collection[str]) -> Mapping[str, int]:
        """Return the slots of these keys, new ones for those that had none; there are fewer keys than slots.

        What a key leaves behind is given away by the call after the one that left it out: a process may still count
        in it until it has been told.
        """
        for name in self._gone.difference(names):
            if not self._ledger.under_way(self._slots[name]):
                self._ledger.reset(self._slots.pop(name))
        self._gone = frozenset(self._slots).difference(names)
        taken = set(self._slots.values())
        free = (slot for slot in range(SLOTS) if slot not in taken)
        for name in names:
            if name not in self._slots:
                self._slots[name] = next(free)
        return {name: self._slots[name] for name in names}
