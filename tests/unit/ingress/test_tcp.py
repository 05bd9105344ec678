"""Raw bytes between clients and containers, over real sockets."""

import asyncio
import hashlib
import os
import socket
import struct
from pathlib import Path

import pytest

from muster.ingress.gate import Gate
from muster.model.container import Address
from muster.model.deployment import PortProtocol
from muster.model.ids import ContainerUuid
from muster.model.routes import PortRoute, Refusal, RouteState
from tests.unit.ingress.ground import (
    HOST,
    Ground,
    connected,
    container,
    echo,
    ground,
    nobody,
    port,
    port_route,
    route,
    run,
    until,
)

UUID = "c1"


def tcp(listen_port: int, backend: Address | None) -> PortRoute:
    return port_route(listen_port, backend, protocol=PortProtocol.TCP)


def gate_of(it: Ground) -> Gate:
    return it.board.gates[ContainerUuid(UUID)]


def test_bytes_go_both_ways_unchanged_and_the_visit_lasts_until_the_last_of_them(tmp_path: Path) -> None:
    sent = os.urandom(8 * 2**20)

    async def scenario() -> None:
        async with ground(tmp_path) as it, container(echo) as backend:
            listen = port()
            it.apply(route(UUID, tcp(listen, backend)))
            async with connected(listen) as (reader, writer):

                async def send() -> None:
                    writer.write(sent)
                    await writer.drain()
                    writer.write_eof()

                sending = asyncio.create_task(send())
                got = hashlib.sha256()
                while data := await reader.read(2**16):
                    assert gate_of(it).load(0).in_flight == 1
                    got.update(data)
                await sending
            assert got.digest() == hashlib.sha256(sent).digest()
            await until(lambda: it.board.in_flight == 0)
            assert gate_of(it).load(0).served == 1
            assert gate_of(it).load(0).failed == 0

    run(scenario)


def test_the_end_of_one_direction_is_passed_on_and_the_other_goes_on(tmp_path: Path) -> None:
    async def answers_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()  # to its end
        writer.write(b"you said " + question)

    async def ends_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that was all")
        writer.write_eof()
        heard.set_result(await reader.read())

    heard: asyncio.Future[bytes]

    async def scenario() -> None:
        nonlocal heard
        heard = asyncio.get_running_loop().create_future()
        listen = port()
        async with ground(tmp_path) as it:
            async with container(answers_after_the_end) as backend:
                it.apply(route(UUID, tcp(listen, backend)))
                async with connected(listen) as (reader, writer):
                    writer.write(b"hello")
                    writer.write_eof()
                    assert await reader.read() == b"you said hello"
            async with container(ends_first) as backend:
                it.apply(route(UUID, tcp(listen, backend)), revision=2)
                async with connected(listen) as (reader, writer):
                    assert await reader.read() == b"that was all"
                    writer.write(b"and I go on")
                    writer.write_eof()
                    assert await heard == b"and I go on"

    run(scenario)


def test_a_client_that_does_not_read_holds_the_container_up(tmp_path: Path) -> None:
    written = 0

    async def pours(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            written += 65536

    async def scenario() -> None:
        async with ground(tmp_path) as it, container(pours) as backend:
            listen = port()
            it.apply(route(UUID, tcp(listen, backend)))
            with socket.create_connection((HOST, listen)) as client:
                before = -1
                while written != before:
                    before = written
                    await asyncio.sleep(0.2)
                assert 0 < written < 64 * 2**20  # what the kernel's buffers hold, and ours
                client.setblocking(False)
                while written == before:  # it reads again, so it goes on
                    await asyncio.get_running_loop().sock_recv(client, 2**20)

    run(scenario)


def test_a_reset_is_passed_on_as_a_reset_so_that_half_an_answer_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    async def breaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def scenario() -> None:
        async with ground(tmp_path) as it, container(breaks) as backend:
            listen = port()
            it.apply(route(UUID, tcp(listen, backend)))
            async with connected(listen) as (reader, writer):
                writer.write(b"x")
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            await until(lambda: it.board.in_flight == 0)
            assert gate_of(it).load(0).failed == 1

    run(scenario)


def test_a_client_that_breaks_off_is_no_failure_of_the_container(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, container(echo) as backend:
            listen = port()
            it.apply(route(UUID, tcp(listen, backend)))
            client = socket.create_connection((HOST, listen))
            await until(lambda: it.board.in_flight == 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await until(lambda: it.board.in_flight == 0)
            load = gate_of(it).load(0)
            assert (load.served, load.failed) == (1, 0)

    run(scenario)


@pytest.mark.parametrize(
    ("state", "concurrency", "backend", "reason"),
    [
        (RouteState.REFUSE, None, "there", Refusal.DRAINING),
        (RouteState.ENDED, None, "there", Refusal.ENDED),
        (RouteState.ACCEPT, 0, "there", Refusal.OVER_CAPACITY),
        (RouteState.ACCEPT, None, "none", Refusal.NOT_STARTED),
        (RouteState.ACCEPT, None, "dead", Refusal.UNREACHABLE),
    ],
)
def test_who_is_refused_is_closed_at_once_and_without_a_reset_even_if_he_spoke_first(
    tmp_path: Path, state: RouteState, concurrency: int | None, backend: str, reason: Refusal
) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, container(echo) as there:
            where = {"there": there, "none": None, "dead": nobody()}[backend]
            listen = port()
            it.apply(route(UUID, tcp(listen, where), state=state, concurrency=concurrency))
            async with connected(listen) as (reader, writer):
                writer.write(b"x" * 100_000)
                assert await reader.read() == b""  # a reset would raise
            assert gate_of(it).refusals[reason] == 1
            assert it.board.in_flight == 0

    run(scenario)


def test_connections_go_on_when_their_container_refuses_or_leaves_the_table_and_only_new_ones_end(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, container(echo) as backend:
            listen = port()
            it.apply(route(UUID, tcp(listen, backend)))
            async with connected(listen) as (reader, writer):
                writer.write(b"1")
                assert await reader.read(10) == b"1"
                it.apply(route(UUID, tcp(listen, backend), state=RouteState.REFUSE), revision=2)
                async with connected(listen) as (late, _):
                    assert await late.read() == b""
                it.apply(revision=3)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(HOST, listen)
                writer.write(b"2")
                assert await reader.read(10) == b"2"
                assert it.board.draining() == {UUID: 1}
            await until(lambda: not it.board.draining())
            it.apply(revision=4)
            assert it.board.gates == {}

    run(scenario)
