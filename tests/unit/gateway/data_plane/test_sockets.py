"""What asyncio does not know of a client's connection."""

import asyncio
import socket

from muster.gateway.sockets import has_gone
from tests.unit.gateway.data_plane.ground import client_of, run, world
from tests.unit.ingress.http.ground import GET, answers_ok, until


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
