"""What asyncio does not know of a client's connection."""

import asyncio
import socket

import pytest

from muster.gateway.port import Limits
from muster.gateway.sockets import has_gone
from tests.unit.gateway.data_plane.ground import client_of, run, world
from tests.unit.ingress.http.ground import GET, Backend, answers_ok, until


def test_the_system_looks_whether_a_client_is_still_there() -> None:
    async def main() -> None:
        async with world(answers_ok) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            await client.answer()
            (connection,) = gateway.protocols.guests.connections
            asked = connection._transport.get_extra_info("socket")
            assert asked.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert asked.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60

    run(main())


def test_the_system_looks_whether_a_replica_is_still_there() -> None:
    async def main() -> None:
        async with world(answers_ok) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(GET)
            await client.answer()
            assert gateway.gate.endpoints is not None
            (endpoint,) = gateway.gate.endpoints.endpoints
            link = gateway.protocols.pools.take(gateway.gate, endpoint, is_repeatable=True)
            assert link is not None
            asked = link._transport.get_extra_info("socket")
            assert asked.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            link.abort()
            await until(lambda: backend.lost)

    run(main())


@pytest.mark.parametrize("size", [60_000, 20_000_000])
def test_a_client_that_takes_nothing_of_an_answer_is_not_waited_for(size: int) -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            await reader.read()

        limits = Limits(body_seconds=0.5, idle_seconds=0.5)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            async with world(handle, limits=limits) as (_, gateway):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", gateway.port))
                await until(lambda: gateway.protocols.guests.open_connections)
                (connection,) = gateway.protocols.guests.connections
                connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
                await loop.sock_sendall(client, GET)
                await until(lambda: gateway.records)
                await until(lambda: not gateway.protocols.guests.open_connections)
                assert gateway.in_flight == 0

    run(main())


def test_a_client_that_ended_is_seen_although_nothing_is_read_from_it() -> None:
    async def main() -> None:
        accepted: list[asyncio.StreamWriter] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            accepted.append(writer)
            await asyncio.sleep(10)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: accepted)
        writer.write(b"something that nobody reads")
        assert not has_gone(accepted[0].transport)
        writer.write_eof()
        await until(lambda: has_gone(accepted[0].transport))
        writer.transport.abort()
        accepted[0].transport.abort()
        server.close()

    run(main())
