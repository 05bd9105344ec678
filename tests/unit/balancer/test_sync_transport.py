"""The sync transport against real servers on loopback, through threads."""

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from muster.balancer.balancer import Balancer
from muster.balancer.faults import ServiceClosed, ServiceUnreachable
from muster.balancer.transport import MusterTransport
from muster.balancer.waiting import Gate
from muster.errors import QueueTimeout
from muster.model.endpoint import Endpoint
from tests.unit.balancer.servers import (
    Server,
    dead,
    dies_before_answer,
    dies_in_body,
    endpoint_set,
    held,
    ok,
    serving,
    slow,
    streams_until_told,
    until,
)

IDEMPOTENT = {"muster": {"idempotent": True}}


async def balance(
    *members: Server | Endpoint, use: Callable[[Gate, httpx.Client], None], concurrency: int = 8, wait: float = 5.0
) -> None:
    """Run ``use`` in a thread with a client over these members; afterwards nothing may be in flight or waiting."""
    gate = Gate(Balancer("digits", random.Random(1), concurrency=concurrency), wait_seconds=wait)
    gate.update(endpoint_set(*members))

    def work() -> None:
        with httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as client:
            use(gate, client)

    await asyncio.to_thread(work)
    assert gate.statistics().in_flight == 0
    assert gate.statistics().waiting == 0


def test_threads_share_the_limits() -> None:
    async def scenario() -> None:
        async with serving(a=slow(0.004), b=slow(0.001)) as servers:

            def use(gate: Gate, client: httpx.Client) -> None:
                with ThreadPoolExecutor(12) as threads:
                    answers = list(threads.map(lambda _: client.post("/", content=b"x").text, range(100)))
                assert set(answers) == {"a", "b"}

            await balance(*servers.values(), use=use, concurrency=2)
            assert [each.most for each in servers.values()] == [2, 2]

    asyncio.run(scenario())


def test_the_rules_of_sending_again_are_the_same() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer, worse=dies_in_body, good=ok) as servers:

            def use(gate: Gate, client: httpx.Client) -> None:
                for _ in range(10):
                    assert client.get("/").text == "good"
                    assert client.post("/", content=b"x", extensions=IDEMPOTENT).text == "good"

            def surfaces(gate: Gate, client: httpx.Client) -> None:
                broken = 0
                for _ in range(20):
                    try:
                        client.post("/", content=b"x")
                    except (httpx.RemoteProtocolError, httpx.ReadError):
                        broken += 1
                assert broken > 0

            await balance(*servers.values(), dead(), use=use)
            await balance(*servers.values(), dead(), use=surfaces)

    asyncio.run(scenario())


def test_a_one_shot_body_goes_elsewhere_when_nothing_of_it_was_read() -> None:
    async def scenario() -> None:
        async with serving(good=ok) as servers:

            def use(gate: Gate, client: httpx.Client) -> None:
                for _ in range(5):
                    assert client.post("/", content=iter([b"one", b"two"])).text == "good"

            await balance(dead(), servers["good"], use=use)
            assert all(each.body == b"onetwo" for each in servers["good"].seen)

    asyncio.run(scenario())


def test_a_lease_lasts_until_the_body_is_read_or_closed() -> None:
    async def scenario() -> None:
        async with serving(a=streams_until_told) as servers:

            def use(gate: Gate, client: httpx.Client) -> None:
                with client.stream("GET", "/") as response:
                    assert next(response.iter_raw()) == b"first"
                    assert gate.statistics().in_flight == 1
                assert gate.statistics().in_flight == 0

            await balance(servers["a"], use=use)

    asyncio.run(scenario())


def test_a_thread_waits_for_a_replica_that_comes() -> None:
    async def scenario() -> None:
        async with serving(late=ok) as servers:

            def use(gate: Gate, client: httpx.Client) -> None:
                newcomer = threading.Timer(0.1, lambda: gate.update(endpoint_set(servers["late"], revision=2)))
                newcomer.start()
                assert client.post("/").text == "late"
                newcomer.join()

            await balance(dead(), use=use)

    asyncio.run(scenario())


def test_a_thread_waits_no_longer_than_its_deadline() -> None:
    async def scenario() -> None:
        async with serving(a=held) as servers:

            def use(gate: Gate, client: httpx.Client) -> None:
                with pytest.raises(ServiceUnreachable):
                    client.get("/", extensions={"muster": {"timeout": 0.1}})

            await balance(dead(), use=use)

            gate = Gate(Balancer("digits", random.Random(1), concurrency=1))
            gate.update(endpoint_set(servers["a"]))
            with httpx.Client(transport=MusterTransport(gate), base_url="http://digits") as client:
                running = asyncio.create_task(asyncio.to_thread(client.get, "/"))
                await until(lambda: servers["a"].in_flight == 1)
                with pytest.raises(QueueTimeout):
                    await asyncio.to_thread(client.get, "/", extensions={"muster": {"timeout": 0.05}})
                waiting = asyncio.create_task(asyncio.to_thread(client.get, "/"))
                await until(lambda: gate.statistics().waiting == 1)
                gate.close()
                with pytest.raises(ServiceClosed):
                    await waiting
                servers["a"].gate.set()
                assert (await running).text == "a"
            assert gate.statistics().in_flight == 0

    asyncio.run(scenario())
