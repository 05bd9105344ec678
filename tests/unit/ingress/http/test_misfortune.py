"""What goes wrong on either side, and what the other side is told: never a clean end of half an answer."""

import asyncio
import json
import socket
import struct

import pytest

from muster.ingress.http.answers import Failure
from muster.ingress.http.listening import Limits
from tests.unit.ingress.http.ground import (
    GET,
    OK,
    Backend,
    answers,
    answers_ok,
    client_of,
    run,
    until,
    value,
    world,
)

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", Failure.CLOSED),
        (b"HTTP/1.1 200 O", Failure.CLOSED),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Failure.GARBLED),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Failure.GARBLED),
        (b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", Failure.GARBLED),
        (b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", Failure.GARBLED),
        (b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 0\r\n\r\n", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Failure.GARBLED),
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", Failure.GARBLED),
        (b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 300 + b"\r\n", Failure.GARBLED),
    ],
)
def test_no_clear_head_of_an_answer_is_a_502(answer: bytes, failure: Failure) -> None:
    async def main() -> None:
        async with world(answers(answer, then_closes=True)) as (_, ingress), client_of(ingress) as client:
            await client.say(POST)
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 502 ")
            assert value(head, b"x-muster-error") == failure.value.encode()
            assert value(head, b"x-muster-refused") is None
            assert json.loads(body)["reason"] == failure.value
            assert ingress.answers == [(6006, 502)]
            assert (ingress.gate.counts[6006].failed, ingress.in_flight) == (1, 0)

    run(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_half_an_answer_is_a_broken_connection(answer: bytes) -> None:
    async def main() -> None:
        async with world(answers(answer, then_closes=True)) as (_, ingress), client_of(ingress) as client:
            await client.say(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert (ingress.gate.counts[6006].failed, ingress.in_flight) == (1, 0)

    run(main())


def test_an_answer_until_close_that_is_reset_is_a_broken_connection() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nhalf")
            await backend.release.wait()
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(GET)
            await client.head()
            assert await client.exactly(4) == b"half"
            backend.release.set()
            with pytest.raises(ConnectionResetError):
                await client.rest()
            assert ingress.gate.counts[6006].failed == 1

    run(main())


@pytest.mark.parametrize("is_answering", [False, True])
def test_a_client_that_goes_takes_its_connection_to_the_container_along(is_answering: bool) -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            if is_answering:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            assert await reader.read() == b""

        async with world(handle) as (backend, ingress):
            async with client_of(ingress) as client:
                await client.say(GET)
                await until(lambda: backend.heads)
                if is_answering:
                    await client.head()
                assert ingress.in_flight == 1
            await until(lambda: backend.lost)
            await until(lambda: not ingress.in_flight)
            counts = ingress.gate.counts[6006]
            # Whoever stops reading an answer has been served; nobody was who never saw a byte.
            assert (counts.served, counts.failed) == ((1, 0) if is_answering else (0, 1))

    run(main())


def test_a_client_that_goes_while_its_connection_is_made_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with world(answers_ok) as (_, ingress):
            for _ in range(20):
                async with client_of(ingress) as client:
                    client.writer.write(GET)
                    await until(lambda: ingress.protocols.open_connections)
                await until(lambda: not ingress.protocols.open_connections)
            assert ingress.in_flight == 0

    run(main())


async def closes_kept(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request of the first connection and close it when the second comes; then behave."""
    is_first = backend.connections == 1
    while True:
        head = await backend.head(reader)
        await reader.readexactly(int(value(head, b"content-length") or 0))
        if is_first and len(backend.heads) == 2:
            return
        writer.write(OK)


def test_a_request_that_may_be_repeated_survives_a_kept_connection_that_closes_under_it() -> None:
    async def main() -> None:
        async with world(closes_kept) as (backend, ingress), client_of(ingress) as client:
            for _ in range(2):
                await client.say(GET)
                assert (await client.answer())[1] == b"ok"
            assert backend.connections == 2
            assert ingress.gate.counts[6006].served == 2

    run(main())


def test_a_request_that_may_not_be_repeated_is_not() -> None:
    async def main() -> None:
        async with world(closes_kept) as (backend, ingress), client_of(ingress) as client:
            await client.say(POST)
            await client.answer()
            await client.say(POST)
            assert value((await client.answer())[0], b"x-muster-error") == b"closed"
            assert len(backend.heads) == 2

    run(main())


def test_a_new_connection_that_fails_is_not_tried_again() -> None:
    async def main() -> None:
        async with world(answers(b"", then_closes=True)) as (backend, ingress), client_of(ingress) as client:
            await client.say(GET)
            assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")
            assert backend.connections == 1

    run(main())


def test_bytes_that_nobody_asked_for_are_not_taken_for_the_next_answer() -> None:
    async def main() -> None:
        async with world(answers(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as (backend, ingress):
            async with client_of(ingress) as client:
                for _ in range(3):
                    await client.say(GET)
                    assert (await client.answer())[1] == b"ok"
            assert backend.connections == 3

    run(main())


def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
            await backend.release.wait()

        async with world(handle, Limits(linger_seconds=0.1)) as (_, ingress), client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 413 ")
            assert value(head, b"connection") == b"close"
            await until(lambda: not ingress.in_flight)
            assert await client.rest() == b""

    run(main())


def test_a_bad_chunk_is_told_and_the_container_never_sees_the_end_of_that_request() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            backend.heads.append(await reader.read())

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
            await until(lambda: backend.heads)
            await client.say(b"-1\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.answer())[0].startswith(b"HTTP/1.1 400 ")
            await until(lambda: backend.lost)
            assert b"0\r\n" not in backend.heads[-1]
            assert b"evil" not in b"".join(backend.heads)

    run(main())


def test_a_client_that_sends_requests_and_takes_no_answers_is_read_no_more() -> None:
    async def main() -> None:
        async with world(answers_ok, concurrency=0) as (_, ingress), client_of(ingress) as client:

            async def flood() -> None:
                while True:
                    await client.say(GET * 1000)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flood(), 0.3)
            refused = ingress.gate.counts[6006].refused
            await client.exactly(1_000_000)
            await until(lambda: ingress.gate.counts[6006].refused > refused)

    run(main())
