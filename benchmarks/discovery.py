"""Discovery from outside: how soon a change is in a registry and the SDK, what a watcher costs, what an API is asked.

Watchers run in processes of their own (``muster watch`` against a scripted AutoDL account or a real server; for a
thousand services a ``Watcher`` over a feed made up in memory), the SDK and the observer here. Redis and etcd are the
machine's own, on loopback; etcd does not wait for the disk.
"""

import asyncio
import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from rich.table import Table

import muster
from benchmarks.server import TOKEN, Server, create, scale
from benchmarks.table import add_latency, latency_table, plain_table
from muster.clock import SystemClock
from muster.discovery.watcher import Watcher
from muster.model.endpoint import Endpoint, ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId
from muster.registry import connect
from muster.sdk import Service
from muster.testing.scripted_api import ScriptedApi
from tests.servers.etcd import EtcdServer
from tests.servers.redis import RedisServer

MUSTER = Path(sys.executable).with_name("muster")
CHANGES = 40
SERVICES, ENDPOINTS = 1000, 20
CHANGES_PER_SECOND = 100
MEASURED_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.001


class Observer:
    """Watches one key of a registry and one service of the SDK, and notes when each first held a container."""

    def __init__(self, url: str, key: ServiceKey, service: Service) -> None:
        self._url = url
        self._key = key
        self._service = service
        self.in_registry: list[tuple[float, frozenset[str]]] = []
        self.in_sdk: list[tuple[float, frozenset[str]]] = []

    async def run(self) -> None:
        """Note every set for ever."""
        registry = connect(self._url)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_sdk())
                async for found in registry.watch(self._key):
                    self.in_registry.append((time.monotonic(), frozenset(each.id for each in found.endpoints)))
        finally:
            await registry.aclose()

    async def _follow_sdk(self) -> None:
        while True:
            ids = frozenset(each.id for each in self._service.statistics().replicas if not each.is_leaving)
            if not self.in_sdk or self.in_sdk[-1][1] != ids:
                self.in_sdk.append((time.monotonic(), ids))
            await asyncio.sleep(LOOK_SECONDS)

    async def both(self, container: str, begun: float, *, is_in: bool) -> tuple[float, float]:
        """Return how long after ``begun`` the registry and the SDK first had it so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                legs = [
                    next((at for at, ids in seen if at >= begun and (container in ids) is is_in), None)
                    for seen in (self.in_registry, self.in_sdk)
                ]
                if legs[0] is not None and legs[1] is not None:
                    return legs[0] - begun, legs[1] - begun
                await asyncio.sleep(LOOK_SECONDS)


@contextlib.asynccontextmanager
async def observing(url: str, uuid: str, count: int) -> AsyncIterator[Observer]:
    """Observe a service, once all of it is there."""
    async with muster.connect(url) as connection:
        service = connection.service(uuid)
        await service.wait_ready(min_endpoints=count)
        observer = Observer(url, ServiceKey("admin", uuid), service)
        task = asyncio.create_task(observer.run())
        await asyncio.sleep(0.5)
        try:
            yield observer
        finally:
            task.cancel()
            await asyncio.wait((task,))


@contextlib.contextmanager
def watching(api: str, token: str, registry: str, *options: str) -> Iterator[None]:
    """Run ``muster watch`` meanwhile."""
    process = subprocess.Popen(
        [MUSTER, "watch", "--api", api, "--registry", registry, *options],
        env={**os.environ, "MUSTER_TOKEN": token},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def polled(registry: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]], float]:
    """Return both legs of each start and each stop, polling every second, and the API's calls a minute at rest."""
    starts, stops = [], []
    rng = random.Random(1)
    with ScriptedApi() as api, watching(api.url, api.world.token, registry, "--feed", "poll", "--interval", "1s"):
        uuid = api.world.add_deployment("asr")
        api.world.run(uuid, 4)
        async with observing(registry, uuid, 4) as observer:
            for _ in range(CHANGES):
                await asyncio.sleep(rng.uniform(0.0, 1.0))
                begun = time.monotonic()
                (container,) = api.world.run(uuid)
                starts.append(await observer.both(container, begun, is_in=True))
                await asyncio.sleep(rng.uniform(0.0, 1.0))
                begun = time.monotonic()
                api.world.stop(container)
                stops.append(await observer.both(container, begun, is_in=False))
        before, began = _api_calls(api), time.monotonic()
        await asyncio.sleep(3 * MEASURED_SECONDS)
        calls = (_api_calls(api) - before) / (time.monotonic() - began) * 60
    return starts, stops, calls


def _api_calls(api: ScriptedApi) -> int:
    return sum(count for path, count in api.world.calls.items() if path.startswith("/api/"))


async def streamed(server: Server, registry: str) -> tuple[list[float], list[float]]:
    """Return how long after a scale-in was asked for a registry elsewhere had it, and the SDK that watches that one."""
    in_registry, in_sdk = [], []
    rng = random.Random(2)
    async with server.client() as client:
        uuid = await create(client, "streamed", 2)
        with watching(server.url, TOKEN, registry, "--feed", "stream"):
            async with observing(registry, uuid, 2) as observer:
                for _ in range(CHANGES):
                    await scale(client, uuid, 3)
                    await _reached(observer.in_sdk, 0.0, 3)
                    await asyncio.sleep(rng.uniform(0.05, 0.15))
                    begun = time.monotonic()
                    await scale(client, uuid, 2)
                    in_registry.append(await _reached(observer.in_registry, begun, 2) - begun)
                    in_sdk.append(await _reached(observer.in_sdk, begun, 2) - begun)
    return in_registry, in_sdk


async def _reached(seen: list[tuple[float, frozenset[str]]], begun: float, count: int) -> float:
    """Return when a set of so many was first seen after a moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if begun == 0.0 and seen and len(seen[-1][1]) == count:
                return seen[-1][0]
            found = next((at for at, ids in seen if begun and at >= begun and len(ids) == count), None)
            if found is not None:
                return found
            await asyncio.sleep(LOOK_SECONDS)


class ManyServices:
    """A thousand services of twenty endpoints, of which one changes every so often."""

    def __init__(self) -> None:
        self._ages = [0] * SERVICES
        self.is_busy = False
        self.changes_made = 0

    def _state(self, number: int) -> ServiceState:
        uuid = DeploymentId(f"{number:010x}")
        key = ServiceKey("admin", uuid)
        endpoints = tuple(
            Endpoint(
                id=f"{uuid}-{at:010x}-{self._ages[number] if at == 0 else 0:010x}",
                url=f"https://gpu{at}.example:20006",
                data_center="lab-a",
                gpu_name="RTX 4090",
                concurrency=8,
            )
            for at in range(ENDPOINTS)
        )
        return ServiceState(uuid, {key: endpoints}, {ServiceKey("admin", f"service-{number}"): key})

    async def services(self) -> Listing:
        """Return them all."""
        return Listing([self._state(number) for number in range(SERVICES)], Cursor(0))

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        """Return one."""
        return self._state(int(deployment_id, 16))

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        """Change one after another while busy."""
        rng = random.Random(3)
        while True:
            await asyncio.sleep(1 / CHANGES_PER_SECOND)
            if self.is_busy:
                number = rng.randrange(SERVICES)
                self._ages[number] += 1
                self.changes_made += 1
                yield ChangeBatch(frozenset({DeploymentId(f"{number:010x}")}), cursor)


async def weigh(url: str) -> None:
    """Be the process that is weighed; print seconds until all is published, CPU at rest and busy, changes, MB."""
    feed, registry = ManyServices(), connect(url)
    began = time.monotonic()
    task = asyncio.create_task(Watcher(feed, registry, SystemClock(), publisher="bench#1").run())
    while len(await registry.keys()) < SERVICES:  # noqa: ASYNC110  a registry tells of sets, not of their number
        await asyncio.sleep(0.02)
    published = time.monotonic() - began
    await asyncio.sleep(2)
    rest = await _cpu_share()
    feed.is_busy = True
    before = feed.changes_made
    busy = await _cpu_share()
    rate = (feed.changes_made - before) / MEASURED_SECONDS
    task.cancel()
    await asyncio.wait((task,))
    await registry.aclose()
    print(published, rest, busy, rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


async def _cpu_share() -> float:
    before = time.process_time()
    await asyncio.sleep(MEASURED_SECONDS)
    return (time.process_time() - before) / MEASURED_SECONDS


def run() -> list[Table]:
    """Measure and return the tables. Raises ``RuntimeError`` where a server is missing."""
    if missing := [each for each in ("redis-server", "redis-cli", "etcd", "etcdctl") if shutil.which(each) is None]:
        raise RuntimeError(f"no {', '.join(missing)} on this machine: run `scripts/servers ensure`")
    soon = latency_table(
        "Discovery: a change until it is in the registry, and in the SDK",
        "polling: a scripted AutoDL account asked every second; from the change of the account.\n"
        "stream: a watcher elsewhere of a real server; from the API call, which commits the stop.",
    )
    cost = plain_table(
        f"A watcher of {SERVICES:,} services of {ENDPOINTS} endpoints",
        ("registry", "all published", "CPU at rest", f"CPU at {CHANGES_PER_SECOND} changes/s", "changes/s", "memory"),
    )
    asked = plain_table("Calls of a hosted API", ("what", "calls a minute"))
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        registries = {
            "file": f"file://{folder}/registry",
            "redis": stack.enter_context(RedisServer(folder / "redis")).url,
            "etcd": stack.enter_context(EtcdServer(folder / "etcd")).url,
        }
        starts, stops, calls = asyncio.run(polled(registries["redis"]))
        for what, both in (("starts", starts), ("stops", stops)):
            add_latency(soon, f"polling at 1 s: {what} → Redis", [each[0] for each in both], "≤ 2.1 s")
            add_latency(soon, f"polling at 1 s: {what} → SDK", [each[1] for each in both])
        asked.add_row("one deployment, polled every second, at rest", f"{calls:.0f}")
        with Server() as server:
            server.start()
            server.wait_ready()
            for kind in ("file", "redis", "etcd"):
                elsewhere = f"{registries[kind]}{'-stream' if kind == 'file' else ''}"
                legs = asyncio.run(streamed(server, elsewhere))
                add_latency(soon, f"stream: scale-in asked → {kind} elsewhere", legs[0], "< 100 ms")
                add_latency(soon, f"stream: scale-in asked → SDK over {kind}", legs[1])
        for kind, url in registries.items():
            parameter = {"file": "-many", "redis": "?prefix=many", "etcd": "?prefix=/many"}[kind]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.discovery", f"{url}{parameter}"],
                check=True,
                capture_output=True,
                text=True,
            )
            published, rest, busy, rate, memory = map(float, done.stdout.split())
            cost.add_row(kind, f"{published:.1f} s", f"{rest:.1%}", f"{busy:.1%}", f"{rate:.0f}", f"{memory:.0f} MB")
    return [soon, cost, asked]


if __name__ == "__main__":
    asyncio.run(weigh(sys.argv[1]))
