"""A client's connection to its broker, over real sockets: it is used when it is there, and missed by nobody."""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import muster
from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.call import Call
from muster.balancer.hedge import spare_lease
from muster.balancer.lease import Lease, Outcome
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.broker import inspect, link, messages
from muster.broker.address import read_address
from muster.broker.inspect import Where
from muster.broker.link import Link
from muster.broker.messages import HEARTBEAT_SECONDS, Bye
from muster.errors import BrokerRefused, BrokerUnavailable, InvalidSpec, QueueCancelled, QueueTimeout
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.file import FileRegistry
from muster.registry.memory import Memory, MemoryRegistry
from muster.tls.certificate import Certificates
from tests.unit.balancer.servers import endpoint_set, ok, serving
from tests.unit.broker.ground import KEY, NAME, TOKEN, Ground, ground, make_set, until

PATIENCE_SECONDS = 20.0


@contextlib.asynccontextmanager
async def client(*urls: str, endpoints: EndpointSet, token: str = TOKEN, key: ServiceKey = KEY) -> AsyncIterator[Gate]:
    gate = Gate(Balancer(str(key), random.Random(1)), wait_seconds=10)
    gate.update(endpoints)
    task = asyncio.create_task(Link(gate, key, token, urls=urls or None).run())
    try:
        yield gate
    finally:
        task.cancel()
        await asyncio.wait([task])


async def shared(*gates: Gate) -> None:
    await until(lambda: all(gate.is_shared for gate in gates), "asking the broker", 15)


async def acquire(gate: Gate, seconds: float = PATIENCE_SECONDS, ask: Ask | None = None) -> Lease:
    return await AsyncWaiter(gate).acquire(deadline=gate.monotonic() + seconds, ask=ask or Ask())


def at(found: Ground, token: str = TOKEN, key: ServiceKey = KEY) -> Where:
    return Where((found.address.url,), None, key, token)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 50))


def test_two_clients_share_a_queue_whatever_they_call_the_service() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with (
            ground(endpoints={KEY: only}) as broker,
            client(broker.address.url, endpoints=only) as first,
        ):
            await broker.registry.link(NAME, KEY)
            async with client(broker.address.url, endpoints=only, key=NAME) as second:
                await shared(first, second)
                lease = await acquire(first)
                waiting = asyncio.create_task(acquire(second))
                await until(lambda: second.statistics().waiting == 1, "the second asks")
                await until(lambda: broker.statistics().waiting == 1, "and waits at the broker")
                assert not waiting.done()
                first.release(lease)
                second.release(await waiting)
                await until(lambda: broker.statistics().in_flight == 0, "both have said that they are done")
                assert broker.statistics().answered == 2

    run(scenario)


def test_who_waits_is_served_here_as_soon_as_the_broker_dies_and_moves_there_when_it_is_back() -> None:
    async def scenario() -> None:
        registry, only = MemoryRegistry(Memory()), make_set("a")
        async with contextlib.AsyncExitStack() as stack:
            broker = await stack.enter_async_context(ground(registry, endpoints={KEY: only}))
            async with client(broker.address.url, endpoints=only) as gate:
                await shared(gate)
                lease = await acquire(gate)
                waiting = [asyncio.create_task(acquire(gate)) for _ in range(3)]
                await until(lambda: broker.statistics().waiting == 3, "three wait there")
                await broker.kill()
                await until(lambda: not gate.is_shared, "the client has noticed")
                assert gate.statistics().waiting == 3
                assert gate.statistics().in_flight == 1
                gate.release(lease)
                held = await waiting[0]
                async with ground(registry, listen=broker.address, settle_seconds=0.3) as back:
                    await shared(gate)
                    await until(lambda: back.statistics().waiting == 2, "the others wait there now")
                    await until(lambda: back.statistics().in_flight == 1, "which knows what runs")
                    assert not any(each.done() for each in waiting[1:])
                    gate.release(held)
                    for each in waiting[1:]:
                        gate.release(await each)
                    await until(lambda: back.statistics().in_flight == 0, "and knows that it ended")

    run(scenario)


def test_a_broker_that_says_nothing_any_more_is_left_within_a_heartbeat() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(broker.address.url, endpoints=only) as gate:
            await shared(gate)
            lease = await acquire(gate)
            waiting = asyncio.create_task(acquire(gate))
            await until(lambda: broker.statistics().waiting == 1, "it waits there")
            for connection in broker.broker.connections:
                connection._parts = [b""]  # what it sends from now on is never flushed
            began = gate.monotonic()
            await until(lambda: not gate.is_shared, "the client has gone on")
            assert gate.monotonic() - began < 2 * HEARTBEAT_SECONDS
            gate.release(lease)
            gate.release(await waiting)

    run(scenario)


def test_nobody_waits_for_a_broker_that_is_not_there() -> None:
    async def scenario() -> None:
        async with client("tcp://127.0.0.1:1", endpoints=make_set("a")) as gate:
            gate.release(await acquire(gate, seconds=0.5))
            assert not gate.is_shared

    run(scenario)


def test_a_wrong_token_is_told_once_and_the_client_chooses_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with (
            ground(endpoints={KEY: only}) as broker,
            client(broker.address.url, endpoints=only, token="wrong") as gate,
        ):
            await until(lambda: "unauthenticated" in caplog.text, "the broker has refused")
            gate.release(await acquire(gate, seconds=0.5))
            assert not gate.is_shared
        assert caplog.text.count("choosing without it") == 1
        assert "wrong" not in caplog.text.replace("is wrong", "")

    with caplog.at_level(logging.WARNING):
        run(scenario)


def test_what_ends_at_the_broker_ends_with_its_own_error_here() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(broker.address.url, endpoints=only) as gate:
            await shared(gate)
            lease = await acquire(gate)
            with pytest.raises(QueueTimeout, match=r"free within|the broker at tcp://127\.0\.0\.1:\d+ chooses"):
                await acquire(gate, seconds=0.2)
            waiting = asyncio.create_task(acquire(gate, ask=Ask(tenant="batch")))
            await until(lambda: broker.statistics().waiting == 1, "one waits")
            queue = await inspect.show(at(broker))
            assert [each.tenant for each in queue.waiting] == ["batch"]
            assert await inspect.evict(at(broker), {"tenant": "other"}) == 0
            assert await inspect.evict(at(broker), {"tenant": "batch"}) == 1
            with pytest.raises(QueueCancelled, match="operator"):
                await waiting
            gate.release(lease)
            await until(lambda: broker.statistics().in_flight == 0, "nothing is left")
            assert broker.statistics().waiting == 0

    run(scenario)


def test_a_second_send_takes_no_slot_for_which_somebody_waits() -> None:
    async def scenario() -> None:
        both = make_set("a", "b")
        async with ground(endpoints={KEY: both}) as broker, client(broker.address.url, endpoints=both) as gate:
            await shared(gate)
            call = Call(httpx.Request("GET", "http://digits/"), now=gate.count_call(), wait_seconds=PATIENCE_SECONDS)
            first, second = await acquire(gate), await acquire(gate)
            waiting = asyncio.create_task(acquire(gate))
            await until(lambda: broker.statistics().waiting == 1, "one waits")
            spare = asyncio.create_task(spare_lease(gate, AsyncWaiter(gate), call, first.endpoint))
            await asyncio.sleep(0)
            gate.release(second)
            assert await spare is None
            lease = await waiting
            assert lease.endpoint == second.endpoint
            gate.release(lease)
            idle = await spare_lease(gate, AsyncWaiter(gate), call, first.endpoint)
            assert idle is not None
            assert idle.endpoint == second.endpoint
            for each in (idle, first):
                gate.release(each, Outcome.FAILED)
            await until(lambda: broker.statistics().in_flight == 0, "nothing is left")
            assert gate.statistics().timed_out == 0

    run(scenario)


def test_whoever_stops_waiting_is_forgotten_there() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(broker.address.url, endpoints=only) as gate:
            await shared(gate)
            lease = await acquire(gate)
            waiting = asyncio.create_task(acquire(gate))
            await until(lambda: broker.statistics().waiting == 1, "one waits")
            waiting.cancel()
            await until(lambda: broker.statistics().waiting == 0, "it is forgotten")
            gate.release(lease, Outcome.FAILED)
            await until(lambda: broker.statistics().in_flight == 0, "and so is the lease")

    run(scenario)


def test_a_closed_service_fails_who_waits_at_the_broker() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(broker.address.url, endpoints=only) as gate:
            await shared(gate)
            await acquire(gate)
            waiting = asyncio.create_task(acquire(gate))
            await until(lambda: broker.statistics().waiting == 1, "one waits")
            gate.close()
            with pytest.raises(muster.errors.BalancerError, match="closed"):
                await waiting

    run(scenario)


def test_threads_ask_too() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(broker.address.url, endpoints=only) as gate:
            await shared(gate)
            served = 0
            lock = threading.Lock()

            def work() -> None:
                nonlocal served
                for _ in range(20):
                    lease = ThreadWaiter(gate).acquire(deadline=gate.monotonic() + PATIENCE_SECONDS)
                    with lock:
                        served += 1
                    gate.release(lease)

            await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
            assert served == 80
            await until(lambda: broker.statistics().in_flight == 0, "all have ended")
            assert broker.statistics().granted == 80

    run(scenario)


def test_the_sdk_finds_the_broker_in_the_set(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = FileRegistry(tmp_path)
        async with serving(a=ok, b=ok) as servers, ground(registry) as broker:
            found = endpoint_set(*servers.values(), concurrency=1)
            await registry.publish(KEY, _with_broker(found, f"tcp://127.0.0.1:1,{broker.address.url}"))
            async with muster.connect(tmp_path.as_uri(), token=TOKEN) as connection:
                service = connection.service(KEY.service)
                async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as http:
                    assert (await http.get("/")).status_code == 200
                    await until(lambda: service.statistics().broker, "the broker is found", 15)
                    for _ in range(10):
                        assert (await http.get("/")).status_code == 200
                    async with service.acquire() as lease:
                        assert lease.endpoint.id in {"a", "b"}
                    assert (await http.get("/", extensions={"muster": {"hedge": 0.0}})).status_code == 200
                    await until(lambda: broker.statistics().in_flight == 0, "all have ended")
                    assert broker.statistics().granted >= 11
                    assert service.pick().id in {"a", "b"}
                    holds = [service.acquire() for _ in range(2)]
                    await asyncio.gather(*(each.__aenter__() for each in holds))
                    waiting = asyncio.create_task(http.post("/", content=b"x"))
                    await until(lambda: broker.statistics().waiting == 1, "a request waits")
                    await inspect.evict(at(broker), {"all": True})
                    with pytest.raises(httpx.PoolTimeout) as caught:
                        await waiting
                    assert isinstance(caught.value, QueueCancelled)
                    for each in holds:
                        await each.__aexit__(None, None, None)
            await until(lambda: not broker.broker.connections, "the client has gone")

    run(scenario)


def test_a_sync_client_and_its_thread_use_the_broker(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = FileRegistry(tmp_path)
        async with serving(a=ok) as servers, ground(registry) as broker:
            await registry.publish(KEY, endpoint_set(*servers.values()))

            def work() -> int:
                with muster.connect(tmp_path.as_uri(), token=TOKEN, broker=broker.address.url) as connection:
                    service = connection.service(KEY.service)
                    with httpx.Client(transport=service.transport(), base_url="http://digits") as http:
                        for _ in range(200):
                            assert http.get("/").status_code == 200
                            if service.statistics().broker and broker.statistics().granted > 3:
                                return int(service.statistics().granted)
                raise AssertionError("the broker was never asked")

            assert await asyncio.to_thread(work) > 3
            await until(lambda: not broker.broker.connections, "the client has gone")

    run(scenario)


def test_who_names_no_account_is_of_its_tokens() -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with (
            ground(endpoints={KEY: only}) as broker,
            client(broker.address.url, endpoints=only, key=ServiceKey("", KEY.service)) as gate,
        ):
            await shared(gate)
            gate.release(await acquire(gate))
            await until(lambda: broker.statistics().granted == 1, "its own account's queue served it")

    run(scenario)


def test_without_a_token_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_TOKEN", raising=False)

    async def scenario() -> None:
        registry = FileRegistry(tmp_path)
        async with serving(a=ok) as servers, ground(registry) as broker:
            await registry.publish(KEY, _with_broker(endpoint_set(*servers.values()), broker.address.url))
            async with muster.connect(tmp_path.as_uri()) as connection:
                transport = connection.service(KEY.service).async_transport()
                async with httpx.AsyncClient(transport=transport, base_url="http://digits") as http:
                    for _ in range(20):
                        assert (await http.get("/")).status_code == 200
            assert not broker.broker.connections

    run(scenario)


def test_who_looks_first_at_a_service_sees_its_replicas() -> None:
    async def scenario() -> None:
        async with ground(endpoints={KEY: make_set("a", "b")}, settle_seconds=0.3) as broker:
            queue = await inspect.show(at(broker))
            assert [each.id for each in queue.statistics.replicas] == ["a", "b"]

    run(scenario)


def test_who_looks_at_the_queue_is_told_why_that_is_not_to_be() -> None:
    async def scenario() -> None:
        async with ground() as broker:
            with pytest.raises(BrokerRefused, match="unauthenticated"):
                await inspect.show(at(broker, token="other"))
            with pytest.raises(BrokerRefused, match="unknown_service"):
                await inspect.show(at(broker, key=ServiceKey("admin", "nothing")))
            with pytest.raises(BrokerUnavailable, match="cannot be asked"):
                await inspect.show(Where(("tcp://127.0.0.1:1",), None, KEY, TOKEN))

    run(scenario)


def test_that_none_of_several_brokers_is_there_is_told_once_for_each(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(link, "LONGEST_PAUSE_SECONDS", 0.01)

    async def scenario() -> None:
        async with client("unix:///nowhere/a", "unix:///nowhere/b", endpoints=make_set("a")):
            await until(lambda: len(caplog.records) >= 2, "both are told of")
            await asyncio.sleep(0.2)

    run(scenario)
    assert len(caplog.records) == 2, [each.getMessage() for each in caplog.records]


def test_a_standby_whose_connection_ends_slowly_takes_nothing_from_the_next_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS takes some turns of the loop to end a connection, a Unix socket none to make one."""
    certificates = Certificates.open(tmp_path, names=["localhost"], certificate=None, key=None, leaf="broker")
    only = replace(make_set("a"), ca_pem=(tmp_path / "tls" / "ca.pem").read_text())

    async def scenario() -> None:
        async with (
            ground(
                endpoints={KEY: only}, listen=read_address("tls://127.0.0.1:0"), tls=certificates.context
            ) as standby,
            ground(endpoints={KEY: only}, listen=read_address(f"unix://{tmp_path}/broker.sock")) as broker,
        ):

            async def elsewhere(key: ServiceKey, guest: object) -> Bye:
                return Bye("standby", "another broker serves it")

            monkeypatch.setattr(standby.services, "open", elsewhere)
            async with client(standby.address.url, broker.address.url, endpoints=only) as gate:
                await shared(gate)

    run(scenario)


@pytest.mark.parametrize("written", ["http://127.0.0.1:7690", "127.0.0.1:7690", "tls://:7690", "tls://h:x", "unix://a"])
def test_what_is_no_address_is_refused_before_anything_is_asked(written: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="broker"):
        muster.connect(tmp_path.as_uri(), broker=written)


@pytest.mark.parametrize(
    "url", [",", "tls://.a:1", f"tls://{'a' * 64}.x:1", "tcp://a..b:1", "garbage", "tls://\ud800:1"]
)
def test_a_set_that_names_nonsense_for_a_broker_is_followed_on(url: str) -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(endpoints=_with_broker(only, url)) as gate:
            await asyncio.sleep(0.05)
            assert not gate.is_shared
            gate.update(_with_broker(make_set("a", revision=2), broker.address.url))
            await shared(gate)

    run(scenario)


@pytest.mark.parametrize("ca_pem", ["", "é", "nothing"])
def test_a_set_whose_authority_is_none_is_followed_on(ca_pem: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        only = replace(make_set("a"), ca_pem=ca_pem)
        async with client("tls://127.0.0.1:1", endpoints=only):
            await until(lambda: "cannot be reached" in caplog.text, "it has tried")

    run(scenario)
    assert "cannot be asked" not in caplog.text


def test_a_fault_of_ours_ends_no_link(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        only = make_set("a")
        async with ground(endpoints={KEY: only}) as broker, client(broker.address.url, endpoints=only) as gate:
            await shared(gate)
            lease = await acquire(gate)
            waiting = asyncio.create_task(acquire(gate))
            await until(lambda: broker.statistics().waiting == 1, "it waits there")
            with monkeypatch.context() as patch:
                patch.setattr(messages, "read_pulse", lambda _: 1 // 0)
                await until(lambda: not gate.is_shared, "it has gone on")
            gate.release(lease)
            gate.release(await waiting)
            await shared(gate)

    run(scenario)
    assert caplog.text.count("could not be taken") == 1


@contextlib.contextmanager
def elsewhere(endpoints: EndpointSet) -> Iterator[Ground]:
    """Run a broker in a thread."""
    found: concurrent.futures.Future[tuple[Ground, asyncio.AbstractEventLoop, asyncio.Event]] = (
        concurrent.futures.Future()
    )

    async def serve() -> None:
        async with ground(endpoints={KEY: endpoints}) as broker:
            is_over = asyncio.Event()
            found.set_result((broker, asyncio.get_running_loop(), is_over))
            await is_over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    broker, loop, is_over = found.result(PATIENCE_SECONDS)
    try:
        yield broker
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(PATIENCE_SECONDS)


def test_threads_do_not_depend_on_the_event_loop_that_speaks_to_the_broker() -> None:
    only = make_set("a")
    with elsewhere(only) as broker:
        gate = Gate(Balancer(str(KEY), random.Random(1)))
        gate.update(only)

        async def scenario() -> None:
            task = asyncio.create_task(Link(gate, KEY, TOKEN, urls=(broker.address.url,)).run())
            await shared(gate)
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                asked = pool.submit(ThreadWaiter(gate).acquire, deadline=gate.monotonic() + 10)
                gate.release(asked.result(10))  # which holds this loop up: nobody can say at the broker that it asks
            assert not gate.is_shared
            await shared(gate)  # once it runs on
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_another_event_loop_takes_over_from_one_that_was_closed() -> None:
    only = make_set("a")
    with elsewhere(only) as broker:
        gate = Gate(Balancer(str(KEY), random.Random(1)))
        gate.update(only)
        first = asyncio.new_event_loop()
        left = first.create_task(Link(gate, KEY, TOKEN, urls=(broker.address.url,)).run())
        first.run_until_complete(shared(gate))
        first.close()  # as programs do that cancel nothing

        async def scenario() -> None:
            task = asyncio.create_task(Link(gate, KEY, TOKEN, urls=(broker.address.url,)).run())
            gate.release(await acquire(gate))
            await shared(gate)
            gate.release(await acquire(gate))
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(scenario())
        left.get_coro().close()
        del left
        gc.collect()


def _with_broker(found: EndpointSet, url: str) -> EndpointSet:
    return replace(found, broker_url=url)
