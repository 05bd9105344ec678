"""Small real HTTP servers on loopback, each behaving in one way that a replica can behave."""

import asyncio
import atexit
import contextlib
import datetime
import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from muster.model.endpoint import Endpoint, EndpointSet

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@dataclass(slots=True)
class Seen:
    """One request as a server saw it."""

    line: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[["Server", Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass(eq=False, slots=True)
class Server:
    """A replica; ``most`` is the most requests it ever held at once, ``connections`` how many were made to it."""

    id: str
    behaviour: Behaviour
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    connections: int = 0
    context: ssl.SSLContext | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(id=self.id, url=f"{'http' if self.context is None else 'https'}://127.0.0.1:{self.port}")

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        self.connections += 1
        try:
            while True:
                seen = await _read(reader)
                self.seen.append(seen)
                self.in_flight += 1
                self.most = max(self.most, self.in_flight)
                try:
                    await self.behaviour(self, seen, writer)
                finally:
                    self.in_flight -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.transport.abort()
            self.writers.discard(writer)

    async def stop(self) -> None:
        """Break all connections and wait for their handlers."""
        self.gate.set()
        for writer in self.writers:
            writer.transport.abort()
        await until(lambda: not self.writers)


async def ok(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer with the server's id."""
    _answer(writer, b"" if seen.line.startswith("HEAD") else server.id.encode())
    await writer.drain()


def slow(seconds: float) -> Behaviour:
    """Answer after a while."""

    async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await ok(server, seen, writer)

    return behave


async def held(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer when the gate is opened."""
    await server.gate.wait()
    await ok(server, seen, writer)


async def dies_before_answer(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Break the connection once the request has been read."""
    writer.transport.abort()


async def dies_in_body(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Promise ten bytes, send three, and break the connection."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.transport.abort()


async def streams_until_told(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Send one chunk, and the end when the gate is opened."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
    await writer.drain()
    await server.gate.wait()
    writer.write(b"4\r\nlast\r\n0\r\n\r\n")
    await writer.drain()


async def unavailable(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer 503."""
    _answer(writer, b"no", status="503 Service Unavailable")
    await writer.drain()


def refuses(reason: str, *, times: float = math.inf, then: Behaviour = ok) -> Behaviour:
    """Answer as an ingress that sends nothing to its container, so many times."""

    async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if len(server.seen) > times:
            await then(server, seen, writer)
            return
        body = f'{{"error": "nothing was sent", "reason": "{reason}"}}'.encode()
        head = f"503 Service Unavailable\r\nRetry-After: 1\r\nx-muster-refused: {reason}"
        _answer(writer, body, status=head)
        await writer.drain()

    return behave


@contextlib.asynccontextmanager
async def serving(
    context: ssl.SSLContext | None = None, /, **behaviours: Behaviour
) -> AsyncIterator[dict[str, Server]]:
    """Run one server per keyword, which is its id; with TLS where a context is given."""
    servers = {name: Server(name, behaviour, context=context) for name, behaviour in behaviours.items()}
    async with contextlib.AsyncExitStack() as stack:
        for server in servers.values():
            listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=context)
            stack.push_async_callback(server.stop)
            stack.callback(listener.close)
            server.port = listener.sockets[0].getsockname()[1]
        yield servers


_reserved: list[socket.socket] = []


@atexit.register
def _free() -> None:
    for each in _reserved:
        each.close()


def dead(name: str = "dead") -> Endpoint:
    """Return an endpoint that refuses connections: its port is bound, so nobody else gets it, and does not listen."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    _reserved.append(bound)
    return Endpoint(id=name, url=f"http://127.0.0.1:{bound.getsockname()[1]}")


def absent(name: str) -> Endpoint:
    """Return an endpoint where nobody listens yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint(id=name, url=f"http://127.0.0.1:{probe.getsockname()[1]}")


def endpoint_set(
    *members: Server | Endpoint, revision: int = 1, concurrency: int | None = None, ca_pem: str | None = None
) -> EndpointSet:
    """Return a set of servers and endpoints."""
    endpoints = [each.endpoint if isinstance(each, Server) else each for each in members]
    return EndpointSet(
        1,
        revision,
        tuple(Endpoint(each.id, each.url, each.protocol, concurrency=concurrency) for each in endpoints),
        PUBLISHED_AT,
        ca_pem=ca_pem,
    )


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for a level, with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the level is in another object, or another machine's socket
            await asyncio.sleep(0.005)


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    while headers.get("transfer-encoding") == "chunked":
        size = int(await reader.readuntil(b"\r\n"), 16)
        body += (await reader.readexactly(size + 2))[:size]
        if size == 0:
            break
    return Seen(head[0], headers, body)


def _answer(writer: asyncio.StreamWriter, body: bytes, *, status: str = "200 OK") -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
