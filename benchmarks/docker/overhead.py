"""What Muster adds to a start: a new container by a deployment, against Docker's own create and start, and the CLI's.

One at a time, in rounds of shuffled order, with the same image, limits, init and network. A deployment of one is
created and runs when its event says so: *event* is when that was decided, *stream* when a caller was told. The engine
alone is the same code without the server. What is added is the difference of neighbours, so of the same load.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field

from rich.table import Table

from benchmarks.docker.alone import Alone, alone
from benchmarks.docker.peer import COMMAND, flags, shell
from benchmarks.docker.place import REST_SECONDS, Place, place
from benchmarks.server import create
from benchmarks.table import add_latency, latency_table
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH

STARTS = 25
TARGET = "< 100 ms"


@dataclass(slots=True)
class Starts:
    """Seconds of each way; all lists in step."""

    api: list[float] = field(default_factory=list)
    cli: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    decided: list[float] = field(default_factory=list)
    called: list[float] = field(default_factory=list)


class Ways:
    """The ways to a running container; each also cleans up, which is not timed."""

    def __init__(self, here: Place, engine: Alone) -> None:
        self._here = here
        self._engine = engine
        self.starts = Starts()

    async def by_api(self) -> None:
        """Call Docker's create and start."""
        began = time.perf_counter()
        docker_id = await self._here.docker.create(BASH, self._here.host_config)
        await self._here.docker.start(docker_id)
        self.starts.api.append(time.perf_counter() - began)
        await self._here.docker.remove(docker_id)

    async def by_cli(self) -> None:
        """Type ``docker run -d``."""
        words = ["docker", "run", "-d", *flags(self._here.host_config), BASH, *COMMAND]
        docker_id, seconds = await shell(self._here.daemon, " ".join(words))
        self.starts.cli.append(seconds)
        await self._here.docker.remove(docker_id)

    async def by_engine(self) -> None:
        """Call create and start of our engine."""
        self.starts.engine.append(await self._engine.start())
        await self._engine.remove()

    async def by_deployment(self) -> None:
        """Create a deployment of one."""
        called = time.time()
        uuid = await create(self._here.client, f"one-{len(self.starts.called)}", 1, image=self._here.image)
        (running,) = await self._here.told(uuid, "running")
        (creating,) = await self._here.told(uuid, "creating")
        decided = await self._here.decided_at()
        self.starts.called.append(running.at - called)
        self.starts.decided.append(decided[running.id] - decided[creating.id])
        await self._here.delete(uuid)


async def measure(daemon: Daemon) -> Starts:
    """Start containers in every way, in turns."""
    async with place(daemon) as here, alone(daemon) as engine:
        ways = Ways(here, engine)
        each = (ways.by_api, ways.by_deployment, ways.by_cli, ways.by_engine)
        rng = random.Random(1)
        for _ in range(STARTS):
            for way in rng.sample(each, len(each)):
                await asyncio.sleep(REST_SECONDS)
                await way()
        return ways.starts


def run(daemon: Daemon) -> list[Table]:
    """Measure and return the table."""
    starts = asyncio.run(measure(daemon))
    table = latency_table(
        "A new container, its image there, against plain Docker",
        "event: created_at in the database; stream: arrival at the caller.\n"
        "added: each less its neighbour of Docker's API",
    )
    add_latency(table, "Docker's API: create + start", starts.api)
    add_latency(table, "docker run -d (a process of its own)", starts.cli)
    add_latency(table, "Muster's engine alone: create + start", starts.engine)
    add_latency(table, "Muster: placed → running, event", starts.decided)
    add_latency(table, "Muster: API call → running, stream", starts.called)
    ours = {
        "added by the engine alone": starts.engine,
        "added: placed → running": starts.decided,
        "added: API call → running": starts.called,
    }
    for what, samples in ours.items():
        added = [seconds - plain for seconds, plain in zip(samples, starts.api, strict=True)]
        add_latency(table, what, added, TARGET)
    return [table]
