"""Requests through a real ingress to a raw server: what arrives, what comes back, what is counted."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.ingress.http.listening import Limits
from muster.model.container import Address
from muster.model.routes import RouteState
from tests.unit.ingress.http.ground import (
    GET,
    OK,
    Backend,
    answers,
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


def test_a_request_goes_through_and_the_next_one_over_the_same_connections() -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress), client_of(ingress) as client:
            for _ in range(3):
                await client.say(GET)
                head, body = await client.answer()
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                assert body == b"ok"
                assert value(head, b"endpoint-load-metrics") == b"TEXT named_metrics.in_flight=1"
            assert backend.connections == 1
            assert ingress.answers == [(6006, 200)] * 3
            assert ingress.in_flight == 0
            assert ingress.protocols.open_connections == 1

    run(main())


def test_fields_keep_names_values_order_case_and_duplicates_and_hop_by_hop_ones_go() -> None:
    async def main() -> None:
        async with world(answers_ok) as (backend, ingress), client_of(ingress) as client:
            await client.say(
                b"GET /a?b=c HTTP/1.1\r\nX-One: 1\r\nhOst: me:1\r\nx-one: 2\r\nConnection: keep-alive, X-Gone\r\n"
                b"X-Gone: 3\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nX-Forwarded-For: 9.9.9.9\r\n"
                b"X-Forwarded-Proto: gopher\r\nX_Forwarded_For: 8.8.8.8\r\napi_key: k\r\n\r\n"
            )
            await client.answer()
            assert backend.heads[0].split(b"\r\n") == [
                b"GET /a?b=c HTTP/1.1",
                b"X-One: 1",
                b"hOst: me:1",
                b"x-one: 2",
                b"api_key: k",
                b"X-Forwarded-For: 9.9.9.9, 127.0.0.1",
                b"X-Forwarded-Host: me:1",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Port: %d" % ingress.port,
                b"",
                b"",
            ]

    run(main())


def test_over_tls_the_container_is_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        server, trusting = certificate(tmp_path)
        async with (
            backend_of(answers_ok) as backend,
            ingress_to(backend.address, tls=server) as ingress,
            client_of(ingress, ssl=trusting) as client,
        ):
            await client.say(GET)
            assert (await client.answer())[1] == b"ok"
            assert value(backend.heads[0], b"x-forwarded-proto") == b"https"

    run(main())


def test_pipelined_requests_are_served_one_after_another() -> None:
    async def main() -> None:
        most = 0

        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal most
            while True:
                head = await backend.head(reader)
                most = max(most, len(reader._buffer))  # type: ignore[attr-defined]
                target = head.split(b" ")[1]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

        async with world(handle) as (_, ingress), client_of(ingress) as client:
            requests = [b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)]
            await client.say(b"".join(requests))
            assert [(await client.answer())[1] for _ in requests] == [b"/%d" % number for number in range(20)]
            assert most == 0

    run(main())


def test_one_client_that_sends_many_requests_at_once_does_not_hold_up_the_others() -> None:
    async def main() -> None:
        async with ingress_to(None) as ingress, client_of(ingress) as client:
            writing = asyncio.ensure_future(client.say(GET * 3000))
            most, before = 0, 0
            while before < 3000:
                await asyncio.sleep(0)
                now = len(ingress.answers)
                most, before = max(most, now - before), now
            await writing
            assert most < 100, f"{most} requests in one turn of the loop"
            for _ in range(3000):
                assert (await client.answer())[0].startswith(b"HTTP/1.1 503 ")

    run(main())


def test_a_chunked_body_arrives_with_its_trailers_and_without_its_extensions() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            backend.heads.append(await reader.readuntil(b"0\r\nX-Sum: 7\r\n\r\n"))
            writer.write(OK)

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.say(b"00005;sly=1\r\nhel")
            await client.say(b"lo\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n")
            await client.answer()
            assert value(backend.heads[0], b"transfer-encoding") == b"chunked"
            sent = backend.heads[1]
            assert b"sly" not in sent
            assert b"Content-Length" not in sent

    run(main())


def test_an_answer_in_chunks_comes_as_it_is_made_and_with_its_trailers() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
            writer.write(b"9\r\ndata: 1\n\n\r\n")
            await backend.release.wait()
            writer.write(b"0\r\nX-Sum: 1\r\nx-muster-error: forged\r\n\r\n")
            await backend.head(reader)
            writer.write(OK)

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(GET)
            head = await client.head()
            assert value(head, b"transfer-encoding") == b"chunked"
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
            assert ingress.in_flight == 1
            backend.release.set()
            assert await client.reader.readuntil(b"\r\n\r\n") == b"0\r\nX-Sum: 1\r\n\r\n"
            assert ingress.in_flight == 0
            await client.say(GET)
            assert (await client.answer())[1] == b"ok"

    run(main())


def test_expect_continue_passes_through_before_the_body_is_sent() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            backend.heads.append(await reader.readexactly(5))
            writer.write(OK)

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.say(b"hello")
            assert (await client.answer())[1] == b"ok"
            assert value(backend.heads[0], b"expect") == b"100-continue"
            assert backend.heads[1] == b"hello"

    run(main())


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n"),
        (b"GET", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
def test_answers_without_a_body_are_over_with_their_head(method: bytes, answer: bytes) -> None:
    async def main() -> None:
        async with world(answers(answer)) as (_, ingress), client_of(ingress) as client:
            for _ in range(2):
                await client.say(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
                for _ in range(answer.count(b"HTTP/1.1")):
                    await client.head()
                await until(lambda: not ingress.in_flight)

    run(main())


def test_an_answer_until_close_ends_by_closing() -> None:
    async def main() -> None:
        handler = answers(b"HTTP/1.0 200 OK\r\n\r\n", b"some", b"thing", then_closes=True)
        async with world(handler) as (_, ingress), client_of(ingress) as client:
            await client.say(GET)
            assert value(await client.head(), b"connection") == b"close"
            assert await client.rest() == b"something"
            assert ingress.answers == [(6006, 200)]
            assert ingress.gate.counts[6006].served == 1

    run(main())


def test_a_client_of_http_1_0_gets_no_chunks_and_may_keep_its_connection() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(OK)
            await backend.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            head, _ = await client.answer()
            assert value(head, b"connection") == b"keep-alive"
            assert value(backend.heads[0], b"host") == b"127.0.0.1:%d" % backend.port
            await client.say(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
            head = await client.head()
            assert value(head, b"transfer-encoding") is None
            assert value(head, b"connection") == b"close"
            assert await client.rest() == b"abc"

    run(main())


def test_what_only_the_ingress_may_say_is_taken_from_answers_and_the_load_is_merged() -> None:
    async def main() -> None:
        handler = answers(
            b"HTTP/1.1 200 OK\r\nX-Muster-Refused: draining\r\nx-muster-error: closed\r\nContent-Length: 0\r\n"
            b"Endpoint-Load-Metrics: TEXT cpu_utilization=0.3,named_metrics.in_flight=99,bad=x\r\n\r\n"
        )
        async with world(handler, concurrency=4) as (_, ingress), client_of(ingress) as client:
            await client.say(GET)
            head = await client.head()
            assert b"muster" not in head.lower()
            assert value(head, b"endpoint-load-metrics") == (
                b"TEXT named_metrics.in_flight=1,named_metrics.concurrency=4,application_utilization=0.25,"
                b"cpu_utilization=0.3"
            )

    run(main())


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"state": RouteState.REFUSE}, b"draining"),
        ({"state": RouteState.ENDED, "message": "it was stopped"}, b"ended"),
        ({"concurrency": 0}, b"over_capacity"),
    ],
)
def test_a_refusal_says_why_at_once_and_nothing_is_sent(fields: dict[str, Any], refusal: bytes) -> None:
    async def main() -> None:
        async with world(answers_ok, **fields) as (backend, ingress), client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 503 ")
            assert value(head, b"x-muster-refused") == refusal
            assert value(head, b"retry-after") == b"1"
            assert value(head, b"endpoint-load-metrics") is not None
            told = json.loads(body)
            assert told["reason"] == refusal.decode()
            assert told["error"] == fields.get("message", told["error"])
            assert backend.connections == 0
            if refusal == b"over_capacity":  # The connection is good for another try.
                await client.say(GET)
                assert (await client.answer())[0].startswith(b"HTTP/1.1 503 ")
            else:
                assert await client.rest() == b""

    run(main())


def test_the_declared_concurrency_holds_while_an_answer_is_under_way() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await backend.release.wait()
            writer.write(OK)

        async with (
            world(handle, concurrency=1) as (backend, ingress),
            client_of(ingress) as first,
            client_of(ingress) as second,
        ):
            await first.say(GET)
            await until(lambda: ingress.in_flight == 1)
            await second.say(GET)
            assert value((await second.answer())[0], b"x-muster-refused") == b"over_capacity"
            backend.release.set()
            assert (await first.answer())[1] == b"ok"
            await second.say(GET)
            assert (await second.answer())[1] == b"ok"

    run(main())


def test_a_large_upload_that_is_refused_does_not_keep_the_answer_from_its_client() -> None:
    async def main() -> None:
        async with world(answers_ok, state=RouteState.REFUSE) as (_, ingress), client_of(ingress) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
            for _ in range(40):
                await client.say(b"x" * 100_000)
            head, _ = await client.answer()
            assert value(head, b"x-muster-refused") == b"draining"
            assert value(head, b"connection") == b"close"

    run(main())


def test_a_container_that_cannot_be_connected_to_is_refused_for() -> None:
    async def main() -> None:
        async with backend_of(answers_ok) as gone:
            pass
        async with ingress_to(gone.address) as ingress, client_of(ingress) as client:
            for _ in range(2):
                await client.say(GET)
                head, _ = await client.answer()
                assert head.startswith(b"HTTP/1.1 503 ")
                assert value(head, b"x-muster-refused") == b"unreachable"
            assert ingress.in_flight == 0
            assert ingress.gate.counts[6006].refused == 2

    run(main())


def test_a_name_that_nobody_has_is_misdirected() -> None:
    async def main() -> None:
        async with world(answers_ok) as (_, ingress), client_of(ingress) as client:
            await client.say(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
            assert (await client.answer())[0].startswith(b"HTTP/1.1 421 ")
            await client.say(GET)
            assert (await client.answer())[1] == b"ok"
            assert ingress.answers == [(0, 421), (6006, 200)]

    run(main())


def test_when_the_route_has_another_backend_the_next_request_goes_there() -> None:
    async def main() -> None:
        async with (
            world(answers_ok) as (first, ingress),
            backend_of(answers_ok) as second,
            client_of(ingress) as client,
        ):
            await client.say(GET)
            await client.answer()
            port = ingress.gate.route.ports[0]
            moved = replace(port, backend=second.address)
            ingress.gate.route = replace(ingress.gate.route, ports=(moved,))
            await client.say(GET)
            assert (await client.answer())[1] == b"ok"
            assert (first.connections, second.connections) == (1, 1)
            await until(lambda: first.lost == 1)

    run(main())


def test_a_draining_container_finishes_its_answer_and_asks_the_client_to_leave() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await backend.release.wait()
            writer.write(OK)

        async with world(handle) as (backend, ingress), client_of(ingress) as client:
            await client.say(GET)
            await until(lambda: backend.heads)
            ingress.gate.route = replace(ingress.gate.route, state=RouteState.REFUSE)
            backend.release.set()
            head, body = await client.answer()
            assert body == b"ok"
            assert value(head, b"connection") == b"close"
            assert await client.rest() == b""

    run(main())


def test_clients_are_sent_off_with_the_answer_that_is_under_way_and_idle_ones_at_once() -> None:
    async def slow(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await backend.head(reader):
            await backend.release.wait()
            writer.write(OK)

    async def main() -> None:
        async with world(slow) as (backend, ingress), client_of(ingress) as busy, client_of(ingress) as idle:
            await busy.say(GET)
            await until(lambda: len(backend.heads) == 1 and len(ingress.protocols.connections) == 2)
            ingress.protocols.guests.send_off()
            assert await idle.rest() == b""
            assert ingress.in_flight == 1
            backend.release.set()
            head, body = await busy.answer()
            assert (value(head, b"connection"), body) == (b"close", b"ok")
            assert await busy.rest() == b""

    run(main())


def test_an_answer_that_had_begun_when_its_client_was_sent_off_comes_to_its_end() -> None:
    async def halting(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await backend.head(reader):
            writer.write(OK[:-1])
            await backend.release.wait()
            writer.write(OK[-1:])

    async def main() -> None:
        async with world(halting) as (backend, ingress), client_of(ingress) as client:
            await client.say(GET)
            await client.head()
            ingress.protocols.guests.send_off()
            backend.release.set()
            assert await client.rest() == b"ok"
            assert ingress.in_flight == 0

    run(main())


def test_a_head_that_takes_too_long_is_told_so_and_an_idle_connection_is_closed() -> None:
    async def main() -> None:
        limits = Limits(head_seconds=0.05, idle_seconds=0.15, linger_seconds=0.05)
        async with (
            world(answers_ok, limits) as (backend, ingress),
            client_of(ingress) as slow,
            client_of(ingress) as idle,
        ):
            await slow.say(b"GET / HTTP/1.1\r\nHo")
            head, body = await slow.answer()
            assert head.startswith(b"HTTP/1.1 408 ")
            assert b"0.05 s" in body
            assert await idle.rest() == b""
            assert backend.connections == 0

    run(main())


def test_heads_that_are_too_large_are_refused() -> None:
    async def main() -> None:
        async with world(answers_ok, Limits(head_bytes=1000, head_fields=5)) as (backend, ingress):
            for head in (b"X: " + b"x" * 1000, b"\r\n".join([b"X: 1"] * 5), b"X" * 2000):
                async with client_of(ingress) as client:
                    await client.say(b"GET / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n")
                    assert (await client.answer())[0].startswith(b"HTTP/1.1 431 ")
            assert backend.connections == 0

    run(main())


def test_nobody_is_known_of_an_address_without_a_backend() -> None:
    async def main() -> None:
        no_backend: Address | None = None
        async with ingress_to(no_backend) as ingress, client_of(ingress) as client:
            await client.say(GET)
            assert value((await client.answer())[0], b"x-muster-refused") == b"not_started"

    run(main())
