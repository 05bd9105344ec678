"""Which services this broker serves: opens one when somebody asks for it, and closes those that nobody visits.

Clients name a service by a deployment's name or by its uuid; both have to meet at one queue, so what is served is the
key that holds the set (``Registry.target``). A name may move to another deployment: that is looked for every few
seconds, and who came by the name is sent away to come again.

In: keys that clients ask for, what the registry says. Out: a ``Served`` with a desk that a subscription feeds, or a
``Bye`` that says why there is none and what to do. Where brokers share a registry, ``Holding`` says whose a service is.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence

from muster.balancer.balancer import Balancer
from muster.balancer.statistics import Statistics
from muster.balancer.subscription import Subscription
from muster.broker.desk import Desk
from muster.broker.holding import LEASE_SECONDS, Holding
from muster.broker.messages import HEARTBEAT_SECONDS, Bye
from muster.broker.served import Guest, Served
from muster.clock import Clock
from muster.errors import MusterError, RegistryError
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.port import Registry

QUEUE_CAPACITY = 4096
RESOLVE_SECONDS = 3.0
"""How long a name may have moved before those who came by it are told."""
KEEP_SECONDS = 60.0
"""What was learned of a service, and its place in the registry, outlive its last visitor by so much."""
OPENING_AT_ONCE = 32
"""Calls of the registry when everybody comes back at once; the others find the service open."""
AGAIN_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Services:
    """Give ``run`` a task. ``where`` names the registry for people; ``broker`` this life of the broker.

    Alone, it serves whatever it is asked for, until ``share`` is called.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        *,
        where: str,
        broker: str,
        queue_capacity: int = QUEUE_CAPACITY,
        settle_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._where = where
        self._broker = broker
        self._queue_capacity = queue_capacity
        self._settle_seconds = settle_seconds
        self._served: dict[ServiceKey, Served] = {}
        self._feeding: dict[ServiceKey, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._has_begun = asyncio.Event()
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._holding: Holding | None = None

    def share(self, url: str, *, lease_seconds: float = LEASE_SECONDS) -> None:
        """Serve only what no other broker of the registry does; call it before ``run``.

        ``url`` is where clients reach this one, for those who ask another.
        """
        self._holding = Holding(
            self._registry,
            self._clock,
            url=url,
            name=self._broker,
            on_lost=self._lost,
            lease_seconds=lease_seconds,
        )

    async def run(self) -> None:
        """Feed what is open, follow names and close what nobody visits, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._has_begun.set()
            try:
                if self._holding is not None:
                    group.create_task(self._holding.run(), name="broker holding")
                await self._look_after()
            finally:
                self._group = None

    async def retire(self, said: Bye) -> None:
        """Send everybody away, and let other brokers serve at once. Raises ``RegistryError``."""
        for key in list(self._served):
            self._close(key, said)
        if self._holding is not None:
            await self._holding.retire()

    def unknown(self, key: ServiceKey) -> Bye:
        """Return what to say to who asks for what there is not, or is not theirs: both look the same."""
        return Bye(
            "unknown_service",
            f"{key} is not in the broker's {self._where}: it is not published yet, or you read another registry",
        )

    def statistics(self) -> Sequence[Statistics]:
        """Return what each queue shows of itself."""
        return [each.desk.statistics() for each in self._served.values()]

    async def open(self, key: ServiceKey, guest: Guest) -> Served | Bye:
        """Return where ``guest``, who asks for ``key``, is served; it has to ``join`` at once, and to ``leave``."""
        await self._has_begun.wait()  # a process may listen before all of it is there
        served = self._known(key)
        if served is None:
            async with self._opening:
                served = self._known(key)
                if served is None:
                    try:
                        found = await self._find(key)
                    except RegistryError as error:
                        _log.warning("%s cannot be opened: %s", key, error)
                        return Bye("unavailable", f"{self._where} does not answer the broker: choose for yourself")
                    if isinstance(found, Bye):
                        return found
                    served = self._served.get(found) or self._make(found)
        served.announce(guest, key)
        return served

    def _known(self, key: ServiceKey) -> Served | None:
        """Return what ``key`` is known to stand for, as of the last look."""
        return self._served.get(key) or next((each for each in self._served.values() if key in each.names), None)

    async def _find(self, key: ServiceKey) -> ServiceKey | Bye:
        """Return under which key the set lies, once this broker holds it."""
        target = await self._registry.target(key)
        if target is None:
            return self.unknown(key)
        if self._holding is None:
            return target
        url = await self._holding.take(target)
        return target if url is None else _standby(key, url)

    def _make(self, key: ServiceKey) -> Served:
        if self._group is None:
            raise MusterError("the broker has ended")
        core = Balancer(
            str(key),
            random.Random(),  # noqa: S311 - spreads load, hides nothing
            queue_capacity=self._queue_capacity,
            hint_when_unknown=lambda: f"in {self._where}",
        )
        desk = Desk(core, broker=self._broker, settle_seconds=self._settle_seconds)
        served = self._served[key] = Served(key, desk)
        subscription = Subscription(self._where, lambda: _Lent(self._registry), key, served)
        self._feeding[key] = self._group.create_task(self._feed(key, subscription), name=f"feed {key}")
        _log.info("serving %s", key)
        return served

    async def _feed(self, key: ServiceKey, subscription: Subscription) -> None:
        while True:
            try:
                await subscription.run()
            except Exception:  # noqa: BLE001 - whatever it is, the other services go on, and this one tries
                _log.exception("%s: its sets cannot be followed; the last one stays", key)
            await self._clock.sleep(AGAIN_SECONDS)

    def _close(self, key: ServiceKey, said: Bye) -> None:
        served = self._served.pop(key, None)
        if served is not None:
            self._feeding.pop(key).cancel()
            served.close(said)

    def _lost(self, key: ServiceKey, url: str) -> None:
        self._close(key, _standby(key, url))

    async def _look_after(self) -> None:
        while True:
            await self._clock.sleep(RESOLVE_SECONDS)
            for served in list(self._served.values()):
                with contextlib.suppress(RegistryError):  # a name that cannot be looked up has not moved
                    await self._follow_names(served)
                if not served.names and self._clock.monotonic() - served.empty_since >= KEEP_SECONDS:
                    self._close(served.key, Bye("moved", "nobody was here"))
                    _log.info("%s has had no visitors for a while and is closed", served.key)
                    if self._holding is not None:
                        with contextlib.suppress(RegistryError):  # our silence says so, too
                            await self._holding.let_go(served.key)

    async def _follow_names(self, served: Served) -> None:
        for name in served.names.keys() - {served.key}:
            target = await self._registry.target(name)
            if target is None or target == served.key:  # a name that is forgotten stays with its last deployment
                continue
            _log.info("%s is %s now, and no longer %s", name, target, served.key)
            for guest in served.named(name):
                guest.dismiss(Bye("moved", f"{name} stands for another deployment now: come again"))


class _Lent:
    """A registry that its reader does not close."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        return await self._registry.get(key)

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        return self._registry.watch(key)

    async def keys(self) -> Sequence[ServiceKey]:
        return await self._registry.keys()

    async def aclose(self) -> None:
        """Leave it open."""


def _standby(key: ServiceKey, url: str) -> Bye:
    return Bye("standby", f"{key} is served by another broker{f', at {url}' if url else ''}", url)
