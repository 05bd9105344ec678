"""What an ingress refused goes elsewhere: both transports, and the explicit form."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from muster.balancer import eject, refusal
from muster.balancer.balancer import Balancer
from muster.balancer.faults import ServiceBusy, ServiceUnreachable
from muster.balancer.lease import Outcome
from muster.balancer.refusal import CLOSED_SECONDS, outcome_of
from muster.balancer.ticket import Ticket
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import Gate
from muster.errors import QueueTimeout
from muster.model.endpoint import Endpoint
from tests.unit.balancer.servers import (
    Seen,
    Server,
    dead,
    endpoint_set,
    held,
    ok,
    refuses,
    serving,
    unavailable,
    until,
)

CLOSED = ("draining", "ended", "not_started")
EVERY = (*CLOSED, "over_capacity", "unreachable", "a-word-of-a-newer-ingress")

Ask = Callable[..., Awaitable[httpx.Response]]
Scenario = Callable[[Gate, Ask], Awaitable[None]]


async def by_task(gate: Gate, use: Scenario) -> None:
    async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:
        await use(gate, client.request)


async def by_thread(gate: Gate, use: Scenario) -> None:
    with httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as client:

        async def ask(*args: object, **options: object) -> httpx.Response:
            return await asyncio.to_thread(client.request, *args, **options)  # type: ignore[arg-type]

        await use(gate, ask)


@pytest.fixture(params=[by_task, by_thread], ids=["async", "sync"])
def way(request: pytest.FixtureRequest) -> Callable[[Gate, Scenario], Awaitable[None]]:
    return request.param  # type: ignore[no-any-return]


Way = Callable[[Gate, Scenario], Awaitable[None]]


async def balance(way: Way, *members: Server | Endpoint, use: Scenario, concurrency: int = 8) -> None:
    gate = Gate(Balancer("digits", random.Random(1), concurrency=concurrency), wait_seconds=5)
    gate.update(endpoint_set(*members))
    await way(gate, use)
    await until(lambda: gate.statistics().in_flight == 0)
    assert gate.statistics().waiting == 0


@pytest.mark.parametrize("reason", EVERY)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_was_refused_goes_elsewhere_at_once_whatever_its_method(
    way: Way, method: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLOSED_SECONDS", "SHORTEST_SECONDS", "LONGEST_SECONDS"):  # than a busy machine takes for a dozen
        monkeypatch.setattr(refusal, name, 60.0)
    monkeypatch.setattr(eject, "FIRST_SECONDS", 60.0)

    async def scenario() -> None:
        async with serving(a=refuses(reason), b=ok) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                for _ in range(12):
                    response = await ask(method, "/", content=b"body")
                    assert (response.status_code, response.text) == (200, "b")
                assert {each.aside_seconds > 0 for each in gate.statistics().replicas if each.id == "a"} == {True}

            await balance(way, *servers.values(), use=use)
            assert len(servers["a"].seen) == 1, "it is left alone after the first"
            assert all(each.body == b"body" for each in servers["b"].seen)

    asyncio.run(scenario())


def test_an_answer_says_how_often_the_request_was_sent_and_the_connection_is_kept(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("over_capacity", times=2)) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                response = await ask("POST", "/")
                assert response.extensions["muster"] == {"endpoint": "a", "sends": 3}

            await balance(way, servers["a"], use=use)
            assert servers["a"].connections == 1

    asyncio.run(scenario())


def test_refusals_take_nothing_from_the_retry_budget(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("draining"), b=ok) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                while gate.may_resend():
                    pass
                assert (await ask("POST", "/")).text == "b"
                assert (await ask("POST", "/")).text == "b"

            await balance(way, *servers.values(), use=use)

    asyncio.run(scenario())


def test_one_that_is_back_in_a_newer_set_is_used_at_once(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("not_started", times=1)) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                async with asyncio.TaskGroup() as group:
                    request = group.create_task(_of(ask("GET", "/")))
                    await until(lambda: gate.statistics().waiting == 1)
                    before = asyncio.get_running_loop().time()
                    gate.update(endpoint_set(servers["a"], revision=2))
                assert request.result().text == "a"
                assert asyncio.get_running_loop().time() - before < CLOSED_SECONDS / 2

            await balance(way, servers["a"], use=use)

    asyncio.run(scenario())


def test_one_that_leaves_the_set_is_not_asked_again_and_those_that_wait_get_its_successor(way: Way) -> None:
    async def scenario() -> None:
        async with serving(old=refuses("draining"), new=ok) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                async with asyncio.TaskGroup() as group:
                    requests = [group.create_task(_of(ask("POST", "/"))) for _ in range(5)]
                    await until(lambda: gate.statistics().waiting == 5)
                    gate.update(endpoint_set(servers["new"], revision=2))
                assert {each.result().text for each in requests} == {"new"}

            await balance(way, servers["old"], use=use)
            assert len(servers["old"].seen) <= 5

    asyncio.run(scenario())


def test_a_full_one_is_asked_again_soon(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("over_capacity", times=3)) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                before = asyncio.get_running_loop().time()
                assert (await ask("POST", "/")).text == "a"
                assert asyncio.get_running_loop().time() - before < CLOSED_SECONDS

            await balance(way, servers["a"], use=use)
            assert len(servers["a"].seen) == 4

    asyncio.run(scenario())


def test_a_request_waits_for_our_own_slot_rather_than_for_a_replica_that_is_full_of_others(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("over_capacity"), b=held) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                async with asyncio.TaskGroup() as group:
                    requests = [group.create_task(_of(ask("POST", "/"))) for _ in range(3)]
                    await until(lambda: servers["b"].in_flight == 1 and len(servers["a"].seen) > 1)
                    servers["b"].gate.set()
                assert Counter(each.result().text for each in requests) == {"b": 3}

            await balance(way, *servers.values(), use=use, concurrency=1)

    asyncio.run(scenario())


@pytest.mark.parametrize("reason", ["draining", "over_capacity"])
def test_when_all_refuse_until_the_deadline_the_service_is_busy_as_when_we_had_counted_it_ourselves(
    way: Way, reason: str
) -> None:
    async def scenario() -> None:
        async with serving(a=refuses(reason), b=refuses(reason)) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                with pytest.raises(httpx.PoolTimeout, match=f"requests were refused, the last: {reason}") as caught:
                    await ask("GET", "/", extensions={"muster": {"timeout": 0.3}})
                assert isinstance(caught.value, ServiceBusy)
                assert isinstance(caught.value, QueueTimeout)

            await balance(way, *servers.values(), use=use)

    asyncio.run(scenario())


def test_when_no_ingress_can_connect_until_the_deadline_the_service_is_unreachable(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("unreachable")) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                with pytest.raises(httpx.ConnectError, match="the ingress of a could not connect") as caught:
                    await ask("POST", "/", extensions={"muster": {"timeout": 0.3}})
                assert isinstance(caught.value, ServiceUnreachable)

            await balance(way, servers["a"], use=use)

    asyncio.run(scenario())


def test_the_last_thing_that_happened_names_the_error(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("draining")) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                with pytest.raises((ServiceBusy, ServiceUnreachable)) as caught:
                    await ask("POST", "/", extensions={"muster": {"timeout": 0.3}})
                is_refused = "the last: draining" in str(caught.value)
                assert isinstance(caught.value, ServiceBusy) is is_refused

            await balance(way, servers["a"], dead(), use=use)

    asyncio.run(scenario())


def test_a_body_that_cannot_be_sent_again_brings_the_refusal_to_the_caller_and_spares_the_next(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=refuses("draining"), b=ok) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                statuses = []
                for _ in range(10):
                    body = _chunks() if way is by_task else _sync_chunks()
                    response = await ask("POST", "/", content=body)
                    statuses.append(response.status_code)
                    if response.status_code == 503:
                        assert response.headers["x-muster-refused"] == "draining"
                        assert response.headers["retry-after"] == "1"
                        assert response.json()["reason"] == "draining"
                assert Counter(statuses) == {200: 9, 503: 1}

            await balance(way, *servers.values(), use=use)
            assert all(each.body == b"onetwo" for each in servers["b"].seen)

    asyncio.run(scenario())


def test_an_answer_of_the_container_is_an_answer(way: Way) -> None:
    async def refused_by_a_200(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nx-muster-refused: draining\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async def scenario() -> None:
        for behaviour, status in ((unavailable, 503), (refused_by_a_200, 200)):
            async with serving(a=behaviour, b=behaviour) as servers:

                async def use(gate: Gate, ask: Ask, status: int = status) -> None:
                    assert (await ask("GET", "/")).status_code == status

                await balance(way, *servers.values(), use=use)
                assert len(servers["a"].seen) + len(servers["b"].seen) == 1

    asyncio.run(scenario())


def test_a_refusal_that_breaks_off_or_never_ends_is_one_all_the_same(way: Way) -> None:
    async def breaks_off(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 X\r\nx-muster-refused: draining\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        writer.transport.abort()

    async def never_ends(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 X\r\nx-muster-refused: draining\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await writer.drain()
        await server.gate.wait()

    async def scenario() -> None:
        async with serving(a=breaks_off, b=never_ends, c=ok) as servers:

            async def use(gate: Gate, ask: Ask) -> None:
                for _ in range(4):
                    assert (await ask("POST", "/", extensions={"muster": {"timeout": 3}})).text == "c"

            await balance(way, *servers.values(), use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("draining", Outcome.CLOSED),
        ("ended", Outcome.CLOSED),
        ("not_started", Outcome.CLOSED),
        (" Over_Capacity ", Outcome.FULL),
        ("unreachable", Outcome.UNREACHABLE),
        ("", Outcome.FULL),
        ("something-new", Outcome.FULL),
    ],
)
def test_every_reason_has_a_meaning(reason: str, outcome: Outcome) -> None:
    assert outcome_of(reason) is outcome


async def _of(answer: Awaitable[httpx.Response]) -> httpx.Response:
    return await answer


async def _chunks() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


def _sync_chunks() -> Iterator[bytes]:
    yield b"one"
    yield b"two"


@pytest.mark.parametrize("status", [502, 504])
def test_what_the_ingress_got_no_answer_to_goes_again_only_if_it_may_be_repeated(way: Way, status: int) -> None:
    async def no_answer(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nx-muster-error: closed\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()

    async def scenario() -> None:
        async with serving(a=no_answer) as bad, serving(b=ok) as good:

            async def alone(gate: Gate, ask: Ask) -> None:
                assert (await ask("POST", "/")).status_code == status, "it may have been sent: the caller is told"

            async def both(gate: Gate, ask: Ask) -> None:
                for _ in range(4):
                    assert (await ask("GET", "/")).text == "b"
                    marked = await ask("POST", "/", content=b"x", extensions={"muster": {"idempotent": True}})
                    assert marked.text == "b"

            await balance(way, bad["a"], use=alone)
            assert len(bad["a"].seen) == 1
            await balance(way, bad["a"], good["b"], use=both)

    asyncio.run(scenario())


def test_a_call_counts_once_for_what_comes_and_keeps_its_age_when_it_goes_again() -> None:
    async def scenario() -> None:
        since: list[float | None] = []

        class Watching(Balancer):
            def draft(self, now: float, **said: Any) -> Ticket:
                since.append(said["since"])
                return super().draft(now, **said)

        async with serving(a=refuses("over_capacity"), b=ok) as servers:
            gate = Gate(Watching("digits", random.Random(1), concurrency=1))
            gate.update(endpoint_set(*servers.values()))
            async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:
                while len(since) < 2:
                    assert (await client.get("/")).status_code == 200
                    if len(since) == 1:
                        since.clear()
        assert since[0] is None
        assert since[1] is not None

    asyncio.run(scenario())
