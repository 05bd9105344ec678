"""The watcher: any feed → complete endpoint sets → a registry.

It follows changes, asks the feed for the whole state of each deployment named, and publishes a set when it differs
from the last one published. At start, after errors and from time to time it lists everything, which repairs whatever
a lost change missed, empties the sets of deployments that ended unseen, and takes their names away.

Several watchers may follow the same deployments: each key has one publisher (``claims.py``), the others stand by. A
key is claimed first and its state read afterwards, so what a new publisher says is never older than what the last one
said; a publisher that was paused finds itself fenced. So no pause and no crash makes a set older than it was.

When the feed cannot be read, this watcher gives its keys to others, and the sets stay as they are: stale beats empty.
If nobody else keeps a set up either, it is marked stale (``stale.py``). The first set that is published afterwards is
the corrected one. A key that fails alone (somebody else's data lies under it, say) holds up no other.
"""

import asyncio
import datetime
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from muster.clock import Clock, wait_for_event
from muster.discovery.claims import LEASE_SECONDS, Claims
from muster.discovery.stale import mark_stale
from muster.discovery.take_over import OnTakeOver, tell_present
from muster.errors import CursorExpired, FeedError, FeedRefused, Fenced, RegistryError, StoreError
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey, Withheld
from muster.model.event import Cursor
from muster.model.feed import Feed, ServiceState
from muster.model.ids import DeploymentId
from muster.model.service_wire import name_of
from muster.registry.port import Registry

RELIST_SECONDS = 30.0
RETRY_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.25
"""Soon, because whoever cannot read holds up others that can."""
LISTEN_SECONDS = 0.5
"""After so long a feed that was asked for its changes surely listens."""
STALE_SECONDS = 3.0
"""How long a feed may fail before its sets are marked; a restart of a server is shorter."""
LISTINGS_PER_LINKING = 10
"""Five minutes."""
BREATHS = 4
"""The rest after a listing, in times of what it took."""
AT_ONCE = 32
"""Registry calls under way at once while everything is published: a taken-over registry is right within a second."""

OnPublish = Callable[[ServiceKey, EndpointSet, str], None]
"""Told of each set that was published, with the deployment's name if it is known."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Published:
    epoch: int
    revision: int
    endpoints: tuple[Endpoint, ...]
    withheld: tuple[Withheld, ...]
    ca_pem: str | None


class Watcher:
    """Publishes what one feed says, as ``publisher`` (``SOURCE#NAME``, the name unique per living process).

    ``SOURCE`` says whose deployments the feed tells of: what a dead publisher of the same source left behind is
    cleared up, what is of another source is left alone. ``on_take_over`` hears, before anything is published under a
    key that was claimed, what stands there; ``on_publish`` hears of each set that was published.
    ``broker_url`` is told to clients with each set.
    """

    def __init__(
        self,
        feed: Feed,
        registry: Registry,
        clock: Clock,
        *,
        publisher: str,
        lease_seconds: float = LEASE_SECONDS,
        on_publish: OnPublish | None = None,
        on_take_over: OnTakeOver | None = None,
        broker_url: str | None = None,
    ) -> None:
        self._feed = feed
        self._broker_url = broker_url
        self._on_publish = on_publish
        self._on_take_over = on_take_over
        self._registry = registry
        self._clock = clock
        self._claims = Claims(registry, clock, publisher, lease_seconds)
        self._is_behind = self._claims.has_news
        self._published: dict[ServiceKey, _Published] = {}
        self._aliases: dict[ServiceKey, tuple[ServiceKey | None, int]] = {}
        self._keys: dict[DeploymentId, frozenset[ServiceKey]] = {}
        self._ended: set[ServiceKey] = set()
        self._one_at_a_time = asyncio.Lock()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._has_failed = False
        self._listings = self._failures = 0

    async def run(self) -> None:
        """Watch and publish for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.run(), name="discovery claims")
            group.create_task(self._watch(), name="discovery watch")

    async def retire(self) -> None:
        """Let others publish at once, when ``run`` has come to its end. Raises ``RegistryError``."""
        await self._claims.retire()

    async def _watch(self) -> None:
        failing_since: datetime.datetime | None = None
        is_troubled = False
        while True:
            pause_seconds = RETRY_SECONDS
            try:
                cursor = await self._list()
                if is_troubled:
                    _log.info("discovery goes on: feed and registry answer")
                failing_since, is_troubled = None, False
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._follow(cursor), name="discovery follow")
                    group.create_task(self._relist(), name="discovery relist")
            except* CursorExpired:
                _log.info("events that discovery had not seen were pruned: listing again")
            except* (FeedError, StoreError) as failed:
                _log.warning("discovery keeps the last sets and tries again: %s", _first(failed))
                is_troubled = True
                if failing_since is None:  # one lost answer is made good by the next
                    failing_since, pause_seconds = self._clock.now(), FIRST_RETRY_SECONDS
                else:
                    await self._stand_down(failing_since)
            except* RegistryError as failed:
                _log.warning("discovery keeps the last sets and tries again: %s", _first(failed))
                is_troubled = True
            await self._clock.sleep(pause_seconds)

    async def _stand_down(self, since: datetime.datetime) -> None:
        """Let somebody publish who can read the feed; if nobody does, say since when the sets are unchecked."""
        now = self._clock.now()
        try:
            await self._claims.retire()
            if (now - since).total_seconds() >= STALE_SECONDS:
                known = frozenset(key for keys in self._keys.values() for key in keys)
                await mark_stale(self._registry, self._claims, known, since=since, now=now)
        except RegistryError as error:
            _log.warning("nor can the sets be marked stale: %s", error)

    async def _follow(self, cursor: Cursor) -> None:
        async for batch in self._feed.changes(cursor):
            async with self._one_at_a_time, asyncio.TaskGroup() as group:
                for deployment_id in sorted(batch.deployments):
                    group.create_task(self._refresh(deployment_id), name=f"refresh {deployment_id}")

    async def _relist(self) -> None:
        self._is_behind.set()  # what changed without an event before ``changes`` listens is found by one more
        await self._clock.sleep(LISTEN_SECONDS)
        while True:
            retry_seconds = RETRY_SECONDS * 2.0 ** min(self._failures - 1, 8) if self._failures else RELIST_SECONDS
            await wait_for_event(self._is_behind, self._clock, min(RELIST_SECONDS, retry_seconds))
            self._is_behind.clear()
            began = self._clock.monotonic()
            await self._list()
            self._failures = self._failures + 1 if self._has_failed else 0
            await self._clock.sleep(min(RETRY_SECONDS, BREATHS * (self._clock.monotonic() - began)))

    async def _list(self) -> Cursor:
        async with self._one_at_a_time:
            stored = await self._registry.keys()  # first: a registry that is away fails here, once, not at every key
            self._forget_lost(stored)
            self._listings += 1
            if self._listings % LISTINGS_PER_LINKING == 0:
                self._aliases.clear()  # nobody lists names, so whether one was lost is found by linking it anew
            self._has_failed = False
            listing = await self._feed.services()
            if await self._claim(listing.services):
                listing = await self._feed.services()
                await self._claim(listing.services)
            self._keys = {state.deployment_id: frozenset(state.endpoints) for state in listing.services}
            await self._apply(listing.services)
            listed = {key for keys in self._keys.values() for key in keys}
            self._ended -= listed
            await self._end(set(stored) - listed - self._ended)
            return listing.cursor

    async def _refresh(self, deployment_id: DeploymentId) -> None:
        known = self._keys.get(deployment_id)
        if known and all(self._claims.epoch_of(key) is None for key in known):
            return  # another watcher publishes it
        async with self._places:
            state = await self._feed.service(deployment_id)
            if state is not None and await self._claim([state]):
                state = await self._feed.service(deployment_id)
        if state is not None:
            self._keys[deployment_id] = frozenset(state.endpoints)
            await self._apply([state])

    async def _claim(self, states: Iterable[ServiceState]) -> frozenset[ServiceKey]:
        gained = await self._claims.claim([key for state in states for key in state.endpoints])
        if self._on_take_over is not None and gained:
            unread = await tell_present(self._registry, gained, self._on_take_over)
            for key in unread:
                self._claims.drop(key)  # it is claimed anew, and read anew
            self._report(list(unread.values()))
        return gained

    def _forget_lost(self, stored: Collection[ServiceKey]) -> None:
        """Take over anew what was published and is not there any more."""
        for key in self._published.keys() - set(stored):
            self._lose(key)
        if not stored:
            self._aliases.clear()
            self._ended.clear()

    async def _end(self, unlisted: Collection[ServiceKey]) -> None:
        """Settle what has a set and is not listed: it has ended, perhaps with nobody telling, if it is of our source.

        What another living watcher publishes is its own affair.
        """
        if not unlisted:
            return
        claims = (await self._registry.claims()).items()
        left = await self._read(
            [key for key, claim in claims if key in unlisted and self._claims.may_settle(claim.publisher)]
        )
        gained = await self._claims.claim(left)
        now = {key: state for key, state in left.items() if key not in gained} | await self._read(gained)
        for key in sorted(now, key=str):
            if self._claims.epoch_of(key) is not None:
                state = now[key]
                ending = ServiceState(state.deployment_id, {key: state.endpoints.get(key, ())}, state.aliases)
                if await self._apply([ending]):
                    self._ended.add(key)

    async def _read(self, keys: Collection[ServiceKey]) -> dict[ServiceKey, ServiceState]:
        """Read the deployments of keys, each once; left out is what lives unfollowed, or the feed will not tell."""
        found: dict[str, ServiceState] = {}

        async def read(service: str) -> None:
            try:
                async with self._places:
                    state = await self._feed.service(DeploymentId(service))
            except FeedRefused:
                raise
            except FeedError as error:
                if not error.code:
                    raise
                _log.warning("nobody knows whether %s has ended: %s", service, error)
            else:
                if state is not None:
                    found[service] = state

        async with asyncio.TaskGroup() as group:  # at once: a feed that polls reads many with one call
            for service in {key.service for key in keys}:
                group.create_task(read(service), name=f"read {service}")
        return {key: found[key.service] for key in keys if key.service in found}

    async def _apply(self, states: Sequence[ServiceState]) -> bool:
        """Publish what deployments have, as far as it is ours to publish; return whether all went well."""
        failed: list[RegistryError] = []

        async def apply(state: ServiceState) -> None:
            async with self._places:
                failed.extend(await self._apply_one(state))

        async with asyncio.TaskGroup() as group:
            for state in states:
                group.create_task(apply(state), name=f"publish {state.deployment_id}")
        self._report(failed)
        return not failed

    async def _apply_one(self, state: ServiceState) -> list[RegistryError]:
        failed = []
        epochs = {key: epoch for key in state.endpoints if (epoch := self._claims.epoch_of(key)) is not None}
        for key, epoch in epochs.items():
            try:
                await self._publish(key, epoch, state)
            except RegistryError as error:
                self._lose(key)
                failed.append(error)
        for alias, target in state.aliases.items() if epochs else ():
            try:
                await self._point(alias, target, max(epochs.values()))
            except RegistryError as error:
                failed.append(error)
        return failed

    def _lose(self, key: ServiceKey) -> None:
        """Take a key for lost: fenced, or done and the answer lost. It is claimed anew, and read anew."""
        self._published.pop(key, None)
        self._claims.drop(key)

    def _report(self, failed: Sequence[RegistryError]) -> None:
        real = [error for error in failed if not isinstance(error, Fenced)]
        if len(real) < len(failed) or (real and not self._failures):
            self._is_behind.set()
        if real:  # a listing tries them again; the longer they fail, the more seldom
            self._has_failed = True
            _log.warning("%d sets and names could not be published and are tried again: %s", len(real), real[0])

    async def _point(self, alias: ServiceKey, target: ServiceKey | None, epoch: int) -> None:
        if self._aliases.get(alias) == (target, epoch):
            return
        self._aliases.pop(alias, None)  # should the call fail, nobody knows where the name points
        if target is None:
            await self._registry.unlink(alias)
        else:
            await self._registry.link(alias, target)
        self._aliases[alias] = target, epoch

    async def _publish(self, key: ServiceKey, epoch: int, state: ServiceState) -> None:
        last = self._published.get(key)
        revision = 1 if last is None or last.epoch != epoch else last.revision + 1
        coming = _Published(epoch, revision, state.endpoints[key], state.withheld.get(key, ()), state.ca_pem)
        if last is not None and revision > 1 and _says_the_same(last, coming):
            return
        endpoints = EndpointSet(
            epoch,
            revision,
            coming.endpoints,
            published_at=self._clock.now(),
            ca_pem=coming.ca_pem,
            broker_url=self._broker_url,
            withheld=coming.withheld,
        )
        await self._registry.publish(key, endpoints)
        self._published[key] = coming
        if self._on_publish is not None:
            self._on_publish(key, endpoints, name_of(state))


def _says_the_same(one: _Published, other: _Published) -> bool:
    return (one.endpoints, one.withheld, one.ca_pem) == (other.endpoints, other.withheld, other.ca_pem)


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
