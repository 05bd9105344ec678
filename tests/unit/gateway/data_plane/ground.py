"""A gateway on loopback before raw servers, and raw clients: bytes in, bytes out."""

import asyncio
import contextlib
import datetime
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.options import NO_OPTIONS, Options
from muster.balancer.waiting import Gate
from muster.gateway.port import Decision, Hall, Limits, Passage, Record
from muster.gateway.protocol import GatewayProtocols, gateway_protocol
from muster.http1.request_head import RequestHead
from muster.model.endpoint import Endpoint, EndpointSet
from tests.unit.ingress.http.ground import Backend, Client, Handler, backend_of, until

T = TypeVar("T")
Admit = Callable[[RequestHead, bytes | None], Decision | None]


def run(main: Coroutine[Any, Any, T], seconds: float = 20) -> T:
    """Run a test on the loop that the gateway runs on, with a bound on its time; no callback may fail."""
    failed: list[dict[str, Any]] = []

    async def bounded() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))
        async with asyncio.timeout(seconds):
            return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(bounded())
    said = [
        f"{each['message']}: {each.get('exception')!r}, {each.get('protocol')}"
        for each in failed
        if "client_connected_cb" not in each["message"] and "StreamReaderProtocol" not in each["message"]  # not ours
    ]
    assert not said, said
    return found


def a_set(*urls: str, revision: int = 1, concurrency: int | None = None, **fields: Any) -> EndpointSet:
    """Return a set of endpoints ``r0``, ``r1``, …"""
    endpoints = tuple(Endpoint(f"r{at}", url, concurrency=concurrency) for at, url in enumerate(urls))
    return EndpointSet(1, revision, endpoints, datetime.datetime.now(datetime.UTC), **fields)


class NotedGate(Gate):
    """A gate that remembers with which outcomes leases ended."""

    outcomes: list[Outcome]

    def release(self, lease: Lease, outcome: Outcome = Outcome.OK) -> bool:
        self.outcomes.append(outcome)
        return super().release(lease, outcome)


@dataclass(eq=False)
class Reception:
    """Lets everybody in, unless ``rule`` says otherwise; counts who is in."""

    gate: Gate
    options: Options = NO_OPTIONS
    most_body_bytes: int | None = None
    dropped: frozenset[bytes] = frozenset()
    rule: Admit | None = None
    admitted: int = 0
    left: int = 0

    def admit(self, head: RequestHead, peer: str, body: bytes | None, now: float) -> Decision:
        decided = self.rule(head, body) if self.rule is not None else None
        return decided or self.passage(head)

    def passage(self, head: RequestHead) -> Passage:
        self.admitted += 1
        return Passage(
            service="digits",
            gate=self.gate,
            target=head.target,
            options=self.options,
            leave=self.leave,
            key="alice",
            dropped=self.dropped,
            most_body_bytes=self.most_body_bytes,
        )

    def leave(self) -> None:
        self.left += 1


@dataclass(eq=False)
class Gateway:
    """``records`` are of the requests that are over."""

    gate: NotedGate
    reception: Reception
    hall: Hall
    protocols: GatewayProtocols
    port: int
    records: list[Record]

    @property
    def in_flight(self) -> int:
        return sum(each.in_flight for each in self.gate.statistics().replicas)

    @property
    def waiting(self) -> int:
        return self.gate.statistics().waiting


@contextlib.asynccontextmanager
async def gateway_to(
    *urls: str,
    limits: Limits | None = None,
    concurrency: int | None = None,
    wait_seconds: float = 5.0,
    queue_capacity: int = 100,
    known: EndpointSet | None = None,
    tls: ssl.SSLContext | None = None,
    **fields: Any,
) -> AsyncIterator[Gateway]:
    """Run a gateway; at its end nothing may be left: no lease, no visitor, no connection."""
    core = Balancer("digits", random.Random(1), queue_capacity=queue_capacity)
    gate = NotedGate(core, wait_seconds=wait_seconds)
    gate.outcomes = []
    gate.update(known or a_set(*urls, concurrency=concurrency))
    records: list[Record] = []
    reception = Reception(gate, **fields)
    hall = Hall(reception, records.append, limits or Limits())
    protocols = gateway_protocol(hall)
    server = await asyncio.get_running_loop().create_server(protocols, "127.0.0.1", 0, ssl=tls)
    gateway = Gateway(gate, reception, hall, protocols, server.sockets[0].getsockname()[1], records)
    try:
        yield gateway
    finally:
        server.close()
        protocols.guests.abort()
        await until(lambda: not protocols.guests.open_connections)
        await until(lambda: reception.left == reception.admitted)
        await until(lambda: not gateway.in_flight)
        assert gateway.waiting == 0
        protocols.close()
        await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() if "Forward" in repr(task)] == []


@contextlib.asynccontextmanager
async def world(*handlers: Handler, **fields: Any) -> AsyncIterator[tuple[list[Backend], Gateway]]:
    """Run a replica for each handler, and a gateway before them."""
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(backend_of(handler)) for handler in handlers]
        gateway = await stack.enter_async_context(gateway_to(*map(url_of, backends), **fields))
        yield backends, gateway


def url_of(backend: Backend) -> str:
    return f"http://127.0.0.1:{backend.port}"


@contextlib.asynccontextmanager
async def client_of(gateway: Gateway, **options: Any) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@dataclass
class Noted:
    """A place for what a handler saw."""

    bodies: list[bytes] = field(default_factory=list)


async def chunked_body(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read a chunked body; return its payload and its trailers."""
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    trailers = b""
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        trailers += line
    return body, trailers
