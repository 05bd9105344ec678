"""A hundred containers on one host: how long until all run and until all are gone, and what they cost at rest.

Against what a person would type: a loop of `docker run -d`, and the same eight at a time by xargs. To start a container
is work of Docker, containerd and runc, so on few cores all ways meet the same wall; *work* says how many seconds of a
core the whole machine spent meanwhile, and Muster's own part of it. Image, network and settings are there.

At rest: ReplicaSets without a health check and with the default one (a TCP connect every few seconds to each), and
Docker's containers alone. Memory is that of the server's process.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import psutil
from rich.table import Table

from benchmarks.docker.peer import COMMAND, flags, shell
from benchmarks.docker.place import Place, place
from benchmarks.server import create
from benchmarks.table import duration, plain_table
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH

COUNT = 100
AT_ONCE = 8
REST_SECONDS = 30.0
"""As long as one full pass of the server's loops."""
SETTLE_SECONDS = 3.0
SERVE = "exec httpd -f -p 6006 -h /tmp"


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of a core: of the server, of dockerd with its containerd, of the whole machine."""

    server: float
    docker: float
    machine: float

    def since(self, before: "Spent") -> "Spent":
        """Return the difference."""
        return Spent(self.server - before.server, self.docker - before.docker, self.machine - before.machine)


@dataclass(slots=True)
class Figures:
    """What was measured: rows of two tables, and bytes of memory (proportional, resident)."""

    waves: list[tuple[str, float, Spent, float, Spent]] = field(default_factory=list)
    rests: list[tuple[str, Spent]] = field(default_factory=list)
    idle_bytes: tuple[int, int] = (0, 0)
    full_bytes: tuple[int, int] = (0, 0)


class Meter:
    """Reads what was spent."""

    def __init__(self, here: Place) -> None:
        self._server = psutil.Process(here.server.pid)
        assert here.daemon.pid is not None
        dockerd = psutil.Process(here.daemon.pid)
        self._docker = [dockerd, *(each for each in dockerd.children() if each.name() == "containerd")]

    def spent(self) -> Spent:
        """Return what was spent so far."""
        cpu = psutil.cpu_times()
        return Spent(
            _cpu_seconds(self._server),
            sum(map(_cpu_seconds, self._docker)),
            sum(cpu) - cpu.idle - cpu.iowait - cpu.guest - cpu.guest_nice,
        )

    def memory_bytes(self) -> tuple[int, int]:
        """Return the server's memory: its share of what it shares, and all that is resident."""
        found = self._server.memory_full_info()
        return found.pss, found.rss

    async def rest(self) -> Spent:
        """Return what a minute costs while nothing happens."""
        await asyncio.sleep(SETTLE_SECONDS)
        before = self.spent()
        await asyncio.sleep(REST_SECONDS)
        spent = self.spent().since(before)
        factor = 60 / REST_SECONDS
        return Spent(spent.server * factor, spent.docker * factor, spent.machine * factor)


class Waves:
    """Starts and ends a hundred in each way, and looks at them between the two."""

    def __init__(self, here: Place) -> None:
        self._here = here
        self._meter = Meter(here)
        self.figures = Figures()

    async def by_deployment(self, name: str, cmd: str, **more: Any) -> None:
        """Create one deployment, and delete it."""
        idle = self._meter.memory_bytes()
        before, began = self._meter.spent(), time.perf_counter()
        uuid = await create(self._here.client, name.replace(" ", "-"), COUNT, cmd, image=self._here.image, **more)
        await self._here.told(uuid, "running", COUNT)
        up, work_up = time.perf_counter() - began, self._meter.spent().since(before)
        await self._here.told(uuid, "ready", COUNT)
        self.figures.rests.append((f"Muster, {name}", await self._meter.rest()))
        full = self._meter.memory_bytes()
        before, began = self._meter.spent(), time.perf_counter()
        await self._here.delete(uuid, COUNT)
        down, work_down = time.perf_counter() - began, self._meter.spent().since(before)
        self.figures.waves.append((f"Muster, one deployment, {name}", up, work_up, down, work_down))
        if not self.figures.idle_bytes[0]:
            self.figures.idle_bytes, self.figures.full_bytes = idle, full

    async def by_shell(self, name: str, script: str, *, rests: bool = False) -> None:
        """Run a loop of ``docker run -d``, and end what it started by one ``docker stop``."""
        before = self._meter.spent()
        _, up = await shell(self._here.daemon, script)
        work_up = self._meter.spent().since(before)
        if rests:
            self.figures.rests.append(("docker run -d", await self._meter.rest()))
        before = self._meter.spent()
        _, down = await shell(self._here.daemon, "docker stop $(docker ps -q) >/dev/null")
        work_down = self._meter.spent().since(before)
        self.figures.waves.append((name, up, work_up, down, work_down))
        await shell(self._here.daemon, "docker rm $(docker ps -aq --filter name=loop-) >/dev/null")


async def measure(daemon: Daemon) -> Figures:
    """Start and end a hundred, in turns."""
    async with place(daemon) as here:
        waves = Waves(here)
        run = " ".join(["docker run -d --name loop-$each", *flags(here.host_config), BASH, *COMMAND, ">/dev/null"])
        numbers = f"seq {COUNT}"
        await waves.by_deployment("no health check", " ".join(COMMAND))
        await waves.by_shell("loop: docker run -d, one after another", f"for each in $({numbers}); do {run}; done")
        script = f"export each; {numbers} | xargs -P {AT_ONCE} -I NUMBER sh -c 'each=NUMBER; {run}'"
        await waves.by_shell(f"xargs -P {AT_ONCE}: docker run -d", script, rests=True)
        await waves.by_deployment("default health check", SERVE, service={"drain_seconds": 0})
        return waves.figures


def run(daemon: Daemon) -> list[Table]:
    """Measure and return the tables."""
    figures = asyncio.run(measure(daemon))
    return [_waves(figures), _rests(figures), _memory(figures)]


def _waves(figures: Figures) -> Table:
    table = plain_table(
        f"{COUNT} containers, in this order, each way once",
        ("way", "until all run", "work", "of it Muster", "until all ended", "work", "of it Muster"),
        "work: seconds of a core that the whole machine spent meanwhile. Shells end theirs by one docker stop.",
    )
    for name, up, work_up, down, work_down in figures.waves:
        table.add_row(
            name,
            duration(up),
            *(f"{each:.1f} s" for each in (work_up.machine, work_up.server)),
            duration(down),
            *(f"{each:.1f} s" for each in (work_down.machine, work_down.server)),
        )
    return table


def _rests(figures: Figures) -> Table:
    table = plain_table(
        f"{COUNT} containers at rest: seconds of a core per minute",
        ("containers of", "Muster's server", "dockerd and containerd"),
        f"over {REST_SECONDS:.0f} s, once each",
    )
    for name, spent in figures.rests:
        table.add_row(name, f"{spent.server:.2f} s", f"{spent.docker:.2f} s")
    return table


def _memory(figures: Figures) -> Table:
    table = plain_table("Memory of Muster's server", ("", "idle", f"{COUNT} running", "each"), "once each")
    for index, name in enumerate(("proportional (PSS)", "resident (RSS)")):
        idle, full = figures.idle_bytes[index], figures.full_bytes[index]
        each = (full - idle) / COUNT
        table.add_row(name, f"{idle / 1e6:.1f} MB", f"{full / 1e6:.1f} MB", f"{each / 1e3:.0f} kB")
    return table


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
