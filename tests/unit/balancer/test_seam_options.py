"""What a request says of itself: by extension, by header, by a callable; and that none of it reaches a server."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.call import Call
from muster.balancer.faults import AskRefused, DeadlineMissed, ServiceTooSmall
from muster.balancer.lease import Lease, Outcome
from muster.balancer.options import NO_OPTIONS, Options, take_options
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import Gate
from muster.errors import CannotMeetDeadline, InvalidAsk, NeverFits
from muster.model.endpoint import Endpoint, EndpointSet
from tests.unit.balancer.servers import PUBLISHED_AT, Seen, Server, dead, endpoint_set, held, ok, serving, until

ALL_HEADERS = {
    "X-Muster-Features": "pixels=1048576, steps = 30",
    "X-Muster-Demands": "vram_mb=3000",
    "X-Muster-Priority": "-2",
    "X-Muster-Tenant": "anna",
    "X-Muster-Affinity": "session-7",
    "X-Muster-Deadline": "20",
    "X-Muster-Timeout": "1.5",
    "X-Muster-Idempotent": "1",
    "X-Muster-Hedge": "0.25",
    "X-Muster-Resends": "1",
}
ALL_OPTIONS = {
    "features": {"pixels": 1048576, "steps": 30},
    "demands": {"vram_mb": 3000},
    "priority": -2,
    "tenant": "anna",
    "affinity": "session-7",
    "deadline": 20,
    "timeout": 1.5,
    "idempotent": True,
    "hedge": 0.25,
    "resends": 1,
}
READ = Options(
    Ask({"pixels": 1048576.0, "steps": 30.0}, {"vram_mb": 3000}, -2, "anna", "session-7", answer_by=120.0),
    timeout_seconds=1.5,
    is_idempotent=True,
    hedge_seconds=0.25,
    resends=1,
)


def test_headers_say_the_same_as_the_extension_and_are_taken_out() -> None:
    headers = httpx.Headers({**ALL_HEADERS, "X-Own": "1"})
    assert take_options(headers, None, 100.0) == READ
    assert list(headers) == ["x-own"]
    assert take_options(headers, ALL_OPTIONS, 100.0) == READ


def test_the_extension_goes_before_headers_and_both_before_the_callable() -> None:
    def asked() -> dict[str, float]:
        return {"a": 3}

    by_header = {"X-Muster-Features": "a=2", "X-Muster-Tenant": "anna"}
    both = take_options(httpx.Headers(by_header), {"features": {"a": 1}}, 0.0, asked)
    assert (both.ask.features, both.ask.tenant) == ({"a": 1.0}, "anna")
    assert take_options(httpx.Headers(by_header), {}, 0.0, asked).ask.features == {"a": 2.0}
    assert take_options(httpx.Headers(), {"tenant": "b"}, 0.0, asked).ask.features == {"a": 3.0}


@pytest.mark.parametrize("given", [None, {}, {"features": {}}, {"features": None, "timeout": None}])
def test_a_request_that_says_nothing_has_no_options(given: dict[str, Any] | None) -> None:
    assert take_options(httpx.Headers({"Accept": "*/*"}), given, 0.0, lambda: None) == NO_OPTIONS


def test_features_in_a_header_may_be_a_json_object_or_come_in_two_headers() -> None:
    as_json = httpx.Headers({"x-muster-features": json.dumps({"a b": 1.5, "c": True})})
    assert take_options(as_json, None, 0.0).ask.features == {"a b": 1.5, "c": 1.0}
    twice = httpx.Headers([("X-Muster-Features", "a=1"), ("X-Muster-Features", "b=2e3")])
    assert take_options(twice, None, 0.0).ask.features == {"a": 1.0, "b": 2000.0}


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("X-Muster-Features", "pixels"),
        ("X-Muster-Features", "pixels=big"),
        ("X-Muster-Features", "=3"),
        ("X-Muster-Features", "pixels=nan"),
        ("X-Muster-Features", "pixels=1e999"),
        ("X-Muster-Features", "{'pixels': 1}"),
        ("X-Muster-Features", '{"pixels": "1"}'),
        ("X-Muster-Features", '{"pixels": [1]}'),
        ("X-Muster-Features", "{" * 100_000),
        ("X-Muster-Features", ", ".join(f"f{number}=1" for number in range(17))),
        ("X-Muster-Demands", "vram_mb=-1"),
        ("X-Muster-Demands", "vram_mb=inf"),
        ("X-Muster-Priority", "high"),
        ("X-Muster-Priority", "1.5"),
        ("X-Muster-Deadline", "tomorrow"),
        ("X-Muster-Deadline", "nan"),
        ("X-Muster-Timeout", ""),
        ("X-Muster-Idempotent", "maybe"),
        ("X-Muster-Hedge", "-1"),
        ("X-Muster-Hedge", "inf"),
        ("X-Muster-Resends", "-1"),
        ("X-Muster-Demands", '{"vram_mb": 1' + "0" * 400 + "}"),
        ("X-Muster-Idempotnet", "1"),  # codespell:ignore idempotnet
        ("x-muster-", "1"),
    ],
)
def test_a_header_that_is_wrong_is_named(header: str, text: str) -> None:
    with pytest.raises(InvalidAsk) as caught:
        take_options(httpx.Headers({header: text}), None, 0.0)
    assert header.removeprefix("X-Muster-").lower() in caught.value.field.lower()


def test_a_header_that_nobody_knows_is_told_which_there_are() -> None:
    with pytest.raises(InvalidAsk, match=r"x-muster-deadlne: .*X-Muster-Features, .*X-Muster-Deadline"):
        take_options(httpx.Headers({"X-Muster-Tenant": "ann", "X-Muster-Deadlne": "3"}), None, 0.0)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("features", 'extensions["muster"]'),
        ({"idempotnet": True}, "idempotnet"),  # codespell:ignore idempotnet
        ({"features": [1]}, "features"),
        ({"features": {"pixels": "1"}}, "features.pixels"),
        ({"features": {"pixels": float("nan")}}, "features.pixels"),
        ({"features": {3: 1}}, "features"),
        ({"demands": {"vram_mb": "1"}}, "demands.vram_mb"),
        ({"priority": 1.5}, "priority"),
        ({"tenant": 7}, "tenant"),
        ({"affinity": b"x"}, "affinity"),
        ({"deadline": "soon"}, "deadline"),
        ({"idempotent": "yes"}, "idempotent"),
        ({"hedge": float("nan")}, "hedge"),
        ({"resends": True}, "resends"),
        ({"deadline": 10**400}, "deadline"),
        ({"timeout": 10**400}, "timeout"),
        ({"hedge": 10**400}, "hedge"),
        ({"demands": {"vram_mb": 10**400}}, "demands.vram_mb"),
    ],
)
def test_an_option_that_is_wrong_is_named(given: object, field: str) -> None:
    with pytest.raises(InvalidAsk) as caught:
        take_options(httpx.Headers(), given, 0.0)
    assert caught.value.field == field


Use = Callable[[Callable[..., Awaitable[httpx.Response]]], Awaitable[None]]


async def by_task(gate: Gate, use: Use, **options: Any) -> None:
    async with httpx.AsyncClient(transport=AsyncMusterTransport(gate, **options), base_url="http://digits") as client:
        await use(client.request)


async def by_thread(gate: Gate, use: Use, **options: Any) -> None:
    with httpx.Client(transport=MusterTransport(gate, **options), base_url="http://digits") as client:

        async def ask(*args: Any, **kwargs: Any) -> httpx.Response:
            return await asyncio.to_thread(client.request, *args, **kwargs)

        await use(ask)


Way = Callable[..., Awaitable[None]]
both = pytest.mark.parametrize("way", [by_task, by_thread], ids=["async", "sync"])


class Noting(Gate):
    """A gate that notes what was asked of it."""

    def __init__(self) -> None:
        super().__init__(Balancer("digits", random.Random(1)), wait_seconds=5)
        self.asks: list[Ask] = []
        self.outcomes: list[Outcome] = []

    def ask(self, deadline: float, tried: frozenset[str], wake: Callable[[], None], ask: Ask, *rest: Any) -> Any:
        self.asks.append(ask)
        return super().ask(deadline, tried, wake, ask, *rest)

    def release(self, lease: Lease, outcome: Outcome = Outcome.OK) -> bool:
        is_first = super().release(lease, outcome)
        if is_first:
            self.outcomes.append(outcome)
        return is_first


@both
def test_the_balancer_is_told_and_the_server_is_not(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:
            gate = Noting()
            gate.update(endpoint_set(servers["a"]))

            async def use(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
                plain = {name: text for name, text in ALL_HEADERS.items() if name != "X-Muster-Hedge"}
                await ask("POST", "/", content=b"x", headers={**plain, "X-Musterion": "kept"})
                await ask("POST", "/", content=b"xyz")
                await ask("POST", "/", content=b"xyz", extensions={"muster": {"tenant": "b"}})

            await way(gate, use, features=lambda request: {"size": len(request.content)})
            first, second, third = gate.asks
            assert (first.features, first.demands, first.tenant) == (
                {"pixels": 1048576.0, "steps": 30.0},
                {"vram_mb": 3000},
                "anna",
            )
            assert (first.priority, first.affinity) == (-2, "session-7")
            assert gate.monotonic() < first.answer_by < gate.monotonic() + 20
            assert second == Ask(features={"size": 3.0})
            assert third == Ask(features={"size": 3.0}, tenant="b")
            ours = [name for name in servers["a"].seen[0].headers if name.startswith("x-muster")]
            assert ours == ["x-musterion"]

    asyncio.run(scenario())


def _raises(request: httpx.Request) -> object:
    raise KeyError("missing")


async def _is_async(request: httpx.Request) -> object:
    return {"a": 1}


@both
@pytest.mark.parametrize(
    ("features", "text", "cause"),
    [
        (_raises, "the callable raised KeyError: 'missing'", KeyError),
        (_is_async, "the callable returned a coroutine, not a mapping", InvalidAsk),
        (lambda request: 5, "the callable returned a int", InvalidAsk),
        (lambda request: {"a": "b"}, "features.a: 'b' is a str", InvalidAsk),
        (lambda request: json.loads(request.content), "RequestNotRead", httpx.RequestNotRead),
    ],
)
def test_a_callable_that_fails_refuses_the_request_and_is_the_cause(
    way: Way, features: Any, text: str, cause: type[Exception]
) -> None:
    async def scenario() -> None:
        gate = Noting()
        gate.update(endpoint_set(dead()))

        async def use(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
            body: Any = b"x" if cause is not httpx.RequestNotRead else _chunks() if way is by_task else iter([b"x"])
            with pytest.raises(httpx.LocalProtocolError, match=text) as caught:
                await ask("POST", "/", content=body)
            assert isinstance(caught.value, AskRefused)
            assert isinstance(caught.value, InvalidAsk)
            assert isinstance(caught.value.__cause__, cause)

        await way(gate, use, features=features)
        assert not gate.asks, "nobody was asked for a replica"

    asyncio.run(scenario())


async def _chunks() -> Any:
    yield b"x"


@both
@pytest.mark.parametrize("seconds", [0, -3.5])
def test_a_deadline_in_the_past_is_refused_before_anything_is_sent(way: Way, seconds: float) -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:
            gate = Noting()
            gate.update(endpoint_set(servers["a"]))

            async def use(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
                with pytest.raises(httpx.PoolTimeout, match=r"deadline had passed by .* nothing was sent") as caught:
                    await ask("GET", "/", extensions={"muster": {"deadline": seconds}})
                assert isinstance(caught.value, DeadlineMissed)
                assert isinstance(caught.value, CannotMeetDeadline)

            await way(gate, use)
            assert not gate.asks
            assert not servers["a"].seen

    asyncio.run(scenario())


@both
def test_a_deadline_bounds_the_wait_for_a_slot_and_the_wait_for_the_answer(way: Way) -> None:
    async def scenario() -> None:
        async with serving(a=held) as servers:
            gate = Gate(Balancer("digits", random.Random(1)), wait_seconds=60)
            gate.update(endpoint_set(servers["a"], concurrency=1))

            async def use(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
                with pytest.raises(httpx.ReadTimeout, match=r"a at http://\S+: its deadline passed"):
                    await ask("GET", "/", extensions={"muster": {"deadline": 0.2}}, timeout=None)
                blocker = _taken(gate)
                with pytest.raises(httpx.PoolTimeout):
                    await ask("GET", "/", extensions={"muster": {"deadline": 0.1}})
                gate.release(blocker)

            await way(gate, use)
            await until(lambda: gate.statistics().in_flight == 0)
            assert len(servers["a"].seen) == 1

    asyncio.run(scenario())


async def drips(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, each of them soon enough for any time-out."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
    for _ in range(60):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


@both
@pytest.mark.parametrize("method", ["GET", "POST"])  # one is read before it is handed over, the other after
def test_a_deadline_ends_an_answer_that_comes_bit_by_bit(way: Way, method: str) -> None:
    async def scenario() -> None:
        async with serving(a=drips) as servers:
            gate = Noting()
            gate.update(endpoint_set(servers["a"]))

            async def use(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
                with pytest.raises(httpx.ReadTimeout, match=r"a at http://\S+: its deadline passed: the rest"):
                    await ask(method, "/", extensions={"muster": {"deadline": 0.2}})
                assert len((await ask(method, "/")).content) == 60

            await way(gate, use)
            await until(lambda: gate.statistics().in_flight == 0)
            assert gate.outcomes == [Outcome.UNREAD, Outcome.OK]

    asyncio.run(scenario())


def test_each_step_of_a_send_has_what_is_left_until_the_deadline() -> None:
    now = 100.0
    options = {"muster": {"deadline": 10}, "timeout": {"connect": 3, "read": None}}
    call = Call(httpx.Request("GET", "http://digits/", extensions=options), now=now, wait_seconds=5)
    steps = call.addressed_to(Endpoint("a", "http://127.0.0.1:1"), lambda: now).extensions["timeout"]
    assert dict(steps) == {"connect": 3, "read": 10, "write": 10, "pool": 10}
    now = 108.0
    assert dict(steps) == {"connect": 2, "read": 2, "write": 2, "pool": 2}
    now = 111.0
    assert 0 < steps["read"] < 0.01


@both
def test_demands_beyond_every_budget_are_an_error_of_both(way: Way) -> None:
    async def scenario() -> None:
        gate = Noting()
        small = Endpoint("a", "http://127.0.0.1:9", budgets={"vram_mb": 1})
        gate.update(EndpointSet(1, 1, (small,), PUBLISHED_AT))

        async def use(ask: Callable[..., Awaitable[httpx.Response]]) -> None:
            with pytest.raises(httpx.LocalProtocolError, match="vram_mb") as caught:
                await ask("GET", "/", headers={"X-Muster-Demands": "vram_mb=2"})
            assert isinstance(caught.value, ServiceTooSmall)
            assert isinstance(caught.value, NeverFits)

        await way(gate, use)

    asyncio.run(scenario())


def _taken(gate: Gate) -> Lease:
    ticket = gate.ask(gate.monotonic() + 60, frozenset(), lambda: None, Ask(), None)
    assert ticket.lease is not None
    return ticket.lease
