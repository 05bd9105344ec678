"""What goes to a replica and what comes back: heads, bodies, framing, one request after another."""

import asyncio
import contextlib
import json

import pytest

from muster.gateway import visit
from muster.gateway.port import Limits, NeedsBody, Refused, Told
from muster.http1.request_head import RequestHead
from tests.unit.gateway.data_plane.ground import a_set, chunked_body, client_of, run, world
from tests.unit.ingress.http.ground import GET, OK, Backend, Client, answers, answers_ok, until, value


async def echoes(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its body, of either framing, and trailers if there are some."""
    while True:
        head = await backend.head(reader)
        if value(head, b"transfer-encoding") == b"chunked":
            body, trailers = await chunked_body(reader)
        else:
            body, trailers = await reader.readexactly(int(value(head, b"content-length") or 0)), b""
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if body:
            writer.write(b"%x;note=ours\r\n%b\r\n" % (len(body), body))
        writer.write(b"0\r\n%b\r\n" % trailers)


async def answer_of(client: Client) -> tuple[bytes, bytes]:
    """Read an answer of either framing."""
    head = await client.head()
    if value(head, b"transfer-encoding") == b"chunked":
        return head, (await chunked_body(client.reader))[0]
    return head, await client.exactly(int(value(head, b"content-length") or 0))


async def reason_of(client: Client) -> tuple[int, str]:
    """Read an answer of the gateway's own."""
    head, body = await client.answer()
    return int(head.split()[1]), json.loads(body)["reason"]


def test_a_request_is_passed_on_and_its_answer_names_the_replica() -> None:
    async def main() -> None:
        async with world(answers_ok, dropped=frozenset([b"authorization"])) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(
                    b"GET /v1?q=1 HTTP/1.1\r\nHost: front\r\nAuthorization: Bearer sk-1\r\nX-Muster-Priority: 3\r\n"
                    b"X-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: https\r\nAccept: a\r\nConnection: x-hop\r\n"
                    b"X-Hop: 1\r\n\r\n"
                )
                head, body = await client.answer()
                assert (body, value(head, b"x-muster-replica")) == (b"ok", b"r0")
            head = backend.heads[0]
            assert head.startswith(b"GET /v1?q=1 HTTP/1.1\r\n")
            assert value(head, b"host") == b"127.0.0.1:%d" % backend.port
            assert value(head, b"x-forwarded-for") == b"10.0.0.9, 127.0.0.1"
            assert value(head, b"x-forwarded-host") == b"front"
            assert value(head, b"x-forwarded-proto") == b"http"
            assert value(head, b"accept") == b"a"
            for gone in (b"authorization", b"x-muster-priority", b"x-hop", b"connection"):
                assert value(head, gone) is None
            (record,) = gateway.records
            assert (record.status, record.replica, record.attempts, record.key) == (200, "r0", 1, "alice")
            assert (record.service, record.target, record.bytes_out) == ("digits", "/v1?q=1", 2)

    run(main())


def test_the_path_of_an_endpoint_comes_before_the_path_of_a_request() -> None:
    async def main() -> None:
        async with world(answers_ok) as ((backend,), gateway):
            gateway.gate.update(a_set(f"http://127.0.0.1:{backend.port}/base/", revision=2))
            async with client_of(gateway) as client:
                await client.say(b"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n")
                await client.answer()
            assert backend.heads[0].startswith(b"GET /base/v1 HTTP/1.1\r\n")

    run(main())


def test_a_kept_connection_carries_one_request_after_another() -> None:
    async def main() -> None:
        async with world(answers_ok) as ((backend,), gateway), client_of(gateway) as client:
            for _ in range(5):
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
                assert (await client.answer())[1] == b"ok"
            assert (backend.connections, len(backend.heads)) == (1, 5)
            assert gateway.gate.statistics().answered == 5

    run(main())


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def main() -> None:
        async with world(echoes) as ((_,), gateway), client_of(gateway) as client:
            each = [b"%d" % number * (number + 1) for number in range(50)]
            await client.say(
                b"".join(
                    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) for body in each
                )
            )
            assert [(await answer_of(client))[1] for _ in each] == each
            assert len(gateway.records) == 50

    run(main())


def test_chunks_and_trailers_go_both_ways() -> None:
    async def main() -> None:
        async with world(echoes) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b'3;a="b"\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\nX-Muster-Error: x\r\n'
                b"X_Muster_Error: x\r\nX-API-Key: mgw_secret\r\n\r\n"
            )
            await client.head()
            assert await chunked_body(client.reader) == (b"hello", b"X-Sum: 7\r\n")
            assert value(backend.heads[0], b"transfer-encoding") == b"chunked"

    run(main())


def test_a_replica_names_itself_in_no_trailer() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"2\r\nok\r\n0\r\nX-Muster-Replica: r9\r\nX-Sum: 7\r\n\r\n")

        async with world(handle) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert value(await client.head(), b"x-muster-replica") == b"r0"
            assert await chunked_body(client.reader) == (b"ok", b"X-Sum: 7\r\n")

    run(main())


def test_a_client_of_http_1_0_gets_an_answer_that_ends_with_the_connection() -> None:
    async def main() -> None:
        async with world(echoes) as ((_,), gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
            head = await client.head()
            assert value(head, b"transfer-encoding") is None
            assert value(head, b"connection") == b"close"
            assert await client.rest() == b"hi"

    run(main())


def test_a_client_of_http_1_0_may_keep_its_connection() -> None:
    async def main() -> None:
        async with world(answers_ok) as ((_,), gateway), client_of(gateway) as client:
            for _ in range(2):
                await client.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                head, _body = await client.answer()
                assert value(head, b"connection") == b"keep-alive"

    run(main())


def test_an_answer_to_head_has_a_length_and_no_body() -> None:
    async def main() -> None:
        handler = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
        async with world(handler) as ((backend,), gateway), client_of(gateway) as client:
            for _ in range(2):
                await client.say(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert value(await client.head(), b"content-length") == b"99"
            assert backend.connections == 1

    run(main())


def test_expect_100_continue_is_answered_by_the_replica() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await reader.readexactly(2) == b"hi"
            writer.write(OK)

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 100 ")
            await client.say(b"hi")
            assert (await client.answer())[1] == b"ok"
            assert value(backend.heads[0], b"expect") == b"100-continue"

    run(main())


def test_early_hints_are_passed_on_before_the_answer() -> None:
    async def main() -> None:
        handler = answers(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK)
        async with world(handler) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert value(await client.head(), b"link") == b"</a>"
            assert (await client.answer())[1] == b"ok"

    run(main())


def test_the_load_of_a_replica_is_learned_and_passed_on() -> None:
    async def main() -> None:
        load = b"TEXT named_metrics.in_flight=7,named_metrics.concurrency=9"
        handler = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nEndpoint-Load-Metrics: %b\r\n\r\n" % load)
        async with world(handler) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert value(await client.head(), b"endpoint-load-metrics") == load
            await until(lambda: gateway.records)
            (replica,) = gateway.gate.statistics().replicas
            assert replica.others == 6

    run(main())


def test_a_refusal_of_the_reception_is_an_answer_with_a_reason() -> None:
    async def main() -> None:
        refused = Refused(429, "too_many", "slow down", retry_after_seconds=1.2, key="alice")
        async with world(answers_ok, rule=lambda head, body: refused) as ((backend,), gateway):
            async with client_of(gateway) as client:
                for body in (b"", b"hi"):
                    await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                    head, text = await client.answer()
                    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
                    assert value(head, b"retry-after") == b"2"
                    said = {"message": "slow down", "type": "muster_gateway", "code": "too_many"}
                    assert json.loads(text) == {"error": said, "reason": "too_many"}
            assert backend.connections == 0
            assert [(each.status, each.reason, each.key) for each in gateway.records] == [
                (429, "too_many", "alice")
            ] * 2

    run(main())


def test_one_client_that_sends_many_requests_at_once_does_not_hold_up_the_others() -> None:
    async def main() -> None:
        refused = Refused(404, "no_route", "nowhere")
        async with world(answers_ok, rule=lambda head, body: refused) as (_, gateway), client_of(gateway) as client:
            writing = asyncio.ensure_future(client.say(GET * 3000))
            most, before = 0, 0
            while before < 3000:
                await asyncio.sleep(0)
                now = len(gateway.records)
                most, before = max(most, now - before), now
            await writing
            assert most < 100, f"{most} requests in one turn of the loop"
            for _ in range(3000):
                assert (await client.answer())[0].startswith(b"HTTP/1.1 404 ")

    run(main())


def test_what_the_reception_tells_is_an_answer_and_the_connection_goes_on() -> None:
    async def main() -> None:
        told = Told("models", b'{"object": "list"}', key="alice")
        async with world(answers_ok, rule=lambda head, body: told) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert value(await client.head(), b"content-length") == b"18"
                await client.say(GET)
                head, text = await client.answer()
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                assert value(head, b"content-type") == b"application/json"
                assert text == told.body
            assert backend.connections == 0
            assert [(each.status, each.reason, each.key) for each in gateway.records] == [(200, "models", "alice")] * 2

    run(main())


def needs(most_bytes: int) -> object:
    return NeedsBody(most_bytes, Refused(413, "model_too_far", f"the model is to be in the first {most_bytes} bytes"))


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("expects", [False, True])
def test_a_body_that_decides_is_held_and_then_sent(is_chunked: bool, expects: bool) -> None:
    async def main() -> None:
        seen: list[bytes | None] = []

        def rule(head: object, body: bytes | None) -> NeedsBody | None:
            seen.append(body)
            return needs(1000) if body is None else None  # type: ignore[return-value]

        async with world(echoes, rule=rule) as ((backend,), gateway), client_of(gateway) as client:
            framing = b"Transfer-Encoding: chunked\r\n" if is_chunked else b"Content-Length: 10\r\n"
            if expects:
                framing += b"Expect: 100-continue\r\n"
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n" % framing)
            if expects:
                assert (await client.head()).startswith(b"HTTP/1.1 100 ")
            for piece in (b"01234", b"56789"):
                await client.say(b"5\r\n%b\r\n" % piece if is_chunked else piece)
                await asyncio.sleep(0.01)
            if is_chunked:
                await client.say(b"0\r\n\r\n")
            assert (await answer_of(client))[1] == b"0123456789"
            assert seen == [None, b"0123456789"]
            assert value(backend.heads[0], b"expect") is None
            await client.say(GET)
            assert (await answer_of(client))[1] == b""
            assert seen[2:] == [None, b""]

    run(main())


@pytest.mark.parametrize(
    "sent", [b"Content-Length: 1001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n"]
)
def test_a_body_that_is_too_large_to_decide_is_refused(sent: bytes) -> None:
    async def main() -> None:
        async with world(echoes, rule=lambda head, body: needs(1000)) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\n" + sent)
                assert await reason_of(client) == (413, "model_too_far")
            assert backend.connections == 0
            assert [each.status for each in gateway.records] == [413]

    run(main())


def test_all_bodies_that_decide_are_held_within_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "_MOST_DECIDING_BYTES", 2500)
    needs = NeedsBody(1000, Refused(413, "model_too_far", "name it by the path"))
    start = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + bytes(900)

    async def main() -> None:
        def rule(head: RequestHead, body: bytes | None) -> NeedsBody | None:
            return needs if body is None else None

        async with world(answers_ok, rule=rule) as (_, gateway), contextlib.AsyncExitStack() as stack:
            first, second, third = [await stack.enter_async_context(client_of(gateway)) for _ in range(3)]
            for at, each in enumerate((first, second)):
                await each.say(start)
                await until(lambda at=at: gateway.protocols.guests.in_flight == at + 1)  # type: ignore[misc]
            await third.say(start)
            assert await reason_of(third) == (503, "too_many_bodies")
            first.writer.transport.abort()
            await until(lambda: len(gateway.records) == 2)
            await second.say(bytes(100) + start + bytes(100))
            assert (await second.answer())[1] == b"ok"
            assert (await second.answer())[1] == b"ok"
            assert gateway.protocols._shared.deciding_bytes == 0

    run(main())


def test_bodies_that_have_decided_count_for_as_long_as_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "_MOST_DECIDING_BYTES", 2500)
    whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + bytes(1000)

    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await backend.head(reader)
                await reader.readexactly(1000)
                await backend.release.wait()
                writer.write(OK)

        def rule(head: RequestHead, body: bytes | None) -> NeedsBody | None:
            return NeedsBody(1000, Refused(413, "model_too_far", "")) if body is None else None

        async with (
            world(handle, rule=rule, concurrency=1) as ((backend,), gateway),
            contextlib.AsyncExitStack() as stack,
        ):
            first, second, third = [await stack.enter_async_context(client_of(gateway)) for _ in range(3)]
            await first.say(whole)
            await until(lambda: backend.heads)
            await second.say(whole)
            await until(lambda: gateway.waiting)
            await third.say(whole)
            assert await reason_of(third) == (503, "too_many_bodies")
            backend.release.set()
            for each in (first, second):
                assert (await each.answer())[1] == b"ok"
            await third.say(whole)
            assert (await third.answer())[1] == b"ok"
            assert gateway.protocols._shared.deciding_bytes == 0

    run(main())


def test_a_length_above_the_limit_is_refused_at_once() -> None:
    async def main() -> None:
        async with world(echoes, most_body_bytes=100) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n")
            assert await reason_of(client) == (413, "body_too_large")
            assert backend.connections == 0
            assert gateway.reception.left == 1

    run(main())


def test_a_chunked_body_that_grows_above_the_limit_is_refused_in_the_middle() -> None:
    async def main() -> None:
        async with world(echoes, most_body_bytes=100) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + b"x" * 100)
            await until(lambda: backend.heads)
            await client.say(b"\r\n1\r\nx\r\n")
            assert await reason_of(client) == (413, "body_too_large")
            await until(lambda: backend.lost)
            assert gateway.in_flight == 0

    run(main())


def test_what_follows_a_body_that_was_too_large_is_the_next_request() -> None:
    async def main() -> None:
        async with world(answers_ok, most_body_bytes=3) as ((backend,), gateway), client_of(gateway) as client:
            body = b"5\r\nhello\r\n0\r\n\r\n"
            await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body + GET)
            assert await reason_of(client) == (413, "body_too_large")
            assert (await client.answer())[1] == b"ok"
            assert len(backend.heads) == 1

    run(main())


def test_a_body_of_which_nothing_comes_is_given_up() -> None:
    async def main() -> None:
        async with world(echoes, limits=Limits(body_seconds=0.1, linger_seconds=0.1)) as ((backend,), gateway):
            async with client_of(gateway) as client:
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
                assert await reason_of(client) == (408, "body_timeout")
                assert await client.rest() == b""
                await until(lambda: backend.lost)
            assert [(each.status, each.replica) for each in gateway.records] == [(408, "r0")]

    run(main())


def test_a_leaving_hall_ends_connections_with_their_answers() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await backend.release.wait()
            writer.write(OK)

        async with world(handle) as ((backend,), gateway), client_of(gateway) as idle, client_of(gateway) as busy:
            await busy.say(GET)
            await until(lambda: backend.heads)
            assert (gateway.protocols.guests.open_connections, gateway.protocols.guests.in_flight) == (2, 1)
            gateway.hall.is_leaving = True
            gateway.protocols.close_idle()
            assert await idle.rest() == b""
            backend.release.set()
            head, body = await busy.answer()
            assert (value(head, b"connection"), body) == (b"close", b"ok")
            assert await busy.rest() == b""
            await until(lambda: not gateway.protocols.guests.open_connections)

    run(main())
