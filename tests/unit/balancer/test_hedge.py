"""A second send to another replica when the first one is slow: the first answer counts, and nothing is left behind."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpx
import pytest

from muster.balancer.ask import NOTHING_SAID
from muster.balancer.balancer import Balancer
from muster.balancer.hedge import first_of
from muster.balancer.lease import Lease, Outcome
from muster.balancer.transport import AsyncMusterTransport, MusterTransport
from muster.balancer.waiting import Gate
from muster.errors import InvalidAsk
from tests.unit.balancer.servers import (
    Seen,
    Server,
    dies_before_answer,
    dies_in_body,
    endpoint_set,
    held,
    ok,
    refuses,
    serving,
    slow,
    streams_until_told,
    until,
)

HEDGED = {"muster": {"idempotent": True, "hedge": 0.05}}
Use = Callable[["Noting", httpx.AsyncClient], Awaitable[None]]


class Noting(Gate):
    """A gate that notes with what each lease ended."""

    def __init__(self) -> None:
        super().__init__(Balancer("digits", random.Random(1), concurrency=4), wait_seconds=5)
        self.ended: dict[str, list[Outcome]] = {}

    def release(self, lease: Lease, outcome: Outcome = Outcome.OK) -> bool:
        is_first = super().release(lease, outcome)
        if is_first:
            self.ended.setdefault(lease.endpoint.id, []).append(outcome)
        return is_first


async def balance(*members: Server, use: Use, concurrency: int = 4) -> None:
    """Run ``use``; afterwards nothing is in flight, waiting or running, here or at a server that was not held."""
    gate = Noting()
    gate.update(endpoint_set(*members, concurrency=concurrency))
    async with httpx.AsyncClient(transport=AsyncMusterTransport(gate), base_url="http://digits") as client:
        before = asyncio.all_tasks()
        await use(gate, client)
        assert gate.statistics().in_flight == 0
        assert gate.statistics().waiting == 0
        assert {task for task in asyncio.all_tasks() - before if "handle" not in repr(task)} == set()


def first_then(behaviour: Callable[..., Awaitable[None]], every: list[Server]) -> Callable[..., Awaitable[None]]:
    """Behave so at whichever replica gets the very first request, and be well afterwards."""

    async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        every.append(server)
        await (behaviour if len(every) == 1 else ok)(server, seen, writer)

    return behave


def test_a_slow_replica_is_overtaken_by_another_and_its_request_is_cancelled() -> None:
    async def scenario() -> None:
        order: list[Server] = []
        hung = first_then(held, order)
        async with serving(a=hung, b=hung) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                response = await client.post("/", content=b"body", extensions=HEDGED)
                first, second = order
                assert response.text == second.id != first.id
                assert response.extensions["muster"] == {"endpoint": second.id, "sends": 2}
                assert gate.ended == {first.id: [Outcome.FAILED], second.id: [Outcome.OK]}
                assert [each.body for each in first.seen + second.seen] == [b"body", b"body"]

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_a_fast_replica_is_the_only_one_that_is_asked() -> None:
    async def scenario() -> None:
        async with serving(a=ok, b=ok) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                for _ in range(10):
                    await client.get("/", extensions={"muster": {"hedge": 30}})

            await balance(*servers.values(), use=use)
            assert sum(len(each.seen) for each in servers.values()) == 10

    asyncio.run(scenario())


@pytest.mark.parametrize("why", ["no other replica", "the other one is full", "no token"])
def test_nobody_waits_for_a_second_one(why: str) -> None:
    async def scenario() -> None:
        async with serving(a=slow(0.2), b=slow(0.2)) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                other = gate.ask(gate.monotonic() + 9, frozenset(), lambda: None, NOTHING_SAID, None).lease
                if why == "no token":
                    while gate.may_resend():
                        pass
                if why != "the other one is full":
                    assert other is not None
                    gate.release(other)
                response = await client.get("/", extensions=HEDGED)
                assert response.extensions["muster"]["sends"] == 1
                if why == "the other one is full":
                    assert other is not None
                    assert response.text != other.endpoint.id
                    gate.release(other)

            members = [servers["a"]] if why == "no other replica" else servers.values()
            await balance(*members, use=use, concurrency=1)

    asyncio.run(scenario())


def test_a_stream_is_handed_over_by_its_head_and_keeps_only_its_own_lease() -> None:
    async def scenario() -> None:
        order: list[Server] = []

        async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
            order.append(server)
            await (held if len(order) == 1 else streams_until_told)(server, seen, writer)

        async with serving(a=behave, b=behave) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                async with client.stream("GET", "/", extensions=HEDGED) as response:
                    body = response.aiter_raw()
                    assert await anext(body) == b"first"
                    assert [each.in_flight for each in gate.statistics().replicas if each.id == order[0].id] == [0]
                    assert gate.statistics().in_flight == 1
                    order[1].gate.set()
                    assert [chunk async for chunk in body] == [b"last"]

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize("second", [dies_before_answer, refuses("draining")])
def test_one_that_fails_leaves_the_other_one_running(second: Callable[..., Awaitable[None]]) -> None:
    async def scenario() -> None:
        order: list[Server] = []

        async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
            order.append(server)
            await (slow(0.3) if len(order) == 1 else second)(server, seen, writer)

        async with serving(a=behave, b=behave) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                response = await client.get("/", extensions=HEDGED)
                assert response.text == order[0].id
                assert len(order) == 2

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_when_both_fail_a_third_is_tried_as_ever() -> None:
    async def scenario() -> None:
        order: list[Server] = []

        async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
            order.append(server)
            if len(order) == 1:
                await server.gate.wait()
            if len(order) < 3:
                await until(lambda: len(order) == 2)
                writer.transport.abort()
                order[0].gate.set()
            else:
                await ok(server, seen, writer)

        async with serving(a=behave, b=behave, c=behave) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                response = await client.get("/", extensions=HEDGED)
                assert response.text == order[2].id
                assert len({each.id for each in order}) == 3

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_a_body_that_breaks_after_the_head_is_mended_as_ever() -> None:
    async def scenario() -> None:
        order: list[Server] = []
        breaking = first_then(dies_in_body, order)
        async with serving(a=breaking, b=breaking) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                response = await client.get("/", extensions={"muster": {"hedge": 5}})
                assert response.text == order[1].id
                assert gate.ended == {order[0].id: [Outcome.ERROR], order[1].id: [Outcome.OK]}

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1])
def test_a_caller_that_goes_away_ends_both(seconds: float) -> None:
    async def scenario() -> None:
        async with serving(a=held, b=held) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                task = asyncio.ensure_future(client.get("/", extensions=HEDGED))
                await asyncio.sleep(seconds)
                if seconds == 0.1:
                    await until(lambda: all(each.seen for each in servers.values()))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert all(outcome is Outcome.FAILED for ended in gate.ended.values() for outcome in ended)

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_hedging_under_cancellation_at_any_moment_leaks_nothing() -> None:
    async def scenario() -> None:
        async with serving(a=slow(0.003), b=slow(0.001), c=dies_before_answer, d=slow(0.02)) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                rng = random.Random(7)

                async def one(patience: float) -> None:
                    try:
                        async with asyncio.timeout(patience):
                            await client.get("/", extensions={"muster": {"hedge": rng.uniform(0, 0.01)}})
                    except (TimeoutError, httpx.TransportError):
                        pass

                await asyncio.gather(*(one(rng.uniform(0, 0.1)) for _ in range(200)))

            await balance(*servers.values(), use=use)

    asyncio.run(scenario())


def test_what_cannot_be_sent_twice_is_not_hedged() -> None:
    async def chunks():  # type: ignore[no-untyped-def]
        yield b"x"

    async def scenario() -> None:
        async with serving(a=ok) as servers:

            async def use(gate: Noting, client: httpx.AsyncClient) -> None:
                with pytest.raises(InvalidAsk, match="only an idempotent call may be sent to two replicas"):
                    await client.post("/", extensions={"muster": {"hedge": 1}})
                with pytest.raises(InvalidAsk, match="read only once"):
                    await client.post("/", content=chunks(), extensions=HEDGED)  # type: ignore[no-untyped-call]
                with (
                    httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as sync,
                    pytest.raises(InvalidAsk, match="only the async transport"),
                ):
                    await asyncio.to_thread(sync.get, "/", extensions={"muster": {"hedge": 1}})
                assert not servers["a"].seen

            await balance(servers["a"], use=use)

    asyncio.run(scenario())


Rival = Coroutine[Any, Any, str | None] | None


async def at_once(rival: Rival) -> Rival:
    return rival


class TestFirstOf:
    """The race alone."""

    def test_two_that_answer_at_once_have_one_winner_and_the_other_is_disposed_of(self) -> None:
        async def scenario() -> None:
            start = asyncio.Event()
            disposed: list[object] = []

            async def answer(text: str) -> str | None:
                await start.wait()
                return text

            async def dispose(text: object) -> None:
                disposed.append(text)

            race = asyncio.ensure_future(first_of(answer("a"), lambda: at_once(answer("b")), 0.01, dispose))
            await asyncio.sleep(0.05)
            start.set()
            assert {await race, *disposed} == {"a", "b"}

        asyncio.run(scenario())

    def test_an_answer_that_came_while_the_caller_went_is_disposed_of(self) -> None:
        async def scenario() -> None:
            disposed: list[object] = []

            async def stubborn() -> str | None:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.02)
                return "late"

            async def dispose(text: object) -> None:
                disposed.append(text)

            race = asyncio.ensure_future(first_of(stubborn(), lambda: at_once(None), 0.01, dispose))
            for _ in range(3):  # a caller may be cancelled more than once
                await asyncio.sleep(0.005)
                race.cancel()
            with pytest.raises(asyncio.CancelledError):
                await race
            assert disposed == ["late"]

        asyncio.run(scenario())

    def test_the_winner_is_disposed_of_when_the_caller_goes_while_the_loser_ends(self) -> None:
        async def scenario() -> None:
            ending, disposing = asyncio.Event(), asyncio.Event()
            disposed: list[object] = []

            async def stubborn() -> str | None:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    ending.set()
                    await asyncio.sleep(0.01)
                return None

            async def answer() -> str | None:
                return "won"

            async def dispose(text: object) -> None:
                disposing.set()
                await asyncio.sleep(0.01)
                disposed.append(text)

            race = asyncio.ensure_future(first_of(stubborn(), lambda: at_once(answer()), 0.01, dispose))
            await ending.wait()
            race.cancel()
            await disposing.wait()
            race.cancel()
            with pytest.raises(asyncio.CancelledError):
                await race
            assert disposed == ["won"]

        asyncio.run(scenario())

    def test_of_two_errors_the_last_is_raised(self) -> None:
        async def scenario() -> None:
            async def fail(seconds: float, error: Exception) -> str | None:
                await asyncio.sleep(seconds)
                raise error

            async def dispose(text: object) -> None:
                raise AssertionError

            with pytest.raises(KeyError):
                await first_of(fail(0.05, KeyError()), lambda: at_once(fail(0.01, ValueError())), 0.01, dispose)

        asyncio.run(scenario())
