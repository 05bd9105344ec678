"""From accepted sockets to protocols: first bytes, handshakes, limits."""

import asyncio
import json
import logging
import os
import resource
import socket
import ssl
from pathlib import Path

import pytest

from muster.ingress import listener, reception
from muster.model.deployment import PortProtocol
from muster.model.routes import REFUSED_HEADER
from tests.unit.ingress.ground import (
    HOST,
    Ground,
    ask,
    ask_on,
    connected,
    container,
    echo,
    ground,
    port,
    port_route,
    route,
    run,
    until,
)

UUID = "c1"


def opened(it: Ground) -> int:
    """Open one HTTPS address of a container that answers."""
    listen = port()
    it.apply(route(UUID, port_route(listen, None)))
    return listen


async def say(listen: int, words: bytes) -> bytes:
    """Say something without TLS; return all that is answered."""
    async with connected(listen) as (reader, writer):
        writer.write(words)
        return await reader.read()


def test_accepted_connections_have_what_the_listening_socket_was_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    async def scenario() -> None:
        async with ground(tmp_path) as it:
            take = it.reception.take_tls

            def look(accepted: socket.socket, factory: object) -> None:
                seen.append(
                    (
                        accepted.proto,
                        accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                        accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    )
                )
                take(accepted, factory)  # type: ignore[arg-type]

            it.reception.take_tls = look  # type: ignore[method-assign]
            await ask(opened(it), it.tls)

    run(scenario)
    assert seen == [(socket.IPPROTO_TCP, 1, 1)]


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (b"GET / HTTP/1.1\r\nHost: my.host:20017\r\n\r\n", "https://my.host:20017/"),
        (b"POST /v1/x?y=1 HTTP/1.1\r\nhost: 10.0.0.7:20017\r\nA: b\r\n\r\n{}", "https://10.0.0.7:20017/v1/x?y=1"),
        (b"GET /a HTTP/1.0\r\n\r\n", "https://127.0.0.1:{port}/a"),
        (b'GET /"><script> HTTP/1.1\r\nHost: my.host\r\n\r\n', "https://my.host/"),
        (b'GET / HTTP/1.1\r\nHost: evil"}\r\n\r\n', "https://127.0.0.1:{port}/"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "https://127.0.0.1:{port}/"),
    ],
)
def test_plain_http_on_a_tls_port_is_told_the_very_address_that_is_right(
    tmp_path: Path, words: bytes, url: str
) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            listen = opened(it)
            head, _, body = (await say(listen, words)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            wire = json.loads(body)
            assert wire["reason"] == "plain_http"
            assert wire["error"].endswith(f"use {url.format(port=listen)}")
            await until(lambda: it.reception.failures["text"] == 1)

    run(scenario)


def test_the_answer_to_head_has_no_body(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            answer = await say(opened(it), b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.endswith(b"\r\n\r\n")

    run(scenario)


def test_garbage_is_closed_and_counted_and_leaves_no_trace_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            listen = opened(it)
            assert await say(listen, b"\x00\x01\x02") == b""
            await say(listen, b"\x16\x03\x01\x02\x00" + os.urandom(512))
            await say(listen, b"\x16garbage that is no record at all")
            async with connected(listen):  # a health check: connects, and that was all
                pass
            async with connected(listen) as (_, writer):
                writer.write(b"\x16\x03\x01")
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            with pytest.raises(ssl.SSLError):
                await ask(listen, ssl.create_default_context())  # it does not know our authority
            await until(lambda: it.reception.open == 0)
            assert it.reception.failures.total() == 6
            assert it.reception.failures["other"] == 1
            assert it.reception.failures["nothing"] == 1
            assert await ask(listen, it.tls) == (503, "not_started")  # and it goes on

    with caplog.at_level(logging.DEBUG):
        run(scenario)
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


def test_whoever_says_nothing_or_breaks_off_a_handshake_is_closed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "GREETING_SECONDS", 0.2)

    async def scenario() -> None:
        async with ground(tmp_path) as it:
            listen = opened(it)
            assert await say(listen, b"") == b""
            await say(listen, b"\x16\x03\x01\x02\x00\x01")
            await until(lambda: it.reception.failures["timeout"] == 2)

    run(scenario)


def test_above_the_limit_some_are_told_and_the_rest_is_closed_and_places_become_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "TOLD_AT_ONCE", 1)

    async def scenario() -> None:
        async with ground(tmp_path, most=2) as it:
            listen = opened(it)
            async with connected(listen, it.tls) as first, connected(listen, it.tls):
                async with connected(listen, it.tls) as (reader, writer):
                    assert await say(listen, b"") == b""  # not even told
                    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    answer = await reader.read()
                    assert answer.startswith(b"HTTP/1.1 503 ")
                    assert f"{REFUSED_HEADER}: over_capacity\r\n".encode() in answer
                    assert b"\r\nretry-after: 1\r\n" in answer
                assert await ask_on(*first) == (503, "not_started")  # who was in is served on
                assert it.reception.turned_away == 2
            await until(lambda: it.reception.open == 0)
            assert (await ask(listen, it.tls))[0] == 503
            assert it.reception.turned_away == 2

    run(scenario)


def test_raw_connections_count_too_and_are_closed_above_the_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path, most=1) as it, container(echo) as backend:
            listen = port()
            it.apply(route(UUID, port_route(listen, backend, protocol=PortProtocol.TCP)))
            async with connected(listen) as (reader, writer):
                assert await say(listen, b"") == b""
                writer.write(b"still here")
                assert await reader.read(100) == b"still here"
                assert it.reception.open == 1

    run(scenario)


def test_without_descriptors_accepting_rests_and_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "REST_SECONDS", 0.1)

    async def scenario() -> None:
        async with ground(tmp_path) as it:
            listen = opened(it)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            client = socket.create_connection((HOST, listen))
            next_free = os.dup(client.fileno())
            os.close(next_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, hard))
            try:
                await asyncio.sleep(0.35)
                rests = [record for record in caplog.records if "resting" in record.getMessage()]
                assert 1 <= len(rests) <= 4  # it does not spin
                assert it.reception.open == 0
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: it.reception.open == 1)
            client.close()

    run(scenario)


def test_on_the_way_out_handshakes_that_are_under_way_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it:
            listen = opened(it)
            silent = socket.create_connection((HOST, listen))
            begun = socket.create_connection((HOST, listen))
            begun.sendall(b"\x16\x03\x01\x02\x00\x01")
            await until(lambda: it.reception.open == 2)
            await asyncio.sleep(0.05)
        assert it.reception.open == 0
        for client in (silent, begun):
            client.close()

    run(scenario)
