"""The services that a gateway balances: one gate each, made when somebody asks, and the names that there are.

In: names from requests and from the configuration, and a registry. Out: gates, at once, because a reception never
waits. What a name costs that nobody has: one look into the registry for all who ask for it meanwhile, at most
``MOST_LOOKUPS`` at a time, and a place in a list of such names for ``UNKNOWN_SECONDS``.

* A name that the configuration has is meant, and its gate waits for it to be published, as the SDK does.
* So is one that the registry lists, which is looked at each second.
* Any other may be an alias, which a registry does not list: its gate is made at once, requests wait at it, and they
  fail with ``UnknownService`` when the registry has answered that there is no such name.

There are at most ``most`` gates. Beyond that the one that nobody has used for longest goes, if nobody is at it now;
before any other, one of which it is not known that there is such a service.

Each gate has a task that carries its sets from the registry, and whatever ``on_open`` returns runs beside it.

What clients are told does not say which registry it is, nor which services others have, unless ``tells_names``.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Protocol

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease
from muster.balancer.statistics import Statistics
from muster.balancer.subscription import Source, Subscription
from muster.balancer.ticket import Ticket
from muster.balancer.waiting import Gate
from muster.errors import MusterError, RegistryError
from muster.gateway.port import Refused, UnknownService
from muster.gateway.routing import shown_names
from muster.model.endpoint import EndpointSet, ServiceKey

LOOK_SECONDS = 1.0
LOOKUP_SECONDS = 5.0
"""How long a registry may take to say whether there is a name; requests for it wait meanwhile."""
UNKNOWN_SECONDS = 2.0
MOST_LOOKUPS = 32
MOST_UNKNOWN = 1024

_log = logging.getLogger(__name__)


class Registry(Source, Protocol):
    """The part of a registry that this needs; what it guarantees: ``registry/port.py``."""

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        """Return the key whose set ``get`` would return, ``None`` if there is no set."""
        ...


OnOpen = Callable[[ServiceKey, Gate], Coroutine[Any, Any, None] | None]


class _OpenGate(Gate):
    """A gate that can turn out to lead nowhere."""

    nowhere: UnknownService | None = None

    def ask(
        self, deadline: float, tried: frozenset[str], wake: Callable[[], None], ask: Ask, since: float | None
    ) -> Ticket:
        """Begin to wait."""
        if self.nowhere is not None:
            raise self.nowhere
        return super().ask(deadline, tried, wake, ask, since)

    def look(self, ticket: Ticket) -> Lease | float:
        """Return the lease, or until when to sleep."""
        if self.nowhere is not None:
            raise self.nowhere
        return super().look(ticket)


class _Open:
    """One gate in use."""

    __slots__ = ("gate", "is_meant", "task", "used_at")

    def __init__(self, gate: _OpenGate, *, is_meant: bool, now: float) -> None:
        self.gate = gate
        self.is_meant = is_meant
        self.used_at = now
        self.task: asyncio.Task[None] | None = None


class Services:
    """All gates of one process. Enter it on the loop that uses it; ``on_open`` is asked for each gate that is made."""

    def __init__(
        self,
        registry: Registry,
        where: str,
        account: str,
        *,
        most: int = 256,
        wait_seconds: float = 30.0,
        on_open: OnOpen = lambda _, __: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._where = where
        self._account = account
        self._most = most
        self._wait_seconds = wait_seconds
        self._on_open = on_open
        self._monotonic = monotonic
        self._open: dict[ServiceKey, _Open] = {}
        self._listed: frozenset[ServiceKey] = frozenset()
        self._names: frozenset[str] = frozenset()
        self._meant: frozenset[str] = frozenset()
        self._unknown: dict[ServiceKey, float] = {}
        self._lookups: set[_Open] = set()
        self.tells_names = True
        self._group: asyncio.TaskGroup | None = None

    @property
    def names(self) -> Sequence[str]:
        """Names that are known to lead somewhere."""
        return sorted(self._names | self._meant)

    def knows(self, name: str) -> bool:
        """Whether the registry lists this name, or the configuration meant it."""
        return name in self._names or name in self._meant

    def statistics(self) -> list[Statistics]:
        """Look at all gates."""
        return [each.gate.statistics() for each in self._open.values()]

    def shown(self) -> list[Statistics]:
        """Look at the gates that lead somewhere: metrics would grow with every other name that somebody tries."""
        found = (each for each in self._open.values() if each.is_meant or each.gate.endpoints is not None)
        return [each.gate.statistics() for each in found]

    def mean(self, named: Sequence[tuple[str, int]], concurrency: Callable[[str, int], int | None]) -> None:
        """Make gates for what the configuration names, however long they may have to wait for it to be published."""
        for name, port in named:
            key = ServiceKey(self._account, name, port)
            if key in self._open:
                self._open[key].is_meant = True
            else:
                self._make(key, is_meant=True, concurrency=concurrency(name, port))
        self._note_meant()

    def bound(self, *, most: int, wait_seconds: float) -> None:
        """Have at most so many gates from now on, at which requests wait for so long if they do not say."""
        self._most, self._wait_seconds = most, wait_seconds
        for each in self._open.values():
            each.gate.wait_seconds = wait_seconds

    def gate(self, name: str, port: int, *, concurrency: int | None = None) -> Gate | Refused:
        """Return the gate of a service, made now if need be; or why there is none."""
        key = ServiceKey(self._account, name, port)
        now = self._monotonic()
        found = self._open.get(key)
        if found is not None:
            found.used_at = now
            return found.gate
        if key in self._listed:
            return self._make_room(key) or self._make(key, is_meant=True, concurrency=concurrency).gate
        if self._unknown.get(key, 0.0) > now:
            return Refused(404, "unknown_service", self._unknown_text(key), service=name)
        if len(self._lookups) >= MOST_LOOKUPS:
            error = "too many names that are not known yet are being looked up: try again"
            return Refused(503, "busy_looking_up", error, retry_after_seconds=1.0, service=name)
        refused = self._make_room(key)
        if refused is not None:
            return refused
        opened = self._make(key, is_meant=False, concurrency=concurrency)
        self._lookups.add(opened)
        return opened.gate

    # Making them.

    def _make_room(self, key: ServiceKey) -> Refused | None:
        if len(self._open) < self._most:
            return None
        idle = [
            other
            for other, each in self._open.items()
            if not (state := each.gate.statistics()).in_flight and not state.waiting
        ]
        if not idle:
            error = (
                f"this gateway has requests for {self._most} services already, which is as many as it may: try again"
            )
            return Refused(503, "too_many_services", error, retry_after_seconds=1.0, service=key.service)
        self._end(min(idle, key=lambda other: (self._open[other].is_meant, self._open[other].used_at)))
        return None

    def _make(self, key: ServiceKey, *, is_meant: bool, concurrency: int | None) -> _Open:
        assert self._group is not None

        core = Balancer(
            str(key),
            random.Random(),  # noqa: S311 - spreads load, hides nothing
            concurrency=concurrency,
            hint_when_unknown=_hint,
        )
        gate = _OpenGate(core, wait_seconds=self._wait_seconds, monotonic=self._monotonic)
        subscription = Subscription(f"registry {self._where}", lambda: _Shared(self._registry), key, gate)
        opened = self._open[key] = _Open(gate, is_meant=is_meant, now=self._monotonic())
        opened.task = self._group.create_task(self._keep(key, opened, subscription), name=f"gateway: watch {key}")
        return opened

    async def _keep(self, key: ServiceKey, opened: _Open, subscription: Subscription) -> None:
        """Look the name up, if that is not done, and carry its sets until it is closed."""
        if not opened.is_meant:
            is_there = await self._is_there(key, opened)
            if is_there:
                opened.is_meant = True
                self._note_meant()
            elif is_there is not None and not opened.is_meant:  # meanwhile the configuration may have come to mean it
                self._lead_nowhere(key, opened)
                return
        beside = self._on_open(key, opened.gate)
        async with asyncio.TaskGroup() as group:
            group.create_task(subscription.run())
            if beside is not None:
                group.create_task(beside)

    def _lead_nowhere(self, key: ServiceKey, opened: _Open) -> None:
        opened.gate.nowhere = UnknownService(str(key), self._unknown_text(key))
        self._note_unknown(key)
        if self._open.get(key) is opened:
            del self._open[key]
        opened.gate.close()

    async def _is_there(self, key: ServiceKey, opened: _Open) -> bool | None:
        """Return what the registry says; ``None`` if nothing: whoever asks may wait, and is told of its trouble."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                return await self._registry.target(key) is not None
        except MusterError as error:
            _log.warning("looking up %s in the registry %s: %s", key, self._where, error)
        except TimeoutError:
            _log.warning("looking up %s in the registry %s takes too long", key, self._where)
        finally:
            self._lookups.discard(opened)
        return None

    def _note_meant(self) -> None:
        self._meant = frozenset(key.service for key, each in self._open.items() if each.is_meant)

    def _note_unknown(self, key: ServiceKey) -> None:
        now = self._monotonic()
        if len(self._unknown) >= MOST_UNKNOWN:
            self._unknown = {other: until for other, until in self._unknown.items() if until > now}
        if len(self._unknown) < MOST_UNKNOWN:
            self._unknown[key] = now + UNKNOWN_SECONDS

    def _unknown_text(self, key: ServiceKey) -> str:
        port = "" if key.port == 6006 else f" with port {key.port}"
        known = f"; known: {shown_names(self.names)}" if self.tells_names else ""
        return f"no service is called {key.service!r}{port} here{known}"

    def _end(self, key: ServiceKey) -> None:
        opened = self._open.pop(key)
        self._lookups.discard(opened)  # its task may not have begun
        self._note_meant()
        opened.gate.close()
        if opened.task is not None:
            opened.task.cancel()

    # Their life.

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have gates, and know names, within this context; in the end whoever waits at one is failed."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            looking = group.create_task(self._look(), name="gateway: names")
            try:
                yield
            finally:
                looking.cancel()
                for key in list(self._open):
                    self._end(key)
                self._group = None
        await self._registry.aclose()

    async def _look(self) -> None:
        """Know which names there are."""
        is_troubled = False
        while True:
            try:
                keys = await self._registry.keys()
            except RegistryError as error:
                if not is_troubled:
                    _log.warning("the registry %s cannot be read: %s; what is known stays", self._where, error)
                is_troubled = True
            else:
                is_troubled = False
                self._listed = frozenset(key for key in keys if key.account == self._account)
                self._names = frozenset(key.service for key in self._listed)
            await asyncio.sleep(LOOK_SECONDS)


def _hint() -> str:
    """Say of a service that is meant and not published what whoever asks can do; the log says the rest."""
    return "so far: start it, or ask whoever runs this gateway"


class _Shared:
    """A registry that several read: closing it is not up to one of them."""

    def __init__(self, registry: Registry) -> None:
        self.get = registry.get
        self.keys = registry.keys
        self._registry = registry

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one."""
        return self._registry.watch(key)

    async def aclose(self) -> None:
        """Leave it open."""
