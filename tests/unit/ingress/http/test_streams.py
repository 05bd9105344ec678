"""Long and large things: WebSockets, server-sent events, real servers, and bodies that are never held."""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from muster.model.container import Address
from tests.unit.ingress.http.ground import (
    GET,
    Backend,
    answers_ok,
    backend_of,
    certificate,
    client_of,
    ingress_to,
    run,
    until,
    value,
    world,
)

UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"


def test_a_websocket_echoes_and_counts_until_its_end(tmp_path: Path) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        server_tls, trusting = certificate(tmp_path)
        async with (
            serve(echo, "127.0.0.1", 0) as server,
            ingress_to(Address("127.0.0.1", next(iter(server.sockets)).getsockname()[1]), tls=server_tls) as ingress,
        ):
            async with connect(f"wss://127.0.0.1:{ingress.port}/", ssl=trusting, proxy=None) as socket_:
                for message in ("hello", b"\x00" * 300_000):
                    await socket_.send(message)
                    assert await socket_.recv() == message
                assert ingress.in_flight == 1
            await until(lambda: not ingress.in_flight)
            assert ingress.answers == [(6006, 101)]
            assert ingress.gate.counts[6006].served == 1

    run(main())


async def switches(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch protocols, greet, and answer at the end of what comes with what came."""
    await backend.head(reader)
    writer.write(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nhello")
    heard = await reader.read()
    writer.write(heard)
    writer.write_eof()


def test_an_upgraded_connection_carries_raw_bytes_and_half_closes_both_ways() -> None:
    async def main() -> None:
        async with world(switches) as (backend, ingress), client_of(ingress) as client:
            await client.say(UPGRADE % b"raw" + b"early ")
            head = await client.head()
            assert value(head, b"upgrade") == b"raw"
            assert value(head, b"endpoint-load-metrics") is not None
            assert value(backend.heads[0], b"connection") == b"Upgrade"
            assert await client.exactly(5) == b"hello"
            await client.say(b"late")
            client.writer.write_eof()
            assert await client.rest() == b"early late"
            await until(lambda: not ingress.in_flight)
            assert ingress.answers == [(6006, 101)]

    run(main())


def test_an_upgrade_that_hides_requests_from_us_is_not_passed_on() -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress), client_of(ingress) as client:
            await client.say(UPGRADE % b"h2c" + GET)
            for _ in range(2):
                assert (await client.answer())[1] == b"ok"
            assert value(backend.heads[0], b"upgrade") is None
            assert value(backend.heads[0], b"connection") is None

    run(main())


def test_what_follows_an_upgrade_that_was_not_made_is_the_next_request() -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress), client_of(ingress) as client:
            await client.say(UPGRADE % b"websocket" + GET)
            for _ in range(2):
                assert (await client.answer())[1] == b"ok"
            assert value(backend.heads[0], b"upgrade") == b"websocket"
            assert len(backend.heads) == 2

    run(main())


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Two server-sent events, the second when told; or a count of what was sent."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if scope["method"] == "POST":
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.body", "body": b"%d" % size})
        return
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await TOLD.wait()
    await send({"type": "http.response.body", "body": b"data: 2\n\n"})


TOLD = asyncio.Event()


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Address]:
    """Run the application in uvicorn."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application, log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve(sockets=[listening]))
        await until(lambda: server.started)
        try:
            yield Address("127.0.0.1", listening.getsockname()[1])
        finally:
            server.should_exit = True
            await task


def test_events_of_a_real_server_arrive_one_by_one_and_uploads_whole() -> None:
    async def main() -> None:
        TOLD.clear()
        async with (
            served() as address,
            ingress_to(address) as ingress,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingress.port}", trust_env=False) as client,
        ):
            async with client.stream("GET", "/") as response:
                lines = response.aiter_lines()
                assert await anext(lines) == "data: 1"
                TOLD.set()
                assert [line async for line in lines if line] == ["data: 2"]

            async def parts() -> AsyncIterator[bytes]:
                for _ in range(10):
                    yield b"x" * 50_000

            for _ in range(2):
                assert (await client.post("/", content=parts())).text == "500000"
                assert (await client.post("/", content=b"x" * 300_000)).text == "300000"
            assert ingress.in_flight == 0
            assert ingress.protocols.open_connections == 1

    run(main())


MANY = 200 * 1024 * 1024
BLOCK = bytes(range(256)) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("is_chunked", [False, True])
def test_large_bodies_go_both_ways_in_little_memory_however_slowly_they_are_taken(is_chunked: bool) -> None:
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % MANY
    block = b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if is_chunked else BLOCK
    end = b"0\r\n\r\n" if is_chunked else b""
    expected = hashlib.sha256(BLOCK * (MANY // len(BLOCK))).digest()

    async def send(writer: asyncio.StreamWriter) -> None:
        for _ in range(MANY // len(BLOCK)):
            writer.write(block)
            await writer.drain()
        writer.write(end)
        await writer.drain()

    async def take(reader: asyncio.StreamReader) -> bytes:
        """Read a body; dally at its beginning, so that whoever holds things would hold much."""
        await asyncio.sleep(0.5)
        digest, left = hashlib.sha256(), MANY
        while left:
            if is_chunked:
                size = int(await reader.readline(), 16)
                data = await reader.readexactly(size)
                await reader.readexactly(2)
            else:
                data = await reader.read(1 << 18)
            digest.update(data)
            left -= len(data)
        if is_chunked:
            assert await reader.readexactly(5) == b"0\r\n\r\n"
        return digest.digest()

    async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await backend.head(reader)
        assert await take(reader) == expected
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length)
        await send(writer)
        await backend.release.wait()

    async def main() -> None:
        before = psutil.Process().memory_info().rss
        async with backend_of(handle) as backend, ingress_to(backend.address) as ingress, client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % length)
            await send(client.writer)
            await client.head()
            assert await take(client.reader) == expected
            assert psutil.Process().memory_info().rss - before < 40 * 1024 * 1024
            await until(lambda: not ingress.in_flight)

    run(main())
