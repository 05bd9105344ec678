"""Which services are this broker's, among any number of brokers that share a registry.

A service is held as publishers hold keys (``discovery/claims.py``): a claim in the registry, good for as long as the
holder's heartbeat moves. The claims lie under keys of their own, ``<account>/#broker/<uuid>/<port>``, where no set ever
lies: neither ``keys()`` nor a watcher looks there, and no deployment can be called so. The holder's name carries its
address, so whoever is not the holder can say where to go.

A broker that dies is replaced a lease and a look later; its next life, at the same address, waits for nothing. One that
was paused finds itself replaced at its first word with the registry, before which it may have given a few grants.

**A registry that does not answer ends nothing.** The holder serves on, and gives a service up only when the registry
says that somebody else has it. Giving up would send every client off to choose by itself, many deciders in place of
one, and all brokers at once where the registry just restarts. The price: should a network part a holder from the
registry, and not the other broker, there are two queues for as long as that lasts. What then may be late is the order
of two requests; the limit of a replica is held by its own ingress, which refuses what is too much, and a client that is
refused tries another.
"""

import asyncio
import logging
from collections.abc import Callable, Collection

from muster.clock import Clock, wait_for_event
from muster.discovery.claims import BEATS_PER_LEASE, Claims
from muster.errors import RegistryError
from muster.model.endpoint import ServiceKey
from muster.registry.port import Claim, Registry

LEASE_SECONDS = 1.5
"""How long a holder may be silent: above the pauses of a busy process, below what clients notice as an absence."""
VERIFY_SECONDS = 2.0
"""How long a registry that was set back to an earlier state may leave two brokers that each hold a service."""
LOOKS_PER_LEASE = BEATS_PER_LEASE
_FOLDER = "#broker/"
_ROLE = "broker "

OnLost = Callable[[ServiceKey, str], None]
"""Told of a service that somebody else has now, and where that is, as far as it is known."""

_log = logging.getLogger(__name__)


def seat_of(key: ServiceKey) -> ServiceKey:
    """Return under which key it is claimed to serve ``key``."""
    return ServiceKey(key.account, _FOLDER + key.service, key.port)


def publisher_of(url: str, name: str) -> str:
    """Return a broker's name among publishers; ``name`` is unique per process."""
    return f"{_ROLE}{url.replace('#', '%23')}#{name}"


def url_of(claim: Claim | None) -> str:
    """Return where a holder serves, empty if that cannot be told."""
    source = "" if claim is None else claim.publisher.partition("#")[0]
    return source.removeprefix(_ROLE) if source.startswith(_ROLE) else ""


class Holding:
    """The services that one broker holds; give ``run`` a task."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        url: str,
        name: str,
        on_lost: OnLost,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._on_lost = on_lost
        self._look_seconds = lease_seconds / LOOKS_PER_LEASE
        self._claims = Claims(registry, clock, publisher_of(url, name), lease_seconds)
        self._has_buried = False
        self._held: set[ServiceKey] = set()
        self._is_troubled = False

    async def run(self) -> None:
        """Keep what is held, for ever."""
        async with asyncio.TaskGroup() as group:
            # also while nothing is held: whoever has looked on knows at once that a holder is dead
            group.create_task(self._claims.run(), name="broker claims")
            group.create_task(self._keep(), name="broker holding")

    async def take(self, key: ServiceKey) -> str | None:
        """Hold ``key`` from now on: ``None``, or the address of who has it, empty if unknown.

        Raises ``RegistryError``.
        """
        if key in self._held:
            return None
        if not self._has_buried:
            await self._bury()
            self._has_buried = True
        lost = await self._lost([key])
        if key in lost:
            return lost[key]
        self._held.add(key)
        return None

    async def let_go(self, key: ServiceKey) -> None:
        """Hold ``key`` no more; whoever holds nothing says nothing. Raises ``RegistryError``."""
        self._held.discard(key)
        if not self._held:
            await self._claims.retire()

    async def retire(self) -> None:
        """Let others have everything, now. Raises ``RegistryError``."""
        self._held.clear()
        await self._claims.retire()

    async def _bury(self) -> None:
        """Take our former lives for dead at once: we listen where they did."""
        for publisher in await self._registry.beats():
            if publisher != self._claims.publisher and publisher.partition("#")[0] == self._claims.source:
                await self._registry.retire(publisher)
        await self._claims.beat()

    async def _keep(self) -> None:
        verified_at = self._clock.monotonic()
        while True:
            await wait_for_event(self._claims.has_news, self._clock, self._look_seconds)
            self._claims.has_news.clear()
            try:
                if self._held and self._clock.monotonic() - verified_at >= VERIFY_SECONDS:
                    await self._verify()
                    verified_at = self._clock.monotonic()
                doubtful = [key for key in self._held if self._claims.epoch_of(seat_of(key)) is None]
                lost = await self._lost(doubtful) if doubtful else {}
            except RegistryError as error:
                self._tell(str(error))
                continue
            self._tell("")
            for key, url in lost.items():
                if key in self._held:
                    self._held.discard(key)
                    _log.warning("%s is served by another broker now: %s", key, url or "nobody knows where")
                    self._on_lost(key, url)

    async def _verify(self) -> None:
        """Drop what the registry says is not ours: it may have been set back, and nothing else would tell us."""
        claims = await self._registry.claims()
        for seat in map(seat_of, self._held):
            claim = claims.get(seat)
            if claim is None or claim.publisher != self._claims.publisher:
                self._claims.drop(seat)

    async def _lost(self, keys: Collection[ServiceKey]) -> dict[ServiceKey, str]:
        """Claim ``keys``; return those that somebody else has, and where."""
        if not self._claims.is_alive:
            await self._claims.beat()
        await self._claims.claim([seat_of(key) for key in keys])
        others = [key for key in keys if self._claims.epoch_of(seat_of(key)) is None]
        if not others:
            return {}
        claims = await self._registry.claims()
        found = {key: claims.get(seat_of(key)) for key in others}
        return {
            key: url_of(claim)
            for key, claim in found.items()
            if claim is None or claim.publisher != self._claims.publisher  # else it was only slow to say so
        }

    def _tell(self, trouble: str) -> None:
        if trouble and not self._is_troubled:
            _log.warning("serving on without knowing whether another broker does, too: %s", trouble)
        self._is_troubled = bool(trouble)
