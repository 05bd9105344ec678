"""From a container's change to the SDK that balances over it: engine, event, registry file, SDK, one leg after another.

A real server publishes into its file registry; the SDK runs here, and so does the observer, which looks at the file
and at ``service.statistics()`` every millisecond. Everything is one machine's wall clock. Each leg is measured so that
it can only come out too long: *committed* is the arrival on the event stream where it ends a leg, and ``created_at``,
which is before the commit, where it begins one. A kill is SIGKILL of the command, while nothing else goes on.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

import muster
from benchmarks.server import PATIENCE_SECONDS, Seen, Server, Stream, call, create, following, scale
from benchmarks.table import add_latency, latency_table
from muster.errors import InvalidSpec
from muster.model.endpoint import EndpointSet
from muster.sdk import Service

SCALINGS = 40
KILLS = 40
BASE = 2
LOOK_SECONDS = 0.001
TARGET_EVENT = "< 200 ms"
TARGET_LEG = "< 100 ms"


class Observer:
    """Notes when each set of endpoints was first seen in the registry's file, and in the SDK."""

    def __init__(self, path: Path, service: Service) -> None:
        self._path = path
        self._service = service
        self._signature: tuple[int, int] | None = None
        self.in_file: list[tuple[float, frozenset[str]]] = []
        self.in_sdk: list[tuple[float, frozenset[str]]] = []

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self._look()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        with contextlib.suppress(FileNotFoundError, InvalidSpec):
            state = self._path.stat()
            if self._signature != (state.st_ino, state.st_mtime_ns):
                at = time.time()
                ids = frozenset(each.id for each in EndpointSet.from_json(self._path.read_bytes()).endpoints)
                self._signature = (state.st_ino, state.st_mtime_ns)
                self.in_file.append((at, ids))
        ids = frozenset(replica.id for replica in self._service.statistics().replicas if not replica.is_leaving)
        if not self.in_sdk or self.in_sdk[-1][1] != ids:
            self.in_sdk.append((time.time(), ids))

    async def both(self, holds: Callable[[frozenset[str]], bool], after: float) -> tuple[float, float]:
        """Return when, after a moment, a set that holds was first in the file and in the SDK."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                file, sdk = _first(self.in_file, holds, after), _first(self.in_sdk, holds, after)
                if file is not None and sdk is not None:
                    return file, sdk
                await asyncio.sleep(LOOK_SECONDS)


@dataclass(slots=True)
class Moment:
    """What was noted about one change."""

    event: Seen
    file: float
    sdk: float
    killed: float = 0.0


@dataclass(slots=True)
class Moments:
    """All changes of each kind."""

    ups: list[Moment] = field(default_factory=list)
    downs: list[Moment] = field(default_factory=list)
    kills: list[Moment] = field(default_factory=list)


class Changes:
    """Brings the changes about, one at a time."""

    def __init__(self, server: Server, client: httpx.AsyncClient, stream: Stream) -> None:
        self._server = server
        self._client = client
        self._stream = stream
        self._rng = random.Random(1)
        self.moments = Moments()

    async def scale(self) -> None:
        """Scale a service up and down."""
        uuid = await create(self._client, "scaled", BASE)
        async with self._observed(uuid, BASE) as observer:
            for number in range(SCALINGS):
                await self._pause()
                asked = time.time()
                await self._want(uuid, BASE + 1)
                ready = (await self._told(uuid, "ready", BASE + number + 1))[-1]
                self.moments.ups.append(await self._seen(observer, ready, asked, is_in=True))
                await self._pause()
                asked = time.time()
                await self._want(uuid, BASE)
                leaving = (await self._told(uuid, "shutting_down", number + 1))[-1]
                self.moments.downs.append(await self._seen(observer, leaving, asked, is_in=False))
        await call(self._client, "DELETE", "", {"deployment_uuid": uuid})

    async def kill(self) -> None:
        """Kill the commands of a service one after another, without waiting for their replacements."""
        pids = self._server.home / "pids"
        pids.mkdir()
        command = f'echo $$ > "{pids}/$MUSTER_CONTAINER_UUID" && exec sleep infinity'
        uuid = await create(self._client, "killed", KILLS, command)
        async with self._observed(uuid, KILLS) as observer:
            for victim in await self._told(uuid, "ready", KILLS):
                await self._pause()
                pid = int((pids / victim.container).read_text())
                killed = time.time()
                os.kill(pid, signal.SIGKILL)
                is_end = _is_end_of(victim.container)
                ended = (await self._stream.until(is_end))[0]
                moment = await self._seen(observer, ended, killed, is_in=False)
                moment.killed = killed
                self.moments.kills.append(moment)
        await call(self._client, "DELETE", "", {"deployment_uuid": uuid})

    @contextlib.asynccontextmanager
    async def _observed(self, uuid: str, count: int) -> AsyncIterator[Observer]:
        """Observe a service, once all of it is in the SDK."""
        async with muster.connect(self._server.registry_url) as connection:
            service = connection.service(uuid)
            await service.wait_ready(min_endpoints=count)
            observer = Observer(self._server.home / "registry" / "admin" / uuid / "6006.json", service)
            task = asyncio.create_task(observer.run())
            try:
                yield observer
            finally:
                task.cancel()
                await asyncio.wait((task,))

    async def _seen(self, observer: Observer, event: Seen, after: float, *, is_in: bool) -> Moment:
        file, sdk = await observer.both(lambda ids: (event.container in ids) == is_in, after)
        return Moment(event, file, sdk)

    async def _told(self, uuid: str, word: str, count: int) -> list[Seen]:
        return await self._stream.until(lambda seen: seen.deployment == uuid and seen.word == word, count)

    async def _want(self, uuid: str, replica_num: int) -> None:
        await scale(self._client, uuid, replica_num)

    async def _pause(self) -> None:
        """Let changes fall anywhere between two looks of the SDK at the file."""
        await asyncio.sleep(self._rng.uniform(0.05, 0.15))


async def measure(server: Server) -> Moments:
    """Bring about and observe every change."""
    async with server.client() as client, following(client) as stream:
        changes = Changes(server, client, stream)
        await changes.scale()
        await changes.kill()
        return changes.moments


def run() -> Table:
    """Measure and return the table."""
    with Server() as server:
        server.start()
        server.wait_ready()
        moments = asyncio.run(measure(server))
        decided, ended = server.decided_at(), server.ended_at()
    table = latency_table(
        "Propagation (file registry, SDK in another process)",
        "created_at and the engine's report: the server's database; committed: arrival on the event stream;\n"
        "file and SDK: looked at every millisecond. A leg may overlap the one before it.",
    )
    for name, changes in (("scale up, ready", moments.ups), ("scale down, shutting_down", moments.downs)):
        add_latency(
            table, f"{name}: created_at → committed", [each.event.at - decided[each.event.id] for each in changes]
        )
        add_latency(
            table, f"{name}: created_at → file", [each.file - decided[each.event.id] for each in changes], TARGET_LEG
        )
        add_latency(table, f"{name}: file → SDK", [each.sdk - each.file for each in changes], TARGET_LEG)
        add_latency(table, f"{name}: created_at → SDK", [each.sdk - decided[each.event.id] for each in changes])
    kills = moments.kills
    reports = [ended[each.event.container] for each in kills]
    add_latency(
        table, "die: SIGKILL → the engine's report", [at - each.killed for each, at in zip(kills, reports, strict=True)]
    )
    add_latency(
        table,
        "die: report → shutdown committed",
        [each.event.at - at for each, at in zip(kills, reports, strict=True)],
        TARGET_EVENT,
    )
    add_latency(table, "die: created_at → file", [each.file - decided[each.event.id] for each in kills], TARGET_LEG)
    add_latency(table, "die: file → SDK", [each.sdk - each.file for each in kills], TARGET_LEG)
    add_latency(table, "die: SIGKILL → SDK", [each.sdk - each.killed for each in kills])
    everything = moments.ups + moments.downs + kills
    add_latency(
        table, "all: created_at → file", [each.file - decided[each.event.id] for each in everything], TARGET_LEG
    )
    add_latency(table, "all: file → SDK", [each.sdk - each.file for each in everything], TARGET_LEG)
    return table


def _is_end_of(container: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.container == container and seen.word == "shutdown"


def _first(
    seen: list[tuple[float, frozenset[str]]], holds: Callable[[frozenset[str]], bool], after: float
) -> float | None:
    return next((at for at, ids in seen if at >= after and holds(ids)), None)


if __name__ == "__main__":
    Console().print(run())
