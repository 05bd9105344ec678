"""Heads as a connection reads them, and services of a registry in memory."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from muster.gateway.config import load
from muster.gateway.ledger import Ledger, Slots
from muster.gateway.port import Decision, Passage, Refused
from muster.gateway.reception import GatewayReception, reception_of
from muster.gateway.services import Services
from muster.http1.request_head import RequestHead, read_request
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.registry.memory import MemoryRegistry

T = TypeVar("T")
NOW = 1000.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test with a bound on its time."""

    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await main

    return asyncio.run(bounded())


async def until(level: Callable[[], object]) -> None:
    """Wait for a level, as long as the test may take."""
    while not level():  # noqa: ASYNC110 nobody tells
        await asyncio.sleep(0.001)


def head(target: str = "/", *, host: str = "gateway", method: str = "GET", body: int = 0, **fields: Any) -> RequestHead:
    """Return a head; ``X_Muster_Deadline="3"`` is a field."""
    found = [(b"Host", host.encode())]
    found += [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    if body:
        found.append((b"Content-Length", b"%d" % body))
    return read_request(f"{method} {target} HTTP/1.1".encode(), found)


def a_set(*names: str, revision: int = 1) -> EndpointSet:
    """Return a set of replicas of these names, which nobody has to reach."""
    endpoints = tuple(Endpoint(each, "http://127.0.0.1:9") for each in names)
    return EndpointSet(1, revision, endpoints, datetime.datetime.now(datetime.UTC))


async def registry_of(aliases: Mapping[str, str] | None = None, *names: str) -> MemoryRegistry:
    """Return a registry in which these services are published, and names that stand for others."""
    registry = MemoryRegistry()
    for name in names:
        await registry.publish(ServiceKey("admin", name), a_set(f"{name}-0"))
    for alias, name in (aliases or {}).items():
        await registry.link(ServiceKey("admin", alias), ServiceKey("admin", name))
    return registry


class Desk:
    """A reception, and what it decides about heads."""

    def __init__(self, reception: GatewayReception, services: Services, ledger: Ledger) -> None:
        self.reception = reception
        self.services = services
        self.ledger = ledger

    def decide(self, asked: RequestHead, body: bytes | None = None, now: float = NOW) -> Decision:
        return self.reception.admit(asked, "127.0.0.1", body, now)

    def lets_in(self, asked: RequestHead, body: bytes | None = None, now: float = NOW) -> Passage:
        decision = self.decide(asked, body, now)
        assert isinstance(decision, Passage), decision
        return decision

    def refuses(self, asked: RequestHead, body: bytes | None = None, now: float = NOW) -> Refused:
        decision = self.decide(asked, body, now)
        assert isinstance(decision, Refused), decision
        return decision


@contextlib.asynccontextmanager
async def desk(folder: Path, toml: str = "", *names: str, **flags: Any) -> AsyncIterator[Desk]:
    """Have a reception as a file says it, before a registry that has the services of these names."""
    (folder / "gateway.toml").write_text(toml)
    config = load(folder / "gateway.toml", {"registry": "file:///nowhere", **flags})
    services = Services(await registry_of({}, *names), "memory", "admin")
    ledger = Ledger.create(2)
    with contextlib.closing(ledger):
        async with services.running():
            slots = Slots(ledger).assign([each.name for each in config.key])
            yield Desk(reception_of(config, services, ledger, slots), services, ledger)
