"""A container that is used again, against `docker start` of a stopped one of the same image and settings.

In rounds of shuffled order. A ReplicaSet that reuses is scaled from none to one: a new container row takes over the
object of the one before, with its files. The engine alone does the same without the server. Docker starts one container
again and again, twice in each round: what two halves of the same differ by is what a ratio cannot tell.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field

from rich.table import Table

from benchmarks.docker.alone import Alone, alone
from benchmarks.docker.peer import shell
from benchmarks.docker.place import REST_SECONDS, Place, place
from benchmarks.server import Seen, call, create, scale
from benchmarks.table import add_latency, add_ratio, latency_table
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH

STARTS = 25
TARGET = "<= 1.2 x"


@dataclass(slots=True)
class Starts:
    """Seconds of each way."""

    docker: list[float] = field(default_factory=list)
    twin: list[float] = field(default_factory=list)
    cli: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    decided: list[float] = field(default_factory=list)
    called: list[float] = field(default_factory=list)


class Reused:
    """One ReplicaSet that reuses: scaled from none to one and back."""

    def __init__(self, here: Place) -> None:
        self._here = here
        self._ended = 0
        self._uuid = ""

    async def begin(self, name: str, image: str) -> float:
        """Create it; return the seconds until its first container ran."""
        called = time.time()
        self._uuid = await create(self._here.client, name, 1, image=image, reuse_container=True)
        return (await self._last("running", self._ended + 1)).at - called

    async def start(self) -> tuple[float, float]:
        """Return the seconds from the decision to the running container, and from the call until that was told."""
        called = time.time()
        await scale(self._here.client, self._uuid, 1)
        running = await self._last("running", self._ended + 1)
        creating = await self._last("creating", self._ended + 1)
        decided = await self._here.decided_at()
        return decided[running.id] - decided[creating.id], running.at - called

    async def stop(self) -> None:
        """Scale to none, and wait until the container is in the pool."""
        self._ended += 1
        await scale(self._here.client, self._uuid, 0)
        await self._last("shutdown", self._ended)

    async def leave(self) -> None:
        """Delete it, and take what is left of it out of the pool."""
        await call(self._here.client, "DELETE", "", {"deployment_uuid": self._uuid})
        listed = (await self._here.client.get("/api/v1/muster/pool")).raise_for_status().json()["containers"]
        for row in listed:
            if row["deployment_uuid"] == self._uuid:
                (await self._here.client.delete(f"/api/v1/muster/pool/{row['uuid']}")).raise_for_status()

    async def _last(self, word: str, count: int) -> Seen:
        return (await self._here.told(self._uuid, word, count))[-1]


class Ways:
    """The ways to a running container that was there before; each also stops it again, which is not timed."""

    def __init__(self, here: Place, reused: Reused, engine: Alone, docker_id: str) -> None:
        self._here = here
        self._reused = reused
        self._engine = engine
        self._docker_id = docker_id
        self.starts = Starts()

    async def by_docker(self) -> None:
        """Call Docker's start."""
        self.starts.docker.append(await self._again())

    async def by_twin(self) -> None:
        """Do the very same."""
        self.starts.twin.append(await self._again())

    async def by_cli(self) -> None:
        """Type ``docker start``."""
        _, seconds = await shell(self._here.daemon, f"docker start {self._docker_id}")
        self.starts.cli.append(seconds)
        await self._here.docker.end(self._docker_id)

    async def by_engine(self) -> None:
        """Call create, with what to take over, and start."""
        self.starts.engine.append(await self._engine.start())
        await self._engine.stop()

    async def by_scaling(self) -> None:
        """Want one replica."""
        decided, called = await self._reused.start()
        self.starts.decided.append(decided)
        self.starts.called.append(called)
        await self._reused.stop()

    async def _again(self) -> float:
        began = time.perf_counter()
        await self._here.docker.start(self._docker_id)
        seconds = time.perf_counter() - began
        await self._here.docker.end(self._docker_id)
        return seconds


async def measure(daemon: Daemon) -> Starts:
    """Start containers again in every way, in turns."""
    async with place(daemon) as here, alone(daemon) as engine:
        reused = Reused(here)
        await reused.begin("again", here.image)
        await reused.stop()
        await engine.start()
        await engine.stop()
        docker_id = await here.docker.create(BASH, here.host_config)
        await here.docker.start(docker_id)
        await here.docker.end(docker_id)
        ways = Ways(here, reused, engine, docker_id)
        each = (ways.by_docker, ways.by_scaling, ways.by_twin, ways.by_engine, ways.by_cli)
        rng = random.Random(1)
        for _ in range(STARTS):
            for way in rng.sample(each, len(each)):
                await asyncio.sleep(REST_SECONDS)
                await way()
        stats = (await here.client.get("/api/v1/muster/stats")).raise_for_status().json()
        assert stats["reuses"] == STARTS, stats
        return ways.starts


def run(daemon: Daemon) -> list[Table]:
    """Measure and return the table."""
    starts = asyncio.run(measure(daemon))
    table = latency_table(
        "A container that is used again in place, against docker start",
        "event: created_at in the database; stream: arrival at the caller. Ratios are of medians.",
    )
    add_latency(table, "Docker's API: start", starts.docker)
    add_latency(table, "docker start (a process of its own)", starts.cli)
    add_latency(table, "Muster's engine alone: take over + start", starts.engine)
    add_latency(table, "Muster: placed → running, event", starts.decided)
    add_latency(table, "Muster: API call → running, stream", starts.called)
    add_ratio(table, "Docker's API : itself", starts.twin, starts.docker)
    add_ratio(table, "engine alone : Docker's API", starts.engine, starts.docker, TARGET)
    add_ratio(table, "placed → running : Docker's API", starts.decided, starts.docker, TARGET)
    add_ratio(table, "API call → running : Docker's API", starts.called, starts.docker, TARGET)
    add_ratio(table, "API call → running : docker start", starts.called, starts.cli, TARGET)
    return [table]
