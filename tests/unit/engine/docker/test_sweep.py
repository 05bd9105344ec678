"""Sweeping on real Docker, at the worst moments: what is being made stays, what was given up goes, with all it left."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun, Phase
from muster.errors import EngineUnavailable
from muster.testing.conformance.engine import HERE, launch, output_of, until
from muster.testing.conformance.reuse import taking_over
from tests.docker.daemon import Daemon
from tests.unit.engine.docker.opened import asked, docker_name, opened, order

pytestmark = pytest.mark.docker

KEEP = "echo precious > /root/note; echo data > /root/autodl-tmp/note"
READ = "cat /root/note /root/autodl-tmp/note"


def with_gpus(run: ContainerRun, *indices: int) -> ContainerRun:
    """Return an order for exactly these GPUs."""
    return dataclasses.replace(run, gpu_indices=indices, devices=tuple(map(str, indices)))


async def keeper(engine: DockerEngine) -> ContainerRun:
    """Run something that leaves files behind; return its order."""
    run = with_gpus(order(KEEP), 1)
    await launch(engine, run)
    assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0
    return run


async def created(engine: DockerEngine, run: ContainerRun) -> None:
    """Create a container as the platform does: again while nothing is known."""
    while True:
        with contextlib.suppress(EngineUnavailable):
            await engine.create(run)
            return
        await asyncio.sleep(0.05)


async def read_by(engine: DockerEngine, run: ContainerRun) -> list[str]:
    await engine.start(run.ref)
    assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0
    return (await output_of(engine, run.ref)).decode().splitlines()


async def dies_copying(engine: DockerEngine, run: ContainerRun, path: str) -> None:
    """Begin a take-over that dies once a call of this path was made; whatever it tries then does not happen."""
    call, is_dead = engine._connection.call, False

    async def dies(method: str, to: str, **options: Any) -> Any:
        nonlocal is_dead
        if is_dead:
            raise EngineUnavailable("dead")
        result = await call(method, to, **options)
        is_dead = (method, to) == ("POST", path)
        if is_dead:
            raise EngineUnavailable("dead")
        return result

    engine._connection.call = dies  # type: ignore[assignment,method-assign]
    with pytest.raises(EngineUnavailable):
        await engine.create(run)
    assert is_dead


async def swept_while(engine: DockerEngine, at: int, work: Callable[[], Awaitable[None]]) -> bool:
    """Look at everything while something else happens at the k-th call of that; tell whether there are so many."""
    call, count = engine._connection.call, itertools.count(1)
    happening: list[asyncio.Task[None]] = []

    async def happen() -> None:
        happening.append(asyncio.ensure_future(work()))
        await asyncio.wait(happening, timeout=1)  # it may have to wait for us

    async def interrupted(method: str, path: str, **options: Any) -> Any:
        is_now = next(count) == at
        if is_now and method != "GET":
            await happen()
        try:
            return await call(method, path, **options)
        finally:
            if is_now and method == "GET":
                await happen()

    engine._connection.call = interrupted  # type: ignore[method-assign]
    await engine.observe_all(HERE)
    engine._connection.call = call  # type: ignore[method-assign]
    await asyncio.gather(*happening)
    return bool(happening)


def test_nothing_that_is_made_meanwhile_is_swept_away(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def is_reached(at: int) -> bool:
        async with opened(docker_daemon, tmp_path) as engine:
            new = order("echo runs")
            if not await swept_while(engine, at, lambda: created(engine, new)):
                return False
            assert await read_by(engine, new) == ["runs"]
            await engine.remove(new.ref)
            return True

    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            await keeper(engine)
        for at in itertools.count(1):
            if not await is_reached(at):
                assert at > 3, "there are calls for something to happen at"
                return

    asyncio.run(scenario())


def test_a_copy_that_goes_on_while_what_was_left_of_it_is_swept_has_the_files(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def is_reached(at: int) -> bool:
        async with opened(docker_daemon, tmp_path) as engine:
            new = with_gpus(taking_over(await keeper(engine), READ), 0)
            await dies_copying(engine, new, "containers/create")
        async with opened(docker_daemon, tmp_path) as engine:
            is_interrupted = await swept_while(engine, at, lambda: created(engine, new))
            await created(engine, new)
            assert await read_by(engine, new) == ["precious", "data"]
            await engine.remove(new.ref)
            return is_interrupted

    async def scenario() -> None:
        for at in itertools.count(1):
            if not await is_reached(at):
                assert at > 3, "there are calls for something to happen at"
                return

    asyncio.run(scenario())


def test_a_given_up_copy_never_shares_the_files_with_who_took_them_instead(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            old = await keeper(engine)
            given_up = with_gpus(taking_over(old, READ), 0)
            await dies_copying(engine, given_up, "containers/create")
        async with opened(docker_daemon, tmp_path) as engine:
            new = with_gpus(taking_over(old, READ), 1)
            await engine.create(new)
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [new.ref]
            assert (await engine.observe(given_up.ref)).phase is Phase.ABSENT
            await engine.remove(given_up.ref)
            assert await read_by(engine, new) == ["precious", "data"]
            assert len((await asked(docker_daemon, "ps", "-aq")).split()) == 1
            assert docker_name(given_up) not in await asked(docker_daemon, "images")

    asyncio.run(scenario())


@pytest.mark.parametrize("is_given_up", [False, True])
def test_an_image_that_a_copy_died_of_is_used_or_removed(
    is_given_up: bool, docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        before = set((await asked(docker_daemon, "images", "-aq")).split())
        async with opened(docker_daemon, tmp_path) as engine:
            new = with_gpus(taking_over(await keeper(engine), READ), 0)
            await dies_copying(engine, new, "commit")
        async with opened(docker_daemon, tmp_path) as engine:
            if is_given_up:
                await engine.observe_all(HERE)
            else:
                await engine.create(new)
                assert await read_by(engine, new) == ["precious", "data"]
                await engine.remove(new.ref)
            assert set((await asked(docker_daemon, "images", "-aq")).split()) == before

    asyncio.run(scenario())
