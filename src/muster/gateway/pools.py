"""Kept-alive connections, by service and endpoint, and how new ones are made: plain, or TLS with the set's own CA.

A connection that is free is kept for ``KEPT_SECONDS``. A replica may close it in the very moment in which it is used
again: a request that must not be sent twice takes only one that was in use ``SAFELY_IDLE_SECONDS`` ago. An endpoint
that has left its set loses its idle connections within a second, and those in use when they are free.

There is no bound on how many: leases bound what is in use.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from muster.balancer.waiting import Gate
from muster.gateway.port import Limits
from muster.gateway.upstream import Link
from muster.model.endpoint import Endpoint, EndpointSet

KEPT_SECONDS = 4.0
"""Below the 5 s after which uvicorn and Node close an idle connection."""
SAFELY_IDLE_SECONDS = 1.0
"""Servers close kept connections after two seconds (gunicorn) or more, so one that closes now was idle for longer."""
_SWEEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is reached. ``netloc`` is its ``Host``, ``prefix`` what its paths begin with."""

    host: str
    port: int
    is_tls: bool
    netloc: bytes
    prefix: bytes


@lru_cache(maxsize=4096)
def address_of(url: str) -> Address:
    """Read an endpoint's URL. Raises ``ValueError``."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is no URL of HTTP")
    is_tls = parts.scheme == "https"
    return Address(
        parts.hostname,
        parts.port or (443 if is_tls else 80),
        is_tls,
        parts.netloc.rpartition("@")[2].encode(),
        parts.path.rstrip("/").encode(),
    )


@dataclass(slots=True)
class _Service:
    """The free connections of one service, by URL; the one used last is at the end."""

    seen: EndpointSet | None
    free: dict[str, deque[Link]] = field(default_factory=dict)


class Pools:
    """All connections of one event loop that are free; ``connect`` makes more."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._services: dict[Gate, _Service] = {}
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def free_connections(self) -> int:
        """How many connections are kept for later."""
        return sum(len(links) for service in self._services.values() for links in service.free.values())

    def take(self, gate: Gate, endpoint: Endpoint, *, is_repeatable: bool) -> Link | None:
        """Return a free connection that may carry a request; ``is_repeatable``: it may be sent again if that closes."""
        service = self._services.get(gate)
        if service is None:
            return None
        if service.seen is not gate.endpoints:
            self._renew(gate, service)
        links = service.free.get(endpoint.url)
        while links and links[-1].is_closing:
            links.pop()
        if not links:
            return None
        link = links[-1]
        longest = KEPT_SECONDS if is_repeatable else SAFELY_IDLE_SECONDS
        if self._loop.time() - link.idle_since > longest:
            return None
        links.pop()
        return link

    async def connect(self, gate: Gate, endpoint: Endpoint, seconds: float) -> Link:
        """Return a new connection. Raises ``OSError`` and ``ValueError``: nothing was sent then."""
        address = address_of(endpoint.url)
        context = self._context(gate) if address.is_tls else None
        try:
            async with asyncio.timeout(seconds):
                _, link = await self._loop.create_connection(
                    lambda: Link(self, gate, endpoint.url, self._limits), address.host, address.port, ssl=context
                )
        except UnicodeError as error:
            raise ValueError(f"{address.host!r} is no host name") from error
        return link

    def keep(self, link: Link) -> None:
        """Keep a connection for the next request, if there is still an endpoint for it."""
        if self._is_closed:
            link.abort()
            return
        service = self._services.get(link.gate)
        if service is None:
            service = self._services[link.gate] = _Service(link.gate.endpoints)
        elif service.seen is not link.gate.endpoints:
            self._renew(link.gate, service)
        links = service.free.get(link.url)
        if links is None:
            if not _has(service.seen, link.url):
                link.abort()
                return
            links = service.free[link.url] = deque()
        links.append(link)
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def forget(self, link: Link) -> None:
        """Keep a connection no longer, if it is kept."""
        service = self._services.get(link.gate)
        links = service.free.get(link.url) if service is not None else None
        if links is not None and link in links:
            links.remove(link)

    def close(self) -> None:
        """End all that are free, and keep none from now on."""
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        services, self._services = self._services, {}
        for service in services.values():
            _end(service.free.values())

    def _renew(self, gate: Gate, service: _Service) -> None:
        """End what a newer set has no use for."""
        before, service.seen = service.seen, gate.endpoints
        has_other_ca = (before and before.ca_pem) != (service.seen and service.seen.ca_pem)
        wanted = {each.url for each in service.seen.endpoints} if service.seen is not None and not has_other_ca else ()
        _end([service.free.pop(url) for url in list(service.free) if url not in wanted])

    def _sweep(self) -> None:
        """End what was free for too long; look again as long as anything is kept."""
        self._sweeping = None
        oldest = self._loop.time() - KEPT_SECONDS
        for gate, service in list(self._services.items()):
            if service.seen is not gate.endpoints:
                self._renew(gate, service)
            for url, links in list(service.free.items()):
                while links and links[0].idle_since < oldest:
                    links.popleft().abort()
                if not links:
                    del service.free[url]
            if not service.free:
                del self._services[gate]
        if self._services:
            self._sweeping = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _context(self, gate: Gate) -> ssl.SSLContext:
        """Trust the set's own CA for the set's endpoints, and the system's as usual."""
        ca_pem = gate.endpoints.ca_pem if gate.endpoints is not None else None
        context = self._contexts.get(ca_pem)
        if context is None:
            context = ssl.create_default_context()
            if ca_pem is not None:
                context.load_verify_locations(cadata=ca_pem)
            self._contexts[ca_pem] = context
        return context


def _has(endpoints: EndpointSet | None, url: str) -> bool:
    return endpoints is not None and any(each.url == url for each in endpoints.endpoints)


def _end(kept: Iterable[Iterable[Link]]) -> None:
    for links in kept:
        for link in links:
            link.abort()
