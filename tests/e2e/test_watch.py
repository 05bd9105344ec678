"""``muster watch`` against a real Muster, by its stream and by polling, into registries of their own."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.processes.http import free_port
from muster.testing.scripted_api import ScriptedApi
from tests.docker.daemon import Daemon
from tests.e2e.docker_world import DockerWorld
from tests.e2e.watching import Watchers, answers, ids, owner, seen, until, watchers_in
from tests.e2e.world import SERVE, World
from tests.servers.redis import RedisServer

HAND_OVER_SECONDS = 1.0
"""What is promised of a dead publisher, and of one that says goodbye."""
_BUSY_SECONDS = 5.0
"""What several processes that look and publish may add on a busy machine with few cores."""


@pytest.fixture(scope="module")
def who(module_world: World) -> str:
    """A service of three replicas that say who they are; its uuid."""
    return module_world.deploy("who", 3, SERVE, is_service=True)


@pytest.fixture
def registry(tmp_path: Path) -> str:
    """A registry of the test's own, beside the server's."""
    return (tmp_path / "registry").as_uri()


@pytest.fixture
def watchers(shared: World, tmp_path: Path) -> Iterator[Watchers]:
    with watchers_in(tmp_path, shared.environ) as watchers:
        yield watchers


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Watchers]:
    """Watchers where there is no Muster at all."""
    environ = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    with watchers_in(tmp_path, {**environ, "MUSTER_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}) as watchers:
        yield watchers


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["stream", "poll"])
def test_clients_find_a_service_through_a_registry_that_a_watcher_keeps(
    shared: World, who: str, watchers: Watchers, registry: str, feed: str
) -> None:
    replicas = {each.uuid for each in shared.live(who)}
    authority = str(shared.home / "tls" / "ca.pem")
    watcher = watchers.start(
        "--registry", registry, "--feed", feed, "--interval", "500ms", "--ca", authority, "--deployment", "who"
    )
    line = watcher.until("who (")
    assert "3 ready" in line
    assert all(f"+{each}" in line for each in replicas)
    assert ids(registry, who) == replicas
    until(lambda: "yes" if ids(registry, "who") == replicas else None, "the name stands for it")
    assert answers(registry, "who", "/who") == replicas
    assert shared.profile.token not in watcher.said

    shared.scale(who, 2)
    left = {each.uuid for each in shared.until_ready(who, 2)}
    until(lambda: "yes" if ids(registry, "who") == left else None, "the set has shrunk")
    (gone,) = replicas - left
    assert "2 ready" in watcher.until(f"-{gone}")
    shared.scale(who, 3)
    live = {each.uuid for each in shared.until_ready(who, 3)}
    until(lambda: "yes" if ids(registry, "who") == live else None, "the set has grown")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_second_watcher_takes_over_when_the_first_one_dies_or_says_goodbye(
    shared: World, watchers: Watchers, registry: str, number: signal.Signals
) -> None:
    uuid = shared.deploy(f"pair-{number.name.lower()}", 1)
    try:
        first = watchers.start("--registry", registry)
        first.until(uuid)
        second = watchers.start("--registry", registry)
        second.until("publishing every deployment of account admin")
        before = seen(registry, uuid)
        assert owner(registry, uuid) == first.publisher
        assert before is not None

        code = first.end(number)
        began = time.monotonic()
        until(lambda: "yes" if owner(registry, uuid) == second.publisher else None, "it is taken over")
        until(lambda: "yes" if (now := seen(registry, uuid)) and now.fence > before.fence else None, "published anew")
        assert time.monotonic() - began < HAND_OVER_SECONDS + _BUSY_SECONDS
        now = seen(registry, uuid)
        assert now is not None
        assert now.endpoints == before.endpoints
        assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        if number is not signal.SIGKILL:
            assert "retired" in first.said.splitlines()[-1]

        shared.scale(uuid, 2)
        live = {each.uuid for each in shared.until_ready(uuid, 2)}
        until(lambda: "yes" if ids(registry, uuid) == live else None, "the second one publishes")
    finally:
        shared.cli("delete", "-y", uuid)


@pytest.mark.slow
def test_a_wrong_token_is_refused_at_once(shared: World, registry: str) -> None:
    done = shared.run("watch", "--registry", registry, environ={"MUSTER_TOKEN": "n0t-it"})
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert "is the token right?" in line
    assert "n0t-it" not in line


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["auto", "poll"])
def test_an_api_that_is_down_is_waited_for(alone: Watchers, registry: str, feed: str) -> None:
    api = ScriptedApi(port=free_port("127.0.0.1"))
    words = ("--api", api.url, "--registry", registry, "--feed", feed, "--interval", "500ms")
    watcher = alone.start(*words, MUSTER_TOKEN=api.world.token)
    watcher.until("waiting for the API: cannot reach")
    uuid = api.world.add_deployment("asr")
    containers = set(api.world.run(uuid, 2))
    with api:
        watcher.until("2 ready")
        until(lambda: "yes" if ids(registry, "asr") == containers else None, "the name stands for it")
        assert watcher.said.count("waiting for the API") == 1, "it does not say so every second"
        assert watcher.end(signal.SIGTERM) == 0
    assert api.world.token not in watcher.said


@pytest.mark.slow
def test_a_registry_that_is_down_is_waited_for(alone: Watchers, tmp_path: Path) -> None:
    with ScriptedApi() as api, RedisServer(tmp_path / "redis", password="passw0rd", user="discovery") as redis:
        containers = set(api.world.run(api.world.add_deployment("asr"), 2))
        redis.kill()
        watcher = alone.start("--api", api.url, "--registry", redis.url, MUSTER_TOKEN=api.world.token)
        watcher.until("discovery keeps the last sets and tries again: ")
        redis.restart(is_empty=False)
        watcher.until("2 ready")
        until(lambda: "yes" if ids(redis.url, "asr") == containers else None, "the name stands for it")
        assert watcher.said.count("tries again") == 1, "it does not say so every second"
        assert f"into redis://{redis.host}" in watcher.said
        assert "passw0rd" not in watcher.said


@pytest.mark.slow
def test_a_second_signal_does_not_cut_the_goodbye_short(alone: Watchers, tmp_path: Path) -> None:
    with ScriptedApi() as api, RedisServer(tmp_path / "redis") as redis:
        api.world.run(api.world.add_deployment("asr"))
        watcher = alone.start("--api", api.url, "--registry", redis.url, MUSTER_TOKEN=api.world.token)
        watcher.until("1 ready")
        redis.pause()
        watcher.send(signal.SIGTERM)
        time.sleep(0.3)  # not for a race: the registry is silent, so it is saying goodbye all this time
        watcher.send(signal.SIGTERM)
        time.sleep(0.3)
        redis.resume()
        assert watcher.wait() == 0
        assert "retired" in watcher.said.splitlines()[-1]


@pytest.mark.slow
def test_a_registry_that_is_silent_holds_up_nobodys_end(alone: Watchers, tmp_path: Path) -> None:
    with ScriptedApi() as api, RedisServer(tmp_path / "redis") as redis:
        api.world.run(api.world.add_deployment("asr"))
        watcher = alone.start("--api", api.url, "--registry", redis.url, MUSTER_TOKEN=api.world.token)
        watcher.until("1 ready")
        redis.pause()
        assert watcher.end(signal.SIGTERM) == 0  # in time, and the registry is silent for ever
        assert "could not be told" in watcher.said
        redis.resume()


@pytest.mark.slow
def test_who_is_asked_to_stop_while_it_waits_stops(alone: Watchers, registry: str) -> None:
    watcher = alone.start("--api", "http://127.0.0.1:1", "--registry", registry, MUSTER_TOKEN="t0ken")
    watcher.until("waiting for the API")
    assert watcher.end(signal.SIGTERM) == 0


@pytest.mark.docker
@pytest.mark.parametrize("feed", ["stream", "poll"])
def test_real_containers_get_into_a_registry_and_out_of_it(
    docker_daemon: Daemon, python_image: str, tmp_path: Path, registry: str, feed: str
) -> None:
    serve = "python3 -c \"import http.server as h, os; open('id', 'w').write(os.environ['AutoDLContainerUUID']);"
    serve += ' h.test(h.SimpleHTTPRequestHandler, port=6006)"'
    file = f"""
name: real
replicas: 2
image: python
gpu: RTX 4090
cmd: cd /root && exec {serve}
service: {{health_check: {{path: /, interval: 200ms}}}}
"""
    with DockerWorld(tmp_path, docker_daemon) as world, watchers_in(tmp_path, world.environ) as watchers:
        world.cli("image", "add", "python", python_image)
        watcher = watchers.start(
            "--registry", registry, "--feed", feed, "--interval", "500ms", "--ca", str(world.home / "tls" / "ca.pem")
        )
        uuid = world.apply(file)
        live = {each.uuid for each in world.until_ready(uuid, 2)}
        until(lambda: "yes" if ids(registry, "real") == live else None, "both are published")
        assert answers(registry, "real", "/id") == live
        world.cli("delete", "-y", "real")
        until(lambda: "yes" if ids(registry, uuid) == set() else None, "none is left")
        assert watcher.end(signal.SIGTERM) == 0
