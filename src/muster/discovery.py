"""The watcher: any feed → complete endpoint sets → a registry.

It follows changes, asks the feed for the whole state of each deployment named, and publishes a set when it differs
from the last one published. At start, after errors and from time to time it lists everything, which repairs whatever
a lost change missed, empties the sets of deployments that ended unseen, and takes their names away. A set also names
the authority that its endpoints' certificates are from, so another authority is another set.

Fencing: taking over a key sets its epoch above the stored one (and at least to now in unix milliseconds), so a
publisher that was paused and resumed finds itself fenced. When feed or registry fail, the last set stays as it is:
stale beats empty. A key that fails alone (somebody else's data lies under it, say) holds up no other; it is tried
again soon.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muster.clock import Clock, wait_for_event
from muster.errors import CursorExpired, FeedError, RegistryError, StoreError
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.model.event import Cursor
from muster.model.feed import Feed, ServiceState
from muster.model.ids import DeploymentId
from muster.registry.port import Registry

RELIST_SECONDS = 30.0
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Published:
    epoch: int
    revision: int
    endpoints: tuple[Endpoint, ...]
    ca_pem: str | None


class Watcher:
    """Publishes what one feed says. It must be the only publisher of its keys: others fence it, or it them.

    ``ca_pem`` tells the authority that clients are to trust for the endpoints, ``None`` if they know it.
    """

    def __init__(
        self, feed: Feed, registry: Registry, clock: Clock, *, ca_pem: Callable[[], str | None] = lambda: None
    ) -> None:
        self._feed = feed
        self._registry = registry
        self._clock = clock
        self._ca_pem = ca_pem
        self._published: dict[ServiceKey, _Published] = {}
        self._aliases: dict[ServiceKey, ServiceKey | None] = {}
        self._ended: set[ServiceKey] = set()
        self._one_at_a_time = asyncio.Lock()
        self._is_behind = asyncio.Event()

    async def run(self) -> None:
        """Watch and publish for ever."""
        while True:
            try:
                cursor = await self._list()
                self._is_behind.set()  # what changed without an event before ``changes`` listens is found by one more
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._follow(cursor), name="discovery follow")
                    group.create_task(self._relist(), name="discovery relist")
            except* CursorExpired:
                _log.info("events that discovery had not seen were pruned: listing again")
            except* (FeedError, RegistryError, StoreError) as failed:
                _log.warning("discovery keeps the last sets, again in %.0f s: %s", RETRY_SECONDS, failed.exceptions[0])
            await self._clock.sleep(RETRY_SECONDS)

    async def _follow(self, cursor: Cursor) -> None:
        async for batch in self._feed.changes(cursor):
            for deployment_id in sorted(batch.deployments):
                async with self._one_at_a_time:
                    self._report(await self._apply(await self._feed.service(deployment_id)))

    async def _relist(self) -> None:
        while True:
            await wait_for_event(self._is_behind, self._clock, RELIST_SECONDS)
            if self._is_behind.is_set():
                await self._clock.sleep(RETRY_SECONDS)
            await self._list()

    async def _list(self) -> Cursor:
        async with self._one_at_a_time:
            self._is_behind.clear()
            stored = await self._registry.keys()  # first: a registry that is away fails here, once, not at every key
            listing = await self._feed.services()
            failed = [error for state in listing.services for error in await self._apply(state)]
            known = {key for state in listing.services for key in state.endpoints}
            # What has a set and is not listed has ended, perhaps with nobody telling: its name goes too.
            for key in sorted(set(stored) - known - self._ended, key=str):
                ended = await self._apply(await self._feed.service(DeploymentId(key.service)))
                ended += await self._apply(ServiceState(DeploymentId(key.service), {key: ()}, {}))
                if not ended:
                    self._ended.add(key)
                failed += ended
            self._report(failed)
            return listing.cursor

    async def _apply(self, state: ServiceState) -> list[RegistryError]:
        """Publish what one deployment has; return what failed."""
        failed = []
        for key, endpoints in state.endpoints.items():
            try:
                await self._publish(key, endpoints)
            except RegistryError as error:
                failed.append(error)
        for alias, target in state.aliases.items():
            try:
                await self._point(alias, target)
            except RegistryError as error:
                failed.append(error)
        return failed

    def _report(self, failed: Sequence[RegistryError]) -> None:
        if failed:
            self._is_behind.set()
            _log.warning(
                "discovery keeps the last of %d sets and names, again in %.0f s: %s",
                len(failed),
                RETRY_SECONDS,
                failed[0],
            )

    async def _point(self, alias: ServiceKey, target: ServiceKey | None) -> None:
        if alias in self._aliases and self._aliases[alias] == target:
            return
        self._aliases.pop(alias, None)  # should the call fail, nobody knows where the name points
        if target is None:
            await self._registry.unlink(alias)
        else:
            await self._registry.link(alias, target)
        self._aliases[alias] = target

    async def _publish(self, key: ServiceKey, endpoints: tuple[Endpoint, ...]) -> None:
        last = self._published.get(key)
        ca_pem = self._ca_pem()
        if last is not None and (last.endpoints, last.ca_pem) == (endpoints, ca_pem):
            return
        now = self._clock.now()
        if last is None:
            stored = await self._registry.get(key)
            epoch = max(0 if stored is None else stored.epoch + 1, int(now.timestamp() * 1000))
            coming = _Published(epoch, 1, endpoints, ca_pem)
        else:
            coming = _Published(last.epoch, last.revision + 1, endpoints, ca_pem)
        try:
            await self._registry.publish(
                key, EndpointSet(coming.epoch, coming.revision, endpoints, published_at=now, ca_pem=ca_pem)
            )
        except RegistryError:
            self._published.pop(key, None)  # fenced, or done and the answer lost: take the key over anew
            raise
        self._published[key] = coming
