"""One httpx transport per endpoint, made on first use and closed when the endpoint has left.

A shared httpx transport was refused: httpcore walks all its connections for every request, and counts idle ones once
per idle one, which is quadratic in replicas × concurrency; and the connections of a replica that left would stay. The
pools are unlimited, because leases already limit what is open at once.
"""

import ssl
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx

from muster.balancer.faults import ServiceClosed
from muster.model.endpoint import EndpointSet

KEEPALIVE_SECONDS = 4.0
"""Below the 5 s after which uvicorn and Node close an idle connection, so that we do not send into a closing one."""

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Pool(Generic[T]):
    """The connections to one endpoint; ``users`` are requests under way."""

    transport: T
    users: int = 0


class Pools(Generic[T]):
    """All pools of one transport. ``make`` gets the TLS context for an endpoint."""

    def __init__(self, make: Callable[[ssl.SSLContext], T]) -> None:
        self._make = make
        self._pools: dict[tuple[str, str | None], Pool[T]] = {}
        self._lock = threading.Lock()
        self._is_drained = False
        self._seen: EndpointSet | None = None
        self._plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, but httpx would load all CAs for http://
        self._contexts: dict[str | None, ssl.SSLContext] = {}

    def take(self, url: str, ca_pem: str | None) -> Pool[T]:
        """Return the pool for ``url``, with one user more. Raises ``ServiceClosed`` once drained."""
        key = url, ca_pem
        with self._lock:
            if self._is_drained:  # nobody would close what it opened
                raise ServiceClosed(f"the client was closed before the request could be sent to {url}")
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = Pool(self._make(self._context(url, ca_pem)))
            pool.users += 1
            return pool

    def give(self, pool: Pool[T]) -> None:
        """Count a user out."""
        with self._lock:
            pool.users -= 1

    def outdated(self, endpoints: EndpointSet | None) -> Collection[T]:
        """Forget the pools without users that ``endpoints`` has no use for; the caller closes them."""
        if endpoints is None or endpoints is self._seen:
            return ()
        wanted = {(each.url, endpoints.ca_pem) for each in endpoints.endpoints}
        with self._lock:
            unused = [key for key in self._pools if key not in wanted]
            gone = [key for key in unused if self._pools[key].users == 0]
            if len(gone) == len(unused):
                self._seen = endpoints  # otherwise look again: somebody still uses one
            return [self._pools.pop(key).transport for key in gone]

    def drain(self) -> Collection[T]:
        """Forget all, and make no more; the caller closes them."""
        with self._lock:
            self._is_drained = True
            pools, self._pools = self._pools, {}
        return [pool.transport for pool in pools.values()]

    def _context(self, url: str, ca_pem: str | None) -> ssl.SSLContext:
        """Trust the set's own CA for the set's endpoints, and the system's as usual."""
        if not url.startswith("https:"):
            return self._plain
        if ca_pem not in self._contexts:
            self._contexts[ca_pem] = context = ssl.create_default_context()
            if ca_pem is not None:
                context.load_verify_locations(cadata=ca_pem)
        return self._contexts[ca_pem]
