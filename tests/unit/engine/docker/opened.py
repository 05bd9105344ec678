"""Engines on a test's daemon, and what its scenarios do with one."""
# ruff: noqa: ASYNC110 - tests wait for levels

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from aiodocker.exceptions import DockerError

from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun, Observation, Phase
from muster.errors import EngineUnavailable
from muster.model.ids import AccountId, ContainerId
from muster.model.image import ImageOrder
from muster.testing.conformance.engine import DEADLINE_SECONDS, FOREVER, launch, make_run, output_of, until
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX

INSTALLATION = "0123456789abcdef"


@asynccontextmanager
async def opened(daemon: Daemon, folder: Path, **options: Any) -> AsyncIterator[DockerEngine]:
    """Open an engine of one and the same installation; what it runs outlives it."""
    engine = DockerEngine(daemon.url, **{"installation": INSTALLATION, "root": folder / "root", **options})
    try:
        yield engine
    finally:
        await engine.aclose()


def order(cmd: str = FOREVER, *, image: str = BUSYBOX, account: int = 1, **env: str) -> ContainerRun:
    """Return an order for a new container of an account."""
    return dataclasses.replace(make_run(cmd), image=ImageOrder(image), account_id=AccountId(account), env=env)


async def ended(engine: DockerEngine, run: ContainerRun) -> Observation:
    """Run something to its end."""
    await launch(engine, run)
    return await until(engine, run.ref, Phase.EXITED)


async def output(engine: DockerEngine, run: ContainerRun) -> str:
    """Run something to its end; return what it wrote."""
    await ended(engine, run)
    return (await output_of(engine, run.ref)).decode()


async def asked(daemon: Daemon, *words: str) -> str:
    """Run ``docker WORDS`` while the engine goes on."""
    return await asyncio.to_thread(daemon.docker, *words)


def docker_name(run: ContainerRun) -> str:
    """Return what Docker calls a container."""
    return f"muster-{INSTALLATION[:8]}-{run.ref.container_id}"


class Watching:
    """Reads an engine's hints as the control plane does: again when they break off."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self.hints: set[ContainerId] = set()
        self.breaks: list[EngineUnavailable] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until_hint(self, run: ContainerRun) -> None:
        """Wait for a hint at a container that comes from now on."""
        self.hints.discard(run.ref.container_id)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while run.ref.container_id not in self.hints:
                await asyncio.sleep(0.01)

    async def _run(self) -> None:
        while True:
            try:
                async for container_id in self._engine.watch():
                    self.hints.add(container_id)
            except EngineUnavailable as error:
                self.breaks.append(error)
            await asyncio.sleep(0.05)


class DiesAt:
    """Stands between an engine and its daemon: the k-th call is the last one, made or not."""

    def __init__(self, engine: DockerEngine, at: int, *, is_made: bool) -> None:
        self._call = engine._connection.call
        self._left = at
        self._is_made = is_made
        self.is_dead = False
        engine._connection.call = self  # type: ignore[method-assign]

    async def __call__(self, method: str, path: str, **options: Any) -> Any:
        if method == "GET" and not self.is_dead:
            return await self._call(method, path, **options)  # reading changes nothing, so no death is told apart
        self._left -= 1
        if self.is_dead or (self._left == 0 and not self._is_made):
            self.is_dead = True
            raise EngineUnavailable("dead")
        with contextlib.suppress(DockerError) if self._left == 0 else contextlib.nullcontext():
            result = await self._call(method, path, **options)
        if self._left == 0:
            self.is_dead = True
            raise EngineUnavailable("dead")
        return result
