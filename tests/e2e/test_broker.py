"""A broker inside of a server, and two of their own, as people start them: real processes, TLS, registries."""

import asyncio
import datetime
import json
import re
import resource
import signal
import ssl
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from muster.broker.address import read_address
from muster.broker.holding import LEASE_SECONDS, LOOKS_PER_LEASE
from muster.broker.messages import HEARTBEAT_SECONDS
from muster.broker.server import MOST_CONNECTIONS
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.processes.http import free_port
from muster.registry import connect
from tests.e2e.brokers import Brokers, Running, brokers_in, granted_at
from tests.e2e.watching import watchers_in
from tests.e2e.world import MUSTER, SERVE, World
from tests.servers.etcd import EtcdServer
from tests.servers.redis import RedisServer
from tests.unit.broker.client import Client

KEY = ServiceKey("admin", "0123456789")
TOKEN = "shared-by-everybody"
TAKE_OVER_SECONDS = LEASE_SECONDS + LEASE_SECONDS / LOOKS_PER_LEASE
"""Until the other broker has a dead one's services; it grants when those who held leases have had time to say so."""
_BUSY_SECONDS = 4.0
"""What a client that comes again and again, and two cores that others may use too, add."""


def published(registry: str, key: ServiceKey) -> EndpointSet | None:
    """Return the set of a service, once somebody is in it."""

    async def read() -> EndpointSet | None:
        opened = connect(registry)
        try:
            found = await opened.get(key)
            return found if found is not None and found.endpoints else None
        finally:
            await opened.aclose()

    return asyncio.run(read())


def publish(registry: str) -> None:
    """Publish a service that nobody has to reach."""

    async def write() -> None:
        opened = connect(registry)
        endpoints = (Endpoint("a", "http://127.0.0.1:9/a", concurrency=8),)
        await opened.publish(KEY, EndpointSet(1, 1, endpoints, datetime.datetime.now(datetime.UTC)))
        await opened.aclose()

    asyncio.run(write())


async def beats(registry: str, broker: Running) -> bool:
    """Tell whether a registry has a broker for alive."""
    opened = connect(registry)
    try:
        return any(broker.address.url in name for name in await opened.beats())
    finally:
        await opened.aclose()


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with brokers_in(tmp_path) as brokers:
        yield brokers


@pytest.fixture(params=["file", "redis", "etcd"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield (tmp_path / "registry").as_uri()
        return
    kind = RedisServer if request.param == "redis" else EtcdServer
    with kind(tmp_path / "registry") as server:
        yield server.url


@pytest.mark.slow
class TestInsideOfAServer:
    def test_all_clients_have_one_queue_and_learn_of_it_from_the_set(self, world: World) -> None:
        uuid = world.deploy("who", 1, SERVE, is_service=True)
        admin = ServiceKey("admin", uuid)
        found = world.until(lambda: published(world.registry_url, admin), "a set")
        assert found.broker_url is not None
        assert found.ca_pem is not None
        address, tls = read_address(found.broker_url), ssl.create_default_context(cadata=found.ca_pem)
        world.cli("accounts", "create", "bob")
        bobs = json.loads(world.cli("tokens", "create", "--account", "bob", "-o", "json"))

        async def scenario() -> None:
            token = world.profile.token
            async with await Client.connect(address, tls) as one, await Client.connect(address, tls) as two:
                assert (await one.hello(admin, token))["type"] == "welcome"
                assert (await two.hello(ServiceKey("admin", "who"), token, purpose="inspect"))["type"] == "welcome"
                await one.lease(within=10)
                two.say({"type": "show"})
                shown = await two.get("queue")
                assert shown["statistics"]["in_flight"] == 1, "by name and by uuid it is one queue"
            reasons = []
            for key, said in ((admin, "nonsense"), (admin, bobs["token"]), (ServiceKey("bob", uuid), bobs["token"])):
                async with await Client.connect(address, tls) as other:
                    reasons.append((await other.hello(key, said))["reason"])
            assert reasons == ["unauthenticated", "unknown_service", "unknown_service"]

        asyncio.run(scenario())

    def test_a_server_that_is_killed_has_its_broker_again_and_the_sets_say_where(self, world: World) -> None:
        uuid = world.deploy("who", 1, SERVE, is_service=True)
        key = ServiceKey("admin", uuid)
        before = world.until(lambda: published(world.registry_url, key), "a set")
        world.kill_server()

        def told() -> EndpointSet | None:
            found = published(world.registry_url, key)
            return found if found is not None and found.epoch > before.epoch else None

        found = world.until(told, "a set of the new server")
        assert found.broker_url is not None
        assert found.ca_pem == before.ca_pem
        tls = ssl.create_default_context(cadata=found.ca_pem)
        asyncio.run(granted_at([read_address(found.broker_url)], tls, key, world.profile.token))

    def test_a_second_home_on_one_host_takes_another_port(self, tmp_path: Path) -> None:
        worlds = [World(tmp_path / name) for name in ("one", "two")]
        port = str(free_port("127.0.0.1"))
        try:
            urls = []
            for world in worlds:
                world.environ["MUSTER_BROKER_PORT"] = port
                world.up()
                uuid = world.deploy("who", 1, SERVE, is_service=True)
                found = world.until(partial(published, world.registry_url, ServiceKey("admin", uuid)), "a set")
                urls.append(found.broker_url)
            assert urls[0] == f"tls://127.0.0.1:{port}"
            assert urls[1] not in {None, urls[0]}
            assert "Address already in use" in worlds[1].said()
        finally:
            for world in worlds:
                world.close()

    def test_without_ingress_the_broker_is_trusted_by_the_set(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.environ["MUSTER_INGRESS"] = "false"
        with world:
            uuid = world.deploy("who", 1, SERVE, is_service=True)
            key = ServiceKey("admin", uuid)
            found = world.until(lambda: published(world.registry_url, key), "a set")
            assert found.endpoints[0].url.startswith("http://")
            assert found.broker_url is not None
            tls = ssl.create_default_context(cadata=found.ca_pem)
            asyncio.run(granted_at([read_address(found.broker_url)], tls, key, world.profile.token))

    def test_its_queues_are_told_where_the_operator_says_and_nowhere_else(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.environ["MUSTER_BROKER_STATUS"] = "127.0.0.1:0"
        with world:
            uuid = world.deploy("who", 1, SERVE, is_service=True)
            key = ServiceKey("admin", uuid)
            found = world.until(lambda: published(world.registry_url, key), "a set")
            assert found.broker_url is not None
            tls = ssl.create_default_context(cadata=found.ca_pem)
            asyncio.run(granted_at([read_address(found.broker_url)], tls, key, world.profile.token))
            told = re.search(r"broker_status: the balancer's state is at (http://127\.0\.0\.1:\d+)", world.said())
            assert told is not None
            assert f"{key}" in world.cli("lb", "show", told[1])
            figures = httpx.get(f"{told[1]}/metrics").text
            assert f'muster_client_granted_total{{service="{key}"}} 1\n' in figures
            assert f'muster_client_waiting{{service="{key}"}} 0\n' in figures
            assert uuid not in httpx.get(f"{world.profile.url}/metrics").text, "which asks nobody who they are"

    def test_who_wants_none_has_none(self, tmp_path: Path) -> None:
        world = World(tmp_path)
        world.environ |= {"MUSTER_INGRESS": "false", "MUSTER_BROKER": "false"}
        with world:
            uuid = world.deploy("who", 1, SERVE, is_service=True)
            found = world.until(lambda: published(world.registry_url, ServiceKey("admin", uuid)), "a set")
            assert (found.broker_url, found.ca_pem) == (None, None)


@pytest.mark.slow
class TestOfTheirOwn:
    def test_a_broker_that_is_killed_is_replaced_in_time(self, brokers: Brokers, registry: str, tmp_path: Path) -> None:
        publish(registry)
        words = ("--registry", registry, "--token-file", str(tmp_path / "token"))
        first = brokers.start(*words)
        second = brokers.start(*words)

        async def scenario() -> tuple[float, float]:
            tls = brokers.trust()
            async with await Client.connect(first.address, tls) as client:
                assert (await client.hello(KEY, TOKEN))["type"] == "welcome"
                await client.lease()
                async with await Client.connect(second.address, tls) as other:
                    said = await other.hello(KEY, TOKEN)
                    assert (said["reason"], said["url"]) == ("standby", first.address.url)
                killed_at = first.kill()
                at, _ = await granted_at([second.address], tls, KEY, TOKEN)
                return killed_at, at

        killed_at, at = asyncio.run(scenario())
        print(f"granted by the other {at - killed_at:.2f} s after the kill")  # noqa: T201 a figure for the reader of -s
        assert at - killed_at < TAKE_OVER_SECONDS + HEARTBEAT_SECONDS + _BUSY_SECONDS
        assert second.end() == 0

    def test_a_broker_that_was_paused_gives_way_when_it_wakes(
        self, brokers: Brokers, registry: str, tmp_path: Path
    ) -> None:
        publish(registry)
        words = ("--registry", registry, "--token-file", str(tmp_path / "token"))
        first, second = brokers.start(*words), brokers.start(*words)

        async def scenario() -> None:
            tls = brokers.trust()
            async with await Client.connect(first.address, tls) as client:
                assert (await client.hello(KEY, TOKEN))["type"] == "welcome"
                await client.lease()
                first.process.send_signal(signal.SIGSTOP)
                await granted_at([second.address], tls, KEY, TOKEN)
                client.beat()
                first.process.send_signal(signal.SIGCONT)
                assert await client.farewell() == "standby"
            async with await Client.connect(first.address, tls) as client:
                said = await client.hello(KEY, TOKEN)
                assert (said["reason"], said["url"]) == ("standby", second.address.url)

        asyncio.run(scenario())

    def test_a_broker_that_is_stopped_hands_over_at_once(self, brokers: Brokers, registry: str, tmp_path: Path) -> None:
        publish(registry)
        words = ("--registry", registry, "--token-file", str(tmp_path / "token"))
        first, second = brokers.start(*words), brokers.start(*words)

        async def scenario() -> None:
            tls = brokers.trust()
            async with await Client.connect(first.address, tls) as client:
                assert (await client.hello(KEY, TOKEN))["type"] == "welcome"
                assert await beats(registry, first)
                assert first.end() == 0
                assert await client.farewell() == "stopping"
            assert not await beats(registry, first), "nobody waits for the end of its lease"
            _, by = await granted_at([second.address], tls, KEY, TOKEN, HEARTBEAT_SECONDS + _BUSY_SECONDS)
            assert by == second.address

        asyncio.run(scenario())

    def test_tokens_are_asked_of_an_api_and_its_state_is_shown(self, world: World, brokers: Brokers) -> None:
        uuid = world.deploy("who", 1, SERVE, is_service=True)
        key = ServiceKey("admin", uuid)
        world.until(lambda: published(world.registry_url, key), "a set")
        running = brokers.start("--registry", world.registry_url, "--api", world.profile.url, "--status", "127.0.0.1:0")

        async def come() -> None:
            tls = brokers.trust()
            async with await Client.connect(running.address, tls) as wrong:
                assert (await wrong.hello(key, "nonsense"))["reason"] == "unauthenticated"
            await granted_at([running.address], tls, key, world.profile.token)

        asyncio.run(come())
        status = running.line.partition("status at ")[2].rstrip(")\n")
        assert f"admin/{uuid}/6006" in world.cli("lb", "show", status)


@pytest.mark.slow
def test_it_may_open_as_many_files_as_it_takes_clients(brokers: Brokers, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > MOST_CONNECTIONS, "then this shows nothing"
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        running = brokers.start("--registry", (tmp_path / "registry").as_uri(), "--token-file", str(tmp_path / "token"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert psutil.Process(running.process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] > MOST_CONNECTIONS


@pytest.mark.slow
def test_services_of_an_api_that_has_no_broker_get_one_beside_a_watcher(world: World, tmp_path: Path) -> None:
    uuid = world.deploy("who", 2, SERVE, is_service=True)
    key, registry, token = ServiceKey("lab", uuid), (tmp_path / "aside").as_uri(), tmp_path / "token"
    token.write_text(TOKEN)
    authority = str(world.home / "tls" / "ca.pem")
    with brokers_in(tmp_path / "brokers", home=world.home) as brokers, watchers_in(tmp_path, world.environ) as watchers:
        running = brokers.start("--registry", registry, "--token-file", str(token), "--account", "lab")
        url = running.address.url
        words = ("--feed", "poll", "--account", "lab", "--ca", authority, "--broker-url", url)
        watchers.start("--registry", registry, *words, MUSTER_TOKEN=world.profile.token)
        found = world.until(lambda: published(registry, key), "a set")
        assert found.broker_url == url
        tls = ssl.create_default_context(cadata=found.ca_pem)
        asyncio.run(granted_at([running.address], tls, key, TOKEN))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--token-file", "{token}"], "no registry: use --registry"),
        (["--registry", "memory://x", "--token-file", "{token}"], "memory:// ends with this process"),
        (["--registry", "file:///tmp/x"], "--api URL asks a Muster's API whose a token is, --token-file FILE"),
        (["--registry", "file:///tmp/x", "--token-file", "/nonsense"], "/nonsense cannot be read"),
        (["--registry", "file:///tmp/x", "--api", "nonsense"], "must be like https://HOST"),
        (["--registry", "file:///tmp/x", "--token-file", "{token}", "--listen", "http://x"], "write tls://HOST:7690"),
        (["--registry", "file:///tmp/x", "--token-file", "{token}", "--listen", "tls://0.0.0.0:0"], "--advertise"),
        (["--registry", "file:///tmp/x", "--token-file", "{token}", "--listen", "tcp://10.0.0.7:0"], "in the clear"),
        (
            ["--registry", "file:///tmp/x", "--token-file", "{token}", "--listen", "tls://192.0.2.7:0"],
            "cannot listen at",
        ),
        (
            ["--registry", "file:///tmp/x", "--token-file", "{token}", "--tls-key", "/x"],
            "--tls-certificate and --tls-key",
        ),
        (["--registry", "file:///tmp/x", "--token-file", "{token}", "--account", ""], "--account: names nobody"),
        (["--registry", "file:///tmp/x", "--token-file", "{token}", "--status", "nonsense"], "no address to listen at"),
    ],
)
def test_what_cannot_be_meant_is_one_line(brokers: Brokers, tmp_path: Path, words: list[str], said: str) -> None:
    done = subprocess.run(
        [MUSTER, "broker", *(word.format(token=tmp_path / "token") for word in words)],
        env=brokers.environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, "one line, and no warnings of Python's"
