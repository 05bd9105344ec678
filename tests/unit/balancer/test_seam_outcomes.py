"""What the balancer learns from each way in which a request can end, whichever seam it came through."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import requests

from muster.balancer.balancer import Balancer
from muster.balancer.call import LONGEST_PAUSE_SECONDS, Call
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.requests_adapter import MusterAdapter
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import Gate
from muster.model.endpoint import Endpoint
from tests.unit.balancer.servers import (
    Behaviour,
    Seen,
    Server,
    dead,
    dies_before_answer,
    dies_in_body,
    endpoint_set,
    held,
    ok,
    refuses,
    serving,
    streams_until_told,
    until,
)


class Noting(Gate):
    """A gate that notes with what each lease ended, and what was reported before that."""

    def __init__(self) -> None:
        super().__init__(Balancer("digits", random.Random(1), concurrency=8), wait_seconds=5)
        self.outcomes: list[tuple[str, Outcome]] = []
        self.reports: list[LoadReport] = []

    def release(self, lease: Lease, outcome: Outcome = Outcome.OK) -> bool:
        is_first = super().release(lease, outcome)
        if is_first:
            self.outcomes.append((lease.endpoint.id, outcome))
        return is_first

    def reported(self, lease: Lease, report: LoadReport) -> None:
        assert not lease.is_released
        self.reports.append(report)
        super().reported(lease, report)


def answers(head: str, body: str = "") -> Behaviour:
    """Answer with these bytes, which need not be HTTP, and end the connection where they promise more."""

    async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write((head.replace("\n", "\r\n") + "\r\n\r\n" + body).encode())
        await writer.drain()

    return behave


def status(code: int, *more: str) -> Behaviour:
    return answers("\n".join((f"HTTP/1.1 {code} X", "Content-Length: 2", *more)), "hi")


async def garbage(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer as something that is no HTTP server."""
    writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
    await writer.drain()
    writer.close()


Ask = Callable[..., Awaitable[Any]]
Use = Callable[[Ask], Awaitable[None]]
Way = Callable[[Gate, Use], Awaitable[None]]


async def by_task(gate: Gate, use: Use) -> None:
    async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:
        await use(client.request)


async def by_thread(gate: Gate, use: Use) -> None:
    with httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as client:

        async def ask(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(client.request, *args, **options)

        await use(ask)


async def by_requests(gate: Gate, use: Use) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://digits", MusterAdapter(gate))

        async def ask(method: str, path: str, **options: Any) -> Any:
            if "content" in options:
                options["data"] = options.pop("content")
            return await asyncio.to_thread(session.request, method, f"http://digits{path}", **options)

        await use(ask)


every = pytest.mark.parametrize("way", [by_task, by_thread, by_requests], ids=["async", "sync", "requests"])
BROKEN = (
    httpx.ReadError,
    httpx.RemoteProtocolError,
    requests.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
)


async def outcomes(way: Way, *members: Server | Endpoint, use: Use) -> list[Outcome]:
    gate = Noting()
    gate.update(endpoint_set(*members))
    await way(gate, use)
    await until(lambda: gate.statistics().in_flight == 0)
    return [outcome for _, outcome in gate.outcomes]


@every
@pytest.mark.parametrize(
    ("code", "more", "outcome"),
    [
        (200, (), Outcome.OK),
        (301, (), Outcome.OK),
        (404, (), Outcome.UNREAD),
        (422, (), Outcome.UNREAD),
        (429, (), Outcome.BUSY),
        (500, (), Outcome.ERROR),
        (500, ("Retry-After: 1",), Outcome.ERROR),
        (503, (), Outcome.ERROR),
        (503, ("Retry-After: 1",), Outcome.BUSY),
    ],
)
def test_an_answer_that_was_read_says_what_its_status_says(
    way: Way, code: int, more: tuple[str, ...], outcome: Outcome
) -> None:
    async def scenario() -> None:
        async with serving(a=status(code, *more)) as servers:

            async def use(ask: Ask) -> None:
                for method in ("GET", "POST"):  # one is read before it is handed over, the other after
                    response = await ask(method, "/")
                    assert (response.status_code, response.text) == (code, "hi")

            assert await outcomes(way, servers["a"], use=use) == [outcome, outcome]

    asyncio.run(scenario())


@every
def test_a_connection_that_breaks_after_sending_is_an_error_of_the_replica(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=dies_before_answer) as early, serving(b=dies_in_body) as late, serving(c=garbage) as odd:

            async def use(ask: Ask) -> None:
                with pytest.raises(BROKEN):
                    await ask("POST", "/")

            for server in (early["a"], late["b"], odd["c"]):
                assert await outcomes(way, server, use=use) == [Outcome.ERROR]

    asyncio.run(scenario())


@every
def test_what_its_ingress_got_no_answer_to_is_an_error_unless_it_was_a_time_out(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=status(502, "x-muster-error: closed"), b=status(504, "x-muster-error: late")) as servers:

            async def use(ask: Ask) -> None:
                assert (await ask("POST", "/")).status_code in (502, 504)

            assert await outcomes(way, servers["a"], use=use) == [Outcome.ERROR]
            assert await outcomes(way, servers["b"], use=use) == [Outcome.TIMED_OUT]

    asyncio.run(scenario())


@every
def test_a_time_out_is_told_from_what_says_nothing(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=held) as servers:

            async def use(ask: Ask) -> None:
                with pytest.raises((httpx.ReadTimeout, requests.ReadTimeout), match=r"a at http://127\.0\.0\.1"):
                    await ask("POST", "/", timeout=0.05)

            assert await outcomes(way, servers["a"], use=use) == [Outcome.TIMED_OUT]

    asyncio.run(scenario())


def test_a_caller_that_goes_away_says_nothing() -> None:
    async def scenario() -> None:
        async with serving(a=held) as servers:

            async def use(ask: Ask) -> None:
                task = asyncio.ensure_future(ask("POST", "/"))
                await until(lambda: servers["a"].in_flight == 1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

            assert await outcomes(by_task, servers["a"], use=use) == [Outcome.FAILED]

    asyncio.run(scenario())


def test_a_body_that_fails_on_its_way_out_says_nothing() -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:

            async def body() -> Any:
                yield b"x"
                raise ZeroDivisionError

            async def use(ask: Ask) -> None:
                with pytest.raises(ZeroDivisionError):
                    await ask("POST", "/", content=body())

            assert await outcomes(by_task, servers["a"], use=use) == [Outcome.FAILED]

    asyncio.run(scenario())


def test_an_answer_that_is_closed_unread_says_only_that_there_was_one() -> None:
    async def scenario() -> None:
        async with serving(a=streams_until_told) as servers:
            gate = Noting()
            gate.update(endpoint_set(servers["a"]))
            async with (
                httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client,
                client.stream("POST", "/"),
            ):
                pass

            def by_threads() -> None:
                with (
                    httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as client,
                    client.stream("POST", "/") as response,
                ):
                    next(response.iter_raw())
                with requests.Session() as session:
                    session.mount("http://digits", MusterAdapter(gate))
                    session.post("http://digits/", stream=True).close()

            await asyncio.to_thread(by_threads)
            assert [outcome for _, outcome in gate.outcomes] == [Outcome.UNREAD] * 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("chunks", "outcome"),
    [
        (["data: {}\n\n", "data: [DONE]\n\n"], Outcome.OK),
        (["data: {}\n\nda", "ta: [DO", "NE]\r\n"], Outcome.OK),
        (["data: {}\n\n", "data: {}\n\n"], Outcome.UNREAD),
        (["data: [DONE]\n\n", "data: and more\n\n"], Outcome.UNREAD),
    ],
)
def test_a_stream_of_events_that_says_it_is_done_is_read_though_its_last_byte_is_not(
    chunks: list[str], outcome: Outcome
) -> None:
    async def events(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            writer.write(f"{len(chunk):x}\r\n{chunk}\r\n".encode())
        await writer.drain()
        await server.gate.wait()

    async def scenario() -> None:
        async with serving(a=events) as servers:
            gate = Noting()
            gate.update(endpoint_set(servers["a"]))
            async with (
                httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client,
                client.stream("POST", "/") as response,
            ):
                found = b""
                async for chunk in response.aiter_raw():
                    found += chunk
                    if len(found) == len("".join(chunks)):
                        break
            assert gate.outcomes == [("a", outcome)]

    asyncio.run(scenario())


@every
def test_what_a_replica_reports_of_its_load_is_taken_over_from_answers_and_refusals(way: Way) -> None:
    load = (
        "endpoint-load-metrics: TEXT application_utilization=0.5,named_metrics.in_flight={},named_metrics.concurrency=4"
    )

    async def scenario() -> None:
        full = status(503, "x-muster-refused: over_capacity", load.format(4))
        async with serving(a=full, b=status(200, load.format(2)), c=status(200, "endpoint-load-metrics: ?")) as servers:
            for name, found in (("a", LoadReport(4, 4)), ("b", LoadReport(2, 4))):
                gate = Noting()
                gate.update(endpoint_set(servers[name]))

                async def use(ask: Ask) -> None:
                    with contextlib.suppress(httpx.PoolTimeout, requests.ConnectTimeout):
                        await ask("GET", "/", headers={"X-Muster-Timeout": "0.01"})

                await way(gate, use)
                assert gate.reports
                assert all(each == found for each in gate.reports)
            gate = Noting()
            gate.update(endpoint_set(servers["c"]))
            await way(gate, lambda ask: ask("GET", "/"))
            assert not gate.reports, "what cannot be read is left alone"

    asyncio.run(scenario())


@every
def test_a_replica_that_answers_garbage_is_named_and_an_idempotent_call_goes_elsewhere(way: Way) -> None:
    async def scenario() -> None:
        async with serving(bad=garbage, good=ok) as servers:

            async def alone(ask: Ask) -> None:
                url = servers["bad"].endpoint.url
                with pytest.raises((httpx.RemoteProtocolError, requests.ConnectionError)) as caught:
                    await ask("POST", "/")
                assert f"bad at {url}: " in str(caught.value)
                before = len(servers["bad"].seen)
                with pytest.raises((httpx.RemoteProtocolError, requests.ConnectionError)):
                    await ask("GET", "/")
                assert len(servers["bad"].seen) - before == 3, "bounded"

            async def both(ask: Ask) -> None:
                for _ in range(6):
                    assert (await ask("GET", "/")).text == "good"

            assert await outcomes(way, servers["bad"], use=alone) == [Outcome.ERROR] * 4
            assert Outcome.ERROR in await outcomes(way, *servers.values(), use=both)

    asyncio.run(scenario())


@every
def test_no_answer_of_a_broken_stream_hides_where_it_broke(way: Way) -> None:
    async def scenario() -> None:
        async with serving(half=dies_in_body) as servers:

            async def use(ask: Ask) -> None:
                with pytest.raises(BROKEN, match=r"half at http://127\.0\.0\.1:\d+: "):
                    await ask("POST", "/")

            await outcomes(way, servers["half"], use=use)

    asyncio.run(scenario())


@every
def test_a_request_that_nobody_can_take_is_no_busy_loop(way: Way) -> None:
    async def scenario() -> None:
        gate = Noting()
        gate.update(endpoint_set(dead("a"), dead("b")))

        async def use(ask: Ask) -> None:
            with pytest.raises((httpx.ConnectError, requests.ConnectionError)):
                await ask("GET", "/", headers={"X-Muster-Timeout": "1"})

        await way(gate, use)
        assert 2 <= len(gate.outcomes) <= 10

    asyncio.run(scenario())


def test_who_cannot_connect_to_the_same_replica_again_pauses_longer_each_time_and_by_chance() -> None:
    call = Call(httpx.Request("POST", "http://digits/"), now=0.0, wait_seconds=30.0)
    pauses = []
    for _ in range(12):
        call.failed(dead("a"), httpx.ConnectError("refused"))
        pauses.append((call.pause_seconds(0.0), call.pause_seconds(1.0)))
    assert pauses[:4] == [(0.0, 0.0), (0.005, 0.01), (0.01, 0.02), (0.02, 0.04)]
    assert pauses[-1] == (LONGEST_PAUSE_SECONDS / 2, LONGEST_PAUSE_SECONDS)
    call.failed(dead("b"), httpx.ConnectError("refused"))
    assert call.pause_seconds(1.0) == 0, "another replica is tried at once"
    for _ in range(2):
        call.failed(dead("b"), httpx.ReadError("broken"))
    assert call.pause_seconds(1.0) == 0, "what may have been sent is bounded by resends"
    call.answered(dead("a"), httpx.Response(503, headers={"x-muster-refused": "over_capacity"}))
    assert call.pause_seconds(1.0) == 0, "the balancer lets it rest"


@every
def test_refusals_need_no_mark_and_no_token_however_many(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("over_capacity", times=4)) as servers:

            async def use(ask: Ask) -> None:
                assert (await ask("POST", "/", content=b"x")).text == "a"

            found = await outcomes(way, servers["a"], use=use)
            assert found == [Outcome.FULL] * 4 + [Outcome.OK]

    asyncio.run(scenario())
