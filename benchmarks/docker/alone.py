"""Our engine without the server: one run after another, new or with what the one before left."""

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.docker.peer import COMMAND
from muster.engine.docker.engine import DockerEngine
from muster.model.ids import AccountId, ContainerId, ContainerUuid, MachineId
from muster.model.image import ImageOrder
from muster.model.quantity import GIB
from muster.model.run import ContainerRun, Phase, Ref, StopOrder
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH

_LOOK_SECONDS = 0.01
_FIRST = ContainerRun(
    Ref(MachineId("bench"), ContainerId("c0")),
    ContainerUuid("u0"),
    AccountId(1),
    ImageOrder(BASH),
    " ".join(COMMAND),
    cpu_num=16,
    memory_bytes=64 * GIB,
)
"""The same limits as a deployment of one GPU has."""


class Alone:
    """Runs containers; each is started, and then stopped or removed."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._run = _FIRST

    async def start(self) -> float:
        """Create and start; return the seconds that it took."""
        began = time.perf_counter()
        await self._engine.create(self._run)
        seen = await self._engine.start(self._run.ref)
        seconds = time.perf_counter() - began
        assert seen.addresses, seen
        return seconds

    async def remove(self) -> None:
        """Remove the run; the next one is new."""
        await self._engine.remove(self._run.ref)
        self._run = dataclasses.replace(self._next(), takes_over=None)

    async def stop(self) -> None:
        """End the run; the next one takes over what it leaves."""
        seen = await self._engine.stop(self._run.ref, StopOrder())
        while seen.phase is not Phase.EXITED:
            await asyncio.sleep(_LOOK_SECONDS)
            seen = await self._engine.observe(self._run.ref)
        self._run = self._next()

    def _next(self) -> ContainerRun:
        before = self._run.ref
        number = int(before.container_id[1:]) + 1
        ref = dataclasses.replace(before, container_id=ContainerId(f"c{number}"))
        return dataclasses.replace(self._run, ref=ref, uuid=ContainerUuid(f"u{number}"), takes_over=before)


@asynccontextmanager
async def alone(daemon: Daemon) -> AsyncIterator[Alone]:
    """Open an engine that made its network and tried what limits there are."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        engine = DockerEngine(daemon.url, installation="alone", root=Path(folder))
        try:
            runs = Alone(engine)
            await runs.start()
            await runs.remove()
            yield runs
        finally:
            await engine.aclose()
