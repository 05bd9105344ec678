"""Nothing is cut off: streams and requests while replicas come and go, and while server and ingress are killed."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

import muster
from tests.e2e.traffic import Traffic
from tests.e2e.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVICE = Path(__file__).with_name("stream_service.py")
STREAMS = 100
STREAM_SECONDS = 30
SERVER_KILLS = 50
INGRESS_KILLS = 20
GIB = 1 << 30
HEARD_SECONDS = 1.0
"""Until every client knows that a replica drains, as is promised."""
AWAY_SECONDS = 15.0
"""What a start of the ingress may take on a busy machine; benchmarks tell what it takes on an idle one."""
FILE = """
name: {name}
replicas: {replicas}
image: local
gpu: RTX 4090
env: {{ARRIVALS: {arrivals}, EDITION: {edition}}}
cmd: exec {python} -I -S {service}
service: {{concurrency: 64, drain: 60s, health_check: {{path: /, interval: 500ms}}}}
"""


def applied(world: World, name: str, replicas: int, edition: str = "first") -> str:
    file = FILE.format(
        name=name,
        replicas=replicas,
        edition=edition,
        arrivals=arrivals_of(world),
        python=sys.executable,
        service=SERVICE,
    )
    return str(world.listed("apply", "-y", "-f", "-", stdin=file)["deployment_uuid"])


def arrivals_of(world: World) -> Path:
    return world.user / "arrivals"


async def streamed(client: httpx.AsyncClient, seconds: float) -> str:
    """Read one stream to its end; returns who sent it. Raises if it broke, or was not of one container."""
    async with client.stream("GET", f"/stream?seconds={seconds}") as answer:
        lines = [line async for line in answer.aiter_lines()]
    assert lines[-1] == "end", "a stream that ended early"
    (sender,) = set(lines[:-1])
    return sender


def test_streams_outlive_a_scale_in_and_a_rollout_and_nothing_new_reaches_who_drains(world: World) -> None:
    uuid = applied(world, "streams", 4)
    world.until_ready(uuid, 4)

    async def scenario() -> list[str | BaseException]:
        async with muster.connect(world.registry_url) as connection:
            service = connection.service("streams")
            await service.wait_ready(4)
            timeout = httpx.Timeout(10.0, read=60.0)
            async with httpx.AsyncClient(
                transport=service.async_transport(), base_url="http://streams", timeout=timeout
            ) as client:
                streams = [asyncio.create_task(streamed(client, STREAM_SECONDS)) for _ in range(STREAMS)]
                await asyncio.sleep(3)  # they are under way: this is their time, not a wait for anything
                await asyncio.to_thread(world.cli, "scale", "streams", "1")
                await asyncio.sleep(2)
                await asyncio.to_thread(applied, world, "streams", 1, "second")
                return await asyncio.gather(*streams, return_exceptions=True)

    with Traffic(world.registry_url, "streams", method="GET") as traffic:
        outcomes = asyncio.run(scenario())
        world.until(lambda: world.run("rollout", "status", "streams", "-w").code == 0, "the rollout is through")
        world.until_ready(uuid, 1)
    broken = [each for each in outcomes if isinstance(each, BaseException)]
    assert not broken, f"{len(broken)} of {STREAMS}: {broken[:3]}"
    assert len({*outcomes}) == 4, "all four replicas had streams"
    assert traffic.failed == []

    told = {e.container_uuid: e.created_at.timestamp() for e in world.events() if e.status == "shutting_down"}
    late = [
        line
        for line in arrivals_of(world).read_text().splitlines()
        for at, who, path in [line.split()]
        if path == "/?from=traffic" and float(at) > told.get(who, float("inf")) + HEARD_SECONDS
    ]
    assert not late, f"a request reached a replica more than {HEARD_SECONDS:g} s after it was to drain"
    drained = [e.message for e in world.events() if e.kind == "drain"]
    assert drained.count("nothing is in flight: stopping") == 4


def test_the_server_may_be_killed_as_often_as_one_likes(world: World) -> None:
    """Requests, streams and addresses are the ingress's; the server only says what changes."""
    uuid = applied(world, "steady", 2)
    first = world.until_ready(uuid, 2)
    world.kill(world.up_pid or 0)  # the test starts the server itself, without the pauses of a supervisor
    url = first[0].url_6006
    with Traffic(world.registry_url, "steady", method="GET") as traffic, open_streams(world, url, 8) as count_open:

        def goes_on(since: int) -> bool:
            return traffic.answered.total() > since

        for _ in range(SERVER_KILLS):
            world.kill(world.server_pid)
            world.until(partial(goes_on, traffic.answered.total()), "requests go on without a server")
            world.start_server()
            world.until(lambda: world.ask(lambda client: client.is_ready()), "the server is back")
        assert count_open() == 8, "all are still open"
    assert traffic.failed == []
    again = world.until_ready(uuid, 2)
    assert [(each.uuid, each.url_6006) for each in again] == [(each.uuid, each.url_6006) for each in first]


@pytest.mark.parametrize("has_server", [True, False])
def test_a_killed_ingress_is_back_with_the_same_addresses_and_only_what_was_in_it_breaks(
    world: World, has_server: bool
) -> None:
    uuid = applied(world, "front", 2)
    first = world.until_ready(uuid, 2)
    world.kill(world.up_pid or 0)  # the test starts the ingress itself, without the pauses of a supervisor
    if not has_server:
        world.kill(world.server_pid)
    url, trust = first[0].url_6006, world.trust()
    failures: list[tuple[float, float]] = []
    answered = [0]
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            begun = time.monotonic()
            try:
                httpx.get(url, verify=trust, trust_env=False, timeout=20).raise_for_status()
                answered[0] += 1
            except httpx.HTTPError:
                failures.append((begun, time.monotonic()))

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    back: list[tuple[float, float]] = []
    kills = INGRESS_KILLS if has_server else 2
    try:
        for _ in range(kills):
            killed_at = time.monotonic()
            world.kill(world.ingress_pid)
            world.start_ingress()
            world.until(lambda: is_listening(url, trust), "the address answers again")
            back.append((killed_at, time.monotonic()))
            world.until(partial(flows, answered, answered[0] + 5), "requests flow")
    finally:
        is_over.set()
        for caller in callers:
            caller.join()
    outside = [each for each in failures if not any(each[0] <= up and killed <= each[1] for killed, up in back)]
    assert not outside, "a request failed while the ingress was there from its beginning to its end"
    assert max(up - killed for killed, up in back) < AWAY_SECONDS
    if has_server:
        again = world.until_ready(uuid, 2)
        assert [(each.uuid, each.url_6006) for each in again] == [(each.uuid, each.url_6006) for each in first]


def test_a_gigabyte_goes_through_whole_both_ways(shared: World) -> None:
    uuid = applied(shared, "bulk", 1)
    (container,) = shared.until_ready(uuid, 1)
    curl = ["curl", "-sS", "--fail", "--cacert", str(shared.home / "tls" / "ca.pem"), "--noproxy", "*"]
    url = container.url_6006
    size = GIB
    wanted = subprocess.run([*curl, f"{url}/hash?count={size}"], check=True, capture_output=True, text=True).stdout
    down = subprocess.run(
        ["sh", "-c", '"$@" | sha256sum', "sh", *curl, f"{url}/bytes?count={size}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert down.split()[0] == wanted
    source = shared.user / "gigabyte"
    try:
        with source.open("wb") as file:
            subprocess.run([*curl, f"{url}/bytes?count={size}"], check=True, stdout=file)
        up = subprocess.run(
            [*curl, "-T", str(source), "-H", "Expect:", f"{url}/bytes"], check=True, capture_output=True, text=True
        ).stdout
    finally:
        source.unlink()
    assert up == wanted
    shared.cli("delete", "bulk", "-y")


def flows(answered: list[int], enough: int) -> bool:
    return answered[0] >= enough


MUTE = """
import os, socket, time
listener = socket.create_server(("127.0.0.1", int(os.environ["MUSTER_PORT_6006"])), backlog=64)
while True:
    time.sleep(3600)
"""
HALF_ALIVE = """
name: mute
replicas: 1
image: local
gpu: RTX 4090
cmd: exec {python} {program}
service: {{drain: 500ms, health_check: {{interval: 200ms, stalled_after: 2s}}}}
"""


def test_a_container_whose_port_is_open_but_that_answers_nobody_is_found(shared: World) -> None:
    program = shared.user / "mute.py"
    program.write_text(MUTE)
    file = HALF_ALIVE.format(python=sys.executable, program=program)
    uuid = str(shared.listed("apply", "-y", "-f", "-", stdin=file)["deployment_uuid"])
    (container,) = shared.until_ready(uuid, 1)
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.get(container.url_6006, verify=shared.trust(), trust_env=False, timeout=5)

    def unready() -> list[str]:
        return [each.message for each in shared.events() if each.kind == "unready" and each.deployment_uuid == uuid]

    told = shared.until(unready, "it is found")
    assert [text.partition(" for ")[0] for text in told] == ["its port is open, but it has answered nobody"]
    shared.cli("delete", "mute", "-y")


def is_listening(url: str, trust: ssl.SSLContext) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, verify=trust, trust_env=False, timeout=1).status_code == 200
    return False


@contextlib.contextmanager
def open_streams(world: World, url: str, count: int) -> Iterator[Callable[[], int]]:
    """Hold streams open that are read all the time; yields what counts those that have not broken."""
    broken: list[str] = []
    is_over = threading.Event()
    trust = world.trust()

    def read() -> None:
        try:
            with httpx.stream("GET", f"{url}/stream?seconds=3600", verify=trust, trust_env=False, timeout=10) as answer:
                for _ in answer.iter_lines():
                    if is_over.is_set():
                        return
                broken.append("it ended")
        except httpx.HTTPError as error:
            broken.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(count)]
    for reader in readers:
        reader.start()
    try:
        yield lambda: count - len(broken)
    finally:
        is_over.set()
        for reader in readers:
            reader.join()
