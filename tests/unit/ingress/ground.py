"""What tests of the ingress stand on: a loop like its own, routes, containers that are a few lines, and clients.

``run`` runs a scenario on uvloop and fails if anything reached the loop's exception handler: what the ingress does not
foresee must not be lost in a log. ``AnswerWhoIsMeant`` stands in for the http plane, whose own tests are elsewhere: it
answers with the container that was found, so that a test of who is led where needs no proxy.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import uvloop

from muster.ingress.board import Board, Domain
from muster.ingress.entrances import Resolve
from muster.ingress.names import ServerNames
from muster.ingress.reception import Reception
from muster.model.container import Address
from muster.model.deployment import PortProtocol
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.routes import PortRoute, Refusal, Route, RouteState, RouteTable
from muster.processes.http import free_port
from muster.tls.certificate import Certificates

T = TypeVar("T")
HOST = "127.0.0.1"
PATIENCE_SECONDS = 30.0


def run(scenario: Callable[[], Awaitable[T]]) -> T:
    """Run a scenario; nothing may reach the loop's exception handler."""
    unforeseen: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unforeseen.append(context))
        result = await scenario()
        await asyncio.sleep(0)
        gc.collect()
        return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(watched())
    assert unforeseen == []
    return result


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for a level."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so():  # noqa: ASYNC110  a level of somebody who tells nobody
            await asyncio.sleep(0.005)


def certificates(home: Path, names: Sequence[str] = (HOST,)) -> Certificates:
    return Certificates.open(home, names=names, certificate=None, key=None)


def trust(home: Path) -> ssl.SSLContext:
    """Return what a client trusts the installation by."""
    return ssl.create_default_context(cafile=home / "tls" / "ca.pem")


def route(
    uuid: str,
    *ports: PortRoute,
    state: RouteState = RouteState.ACCEPT,
    concurrency: int | None = None,
    hosts: tuple[str, ...] = (),
) -> Route:
    return Route(
        container_uuid=ContainerUuid(uuid),
        container_id=ContainerId(f"id-{uuid}"),
        machine_id=MachineId("0123456789"),
        generation=1,
        account_id=AccountId(1),
        deployment_id=DeploymentId("d" * 16),
        state=state,
        ports=ports,
        concurrency=concurrency,
        hosts=hosts,
    )


def port_route(
    listen_port: int,
    backend: Address | None = None,
    *,
    container_port: int = 6006,
    protocol: PortProtocol = PortProtocol.HTTP,
) -> PortRoute:
    return PortRoute(container_port, listen_port, protocol, backend)


def table(*routes: Route, epoch: int = 1, revision: int = 1) -> RouteTable:
    return RouteTable(epoch, revision, tuple(sorted(routes, key=lambda each: each.container_uuid)))


def port() -> int:
    return free_port(HOST)


class AnswerWhoIsMeant(asyncio.Protocol):
    """Answers each request with the container that it is meant for, or why nobody."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        host = self._head.partition(b"\r\nHost: ")[2].partition(b"\r\n")[0].decode()
        self._head = b""
        found = self._resolve(host)
        if found is None:
            self._say(421, "nobody")
            return
        gate, container_port = found
        now = asyncio.get_running_loop().time()
        visit = gate.enter(container_port, now)
        if isinstance(visit, Refusal):
            self._say(503, visit.value)
            return
        self._say(200, f"{gate.route.container_uuid}:{container_port}")
        visit.leave(now)

    def _say(self, status: int, text: str) -> None:
        assert self._transport is not None
        self._transport.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())


def answer_who_is_meant(resolve: Resolve) -> Callable[[], asyncio.BaseProtocol]:
    """Be an http plane of these."""
    return lambda: AnswerWhoIsMeant(resolve)


@dataclass(frozen=True, slots=True)
class Ground:
    """An ingress without a process: what listens, and what clients trust."""

    board: Board
    reception: Reception
    tls: ssl.SSLContext

    def apply(self, *routes: Route, revision: int = 1) -> None:
        self.board.apply(table(*routes, revision=revision))


@contextlib.asynccontextmanager
async def ground(
    home: Path, *, most: int = 1000, domain: str = "", domain_port: int = 0, host: str = HOST
) -> AsyncIterator[Ground]:
    """Have an ingress; on the way out everything it holds ends."""
    shown = certificates(home, [HOST, f"*.{domain}"] if domain else [HOST])
    layout = Domain(domain, domain_port, ServerNames(shown.context)) if domain else None
    async with Reception(shown.context, most) as reception:
        board = Board("test", host, reception, answer_who_is_meant, layout)
        board.open_doors()
        try:
            yield Ground(board, reception, trust(home))
        finally:
            board.close()
    await until(lambda: reception.open == 0)


async def ask(address: int, tls: ssl.SSLContext | None, *, host: str = "it", name: str = HOST) -> tuple[int, str]:
    """Ask over a connection of its own; return status and text."""
    async with connected(address, tls, name=name) as (reader, writer):
        return await ask_on(reader, writer, host)


async def ask_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = "it") -> tuple[int, str]:
    """Ask over a connection that is open."""
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split()[1]), (await reader.readexactly(length)).decode()


@contextlib.asynccontextmanager
async def connected(
    address: int, tls: ssl.SSLContext | None = None, *, name: str = HOST
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Have a connection."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(
            HOST, address, ssl=tls, server_hostname=name if tls is not None else None
        )
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def container(speak: Speak) -> AsyncIterator[Address]:
    """Have something that listens and speaks like this with whoever comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await speak(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield Address(HOST, server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say everything again, and end when the other does."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def nobody() -> Address:
    """Return an address that refuses connections."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return Address(HOST, taken.getsockname()[1])
