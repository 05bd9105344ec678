"""The SDK as users meet it: a registry, a service, an httpx client."""

import asyncio
import secrets
import threading
from pathlib import Path

import httpx
import pytest

import muster
from muster import registry
from muster.errors import BalancerError, InvalidSpec, NoEndpoints, RegistryUnavailable
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, ServiceKey
from tests.unit.balancer.servers import dead, endpoint_set, held, ok, serving, until

KEY = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")


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


def test_a_service_without_a_name_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidSpec, match="name or uuid"):
        muster.connect(url).service("")


def test_a_wrong_registry_url_is_refused_at_once() -> None:
    with pytest.raises(InvalidSpec, match="memory://, file://"):
        muster.connect("http://127.0.0.1:7600")
