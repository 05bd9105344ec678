"""The SDK as users meet it: a registry, a service, an httpx client."""

import asyncio
import errno
import secrets
import socket
import threading
from pathlib import Path

import httpx
import pytest

import muster
from muster import registry
from muster.balancer.eject import ERRORS_IN_A_ROW
from muster.balancer.waiting import Gate
from muster.errors import (
    BalancerError,
    CannotMeetDeadline,
    InvalidAsk,
    InvalidSpec,
    NeverFits,
    NoEndpoints,
    QueueTimeout,
    RegistryUnavailable,
)
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from tests.unit.balancer.servers import PUBLISHED_AT, dead, endpoint_set, held, ok, serving, until

KEY = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")


class LikeAiohttp(Exception):
    """Keeps the system's error where aiohttp's ``ClientConnectorError`` keeps it."""

    def __init__(self, os_error: OSError) -> None:
        super().__init__("Cannot connect")
        self.os_error = os_error


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{secrets.token_hex(8)}" if request.param == "memory" else f"file://{tmp_path}/registry"


def test_the_lines_of_the_package_docstring_work(url: str) -> None:
    async def scenario() -> None:
        async with serving(a=ok, b=ok) as servers:
            source = registry.connect(url)
            await source.publish(KEY, endpoint_set(*servers.values()))
            await source.link(NAME, KEY)

            service = muster.connect(url).service("digits")
            async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as client:
                answers = {(await client.get("/")).text for _ in range(20)}
            assert answers == {"a", "b"}
            assert asyncio.all_tasks() == {asyncio.current_task()}, "the last transport ends the watch"

    asyncio.run(scenario())


def test_a_service_follows_its_set_while_requests_run(url: str) -> None:
    async def scenario() -> None:
        async with serving(a=ok, b=ok) as servers, muster.connect(url) as connection:
            source = registry.connect(url)
            service = connection.service(KEY.service)
            async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as client:
                first = asyncio.ensure_future(client.get("/"))
                await until(lambda: service.statistics().waiting == 1)
                await source.publish(KEY, endpoint_set(servers["a"], revision=1))
                assert (await first).text == "a"
                await source.publish(KEY, endpoint_set(servers["b"], revision=2))
                await until(lambda: service.statistics().fence == (1, 2))
                assert (await client.get("/")).text == "b"

    asyncio.run(scenario())


def test_a_name_that_moves_to_another_deployment_is_followed_whatever_the_fences(url: str) -> None:
    async def scenario() -> None:
        async with serving(old=ok, new=ok) as servers, muster.connect(url) as connection:
            source = registry.connect(url)
            await source.publish(KEY, endpoint_set(servers["old"], revision=7))
            await source.publish(ServiceKey("admin", "another"), endpoint_set(servers["new"], revision=1))
            await source.link(NAME, KEY)
            service = connection.service("digits")
            await service.wait_ready()
            await source.link(NAME, ServiceKey("admin", "another"))
            await until(lambda: [each.id for each in service.statistics().replicas] == ["new"])

    asyncio.run(scenario())


def test_acquire_gives_one_slot_of_one_replica(url: str) -> None:
    async def scenario() -> None:
        target = dead("a")
        await registry.connect(url).publish(KEY, endpoint_set(target, concurrency=1))
        async with muster.connect(url) as connection:
            service = connection.service(KEY.service)
            async with service.acquire() as lease:
                assert lease.endpoint.url == target.url
                assert service.statistics().in_flight == 1
                with pytest.raises(BalancerError, match="no replica was free"):
                    async with service.acquire(timeout=0.02):
                        pass
            assert service.statistics().in_flight == 0
            with pytest.raises(ZeroDivisionError):
                async with service.acquire():
                    raise ZeroDivisionError
            with pytest.raises(ConnectionRefusedError):
                async with service.acquire():
                    raise ConnectionRefusedError
            found = service.statistics()
            assert found.in_flight == 0
            assert found.replicas[0].aside_seconds > 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())


def test_whoever_was_refused_with_an_explicit_lease_says_so_and_gets_another_replica(url: str) -> None:
    async def scenario() -> None:
        await registry.connect(url).publish(KEY, endpoint_set(dead("a"), dead("b"), concurrency=2))
        async with muster.connect(url) as connection:
            service = connection.service(KEY.service)
            async with service.acquire() as refused:
                refused.refused("draining")
            for _ in range(4):
                async with service.acquire() as lease:
                    assert lease.endpoint.id != refused.endpoint.id

            def by_thread() -> None:
                with service.acquire() as last:
                    last.refused("unreachable")

            await asyncio.to_thread(by_thread)
            assert all(each.aside_seconds > 0 for each in service.statistics().replicas)

    asyncio.run(scenario())


def test_whoever_speaks_tls_without_httpx_learns_whom_to_trust(url: str) -> None:
    async def scenario() -> None:
        async with muster.connect(url) as connection:
            service = connection.service(KEY.service)
            assert service.ca_pem is None
            await registry.connect(url).publish(KEY, endpoint_set(dead("a"), ca_pem="PEM"))
            async with service.acquire():
                assert service.ca_pem == "PEM"

    asyncio.run(scenario())


def test_one_service_object_per_key_shares_its_limits_between_tasks_and_threads(url: str) -> None:
    async def scenario() -> None:
        async with serving(a=held) as servers, muster.connect(url) as connection:
            await registry.connect(url).publish(KEY, endpoint_set(servers["a"], concurrency=1))
            service = connection.service(KEY.service)
            assert connection.service(KEY.service) is service
            assert connection.service(KEY.service, 6008) is not service

            def by_thread() -> str:
                with httpx.Client(transport=service.transport(), base_url="http://digits") as client:
                    return client.get("/").text

            async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as client:
                async with asyncio.TaskGroup() as group:
                    group.create_task(client.get("/"))
                    await until(lambda: servers["a"].in_flight == 1)
                    other = group.create_task(asyncio.to_thread(by_thread))
                    await until(lambda: service.statistics().waiting == 1)
                    servers["a"].gate.set()
                assert other.result() == "a"
            assert servers["a"].most == 1

    asyncio.run(scenario())


def test_sync_use_leaves_no_thread_behind(url: str) -> None:
    async def scenario() -> None:
        async with serving(a=ok) as servers:
            await registry.connect(url).publish(KEY, endpoint_set(servers["a"]))

            def work() -> None:
                with muster.connect(url) as connection:
                    service = connection.service(KEY.service)
                    with httpx.Client(transport=service.transport(), base_url="http://digits") as client:
                        assert client.get("/").text == "a"
                        assert watchers() == 1
                    assert watchers() == 0, "the last transport ends the watch"
                    with service.acquire() as lease:
                        assert lease.endpoint.id == "a"
                    assert watchers() == 1
                assert watchers() == 0

            await asyncio.to_thread(work)

    asyncio.run(scenario())


def watchers() -> int:
    return sum(each.name.startswith("muster") for each in threading.enumerate())


def test_a_connection_that_was_closed_refuses(url: str) -> None:
    async def scenario() -> None:
        async with muster.connect(url) as connection:
            service = connection.service("digits")
            waiting = asyncio.ensure_future(service.wait_ready())
            await asyncio.sleep(0)
        with pytest.raises(BalancerError, match="closed"):
            await waiting
        with pytest.raises(BalancerError, match="closed"):
            async with service.acquire():
                pass
        await service.aclose()

    asyncio.run(scenario())


class TestUnknownService:
    def test_the_error_comes_at_the_deadline_and_names_registry_and_neighbours(self, url: str) -> None:
        async def scenario() -> None:
            await registry.connect(url).publish(KEY, endpoint_set(dead()))
            async with muster.connect(url) as connection:
                service = connection.service("digist", wait_seconds=0.3)  # codespell:ignore digist
                async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://x") as client:
                    with pytest.raises(httpx.ConnectError) as caught:
                        await client.get("/")
                assert isinstance(caught.value, NoEndpoints)
                assert f"unknown service in registry {url}; known: admin/0123456789/6006" in str(caught.value)
                with pytest.raises(NoEndpoints, match=r"waited 0\.1 s for 1 endpoints: unknown service in registry"):
                    await service.wait_ready(timeout=0.1)

        asyncio.run(scenario())

    def test_a_value_of_a_newer_schema_is_said_to_be_one_and_what_to_do(self, tmp_path: Path) -> None:
        folder = tmp_path / "registry" / "admin" / KEY.service
        folder.mkdir(parents=True)
        (folder / "6006.json").write_text('{"schema": 9, "epoch": 1, "revision": 1, "endpoints": []}')

        with pytest.raises(httpx.ConnectError, match=r"schema: 9 is newer than 1") as caught:
            _get(f"file://{tmp_path}/registry")
        assert isinstance(caught.value, NoEndpoints)
        assert "holds something else under its name" in str(caught.value)
        assert "upgrade muster here if a newer one wrote it" in str(caught.value)

    def test_foreign_data_is_said_to_be_there(self, tmp_path: Path) -> None:
        folder = tmp_path / "registry" / "admin" / KEY.service
        folder.mkdir(parents=True)
        (folder / "6006.json").write_text("[]")
        with pytest.raises(NoEndpoints, match=r"6006\.json: foreign data.*else remove it there"):
            _get(f"file://{tmp_path}/registry")

    def test_an_alias_of_a_newer_schema_is_said_to_be_one(self, tmp_path: Path) -> None:
        folder = tmp_path / "registry" / "@aliases" / "admin" / KEY.service
        folder.mkdir(parents=True)
        (folder / "6006.json").write_text('{"schema": 9, "target": "elsewhere"}')
        with pytest.raises(NoEndpoints, match=r"schema 9 is newer than 1: upgrade muster"):
            _get(f"file://{tmp_path}/registry")

    def test_a_registry_that_does_not_answer_is_said_to_be_that(self) -> None:
        pytest.importorskip("redis")
        with socket.socket() as silent:  # bound, and does not listen
            silent.bind(("127.0.0.1", 0))
            with pytest.raises(NoEndpoints, match=r"registry redis://\S+ cannot be read \(.*see that it runs"):
                _get(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")

    def test_wait_ready_counts(self, url: str) -> None:
        async def scenario() -> None:
            source = registry.connect(url)
            await source.publish(KEY, endpoint_set(dead("a")))
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                await service.wait_ready()
                with pytest.raises(NoEndpoints, match=r"waited 0\.1 s for 2 endpoints: 1"):
                    await service.wait_ready(2, timeout=0.1)
                waiting = asyncio.ensure_future(service.wait_ready(2))
                await source.publish(KEY, endpoint_set(dead("a"), dead("b"), revision=2))
                await waiting

        asyncio.run(scenario())


def _get(url: str) -> None:
    with muster.connect(url) as connection:
        service = connection.service(KEY.service, wait_seconds=0.5)
        with httpx.Client(transport=service.transport(), base_url="http://digits") as client:
            client.get("/")


class TestAcquireOptions:
    def test_a_slot_is_asked_for_with_everything_that_a_request_may_say(self, url: str) -> None:
        async def scenario() -> None:
            target = Endpoint("a", "http://127.0.0.1:9", concurrency=4, budgets={"vram_mb": 1000})
            await registry.connect(url).publish(KEY, EndpointSet(1, 1, (target,), PUBLISHED_AT))
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                async with service.acquire(
                    features={"seconds": 3}, demands={"vram_mb": 600}, priority=1, tenant="anna", affinity="s"
                ) as lease:
                    assert lease.endpoint.id == "a"
                    assert service.statistics().replicas[0].budgets == {"vram_mb": (600, 1000)}
                    with pytest.raises(QueueTimeout):
                        async with service.acquire(timeout=0.02, demands={"vram_mb": 600}):
                            pass
                    with pytest.raises(NeverFits, match="vram_mb"):
                        async with service.acquire(demands={"vram_mb": 1001}):
                            pass
                assert service.statistics().replicas[0].budgets == {"vram_mb": (0, 1000)}

        asyncio.run(scenario())

    def test_what_is_wrong_is_refused_before_anybody_is_asked(self, url: str) -> None:
        service = muster.connect(url).service(KEY.service)
        with pytest.raises(InvalidAsk, match=r"features\.a: nan is not finite"):
            service.acquire(features={"a": float("nan")})
        with pytest.raises(InvalidAsk, match="priority"):
            service.acquire(priority=1.5)
        with pytest.raises(InvalidAsk, match="deadline"):
            service.acquire(deadline=float("nan"))
        with pytest.raises(InvalidSpec, match="'best' is none of least_time"):
            muster.connect(url).service(KEY.service, policy="best")

    @pytest.mark.parametrize("seconds", [0, -1])
    def test_a_deadline_in_the_past_is_refused_at_once(self, url: str, seconds: float) -> None:
        async def scenario() -> None:
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                with pytest.raises(CannotMeetDeadline, match="deadline had passed"):
                    async with service.acquire(deadline=seconds):
                        pass
                assert service.statistics().timed_out == 0, "nobody was asked"

        asyncio.run(scenario())

    def test_a_deadline_bounds_the_wait(self, url: str) -> None:
        with muster.connect(url) as connection:
            service = connection.service(KEY.service, wait_seconds=60)
            with pytest.raises(NoEndpoints), service.acquire(deadline=0.1):
                pass

    def test_what_breaks_in_the_block_again_and_again_puts_the_replica_aside(self, url: str) -> None:
        async def scenario() -> None:
            await registry.connect(url).publish(KEY, endpoint_set(dead("a")))
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                await service.wait_ready()
                for _ in range(ERRORS_IN_A_ROW):
                    assert service.statistics().replicas[0].aside_seconds == 0
                    with pytest.raises(httpx.RemoteProtocolError):
                        async with service.acquire():
                            raise httpx.RemoteProtocolError("half an answer")
                assert service.statistics().replicas[0].aside_seconds > 0

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.EHOSTUNREACH, "No route to host"),
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            OSError(errno.ETIMEDOUT, "Connection timed out"),
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] …"),
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            LikeAiohttp(OSError(errno.EHOSTUNREACH, "No route to host")),
        ],
        ids=repr,
    )
    def test_whoever_could_not_connect_in_the_block_puts_the_replica_aside(self, url: str, error: Exception) -> None:
        async def scenario() -> None:
            await registry.connect(url).publish(KEY, endpoint_set(dead("a")))
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                with pytest.raises(type(error)):
                    async with service.acquire():
                        raise error
                assert service.statistics().replicas[0].aside_seconds > 0

        asyncio.run(scenario())

    @pytest.mark.parametrize(
        "error", [OSError(errno.ENOSPC, "No space"), TimeoutError(), LikeAiohttp(OSError(errno.EPIPE, "Broken pipe"))]
    )
    def test_what_else_goes_wrong_in_the_block_says_nothing(self, url: str, error: Exception) -> None:
        async def scenario() -> None:
            await registry.connect(url).publish(KEY, endpoint_set(dead("a")))
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                with pytest.raises(type(error)):
                    async with service.acquire():
                        raise error
                assert service.statistics().replicas[0].aside_seconds == 0

        asyncio.run(scenario())


class TestPick:
    def test_an_address_holds_no_slot(self, url: str) -> None:
        async def scenario() -> None:
            await registry.connect(url).publish(KEY, endpoint_set(dead("a"), dead("b"), concurrency=1))
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                await service.wait_ready()
                assert {service.pick().id for _ in range(50)} == {"a", "b"}
                assert service.statistics().in_flight == 0
                assert len({service.pick(affinity="session").id for _ in range(20)}) == 1
                assert await asyncio.to_thread(lambda: service.pick().id) in ("a", "b")
            assert service.statistics().in_flight == 0

        asyncio.run(scenario())

    def test_an_event_loop_is_not_blocked_and_told_what_to_do(self, url: str) -> None:
        async def scenario() -> None:
            async with muster.connect(url) as connection:
                service = connection.service(KEY.service)
                with pytest.raises(NoEndpoints, match=r"unknown service in registry .*; wait_ready\(\) waits for it"):
                    service.pick()
                await registry.connect(url).publish(KEY, endpoint_set(dead("a"), concurrency=1))
                await service.wait_ready()
                async with service.acquire():
                    with pytest.raises(QueueTimeout, match="none of 1 replicas is free now"):
                        service.pick()
                assert service.pick().id == "a"
                await registry.connect(url).publish(KEY, endpoint_set(revision=2))
                await until(lambda: service.statistics().fence == (1, 2))
                with pytest.raises(NoEndpoints, match="nobody serves"):
                    service.pick()
                assert service.statistics().waiting == 0

        asyncio.run(scenario())

    def test_a_thread_waits_for_the_first_set(self, tmp_path: Path) -> None:
        url = f"file://{tmp_path}/registry"
        with muster.connect(url) as connection:
            service = connection.service(KEY.service)
            publisher = threading.Timer(
                0.1, lambda: asyncio.run(registry.connect(url).publish(KEY, endpoint_set(dead("late"))))
            )
            publisher.start()
            assert service.pick(timeout=10).id == "late"
            publisher.join()
            with pytest.raises(NoEndpoints):
                connection.service("digist").pick(timeout=0.1)  # codespell:ignore digist
        assert watchers() == 0


def test_the_registry_gone_means_the_last_set_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = tmp_path / "registry"
        async with serving(a=ok) as servers, muster.connect(f"file://{folder}") as connection:
            await registry.connect(f"file://{folder}").publish(KEY, endpoint_set(servers["a"]))
            service = connection.service(KEY.service)
            async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as client:
                await client.get("/")
                path = folder / "admin" / KEY.service / "6006.json"
                path.write_text("not a set")
                with pytest.raises(RegistryUnavailable):
                    await registry.connect(f"file://{folder}").get(KEY)
                assert (await client.get("/")).text == "a"
                folder.rename(tmp_path / "elsewhere")
                await asyncio.sleep(0.2)  # several rounds of the poller, which may change nothing
                assert (await client.get("/")).text == "a"

    asyncio.run(scenario())


def test_a_tcp_port_has_no_http_transport_but_can_be_acquired(url: str) -> None:
    async def scenario() -> None:
        endpoint = Endpoint("t", "tcp://127.0.0.1:22", PortProtocol.TCP)
        await registry.connect(url).publish(KEY, endpoint_set(endpoint))
        async with muster.connect(url) as connection:
            service = connection.service(KEY.service)
            async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://x") as client:
                with pytest.raises(httpx.UnsupportedProtocol, match="acquire"):
                    await client.get("/")
            async with service.acquire() as lease:
                assert lease.endpoint.url == "tcp://127.0.0.1:22"

    asyncio.run(scenario())


def test_the_same_service_serves_two_event_loops_one_after_the_other(url: str) -> None:
    connection = muster.connect(url)
    asyncio.run(registry.connect(url).publish(KEY, endpoint_set(dead("a"))))
    for _ in range(2):
        asyncio.run(connection.service(KEY.service).wait_ready())
    connection.close()


def test_a_client_follows_its_service_when_another_loop_that_used_it_first_has_ended(url: str) -> None:
    connection = muster.connect(url)
    service = connection.service(KEY.service)
    asyncio.run(registry.connect(url).publish(KEY, endpoint_set(dead("a"))))
    first, last = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        await service.wait_ready()
        first.set()
        await asyncio.to_thread(last.wait)

    async def scenario() -> None:
        async with serving(b=ok) as servers, connection:
            other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
            await asyncio.to_thread(first.wait)
            async with service.async_transport() as transport:
                last.set()
                await other
                await registry.connect(url).publish(KEY, endpoint_set(servers["b"], revision=2))
                async with httpx.AsyncClient(transport=transport, base_url="http://digits") as client:
                    await until(lambda: service.statistics().fence == (1, 2))
                    assert (await client.get("/")).text == "b"

    asyncio.run(scenario())


def test_a_set_that_breaks_the_balancer_is_told_of_once_and_the_next_one_is_used(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    update = Gate.update

    def breaks(self: Gate, endpoints: EndpointSet, *, is_other_target: bool = False) -> bool:
        if endpoints.revision == 2:
            raise ZeroDivisionError
        return update(self, endpoints, is_other_target=is_other_target)

    async def scenario() -> None:
        monkeypatch.setattr(Gate, "update", breaks)
        source = registry.connect(url)
        await source.publish(KEY, endpoint_set(dead("a")))
        async with muster.connect(url) as connection:
            service = connection.service(KEY.service)
            await service.wait_ready()
            await source.publish(KEY, endpoint_set(dead("b"), revision=2))
            await until(lambda: "cannot be used" in caplog.text)
            assert service.pick().id == "a"
            await source.publish(KEY, endpoint_set(dead("c"), revision=3))
            await until(lambda: service.pick().id == "c")
        assert caplog.text.count("cannot be used") == 1

    asyncio.run(scenario())


def test_a_service_that_cannot_be_closed_keeps_no_other_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/registry"

    def fails() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        await registry.connect(url).publish(KEY, endpoint_set(dead("a")))
        connection = muster.connect(url)
        bad, good = connection.service("digits"), connection.service(KEY.service)
        monkeypatch.setattr(bad, "aclose", fails)
        await good.wait_ready()
        await asyncio.to_thread(good.pick)
        assert watchers() == 1
        with pytest.raises(ZeroDivisionError):
            await connection.aclose()
        assert (watchers(), asyncio.all_tasks()) == (0, {asyncio.current_task()})

    asyncio.run(scenario())
    connection = muster.connect(url)
    bad, good = connection.service("digits"), connection.service(KEY.service)
    monkeypatch.setattr(bad, "close", fails)
    assert good.pick().id == "a"
    with pytest.raises(ZeroDivisionError):
        connection.close()
    assert watchers() == 0
    with pytest.raises(BalancerError, match="closed"):
        good.pick()


def test_a_service_without_a_name_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidSpec, match="name or uuid"):
        muster.connect(url).service("")


def test_a_wrong_registry_url_is_refused_at_once() -> None:
    with pytest.raises(InvalidSpec, match="memory://, file://"):
        muster.connect("http://127.0.0.1:7600")
