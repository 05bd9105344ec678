"""An ingress on loopback before one raw server, and raw clients: bytes in, bytes out."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from muster.ingress.gate import Gate
from muster.ingress.http.listening import Limits
from muster.ingress.http.protocol import HttpProtocols, http_protocol
from muster.model.container import Address
from muster.model.deployment import PortProtocol
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.routes import PortRoute, Route, RouteState

T = TypeVar("T")
PORT = 6006
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handler = Callable[["Backend", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test on the loop that the ingress runs on, with a bound on its time."""

    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await main

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


def a_route(backend: Address | None, **fields: Any) -> Route:
    made = Route(
        container_uuid=ContainerUuid("u"),
        container_id=ContainerId("c"),
        machine_id=MachineId("m"),
        generation=1,
        account_id=AccountId(1),
        deployment_id=DeploymentId("d"),
        state=RouteState.ACCEPT,
        ports=(PortRoute(PORT, 20000, PortProtocol.HTTP, backend),),
    )
    return replace(made, **fields)


@dataclass(eq=False)
class Backend:
    """A raw server; ``heads`` are those it read, ``received`` every byte, ``lost`` how many connections ended."""

    handler: Handler
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    lost: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.handler(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the ingress has gone
        finally:
            self.lost += 1
            writer.close()


@dataclass(eq=False)
class Ingress:
    gate: Gate
    protocols: HttpProtocols
    port: int
    answers: list[tuple[int, int]]

    @property
    def in_flight(self) -> int:
        return self.gate.load(0.0).in_flight


@contextlib.asynccontextmanager
async def backend_of(handler: Handler) -> AsyncIterator[Backend]:
    backend = Backend(handler)
    server = await asyncio.start_server(backend, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    try:
        yield backend
    finally:
        backend.release.set()
        server.close()


@contextlib.asynccontextmanager
async def ingress_to(
    address: Address | None, limits: Limits | None = None, tls: ssl.SSLContext | None = None, **fields: Any
) -> AsyncIterator[Ingress]:
    gate = Gate(a_route(address, **fields))
    answers: list[tuple[int, int]] = []
    protocols = http_protocol(
        lambda host: None if host == "nobody" else (gate, PORT),
        limits,
        lambda gate, port, status, seconds: answers.append((port, status)),
    )
    server = await asyncio.get_running_loop().create_server(protocols, "127.0.0.1", 0, ssl=tls)
    try:
        yield Ingress(gate, protocols, server.sockets[0].getsockname()[1], answers)
    finally:
        server.close()
        for each in protocols.connections:
            each.close()
        await until(lambda: not protocols.connections)


@contextlib.asynccontextmanager
async def world(
    handler: Handler, limits: Limits | None = None, **fields: Any
) -> AsyncIterator[tuple[Backend, Ingress]]:
    async with backend_of(handler) as backend, ingress_to(backend.address, limits, **fields) as ingress:
        yield backend, ingress


@dataclass(eq=False)
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        return await self.reader.readexactly(size)

    async def answer(self) -> tuple[bytes, bytes]:
        """Read a head and the body that its length tells."""
        head = await self.head()
        return head, await self.exactly(int(value(head, b"content-length") or 0))

    async def rest(self) -> bytes:
        return await self.reader.read()


@contextlib.asynccontextmanager
async def client_of(ingress: Ingress, **options: Any) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port, **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def value(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a field, all of them joined."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    found = [text.strip() for each, _, text in lines if each.lower() == name.lower()]
    return b", ".join(found) if found else None


async def until(claim: Callable[[], object]) -> None:
    """Wait for a level, not for a change."""
    while not claim():  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.002)


async def answers_ok(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request at once, after its body if it has a length."""
    while True:
        head = await backend.head(reader)
        await reader.readexactly(int(value(head, b"content-length") or 0))
        writer.write(OK)


def answers(*pieces: bytes, then_closes: bool = False) -> Handler:
    """Return a handler that answers each request with bytes, in as many writes as there are pieces."""

    async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await backend.head(reader)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.005)  # so that they arrive apart
            if then_closes:
                return

    return handle


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate of its own; return the contexts of server and client."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))
