"""How long an end takes to be known: from Docker's own event, by its own clock, to a commit and to a caller.

Docker stamps its ``die`` events in nanoseconds, sends them before it takes the container's network down, and answers no
inspection until it has: the first row of each kind, which is the floor for whoever wants to know the exit code. *event*
is when Muster decided what to write, which is before the commit, *stream* when a caller was told, which is after it.

Half of the containers are killed by SIGKILL to the command's own process, as the kernel does when memory is short; the
others' commands end by themselves. One at a time, while the platform replaces what was lost, ever more slowly.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from benchmarks.docker.place import Place, place
from benchmarks.server import PATIENCE_SECONDS, Seen, call, create
from benchmarks.table import add_latency, latency_table
from tests.docker.daemon import Daemon

KILLS = 40
EXITS = 40
TARGET = "< 200 ms"
UNTIL_TOLD = "mkfifo /root/autodl-tmp/end && read -r _ </root/autodl-tmp/end"
"""Ends when somebody writes into the pipe, and needs no processor until then."""
_PAUSES_SECONDS = (0.15, 0.45)


class Deaths:
    """Notes when Docker says that each container died, and when it answers what became of it, by its name there."""

    def __init__(self, here: Place) -> None:
        self._here = here
        self._found: dict[str, tuple[float, float]] = {}
        self._is_found = asyncio.Event()

    async def listen(self) -> None:
        """Listen for ever."""
        async for event in self._here.docker.follow("die"):
            name = event["Actor"]["Attributes"]["name"]
            await self._here.docker.inspect(name)
            self._found[name] = event["timeNano"] / 1e9, time.time()
            self._is_found.set()

    async def of(self, name: str) -> tuple[float, float]:
        """Return when a container died, and when Docker had answered."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while name not in self._found:
                self._is_found.clear()
                await self._is_found.wait()
        return self._found[name]


@dataclass(slots=True)
class Ends:
    """Seconds from Docker's event to what was measured; all lists in step."""

    answered: list[float] = field(default_factory=list)
    decided: list[float] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    from_kill: list[float] = field(default_factory=list)


class Ender:
    """Ends the containers of a deployment one after another, in one way."""

    def __init__(self, here: Place, deaths: Deaths) -> None:
        self._here = here
        self._deaths = deaths
        self._rng = random.Random(1)

    async def run(self, name: str, count: int, cmd: str, end: Callable[[Mapping[str, Any]], None]) -> Ends:
        """Start so many, and end each; ``end`` is given Docker's inspection, and blocks until it is done."""
        ends = Ends()
        uuid = await create(self._here.client, name, count, cmd, image=self._here.image)
        running = await self._here.told(uuid, "running", count)
        ids = await asyncio.to_thread(self._here.server.ids)
        names = self._here.daemon.docker("ps", "--format", "{{.Names}}").split()
        for victim in running:
            (docker_name,) = (each for each in names if each.endswith(ids[victim.container]))
            info = await self._here.docker.inspect(docker_name)
            await asyncio.sleep(self._rng.uniform(*_PAUSES_SECONDS))
            began = time.time()
            await asyncio.to_thread(end, info)
            event = await self._end_of(victim.container)
            died, answered = await self._deaths.of(docker_name)
            decided = await self._here.decided_at()
            ends.answered.append(answered - died)
            ends.decided.append(decided[event.id] - died)
            ends.told.append(event.at - died)
            ends.from_kill.append(event.at - began)
        await call(self._here.client, "DELETE", "", {"deployment_uuid": uuid})
        return ends

    async def _end_of(self, container: str) -> Seen:
        return (await self._here.stream.until(lambda seen: seen.container == container and seen.word == "shutdown"))[0]


def kill(info: Mapping[str, Any]) -> None:
    """Kill the command: the innermost process, below the init and the shell that waits for it."""
    os.kill(psutil.Process(info["State"]["Pid"]).children(recursive=True)[-1].pid, signal.SIGKILL)


def let_end(info: Mapping[str, Any]) -> None:
    """Give the command the line that it waits for."""
    (folder,) = (each["Source"] for each in info["Mounts"] if each["Destination"] == "/root/autodl-tmp")
    with (Path(folder) / "end").open("w") as pipe:
        pipe.write("now\n")


async def measure(daemon: Daemon) -> tuple[Ends, Ends]:
    """Kill, and let end."""
    async with place(daemon) as here:
        deaths = Deaths(here)
        listener = asyncio.create_task(deaths.listen())
        try:
            ender = Ender(here, deaths)
            killed = await ender.run("killed", KILLS, "exec sleep infinity", kill)
            return killed, await ender.run("ended", EXITS, UNTIL_TOLD, let_end)
        finally:
            listener.cancel()
            await asyncio.wait((listener,))


def run(daemon: Daemon) -> list[Table]:
    """Measure and return the table."""
    killed, ended = asyncio.run(measure(daemon))
    table = latency_table(
        "The end of a container, from Docker's own die event",
        "event: created_at in the database, before the commit; stream: arrival at the caller, after it",
    )
    add_latency(table, "killed: SIGKILL → stream", killed.from_kill)
    for name, ends in (("killed", killed), ("ended by itself", ended)):
        add_latency(table, f"{name}: die → Docker answers", ends.answered)
        add_latency(table, f"{name}: die → event", ends.decided, TARGET)
        add_latency(table, f"{name}: die → stream", ends.told, TARGET)
        ours = [told - answered for told, answered in zip(ends.told, ends.answered, strict=True)]
        add_latency(table, f"{name}: Docker answers → stream", ours)
    return [table]
