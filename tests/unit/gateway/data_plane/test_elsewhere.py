"""Which requests go to another replica, which do not, and what is concluded about who failed them."""

import asyncio
import datetime
import socket
import struct
import time

import pytest

from muster.balancer.ask import Ask
from muster.balancer.options import Options
from muster.gateway.port import Limits
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet
from tests.unit.gateway.data_plane.ground import a_set, chunked_body, client_of, gateway_to, run, url_of, world
from tests.unit.gateway.data_plane.test_requests import answer_of, echoes, reason_of
from tests.unit.ingress.http.ground import GET, OK, Backend, Handler, answers_ok, backend_of, until, value

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\nX-Sum: 7\r\n\r\n"


def refusing(reason: bytes = b"draining", body: bytes = b"no\n") -> bytes:
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nX-Muster-Refused: %b\r\nRetry-After: 1\r\n"
        b"Endpoint-Load-Metrics: TEXT named_metrics.in_flight=0,named_metrics.concurrency=8\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (reason, len(body), body)
    )


def reads_then(answer: bytes, *, then_closes: bool = False) -> Handler:
    """Return a handler that reads each request to its end and answers with bytes, or only closes."""

    async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await backend.head(reader)
            if value(head, b"transfer-encoding"):
                await chunked_body(reader)
            await reader.readexactly(int(value(head, b"content-length") or 0))
            writer.write(answer)
            if then_closes:
                return

    return handle


def nobody() -> str:
    """Return the address of a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("sent", [GET, POST, CHUNKED])
@pytest.mark.parametrize("reason", [b"draining", b"over_capacity", b"unreachable", b"something_new"])
def test_a_refused_request_goes_elsewhere_with_its_body(sent: bytes, reason: bytes) -> None:
    async def main() -> None:
        async with world(reads_then(refusing(reason)), echoes) as ((refuser, server), gateway):
            async with client_of(gateway) as client:
                for _ in range(8):
                    await client.say(sent)
                    head, body = await answer_of(client)
                    assert body == (b"" if sent is GET else b"hi")
                    assert value(head, b"x-muster-replica") == b"r1"
            assert refuser.heads
            assert len(server.heads) == 8
            assert refuser.connections == 1
            assert sorted({each.attempts for each in gateway.records}) in ([1, 2], [2])
            assert {each.replica for each in gateway.records} == {"r1"}
            assert gateway.gate.statistics().resent == 0

    run(main())


def test_who_cannot_be_reached_by_its_ingress_is_said_to_be_so() -> None:
    async def main() -> None:
        refuses = reads_then(refusing(b"unreachable"))
        async with world(refuses, wait_seconds=0.3) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"the last: its ingress could not reach it" in body

    run(main())


def test_a_body_that_is_too_large_to_be_kept_is_not_sent_elsewhere() -> None:
    async def main() -> None:
        body = b"x" * 300_000
        async with world(reads_then(refusing()), limits=Limits(replay_bytes=100_000)) as (_, gateway):
            async with client_of(gateway) as client:
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                head, _text = await client.answer()
                assert head.startswith(b"HTTP/1.1 503 ")
                assert value(head, b"retry-after") == b"1"
            assert gateway.records[0].reason == "body_not_kept"

    run(main())


def test_a_large_body_is_still_sent_elsewhere_by_a_refusal_before_it_was_read() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(refusing())
            await reader.read()

        async with world(handle, echoes) as ((refuser, _), gateway), client_of(gateway) as client:
            for _ in range(8):
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 1000)
                await asyncio.sleep(0.02)
                await client.say(b"x" * 199_000)
                assert (await answer_of(client))[1] == b"x" * 200_000
            assert refuser.heads

    run(main())


def test_a_replica_that_nobody_can_connect_to_is_put_aside() -> None:
    async def main() -> None:
        async with backend_of(echoes) as backend, gateway_to(nobody(), url_of(backend)) as gateway:
            async with client_of(gateway) as client:
                for _ in range(20):
                    await client.say(POST)
                    assert (await answer_of(client))[1] == b"hi"
            assert sum(each.attempts for each in gateway.records) < 25
            assert {each.replica for each in gateway.records} == {"r1"}

    run(main())


def test_nobody_to_connect_to_is_a_503_once_the_wait_is_over() -> None:
    async def main() -> None:
        async with gateway_to(nobody(), wait_seconds=0.4) as gateway, client_of(gateway) as client:
            await client.say(POST)
            assert await reason_of(client) == (503, "unreachable")
            (record,) = gateway.records
            assert record.attempts < 60  # it pauses between them
            assert record.seconds >= 0.4

    run(main())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"", "replica_broke"),
        (b"HTTP/1.1 200 O", "replica_broke"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "garbled"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "garbled"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "garbled"),
        (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "garbled"),
    ],
)
def test_a_request_that_may_have_been_done_is_not_done_again(broken: bytes, reason: str) -> None:
    async def main() -> None:
        async with world(reads_then(broken, then_closes=True)) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(POST)
            assert await reason_of(client) == (502, reason)
            assert len(backend.heads) == 1
            assert [(each.status, each.reason) for each in gateway.records] == [(502, reason)]

    run(main())


@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
@pytest.mark.parametrize("is_said", [False, True])
def test_an_idempotent_request_survives_a_broken_replica(broken: bytes, is_said: bool) -> None:
    async def main() -> None:
        options = Options(is_idempotent=True) if is_said else Options()
        async with world(reads_then(broken, then_closes=True), reads_then(OK), options=options) as (both, gateway):
            async with client_of(gateway) as client:
                for _ in range(6):
                    await client.say(POST if is_said else GET)
                    head, body = await client.answer()
                    assert (value(head, b"x-muster-replica"), body) == (b"r1", b"ok")
            assert both[0].heads
            assert gateway.gate.statistics().resent == len(both[0].heads)

    run(main())


def test_what_was_held_back_of_an_answer_and_never_sent_is_not_counted_as_sent() -> None:
    async def main() -> None:
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
        async with world(reads_then(half, then_closes=True)) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert await reason_of(client) == (502, "replica_broke")
            assert [each.bytes_out for each in gateway.records] == [0]

    run(main())


def test_an_idempotent_request_goes_again_as_often_as_it_may() -> None:
    async def main() -> None:
        broken = reads_then(b"", then_closes=True)
        async with world(broken, broken, broken, broken) as (backends, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert await reason_of(client) == (502, "replica_broke")
            assert sum(len(each.heads) for each in backends) == 3
            assert gateway.records[0].attempts == 3

    run(main())


def test_an_ingress_that_got_no_answer_counts_as_a_break() -> None:
    async def main() -> None:
        failed = b"HTTP/1.1 502 Bad Gateway\r\nX-Muster-Error: closed\r\nContent-Length: 4\r\n\r\nhurt"
        async with world(reads_then(failed), reads_then(OK)) as (_, gateway), client_of(gateway) as client:
            statuses = set()
            for _ in range(10):
                await client.say(GET)
                assert (await client.answer())[1] == b"ok"
            for _ in range(10):
                await client.say(POST)
                head, body = await client.answer()
                assert value(head, b"x-muster-error") is None
                statuses.add((head.split()[1], body))
            assert statuses <= {(b"200", b"ok"), (b"502", b"hurt")}

    run(main())


def test_a_replica_that_says_it_is_overloaded_rests_and_its_answer_is_passed_on() -> None:
    async def main() -> None:
        busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy"
        async with world(reads_then(busy), reads_then(OK)) as ((first, _), gateway), client_of(gateway) as client:
            found = []
            for _ in range(20):
                await client.say(GET)
                found.append((await client.answer())[1])
            assert found.count(b"busy") == len(first.heads)
            assert 1 <= len(first.heads) < 5

    run(main())


def test_a_kept_connection_that_closes_under_an_idempotent_request_costs_nothing() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(OK)
            if backend.connections == 1:
                await backend.head(reader)
                return
            await reader.read()

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            for _ in range(2):
                await client.say(GET)
                assert (await client.answer())[1] == b"ok"
            assert backend.connections == 2
            assert [each.attempts for each in gateway.records] == [1, 1]
            assert gateway.gate.statistics().resent == 0

    run(main())


def test_connections_to_an_endpoint_that_left_its_set_are_ended() -> None:
    async def main() -> None:
        async with world(answers_ok, answers_ok) as (both, gateway), client_of(gateway) as client:
            for _ in range(20):
                await client.say(GET)
                await client.answer()
            assert [each.connections for each in both] == [1, 1]
            gateway.gate.update(a_set(url_of(both[0]), revision=2))
            await client.say(GET)
            await client.answer()
            await until(lambda: both[1].lost)
            assert both[0].lost == 0
            assert gateway.protocols.pools.free_connections == 1

    run(main())


def test_half_an_answer_is_a_broken_connection() -> None:
    async def main() -> None:
        half = b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\nhalf"
        async with world(reads_then(half, then_closes=True)) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await until(lambda: gateway.records)
            assert [(each.status, each.reason) for each in gateway.records] == [(200, "replica_broke")]

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

        async with world(handle) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(GET)
            await client.head()
            assert await client.exactly(4) == b"half"
            backend.release.set()
            with pytest.raises(ConnectionResetError):
                await client.rest()

    run(main())


def test_a_service_of_raw_tcp_is_not_spoken_to() -> None:
    async def main() -> None:
        endpoint = Endpoint("r0", "tcp://127.0.0.1:1", PortProtocol.TCP)
        known = EndpointSet(1, 1, (endpoint,), datetime.datetime.now(datetime.UTC))
        async with gateway_to(known=known) as gateway, client_of(gateway) as client:
            await client.say(GET)
            assert await reason_of(client) == (502, "not_http")

    run(main())


def test_a_deadline_ends_a_request_that_nobody_answers() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            await reader.read()

        options = Options(ask=Ask(answer_by=time.monotonic() + 0.2))
        async with world(handle, options=options) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(GET)
            assert await reason_of(client) == (504, "deadline")
            await until(lambda: backend.lost)
            await client.say(GET)
            assert await reason_of(client) == (503, "deadline")
            assert [each.attempts for each in gateway.records] == [1, 0]

    run(main())


def test_a_deadline_beyond_all_counting_is_none() -> None:
    async def main() -> None:
        options = Options(ask=Ask(answer_by=1e308))
        async with world(answers_ok, options=options) as (_, gateway), client_of(gateway) as client:
            await client.say(GET)
            assert (await client.answer())[1] == b"ok"

    run(main())


def test_a_deadline_in_the_middle_of_an_answer_breaks_it_off() -> None:
    async def main() -> None:
        async def handle(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            await reader.read()

        options = Options(ask=Ask(answer_by=time.monotonic() + 0.2))
        async with world(handle, options=options) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(GET)
            await client.head()
            with pytest.raises(ConnectionResetError):
                await client.rest()
            await until(lambda: backend.lost)
            assert [(each.status, each.reason) for each in gateway.records] == [(200, "deadline")]

    run(main())


def test_a_client_that_waits_to_be_told_is_told_by_the_replica_that_takes_it() -> None:
    async def main() -> None:
        async def takes(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                assert value(await backend.head(reader), b"expect") == b"100-continue"
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await reader.readexactly(2)
                writer.write(OK)

        async def refuses(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await backend.head(reader)
            writer.write(refusing())
            await reader.read()

        async with world(refuses, takes) as ((refuser, _), gateway), client_of(gateway) as client:
            for _ in range(6):
                await client.say(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
                assert (await client.head()).startswith(b"HTTP/1.1 100 ")
                await client.say(b"hi")
                assert (await client.answer())[1] == b"ok"
            assert refuser.heads

    run(main())


def test_only_what_may_be_repeated_takes_a_connection_that_was_idle_for_long() -> None:
    async def main() -> None:
        async with world(echoes) as ((backend,), gateway), client_of(gateway) as client:
            for sent, connections in ((POST, 1), (POST, 1), (GET, 1), (POST, 2)):
                if sent is GET:
                    await asyncio.sleep(1.1)  # longer than SAFELY_IDLE_SECONDS
                    await client.say(GET)
                    await answer_of(client)
                    await asyncio.sleep(1.1)
                else:
                    await client.say(sent)
                    await answer_of(client)
                assert backend.connections == connections
            assert gateway.protocols.pools.free_connections == 2

    run(main())


@pytest.mark.slow
def test_connections_that_nobody_uses_are_ended() -> None:
    async def main() -> None:
        async with world(echoes) as ((backend,), gateway), client_of(gateway) as client:
            await client.say(GET)
            await answer_of(client)
            await until(lambda: backend.lost)
            assert gateway.protocols.pools.free_connections == 0

    run(main())
