"""Long and large things: WebSockets, server-sent events, bodies that are never held, and who goes in the middle."""

import asyncio
import hashlib
import os
import socket
import struct
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from muster.balancer.lease import Outcome
from tests.unit.gateway.data_plane.ground import a_set, client_of, gateway_to, run, world
from tests.unit.ingress.http.ground import GET, Backend, answers_ok, certificate, until, value

UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"
LARGE = 16 * 1024 * 1024
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_websocket_echoes_through_a_leaving_hall(is_tls: bool, tmp_path: Path) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        server_tls, trusting = certificate(tmp_path)
        async with serve(echo, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with gateway_to(f"http://127.0.0.1:{port}", tls=server_tls if is_tls else None) as gateway:
                url = f"{'wss' if is_tls else 'ws'}://127.0.0.1:{gateway.port}/"
                async with connect(url, proxy=None, ssl=trusting if is_tls else None) as socket_:
                    for message in ("hello", os.urandom(300_000)):
                        await socket_.send(message)
                        assert await socket_.recv() == message
                    gateway.hall.is_leaving = True
                    gateway.protocols.close_idle()
                    await socket_.send("still here")
                    assert await socket_.recv() == "still here"
                    assert gateway.in_flight == 1
                await until(lambda: not gateway.in_flight)
                (record,) = gateway.records
                assert (record.status, record.is_upgraded, record.reason) == (101, True, "")
                assert record.bytes_in > 300_000
                assert record.bytes_out > 300_000

    run(main())


async def switches(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Switch protocols, greet, and answer at the end of what comes with what came."""
    await backend.head(reader)
    writer.write(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nhello")
    heard = await reader.read()
    writer.write(heard)
    writer.write_eof()


def test_raw_bytes_half_close_both_ways_and_nothing_is_learned_of_them() -> None:
    async def main() -> None:
        async with world(switches) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(UPGRADE % b"raw" + b"early ")
            assert value(await client.head(), b"upgrade") == b"raw"
            assert value(backend.heads[0], b"connection") == b"Upgrade"
            assert await client.exactly(5) == b"hello"
            await client.say(b"late")
            client.writer.write_eof()
            assert await client.rest() == b"early late"
            await until(lambda: gateway.gate.outcomes)
            assert gateway.gate.outcomes == [Outcome.UNREAD]

    run(main())


def test_what_follows_an_upgrade_that_was_not_made_is_the_next_request() -> None:
    async def main() -> None:
        async with world(answers_ok) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(UPGRADE % b"websocket" + GET)
            for _ in range(2):
                assert (await client.answer())[1] == b"ok"
            assert len(backend.heads) == 2

    run(main())


def test_each_event_arrives_as_it_is_sent() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(STREAM + b"9\r\ndata: 1\n\n\r\n")
            await backend.release.wait()
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n")
            await reader.read()

        async with world(handle) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(GET)
                await client.head()
                assert await client.exactly(14) == b"9\r\ndata: 1\n\n\r\n"
                backend.release.set()
                await client.exactly(19)
            await until(lambda: gateway.gate.outcomes)
            assert gateway.gate.outcomes == [
                Outcome.OK
            ]  # what says [DONE] is complete, although it was not read to its end
            await until(lambda: backend.lost)

    run(main())


@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("is_answering", [False, True])
def test_a_client_that_goes_takes_its_connection_to_the_replica_along(is_answering: bool, is_half: bool) -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            if is_answering:
                writer.write(STREAM + b"4\r\nhalf\r\n")
            assert await reader.read() == b""

        async with world(handle) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(GET)
                await until(lambda: backend.heads)
                if is_answering:
                    await client.head()
                if is_half:
                    client.writer.write_eof()
                    await until(lambda: backend.lost)
            await until(lambda: backend.lost)
            await until(lambda: gateway.records)
            assert gateway.gate.outcomes == [Outcome.UNREAD if is_answering else Outcome.FAILED]
            (record,) = gateway.records
            assert (record.status, record.reason) == (200 if is_answering else 0, "client_gone")

    run(main())


def test_an_upload_that_is_aborted_ends_at_the_replica_too() -> None:
    async def main() -> None:
        seen: list[bytes] = []

        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            seen.append(await reader.read())

        async with world(handle) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                await until(lambda: backend.heads)
            await until(lambda: backend.lost)
            assert b"0\r\n" not in b"".join(seen)
            await until(lambda: gateway.records)
            assert gateway.records[0].reason == "client_gone"

    run(main())


def test_16_mb_go_both_ways_and_are_not_held() -> None:
    async def main() -> None:
        piece = bytes(range(256)) * 256
        sums: list[str] = []

        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await backend.head(reader)
            left, digest = int(value(head, b"content-length") or 0), hashlib.sha256()
            while left:
                data = await reader.read(min(left, 65536))
                left -= len(data)
                digest.update(data)
            sums.append(digest.hexdigest())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
            for _ in range(LARGE // len(piece)):
                writer.write(piece)
                await writer.drain()

        async with world(handle) as (_, gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
            expected = hashlib.sha256()
            for _ in range(LARGE // len(piece)):
                await client.say(piece)
                expected.update(piece)
            assert value(await client.head(), b"content-length") == b"%d" % LARGE
            found, left = hashlib.sha256(), LARGE
            while left:
                data = await client.reader.read(min(left, 65536))
                left -= len(data)
                found.update(data)
            assert found.hexdigest() == expected.hexdigest() == sums[0]
            await until(lambda: gateway.records)
            assert (gateway.records[0].bytes_in, gateway.records[0].bytes_out) == (LARGE, LARGE)

    run(main())


def test_a_slow_client_slows_the_replica_down() -> None:
    async def main() -> None:
        written = [0]

        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * LARGE))
            for _ in range(4 * LARGE // 65536):
                writer.write(bytes(65536))
                await writer.drain()
                written[0] += 65536

        async with world(handle) as (_, gateway), client_of(gateway, limit=65536) as client:
            await client.say(GET)
            await client.head()
            before = 0
            while before != written[0] or not written[0]:  # until nobody takes any more
                before = written[0]
                await asyncio.sleep(0.1)
            held = written[0]
            assert held < 2 * LARGE
            left = 4 * LARGE
            while left:
                left -= len(await client.reader.read(min(left, 1 << 20)))
            assert gateway.in_flight <= 1

    run(main())


def test_a_slow_replica_slows_the_client_down() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await backend.release.wait()
            await reader.readexactly(4 * LARGE)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (4 * LARGE))
            sent = [0]

            async def upload() -> None:
                for _ in range(4 * LARGE // 65536):
                    await client.say(bytes(65536))
                    sent[0] += 65536

            uploading = asyncio.create_task(upload())
            before = 0
            while before != sent[0] or not sent[0]:
                before = sent[0]
                await asyncio.sleep(0.1)
            assert sent[0] < 2 * LARGE
            backend.release.set()
            await uploading
            assert (await client.answer())[1] == b"ok"
            await until(lambda: gateway.records)

    run(main())


def test_a_client_that_goes_while_its_replica_takes_nothing_is_noticed() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await backend.release.wait()

        async with world(handle) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (4 * LARGE))
                client.writer.write(bytes(4 * LARGE))
                (connection,) = gateway.protocols.guests.connections
                await until(lambda: not connection._is_reading)
                socket_of = client.writer.get_extra_info("socket")
                socket_of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda: not gateway.in_flight)
            assert [each.reason for each in gateway.records] == ["client_gone"]
            backend.release.set()

    run(main())


def test_a_replica_behind_tls_is_trusted_by_the_ca_of_its_set(tmp_path: Path) -> None:
    async def main() -> None:
        server_tls, _ = certificate(tmp_path)
        pem = (tmp_path / "server.pem").read_text().partition("-----BEGIN PRIVATE")[0]
        backend = Backend(answers_ok)
        server = await asyncio.start_server(backend, "127.0.0.1", 0, ssl=server_tls)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with gateway_to(known=a_set(url, ca_pem=pem)) as gateway, client_of(gateway) as client:
                for _ in range(3):
                    await client.say(GET)
                    assert (await client.answer())[1] == b"ok"
                assert backend.connections == 1
            async with gateway_to(known=a_set(url), wait_seconds=0.2) as gateway, client_of(gateway) as client:
                await client.say(GET)
                assert b'"unreachable"' in (await client.answer())[1]
                assert len(backend.heads) == 3
        finally:
            server.close()

    run(main())


def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
            await backend.release.wait()

        async with world(handle) as (_, gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
            head = await client.head()
            assert (head[:12], value(head, b"connection")) == (b"HTTP/1.1 413", b"close")
            await until(lambda: not gateway.in_flight)

    run(main())


def test_a_bad_chunk_is_told_and_the_replica_never_sees_the_end_of_that_request() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            backend.heads.append(await reader.read())

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
            await until(lambda: backend.heads)
            await client.say(b"-1\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.answer())[0].startswith(b"HTTP/1.1 400 ")
            await until(lambda: backend.lost)
            assert b"0\r\n" not in backend.heads[-1]
            assert b"evil" not in b"".join(backend.heads)
            assert len(gateway.records) == 1

    run(main())


def test_bytes_that_nobody_asked_for_are_not_taken_for_the_next_answer() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await backend.head(reader)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await asyncio.sleep(0.005)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            for sent in range(3):
                await client.say(GET)
                assert (await client.answer())[1] == b"ok"
                await until(lambda sent=sent: backend.lost == sent + 1)  # type: ignore[misc]
            assert gateway.protocols.pools.free_connections == 0

    run(main())


def test_a_client_that_sends_requests_and_takes_no_answers_is_read_no_more() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await backend.head(reader)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
                await writer.drain()

        async with world(handle) as (_, gateway), client_of(gateway) as client:

            async def flood() -> None:
                while True:
                    await client.say(GET * 1000)

            flooding = asyncio.create_task(flood())
            before = 0
            while before != len(gateway.records) or not before:  # until no more is answered
                before = len(gateway.records)
                await asyncio.sleep(0.1)
            assert before < 1000
            assert gateway.in_flight <= 1
            for _ in range(before + 10):
                await client.answer()
            flooding.cancel()

    run(main())


def test_raw_bytes_that_a_replica_breaks_off_break_off_here() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nhello")
            await backend.release.wait()
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(UPGRADE % b"raw")
            await client.head()
            await client.exactly(5)
            backend.release.set()
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await until(lambda: gateway.records)
            assert (gateway.records[0].reason, gateway.gate.outcomes) == ("replica_broke", [Outcome.ERROR])

    run(main())
