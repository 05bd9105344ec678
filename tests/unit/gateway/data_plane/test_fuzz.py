"""Bytes that nobody meant, from clients and from replicas: nothing fails, nothing leaks, nothing is smuggled.

Seeded, so that a failure can be had again: valid messages of all kinds, cut, doubled, mixed with each other and with
what has fooled parsers before, sent in pieces of any size. What a replica gets is read by a parser of the tests' own:
were it ever to find more requests than the gateway sent, one would have been hidden in another.
"""

import asyncio
import contextlib
import random

import pytest

from muster.gateway.port import Limits
from tests.unit.gateway.data_plane.ground import Gateway, client_of, run, world
from tests.unit.gateway.data_plane.test_requests import answer_of, echoes
from tests.unit.ingress.http.ground import GET, Backend, until, value

ROUNDS = 400
LIMITS = Limits(head_seconds=0.1, idle_seconds=0.1, body_seconds=0.1, linger_seconds=0.05)

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PUT /x HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nX-Muster-Refused: draining\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 502 Hurt\r\nX-Muster-Error: closed\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw",
]
SPLINTERS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b":",
    b"\r\n ",
    b"0\r\n\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer_Encoding: chunked\r\n",
    b"Connection: close, content-length\r\n",
    b"GET /hidden HTTP/1.1\r\nHost: b\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"5;a=\r\n",
    b"\xff\xfe",
    b"X: " + b"y" * 70_000 + b"\r\n",
]


def mutated(rng: random.Random, valid: list[bytes]) -> bytes:
    """Return some valid messages with some damage, sometimes none."""
    data = bytearray(b"".join(rng.choices(valid, k=rng.randint(1, 3))))
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at:at] = rng.choice(SPLINTERS)
        elif kind == 1:
            del data[at : at + rng.randint(1, 8)]
        elif kind == 2 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 3:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.randint(1, 40)]
        elif kind == 4:
            line = data.find(b"\r\n") + 2
            data[line:line] = rng.choice(SPLINTERS)
    return bytes(data)


def in_pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut ``data`` somewhere."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 3)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if end > start]


async def throw(rng: random.Random, gateway: Gateway, data: bytes) -> None:
    """Send bytes to a gateway as a client that may do anything."""
    async with client_of(gateway) as client:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            for piece in in_pieces(rng, data):
                await client.say(piece)
                await asyncio.sleep(0)
            ending = rng.randrange(3)
            if ending == 0:
                client.writer.write_eof()
            if ending < 2:
                async with asyncio.timeout(2):
                    await client.rest()


async def is_right_for_others(gateway: Gateway) -> None:
    """Check that requests of somebody else are answered as ever."""
    async with client_of(gateway) as client:
        await client.say(REQUESTS[1] + REQUESTS[2] + REQUESTS[1])
        assert [(await answer_of(client))[1] for _ in range(3)] == [b"hello"] * 3


@pytest.mark.parametrize("seed", range(2))
def test_a_client_may_send_anything(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        async with world(echoes, limits=LIMITS, concurrency=1000) as ((backend,), gateway):
            for _ in range(ROUNDS // 20):
                thrown = [mutated(rng, REQUESTS) for _ in range(20)]
                async with asyncio.TaskGroup() as group:
                    for data in thrown:
                        group.create_task(throw(rng, gateway, data))
                await is_right_for_others(gateway)
                await until(lambda: not gateway.protocols.guests.open_connections)
                assert gateway.in_flight == 0
                assert len(backend.heads) <= sum(each.attempts for each in gateway.records)
            assert gateway.reception.left == gateway.reception.admitted

    run(main(), seconds=40)


@pytest.mark.parametrize("seed", range(2))
def test_a_replica_may_answer_anything(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)

        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await backend.head(reader)
                for piece in in_pieces(rng, mutated(rng, ANSWERS)):
                    writer.write(piece)
                    await asyncio.sleep(0)
                if rng.randrange(2):
                    return

        async with world(handle, limits=LIMITS, concurrency=1000, wait_seconds=0.2) as ((_,), gateway):

            async def ask() -> None:
                async with client_of(gateway) as client:
                    with contextlib.suppress(ConnectionError, TimeoutError):
                        await client.say(rng.choice([REQUESTS[0], REQUESTS[4], REQUESTS[0] * 2]))
                        async with asyncio.timeout(0.2):
                            await client.rest()

            for _ in range(ROUNDS // 40):
                async with asyncio.TaskGroup() as group:
                    for _ in range(20):
                        group.create_task(ask())
                await until(lambda: not gateway.protocols.guests.open_connections)
                await until(lambda: not gateway.in_flight)

    run(main(), seconds=40)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_clients_and_replicas_do_every_lease_and_every_visitor_comes_back(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)

        async def moody(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await backend.head(reader)
                mood = rng.randrange(8)
                if mood == 0:
                    return
                if mood != 1:
                    await reader.readexactly(int(value(head, b"content-length") or 0))
                if mood == 2:
                    await asyncio.sleep(rng.random() * 0.05)
                writer.write(ANSWERS[4] if mood == 1 else ANSWERS[0] if mood > 4 else ANSWERS[mood - 2])
                if mood == 3:
                    return

        async with world(moody, moody, moody, limits=LIMITS, concurrency=2, wait_seconds=0.3) as (_, gateway):

            async def behave() -> None:
                async with client_of(gateway) as client:
                    size = rng.choice([0, 0, 10, 100_000, 400_000])
                    sent = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
                    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                        async with asyncio.timeout(rng.choice([0.0, 0.01, 0.05, 2.0])):
                            await client.say(rng.choice([GET, GET * 3, sent, sent[: size // 2 + 60]]))
                            await client.answer()

            for _ in range(5):
                async with asyncio.TaskGroup() as group:
                    for _ in range(40):
                        group.create_task(behave())
                await until(lambda: not gateway.protocols.guests.open_connections)
                await until(lambda: not gateway.in_flight and not gateway.waiting)
                assert gateway.reception.left == gateway.reception.admitted == len(gateway.records)
                assert gateway.protocols.guests.in_flight == 0

    run(main(), seconds=40)
