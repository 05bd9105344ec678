"""Which keys this watcher may publish, among any number of watchers.

Each watcher records a heartbeat several times within its lease and claims the keys that nobody has, or whose publisher
has died: one whose heartbeat is gone, or has not changed for as long as it promised. That is measured by the
observer's own monotonic clock, so hosts need not agree on the time, and it needs nothing of a registry but to keep
what it is given. With a lease of 0.5 s a dead publisher is replaced in less than a second.

A claim comes with the epoch to publish under, greater than any before, so a publisher that was paused and wakes up is
fenced by the registry at its first word, whatever it still believes. Here it finds out sooner: whose last heartbeat is
older than its own lease holds nothing any more. So is told a registry that has lost what it held (it restarted empty):
it does not know our last heartbeat.

Refused: leases that expire in the registry. etcd's last two seconds at least, a file has none, and a failover within a
second was to be had for one small write per watcher and beat, however many keys it publishes.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from muster.clock import Clock
from muster.errors import RegistryError
from muster.model.endpoint import ServiceKey
from muster.registry.port import Beat, Registry

LEASE_SECONDS = 0.5
BEATS_PER_LEASE = 5
CALLS_PER_LEASE, LONGEST_LEASE_SECONDS = 4, 10.0
"""A lease holds at least so many heartbeats' round trips, but no longer than this."""
FORGET_SECONDS = 60.0
"""A heartbeat is swept away when it has been still for so much longer than it promised."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Seen:
    """Another publisher's heartbeat, and when we first saw it at that."""

    beat: Beat
    at: float


class Claims:
    """The keys of one publisher; give ``run`` a task. ``publisher`` is ``SOURCE#NAME``, the name unique per process.

    ``has_news`` is set when keys may be had that could not be had before, or some were lost: list again.
    """

    def __init__(self, registry: Registry, clock: Clock, publisher: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self.publisher = publisher
        self.source = publisher.partition("#")[0]
        self.has_news = asyncio.Event()
        self._registry = registry
        self._clock = clock
        self._shortest_lease_seconds = self._lease_seconds = lease_seconds
        self._calls: deque[float] = deque(maxlen=3)
        self._epochs: dict[ServiceKey, int] = {}
        self._highest: dict[ServiceKey, int] = {}
        self._others: dict[str, _Seen] = {}
        self._living: frozenset[str] = frozenset()
        self._foreign: set[ServiceKey] = set()
        self._count = 0
        self._confirmed = 0
        self._alive_until: float | None = None
        self._is_standing = False
        self._is_too_slow = False

    async def run(self) -> None:
        """Beat for ever, or only look while retired; a registry that does not answer lets the claims run out."""
        while True:
            with contextlib.suppress(RegistryError):
                await (self.beat() if self._is_standing else self.look())
            await self._clock.sleep(self._shortest_lease_seconds / BEATS_PER_LEASE)

    async def beat(self) -> None:
        """Say that this publisher lives, and look who else does. Raises ``RegistryError``."""
        began = self._clock.monotonic()
        self._is_standing = True
        if not self.is_alive:
            self._drop_all()
        self._count += 1
        count = self._count
        lease_seconds = self._lease_seconds
        before = await self._registry.beat(self.publisher, Beat(count, lease_seconds))
        if not self._is_standing:
            return  # retired while the answer was on its way
        self._adapt(self._clock.monotonic() - began)
        own = before.get(self.publisher)
        if self._confirmed and (own is None or own.count < self._confirmed):
            self._drop_all()  # the registry has lost what it held, or somebody took us for dead
        if not self.is_alive:
            self._drop_all()  # it ran out under way, and what changed meanwhile was left to others
        self._confirmed = count
        self._alive_until = began + lease_seconds
        self._warn_of_slowness()
        await self._observe(before)

    async def look(self) -> None:
        """See who lives without saying that we do. Raises ``RegistryError``."""
        await self._observe(await self._registry.beats())

    @property
    def is_alive(self) -> bool:
        """Whether others still have to take this publisher for alive."""
        return self._alive_until is not None and self._clock.monotonic() < self._alive_until

    def epoch_of(self, key: ServiceKey) -> int | None:
        """Return the epoch to publish ``key`` under, ``None`` if it is not ours to publish."""
        return self._epochs.get(key) if self.is_alive else None

    async def claim(self, keys: Collection[ServiceKey]) -> frozenset[ServiceKey]:
        """Claim those of ``keys`` that are not ours yet; return which are ours now and were not.

        What is to be published under a new claim has to be read from the feed after this. Raises ``RegistryError``.
        """
        wanted = [key for key in keys if key not in self._epochs]
        if not wanted:
            return frozenset()
        if not self.is_alive:
            await self.beat()
        claims = await self._registry.claims()
        if any(each.publisher not in {self.publisher, *self._others} for each in claims.values()):
            await self.look()  # it may have come since the last heartbeat: it beat before it claimed
        dead = {claim.publisher for claim in claims.values() if self.is_dead(claim.publisher)}
        open_keys = [key for key in wanted if key not in claims or claims[key].publisher in {*dead, self.publisher}]
        if not open_keys:
            return frozenset()
        floor = max([int(self._clock.now().timestamp() * 1000), *(self._highest.get(key, 0) + 1 for key in open_keys)])
        given = await self._registry.claim(open_keys, self.publisher, over=dead, floor=floor)
        self._warn_of_foreign(set(open_keys) - given.keys())
        gained = {key: claim.epoch for key, claim in given.items() if claim.publisher == self.publisher}
        self._epochs |= gained
        self._highest |= gained
        return frozenset(gained)

    def drop(self, key: ServiceKey) -> None:
        """Take a key for lost: somebody else has published it, or nobody knows what is stored."""
        self._epochs.pop(key, None)

    async def retire(self) -> None:
        """Let others have every key, now, until the next claim. Raises ``RegistryError``."""
        self._epochs.clear()
        if self._is_standing:
            self._is_standing, self._alive_until, self._confirmed = False, None, 0
            await self._registry.retire(self.publisher)

    def is_dead(self, publisher: str) -> bool:
        """Whether a publisher's keys may be taken over, by what the last beat saw."""
        if publisher == self.publisher:
            return False
        seen = self._others.get(publisher)
        return seen is None or self._clock.monotonic() - seen.at >= seen.beat.seconds

    def may_settle(self, publisher: str) -> bool:
        """Whether what a publisher left is ours to settle: of our source, and its own or nobody's affair."""
        return publisher.partition("#")[0] == self.source and (publisher == self.publisher or self.is_dead(publisher))

    async def _observe(self, beats: Mapping[str, Beat]) -> None:
        now = self._clock.monotonic()
        known, self._others = self._others, {}
        for publisher, beat in beats.items():
            if publisher != self.publisher:
                seen = known.get(publisher)
                self._others[publisher] = seen if seen is not None and seen.beat == beat else _Seen(beat, now)
        living = frozenset(each for each in self._others if not self.is_dead(each))
        if self._living - living:
            self.has_news.set()
        self._living = living
        for publisher, seen in self._others.items():
            if now - seen.at > FORGET_SECONDS + seen.beat.seconds:
                await self._registry.retire(publisher)

    def _warn_of_foreign(self, keys: set[ServiceKey]) -> None:
        for key in sorted(keys - self._foreign, key=str):
            _log.warning("%s is not published: the registry holds foreign data under it; remove that", key)
        self._foreign = (self._foreign | keys) - self._epochs.keys()

    def _adapt(self, took_seconds: float) -> None:
        """Promise no more than the registry lets us keep: a slow one shall make failover slower, and stop nothing.

        The shortest of the last calls counts: one during which this process was paused says nothing of the registry.
        """
        self._calls.append(took_seconds)
        if len(self._calls) == self._calls.maxlen:
            wanted = min(LONGEST_LEASE_SECONDS, CALLS_PER_LEASE * min(self._calls))
            self._lease_seconds = max(self._shortest_lease_seconds, wanted)

    def _warn_of_slowness(self) -> None:
        if self.is_alive == self._is_too_slow:
            self._is_too_slow = not self.is_alive
            if self._is_too_slow:
                _log.warning(
                    "the registry takes longer than %g s for a heartbeat: nothing is published until longer ones are"
                    " promised",
                    self._shortest_lease_seconds,
                )

    def _drop_all(self) -> None:
        if self._epochs:
            self._epochs.clear()
            self.has_news.set()
