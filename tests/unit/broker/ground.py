"""A broker in the test's own loop, over a registry in memory: real sockets, nothing else."""

import asyncio
import contextlib
import datetime
import itertools
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.balancer.statistics import Statistics
from muster.broker.address import Address, read_address
from muster.broker.server import Broker
from muster.broker.services import Services
from muster.clock import SystemClock
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.registry.memory import Memory, MemoryRegistry
from muster.registry.port import Registry
from tests.unit.broker.client import Client

KEY = ServiceKey("admin", "0123456789")
OTHER = ServiceKey("admin", "9876543210")
NAME = ServiceKey("admin", "digits")
TOKEN, FOREIGN = "t-of-admin", "t-of-bob"
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
LOOPBACK = read_address("tcp://127.0.0.1:0")

_names = itertools.count()


def make_set(*ids: str, epoch: int = 1, revision: int = 1, concurrency: int = 1) -> EndpointSet:
    """Return a set with one endpoint per id."""
    endpoints = tuple(Endpoint(each, f"http://127.0.0.1:9/{each}", concurrency=concurrency) for each in ids)
    return EndpointSet(epoch, revision, endpoints, published_at=NOW)


@dataclass
class Tokens:
    """Whose tokens are; a test may change its mind, or raise ``trouble``."""

    accounts: dict[str, str] = field(default_factory=lambda: {TOKEN: "admin", FOREIGN: "bob"})
    trouble: Exception | None = None
    wait: asyncio.Event | None = None

    async def __call__(self, token: str) -> str | None:
        if self.wait is not None:
            await self.wait.wait()
        if self.trouble is not None:
            raise self.trouble
        return self.accounts.get(token)


@dataclass
class Ground:
    """A broker that runs."""

    broker: Broker
    services: Services
    registry: Registry
    tokens: Tokens
    address: Address
    task: "asyncio.Task[None]"
    tls: ssl.SSLContext | None = None

    async def connect(self) -> Client:
        """Connect and say nothing."""
        return await Client.connect(self.address, self.tls)

    @contextlib.asynccontextmanager
    async def client(self, key: ServiceKey = KEY, purpose: str = "balance") -> AsyncIterator[Client]:
        """Be let in."""
        async with await self.connect() as client:
            welcome = await client.hello(key, TOKEN, purpose=purpose)
            assert welcome["type"] == "welcome", welcome
            yield client

    def statistics(self, key: ServiceKey = KEY) -> Statistics:
        """Return what the queue of a service shows."""
        return next(each for each in self.services.statistics() if each.service == str(key))

    async def stop(self) -> None:
        """End the broker as a signal would."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def kill(self) -> None:
        """End the broker as a crash would: no word to anybody, and its heartbeat stays in the registry."""
        self.services._holding = None
        for connection in list(self.broker.connections):
            connection.abort()
        await self.stop()


@contextlib.asynccontextmanager
async def ground(
    registry: Registry | None = None,
    *,
    endpoints: Mapping[ServiceKey, EndpointSet] | None = None,
    url: str | None = None,
    listen: Address = LOOPBACK,
    tls: ssl.SSLContext | None = None,
    trust: ssl.SSLContext | None = None,
    settle_seconds: float = 0.0,
    lease_seconds: float = 0.3,
    **limits: Any,
) -> AsyncIterator[Ground]:
    """Run one; ``endpoints`` is published first, by default two replicas under ``KEY``, which ``NAME`` stands for."""
    sets = registry or MemoryRegistry(Memory())
    if endpoints is None and registry is None:
        endpoints = {KEY: make_set("a", "b")}
        await sets.link(NAME, KEY)
    for key, each in (endpoints or {}).items():
        await sets.publish(key, each)
    tokens = Tokens()
    services = Services(
        sets,
        SystemClock(),
        where="registry memory://test",
        broker=f"broker-{next(_names)}",
        settle_seconds=settle_seconds,
    )
    if url is not None:
        services.share(url, lease_seconds=lease_seconds)
    broker = Broker(services, tokens, **limits)
    task = asyncio.create_task(broker.run())
    await asyncio.sleep(0)
    address = await broker.listen(listen, tls)
    found = Ground(broker, services, sets, tokens, address, task, trust)
    try:
        yield found
    finally:
        await found.stop()


async def until(level: Callable[[], object], what: str, seconds: float = 5.0) -> None:
    """Wait for a level."""
    try:
        async with asyncio.timeout(seconds):
            while not level():  # noqa: ASYNC110 - whatever it is, it tells nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s in vain: {what}") from None
