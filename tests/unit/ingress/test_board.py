"""Which ports listen and who is behind them, as tables come and go."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from muster.clock import SystemClock
from muster.ingress import board as boards
from muster.ingress.sockets import listen_on
from muster.model.deployment import PortProtocol
from muster.model.ids import ContainerUuid
from muster.model.routes import RouteState
from tests.unit.ingress.ground import (
    HOST,
    ask,
    ask_on,
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

SOMEWHERE = nobody()


async def is_open(listen: int, host: str = HOST) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, listen)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def test_each_container_port_has_its_own_port_and_tables_open_keep_and_close_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            one, other, two = port(), port(), port()
            both = (port_route(one, SOMEWHERE), port_route(other, SOMEWHERE, container_port=6008))
            it.apply(route("c1", *both))
            assert await ask(one, it.tls) == (200, "c1:6006")
            assert await ask(other, it.tls) == (200, "c1:6008")
            async with connected(one, it.tls) as kept:
                assert await ask_on(*kept) == (200, "c1:6006")
                it.apply(route("c1", both[0]), route("c2", port_route(two, SOMEWHERE)), revision=2)
                assert not await is_open(other)
                assert await ask(two, it.tls) == (200, "c2:6006")
                assert await ask_on(*kept) == (200, "c1:6006")  # over the connection from before
            it.apply(revision=3)
            assert not await is_open(one)
            assert it.board.fence == (1, 3)

    run(scenario)


def test_a_gate_refuses_from_the_very_table_on_that_says_so_and_counts_go_on_across_tables(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            address = port_route(port(), SOMEWHERE)
            it.apply(route("c1", address))
            async with connected(address.listen_port, it.tls) as kept:
                assert await ask_on(*kept) == (200, "c1:6006")
                gate = it.board.gates[ContainerUuid("c1")]
                it.apply(route("c1", address, state=RouteState.REFUSE), revision=2)
                assert it.board.gates[ContainerUuid("c1")] is gate
                assert await ask_on(*kept) == (503, "draining")
                assert await ask(address.listen_port, it.tls) == (503, "draining")
            it.apply(route("c1", address, state=RouteState.ENDED), revision=3)
            assert await ask(address.listen_port, it.tls) == (503, "ended")
            report = it.board.report(0.0)
            assert (report.epoch, report.revision) == (1, 3)
            assert [(load.served, load.refused, load.is_refusing) for load in report.loads] == [(1, 3, True)]

    run(scenario)


def test_an_open_connection_of_a_container_that_left_the_table_gets_nothing_new(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            address = port_route(port(), SOMEWHERE)
            it.apply(route("c1", address))
            async with connected(address.listen_port, it.tls) as kept:
                assert await ask_on(*kept) == (200, "c1:6006")
                it.apply(revision=2)
                assert await ask_on(*kept) == (503, "ended")

    run(scenario)


def test_a_port_can_become_another_containers_and_another_protocols_without_closing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, container(echo) as backend:
            listen = port()
            it.apply(route("c1", port_route(listen, SOMEWHERE)))
            assert await ask(listen, it.tls) == (200, "c1:6006")
            ended = route("c1", port_route(listen, SOMEWHERE), state=RouteState.ENDED)
            it.apply(ended, route("c0", port_route(listen, SOMEWHERE)), revision=2)
            assert await ask(listen, it.tls) == (200, "c0:6006")  # of two the one that lives
            it.apply(route("c2", port_route(listen, backend, protocol=PortProtocol.TCP)), revision=3)
            async with connected(listen) as (reader, writer):
                writer.write(b"raw")
                assert await reader.read(10) == b"raw"

    run(scenario)


def test_a_port_that_somebody_else_has_is_reported_and_opened_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boards, "MEND_SECONDS", 0.05)

    async def scenario() -> None:
        async with ground(tmp_path) as it:
            told: list[dict[int, str]] = []
            it.board.on_change(lambda: told.append(it.board.bind_failures))
            mending = asyncio.create_task(it.board.run(SystemClock()))
            with listen_on(HOST, 0) as taken:
                listen, free = taken.getsockname()[1], port()
                it.apply(route("c1", port_route(listen, SOMEWHERE), port_route(free, SOMEWHERE, container_port=6008)))
                assert it.board.report(0.0).bind_failures == {listen: "Address already in use"}
                assert await ask(free, it.tls) == (200, "c1:6008")  # the others do not suffer
                await asyncio.sleep(0.2)
            await until(lambda: not it.board.bind_failures)
            assert await ask(listen, it.tls) == (200, "c1:6006")
            assert told == [{listen: "Address already in use"}, {}]
            mending.cancel()

    run(scenario)
    assert [record.getMessage().partition(" port ")[0] for record in caplog.records] == ["cannot listen on 127.0.0.1"]


def test_a_failure_is_forgotten_with_the_address_and_failures_of_others_are_told_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            with listen_on(HOST, 0) as taken:
                it.apply(route("c1", port_route(taken.getsockname()[1], SOMEWHERE)))
                it.board.tell_failures({25_000: "taken"})
                assert len(it.board.bind_failures) == 2
                it.apply(revision=2)
                assert it.board.bind_failures == {25_000: "taken"}

    run(scenario)


def test_a_further_address_that_is_gone_is_a_warning_and_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            address = port_route(port(), SOMEWHERE)
            for revision in (1, 2):
                it.apply(route("c1", address, hosts=("192.0.2.7", HOST)), revision=revision)
            assert it.board.bind_failures == {}
            assert await ask(address.listen_port, it.tls) == (200, "c1:6006")

    run(scenario)
    assert ["192.0.2.7" in record.getMessage() for record in caplog.records] == [True]


def test_containers_reach_each_other_by_further_addresses_which_come_and_go(tmp_path: Path) -> None:
    bridge = "127.3.2.1"

    def listens(listen: int) -> bool:
        with pytest.MonkeyPatch.context(), socket.socket() as probe:
            try:
                probe.bind((bridge, listen))
            except OSError:
                return True
            return False

    async def scenario() -> None:
        async with ground(tmp_path) as it:
            address = port_route(port(), SOMEWHERE)
            it.apply(route("c1", address, hosts=(bridge,)))
            assert listens(address.listen_port)
            it.apply(route("c1", address), revision=2)
            assert not listens(address.listen_port)
            assert await ask(address.listen_port, it.tls) == (200, "c1:6006")
        async with ground(tmp_path, host="0.0.0.0") as it:  # which covers it
            it.apply(route("c1", address, hosts=(bridge,)))
            assert it.board.bind_failures == {}
            assert listens(address.listen_port)

    run(scenario)


def test_when_it_closes_nothing_new_is_accepted_and_what_is_in_flight_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, container(echo) as backend:
            listen = port()
            it.apply(route("c1", port_route(listen, backend, protocol=PortProtocol.TCP)))
            async with connected(listen) as (reader, writer):
                writer.write(b"1")
                assert await reader.read(1) == b"1"
                it.board.close()
                it.apply(route("c2", port_route(port(), backend)), revision=2)
                assert not await is_open(listen)
                assert not await it.board.quiet(0.05)
                writer.write(b"2")
                assert await reader.read(1) == b"2"
            assert await it.board.quiet(5.0)

    run(scenario)


@pytest.mark.slow
def test_two_thousand_listeners_are_open_in_no_time_and_looked_at_in_less(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path, host="127.9.8.7") as it:

            def routes(state: RouteState) -> list[object]:
                return [
                    route(
                        f"c{index}",
                        port_route(20_000 + index, SOMEWHERE),
                        port_route(22_000 + index, SOMEWHERE, container_port=6008),
                        state=state,
                    )
                    for index in range(1000)
                ]

            first, second = routes(RouteState.ACCEPT), routes(RouteState.REFUSE)

            def seconds(revision: int) -> float:
                begun = time.perf_counter()
                it.apply(*(second if revision % 2 == 0 else first), revision=revision)  # type: ignore[arg-type]
                return time.perf_counter() - begun

            opened = seconds(1)
            assert it.board.bind_failures == {}
            assert min(seconds(revision) for revision in range(2, 7)) < opened / 2

    run(scenario)
