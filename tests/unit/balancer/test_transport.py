"""The async transport against real servers on loopback."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from muster.balancer.ask import NOTHING_SAID
from muster.balancer.balancer import Balancer
from muster.balancer.faults import (
    NotHttp,
    ServiceBusy,
    ServiceClosed,
    ServiceOverloaded,
    ServiceUnknown,
    ServiceUnreachable,
)
from muster.balancer.transport import AsyncMusterTransport
from muster.balancer.waiting import Gate
from muster.errors import BalancerError, InvalidAsk, NoEndpoints, QueueFull, QueueTimeout
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint
from tests.unit.balancer.servers import (
    Server,
    absent,
    dead,
    dies_before_answer,
    dies_in_body,
    endpoint_set,
    held,
    ok,
    serving,
    slow,
    streams_until_told,
    unavailable,
    until,
)

IDEMPOTENT = {"muster": {"idempotent": True}}
Scenario = Callable[[Gate, httpx.AsyncClient], Awaitable[None]]


async def balance(
    *members: Server | Endpoint, use: Scenario, concurrency: int = 8, queue_capacity: int = 1024, wait: float = 5.0
) -> None:
    """Run ``use`` with a client over these members; afterwards nothing may be in flight, waiting or running."""
    core = Balancer("digits", random.Random(1), concurrency=concurrency, queue_capacity=queue_capacity)
    gate = Gate(core, wait_seconds=wait)
    gate.update(endpoint_set(*members))
    async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:
        await use(gate, client)
        await until(lambda: gate.statistics().in_flight == 0)
        assert gate.statistics().waiting == 0
        assert all(each.in_flight == 0 for each in gate.statistics().replicas)


async def caught_from(request: Awaitable[httpx.Response]) -> httpx.TransportError | None:
    """Return how the request broke after it had been sent, ``None`` if it was answered."""
    try:
        await request
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        return error
    return None


def test_a_request_arrives_as_it_was_made_but_for_its_host() -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                response = await client.put(
                    "/x%2Fy/z?b=1&a=%20", content=b"body", headers={"X-Own": "1", "X-Muster-Idempotent": "1"}
                )
                assert response.text == "a"
                assert response.extensions["muster"] == {"endpoint": "a", "sends": 1}
                assert str(response.request.url) == "http://digits/x%2Fy/z?b=1&a=%20"

            await balance(servers["a"], use=use)
            (seen,) = servers["a"].seen
            assert seen.line == "PUT /x%2Fy/z?b=1&a=%20 HTTP/1.1"
            assert seen.headers["host"] == f"127.0.0.1:{servers['a'].port}"
            assert seen.headers["x-own"] == "1"
            assert "x-muster-idempotent" not in seen.headers
            assert seen.body == b"body"

    asyncio.run(scenario())


def test_an_endpoint_under_a_path_keeps_it() -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                await client.get("/classify?x=1")

            await balance(Endpoint("a", servers["a"].endpoint.url + "/service/"), use=use)
            assert servers["a"].seen[0].line == "GET /service/classify?x=1 HTTP/1.1"

    asyncio.run(scenario())


def test_connections_are_kept_and_reused() -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                streams = {(await client.get("/")).extensions["network_stream"] for _ in range(10)}
                assert len(streams) == 1

            await balance(servers["a"], use=use)

    asyncio.run(scenario())


def test_no_server_ever_sees_more_than_its_limit() -> None:
    async def scenario() -> None:
        async with serving(a=slow(0.005), b=slow(0.002), c=slow(0.001)) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                responses = await asyncio.gather(*(client.post("/", content=b"x") for _ in range(150)))
                assert all(each.status_code == 200 for each in responses)

            await balance(*servers.values(), use=use, concurrency=3)
            assert [each.most for each in servers.values()] == [3, 3, 3]

    asyncio.run(scenario())


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_could_not_connect_goes_elsewhere_marked_or_not(method: str) -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                for _ in range(20):
                    assert (await client.request(method, "/")).text == "a"

            await balance(dead("d1"), dead("d2"), servers["a"], use=use)

    asyncio.run(scenario())


def test_a_broken_answer_is_retried_elsewhere_when_marked_idempotent() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer, good=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                responses = [await client.post("/", content=b"x", extensions=IDEMPOTENT) for _ in range(20)]
                assert {each.text for each in responses} == {"good"}
                assert {each.extensions["muster"]["sends"] for each in responses} == {1, 2}
                by_header = [
                    await client.post("/", content=b"x", headers={"X-Muster-Idempotent": "1"}) for _ in range(20)
                ]
                assert {each.text for each in by_header} == {"good"}

            await balance(*servers.values(), use=use)
            assert servers["bad"].seen

    asyncio.run(scenario())


def test_a_broken_answer_surfaces_without_the_mark() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer, good=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                outcomes = [await caught_from(client.post("/", content=b"x")) for _ in range(20)]
                errors = [each for each in outcomes if each is not None]
                assert len(errors) == len(servers["bad"].seen) > 0
                assert {str(each.request.url) for each in errors} == {"http://digits/"}

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize(("method", "extensions"), [("GET", {}), ("HEAD", {}), ("OPTIONS", {}), ("POST", IDEMPOTENT)])
def test_safe_methods_need_no_mark(method: str, extensions: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer, good=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                for _ in range(10):
                    response = await client.request(method, "/", extensions=extensions)
                    assert response.status_code == 200

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_a_safe_method_can_be_declared_not_idempotent() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                with pytest.raises(httpx.TransportError):
                    await client.get("/", extensions={"muster": {"idempotent": False}})
                assert len(servers["bad"].seen) == 1

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_a_break_in_the_body_is_retried_when_idempotent_and_surfaces_when_not() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_in_body, good=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                for _ in range(10):
                    assert (await client.get("/")).text == "good"
                assert servers["bad"].seen

            async def surfaces(gate: Gate, client: httpx.AsyncClient) -> None:
                outcomes = [await caught_from(client.post("/")) for _ in range(10)]
                assert any(outcomes)

            await balance(*servers.values(), use=use)
            await balance(*servers.values(), use=surfaces)

    asyncio.run(scenario())


@pytest.mark.parametrize(("options", "sends"), [({}, 3), ({"resends": 0}, 1), ({"resends": 5}, 6)])
def test_what_breaks_whoever_serves_it_is_sent_again_so_many_times_and_no_more(
    options: dict[str, int], sends: int
) -> None:
    async def scenario() -> None:
        async with serving(a=dies_before_answer, b=dies_before_answer, c=dies_before_answer) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                    await client.get("/", extensions={"muster": options})
                assert sum(len(each.seen) for each in servers.values()) == sends
                if sends == 3:
                    assert [len(each.seen) for each in servers.values()] == [1, 1, 1], "elsewhere each time"

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_resends_stop_when_the_budget_is_used_up() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                while gate.may_resend():
                    pass
                assert await caught_from(client.get("/")) is not None
                assert len(servers["bad"].seen) == 1

            await balance(servers["bad"], use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [503])
def test_an_answer_is_an_answer_whatever_its_status(status: int) -> None:
    async def scenario() -> None:
        async with serving(a=unavailable, b=unavailable) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                assert (await client.get("/")).status_code == status
                assert len(servers["a"].seen) + len(servers["b"].seen) == 1

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_a_one_shot_body_is_sent_again_only_if_it_was_not_touched() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def scenario() -> None:
        async with serving(good=ok, bad=dies_before_answer) as servers:

            async def connects_elsewhere(gate: Gate, client: httpx.AsyncClient) -> None:
                for _ in range(5):
                    assert (await client.post("/", content=chunks())).text == "good"
                assert all(each.body == b"onetwo" for each in servers["good"].seen)

            await balance(dead(), servers["good"], use=connects_elsewhere)

            async def surfaces(gate: Gate, client: httpx.AsyncClient) -> None:
                with pytest.raises(httpx.TransportError) as caught:
                    await client.post("/", content=chunks(), extensions=IDEMPOTENT)
                assert not isinstance(caught.value, httpx.StreamError)
                assert len(servers["bad"].seen) <= 1

            await balance(servers["bad"], use=surfaces)

    asyncio.run(scenario())


def test_when_nobody_can_be_reached_a_request_waits_for_another_set() -> None:
    async def scenario() -> None:
        async with serving(late=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                async with asyncio.TaskGroup() as group:
                    requests = [group.create_task(client.post("/")) for _ in range(5)]
                    await until(lambda: gate.statistics().waiting == 5)
                    gate.update(endpoint_set(servers["late"], revision=2))
                assert {each.result().text for each in requests} == {"late"}

            await balance(dead("d1"), dead("d2"), use=use)

    asyncio.run(scenario())


def test_when_nobody_can_be_reached_a_request_waits_for_one_to_come_back() -> None:
    async def scenario() -> None:
        async with serving(back=ok) as servers:
            gone = absent("gone")

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                async with asyncio.TaskGroup() as group:
                    request = group.create_task(client.post("/"))
                    await until(lambda: gate.statistics().waiting == 1)
                    listener = await asyncio.start_server(servers["back"].handle, "127.0.0.1", httpx.URL(gone.url).port)
                listener.close()
                assert request.result().text == "back"

            await balance(gone, use=use)

    asyncio.run(scenario())


def test_when_nobody_could_be_reached_until_the_deadline_the_error_says_so() -> None:
    async def scenario() -> None:
        async def use(gate: Gate, client: httpx.AsyncClient) -> None:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get("/", extensions={"muster": {"timeout": 0.3}})
            assert isinstance(caught.value, ServiceUnreachable)
            assert isinstance(caught.value, BalancerError)
            assert isinstance(caught.value.__cause__, httpx.ConnectError)

        await balance(dead("d1"), dead("d2"), use=use)

    asyncio.run(scenario())


def test_queue_trouble_is_both_ours_and_httpxs() -> None:
    async def scenario() -> None:
        async with serving(a=held) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                async with asyncio.TaskGroup() as group:
                    first = group.create_task(client.get("/"))
                    await until(lambda: servers["a"].in_flight == 1)
                    second = group.create_task(client.get("/"))
                    await until(lambda: gate.statistics().waiting == 1)
                    with pytest.raises(httpx.PoolTimeout) as full:
                        await client.get("/")
                    assert isinstance(full.value, ServiceOverloaded)
                    assert isinstance(full.value, QueueFull)
                    servers["a"].gate.set()
                assert first.result().text == second.result().text == "a"
                servers["a"].gate.clear()
                async with asyncio.TaskGroup() as group:
                    group.create_task(client.get("/"))
                    await until(lambda: servers["a"].in_flight == 1)
                    with pytest.raises(httpx.PoolTimeout) as late:
                        await client.get("/", extensions={"muster": {"timeout": 0.05}})
                    assert isinstance(late.value, ServiceBusy)
                    assert isinstance(late.value, QueueTimeout)
                    assert late.value.waited_seconds >= 0.05
                    servers["a"].gate.set()

            await balance(servers["a"], use=use, concurrency=1, queue_capacity=1)

    asyncio.run(scenario())


def test_an_empty_set_is_nobody_after_the_deadline() -> None:
    async def scenario() -> None:
        async def use(gate: Gate, client: httpx.AsyncClient) -> None:
            with pytest.raises(httpx.ConnectError, match="nobody serves") as caught:
                await client.get("/", extensions={"muster": {"timeout": 0.05}})
            assert isinstance(caught.value, ServiceUnknown)
            assert isinstance(caught.value, NoEndpoints)

        await balance(use=use)

    asyncio.run(scenario())


def test_a_closed_service_fails_who_waits() -> None:
    async def scenario() -> None:
        async def use(gate: Gate, client: httpx.AsyncClient) -> None:
            request = asyncio.ensure_future(client.get("/"))
            await until(lambda: gate.statistics().waiting == 1)
            gate.close()
            with pytest.raises(ServiceClosed):
                await request

        await balance(use=use)

    asyncio.run(scenario())


def test_a_request_that_waits_when_its_client_is_closed_is_not_sent() -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:
            gate = Gate(Balancer("digits", random.Random(1), concurrency=1))
            gate.update(endpoint_set(servers["a"]))
            blocker = gate.ask(gate.monotonic() + 9, frozenset(), lambda: None, NOTHING_SAID, None).lease
            assert blocker is not None
            async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:
                request = asyncio.ensure_future(client.get("/"))
                await until(lambda: gate.statistics().waiting == 1)
            gate.release(blocker)
            with pytest.raises(ServiceClosed, match="the client was closed"):
                await request
            assert gate.statistics().in_flight == 0
            assert servers["a"].seen == []

    asyncio.run(scenario())


def test_a_port_of_raw_tcp_has_no_http() -> None:
    async def scenario() -> None:
        async def use(gate: Gate, client: httpx.AsyncClient) -> None:
            with pytest.raises(httpx.UnsupportedProtocol, match="speaks tcp, not HTTP: use acquire") as caught:
                await client.get("/")
            assert isinstance(caught.value, NotHttp)

        await balance(Endpoint("t", "tcp://127.0.0.1:9", PortProtocol.TCP), use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize("timeout", ["soon", [], float("nan"), True])
def test_a_timeout_that_is_no_number_is_refused(timeout: object) -> None:
    async def scenario() -> None:
        async def use(gate: Gate, client: httpx.AsyncClient) -> None:
            with pytest.raises(httpx.LocalProtocolError, match="number of seconds") as caught:
                await client.get("/", extensions={"muster": {"timeout": timeout}})
            assert isinstance(caught.value, InvalidAsk)

        await balance(use=use)

    asyncio.run(scenario())


class TestStreaming:
    def test_a_lease_lasts_until_the_body_is_read(self) -> None:
        async def scenario() -> None:
            async with serving(a=streams_until_told) as servers:

                async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                    async with client.stream("GET", "/") as response:
                        body = response.aiter_raw()
                        assert await anext(body) == b"first"
                        assert gate.statistics().in_flight == 1
                        servers["a"].gate.set()
                        assert [chunk async for chunk in body] == [b"last"]
                        assert gate.statistics().in_flight == 0

                await balance(servers["a"], use=use)

        asyncio.run(scenario())

    def test_closing_without_reading_ends_it(self) -> None:
        async def scenario() -> None:
            async with serving(a=streams_until_told) as servers:

                async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                    async with client.stream("GET", "/"):
                        assert gate.statistics().in_flight == 1
                    assert gate.statistics().in_flight == 0

                await balance(servers["a"], use=use)

        asyncio.run(scenario())

    def test_a_break_ends_it(self) -> None:
        async def scenario() -> None:
            async with serving(a=dies_in_body) as servers:

                async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                    async with client.stream("POST", "/") as response:
                        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                            await response.aread()
                        assert gate.statistics().in_flight == 0

                await balance(servers["a"], use=use)

        asyncio.run(scenario())

    def test_cancelling_the_reader_ends_it(self) -> None:
        async def scenario() -> None:
            async with serving(a=streams_until_told) as servers:

                async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                    task = asyncio.ensure_future(client.get("/"))
                    await until(lambda: servers["a"].in_flight == 1)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert gate.statistics().in_flight == 0

                await balance(servers["a"], use=use)

        asyncio.run(scenario())

    def test_an_answer_of_unknown_length_is_handed_over_at_once(self) -> None:
        async def scenario() -> None:
            async with serving(a=streams_until_told) as servers:

                async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                    async with client.stream("POST", "/", extensions=IDEMPOTENT) as response:
                        assert response.status_code == 200

                await balance(servers["a"], use=use)

        asyncio.run(scenario())


def test_cancelling_at_any_moment_leaks_nothing() -> None:
    """Requests are cancelled after times that fall into every phase: queued, granted, connecting, reading."""

    async def scenario() -> None:
        async with serving(a=slow(0.003), b=slow(0.001), c=dies_before_answer) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                rng = random.Random(7)

                async def one(patience: float) -> None:
                    try:
                        async with asyncio.timeout(patience):
                            await client.get("/", extensions={"muster": {"idempotent": rng.random() < 0.5}})
                    except (TimeoutError, httpx.TransportError):
                        pass

                await asyncio.gather(*(one(rng.uniform(0, 0.1)) for _ in range(200)))

            await balance(*servers.values(), dead(), use=use, concurrency=2)

    asyncio.run(scenario())


def test_the_pool_of_an_endpoint_that_left_is_closed() -> None:
    async def scenario() -> None:
        async with serving(a=ok, b=ok) as servers:

            async def use(gate: Gate, client: httpx.AsyncClient) -> None:
                left = (await client.get("/")).extensions["network_stream"]
                gate.update(endpoint_set(servers["b"], revision=2))
                assert (await client.get("/")).text == "b"
                assert left.get_extra_info("socket").fileno() == -1

            await balance(servers["a"], use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize("closes", ["the next request", "the client"])
def test_a_cancellation_while_pools_are_closed_leaves_none_open(closes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serving(a=ok, b=ok, c=ok) as servers:
            gate = Gate(Balancer("digits", random.Random(1)))
            gate.update(endpoint_set(servers["a"], servers["b"], servers["c"], concurrency=1))
            client = httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits")
            streams = [await client.send(client.build_request("POST", "/"), stream=True) for _ in servers]
            sockets = [each.extensions["network_stream"].get_extra_info("socket") for each in streams]
            for each in streams:
                await each.aread()
            gate.update(endpoint_set(revision=2))
            aclose, closing = httpx.AsyncHTTPTransport.aclose, asyncio.Event()

            async def slowly(self: httpx.AsyncHTTPTransport) -> None:
                closing.set()
                try:
                    await asyncio.sleep(0)
                finally:  # httpcore closes what it has begun to close
                    await aclose(self)

            monkeypatch.setattr(httpx.AsyncHTTPTransport, "aclose", slowly)
            task = asyncio.ensure_future(client.get("/") if closes == "the next request" else client.aclose())
            await closing.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [each.fileno() for each in sockets] == [-1, -1, -1]

    asyncio.run(scenario())
