"""The layout of one port for all: by which name is who meant."""

import asyncio
from pathlib import Path

from muster.model.deployment import PortProtocol
from muster.model.front import hostname
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

DOMAIN = "gpu.example.com"
ONE, TWO = "0123456789-aaaaaaaaaa-bbbbbbbbbb", "0123456789-cccccccccc-dddddddddd"


def name(uuid: str, container_port: int = 6006) -> str:
    return hostname(uuid, container_port, DOMAIN)


def test_http_is_led_by_its_host_and_raw_bytes_by_the_name_in_the_handshake(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it, container(echo) as backend:
            it.apply(
                route(ONE, port_route(port(), backend)),
                route(TWO, port_route(port(), backend), port_route(port(), backend, container_port=6008)),
                route("raw", port_route(port(), backend, protocol=PortProtocol.TCP)),
            )
            assert await ask(shared, it.tls, name=name(ONE), host=name(ONE)) == (200, f"{ONE}:6006")
            assert await ask(shared, it.tls, name=name(TWO), host=f"{name(TWO).upper()}.:{shared}") == (
                200,
                f"{TWO}:6006",
            )
            assert await ask(shared, it.tls, name=name(TWO, 6008), host=name(TWO, 6008)) == (200, f"{TWO}:6008")
            async with connected(shared, it.tls, name=name("raw")) as (reader, writer):
                writer.write(b"not http at all")
                assert await reader.read(100) == b"not http at all"
                assert it.board.in_flight == 1
            await until(lambda: it.board.in_flight == 0)

    run(scenario)


def test_a_name_that_nobody_has_and_one_that_the_handshake_did_not_say_are_nobodys(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it:
            it.apply(
                route(ONE, port_route(port(), nobody())),
                route(TWO, port_route(port(), nobody())),
                route("raw", port_route(port(), nobody(), protocol=PortProtocol.TCP)),
            )
            assert await ask(shared, it.tls, name=name("unknown"), host=name("unknown")) == (421, "nobody")
            assert await ask(shared, it.tls, name=name(ONE), host=name(TWO)) == (421, "nobody")
            assert await ask(shared, it.tls, name=name(ONE), host="somewhere.else") == (421, "nobody")
            assert await ask(shared, it.tls, name=HOST, host=name(ONE)) == (200, f"{ONE}:6006")  # an address is no SNI
            assert await ask(shared, it.tls, name=HOST, host=name("raw")) == (421, "nobody")

    run(scenario)


def test_each_request_of_a_connection_is_led_by_the_table_in_force(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it:
            address = port_route(port(), nobody())
            it.apply(route(ONE, address))
            async with connected(shared, it.tls, name=name(ONE)) as kept:
                assert await ask_on(*kept, name(ONE)) == (200, f"{ONE}:6006")
                it.apply(route(ONE, address, state=RouteState.REFUSE), revision=2)
                assert await ask_on(*kept, name(ONE)) == (503, "draining")
                it.apply(revision=3)
                assert await ask_on(*kept, name(ONE)) == (421, "nobody")

    run(scenario)


def test_over_tls_the_end_of_one_side_comes_after_what_it_said(tmp_path: Path) -> None:
    said = b"x" * 3_000_000

    async def talks_and_goes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it, container(talks_and_goes) as backend:
            it.apply(route("raw", port_route(port(), backend, protocol=PortProtocol.TCP)))
            async with connected(shared, it.tls, name=name("raw")) as (reader, _):
                assert await reader.read() == said
            await until(lambda: it.board.in_flight == 0)

    run(scenario)


def test_raw_connections_over_tls_are_refused_as_others_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it:
            it.apply(route("raw", port_route(port(), nobody(), protocol=PortProtocol.TCP)))
            async with connected(shared, it.tls, name=name("raw")) as (reader, _):
                assert await reader.read() == b""
            assert it.board.report(0.0).loads[0].refused == 1

    run(scenario)


def test_the_shared_port_is_open_before_the_first_table_and_reported_if_it_cannot_be(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it:
            assert await ask(shared, it.tls, name=name(ONE), host=name(ONE)) == (421, "nobody")
            async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as other:
                assert other.board.bind_failures == {shared: "Address already in use"}

    run(scenario)


def test_ports_that_a_container_does_not_have_are_nobodys_and_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        shared = port()
        async with ground(tmp_path, domain=DOMAIN, domain_port=shared) as it:
            it.apply(route(ONE, port_route(port(), nobody())))
            async with connected(shared, it.tls, name=HOST) as (reader, writer):
                for asked in ("7000", "70001", "9" * 5000):  # the last is more digits than Python makes a number of
                    assert await ask_on(reader, writer, f"{ONE}-{asked}.{DOMAIN}") == (421, "nobody")
            assert list(it.board.gates[ContainerUuid(ONE)].counts) == [6006]

    run(scenario)
