"""Reuse on real Docker: what changes hands, in place and as a copy, and what a death between two steps may leave."""

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun, Phase
from muster.errors import EngineUnavailable
from muster.model.ids import ContainerUuid
from muster.testing.conformance.engine import HERE, launch, make_run, output_of, until
from muster.testing.conformance.reuse import taking_over
from tests.docker import gpu
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX
from tests.unit.engine.docker.opened import DiesAt

pytestmark = pytest.mark.docker

OpenEngine = Callable[[], DockerEngine]
KEEP = "echo precious > /root/note; echo data > /root/autodl-tmp/note"
TELL = f"cat {gpu.VISIBLE}; echo; echo $MUSTER_CONTAINER_UUID $WORD"
READ = f"cat /root/note /root/autodl-tmp/note; {TELL}"


@pytest.fixture
def open_engine(docker_daemon: Daemon, tmp_path: Path) -> OpenEngine:
    docker_daemon.docker("tag", BUSYBOX, "local")
    return lambda: DockerEngine(docker_daemon.url, installation=f"reuse-{tmp_path.name}", root=tmp_path / "root")


@asynccontextmanager
async def opened(open_engine: OpenEngine) -> AsyncIterator[DockerEngine]:
    engine = open_engine()
    try:
        yield engine
    finally:
        await engine.aclose()


def with_gpus(run: ContainerRun, *indices: int, **env: str) -> ContainerRun:
    """Return an order for exactly these GPUs, with a uuid of its own in the environment."""
    return dataclasses.replace(
        run,
        gpu_indices=indices,
        devices=tuple(map(str, indices)),
        env={**run.env, "MUSTER_CONTAINER_UUID": run.uuid, **env},
    )


async def keeper(engine: DockerEngine, *indices: int) -> ContainerRun:
    """Run something that leaves files behind; return its order."""
    run = with_gpus(make_run(KEEP), *indices)
    await launch(engine, run)
    assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0
    return run


async def read_by(engine: DockerEngine, run: ContainerRun) -> list[str]:
    await engine.start(run.ref)
    assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0
    return (await output_of(engine, run.ref)).decode().splitlines()


def docker_ids(daemon: Daemon) -> list[str]:
    return daemon.docker("ps", "-aq", "--no-trunc").split()


def test_with_the_same_gpus_the_container_itself_is_started_again(
    open_engine: OpenEngine, docker_daemon: Daemon
) -> None:
    async def scenario() -> None:
        async with opened(open_engine) as engine:
            old = await keeper(engine, 1, 3)
            (docker_id,) = docker_ids(docker_daemon)
            new = with_gpus(taking_over(old, READ), 1, 3, WORD="new")
            await engine.create(new)
            assert await read_by(engine, new) == ["precious", "data", "1,3", f"{new.uuid} new"]
            assert docker_ids(docker_daemon) == [docker_id]

    asyncio.run(scenario())


def test_with_other_gpus_a_copy_has_the_files_and_nothing_is_left_of_the_old_one(
    open_engine: OpenEngine, docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(open_engine) as engine:
            old = await keeper(engine, 1, 3)
            before = docker_ids(docker_daemon)
            new = with_gpus(taking_over(old, READ), 0)
            await engine.create(new)
            assert await read_by(engine, new) == ["precious", "data", "0", new.uuid]
            assert len(docker_ids(docker_daemon)) == 1
            assert docker_ids(docker_daemon) != before
            again = with_gpus(taking_over(new, READ), 2)
            await engine.create(again)
            assert await read_by(engine, again) == ["precious", "data", "2", again.uuid]
            assert len(docker_daemon.docker("images", "-q", "muster.invalid/copy").split()) == 1
            await engine.remove(again.ref)
            assert docker_daemon.docker("images", "-q", "muster.invalid/copy") == ""
            assert not list((tmp_path / "root" / "objects").iterdir())

    asyncio.run(scenario())


def test_twenty_cycles_keep_the_files_and_change_everything_else(open_engine: OpenEngine) -> None:
    async def scenario() -> None:
        async with opened(open_engine) as engine:
            run = with_gpus(make_run("echo 0 > /root/count"), 0)
            await launch(engine, run)
            await until(engine, run.ref, Phase.EXITED)
            uuids: set[ContainerUuid] = {run.uuid}
            for cycle in range(1, 21):
                index = cycle // 2 % 4  # two cycles with a GPU, then the next one: in place and as a copy in turn
                command = f"n=$(cat /root/count); echo $((n + 1)) > /root/count; cat /root/count; echo c{cycle}; {TELL}"
                run = with_gpus(taking_over(run, command), index, WORD=f"w{cycle}")
                await engine.create(run)
                lines = await read_by(engine, run)
                assert lines == [str(cycle), f"c{cycle}", str(index), f"{run.uuid} w{cycle}"]
                uuids.add(run.uuid)
            assert len(uuids) == 21
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [run.ref]

    asyncio.run(scenario())


@pytest.mark.parametrize("indices", [(1, 3), (0,)], ids=["in place", "as a copy"])
def test_a_death_between_any_two_steps_loses_no_file_and_makes_no_second_user(
    indices: tuple[int, ...], open_engine: OpenEngine, docker_daemon: Daemon
) -> None:
    async def dies(at: int, *, is_made: bool) -> bool:
        """Play one take-over that dies once; tell whether it came to die."""
        async with opened(open_engine) as engine:
            old = await keeper(engine, 1, 3)
        new = with_gpus(taking_over(old, READ), *indices)
        async with opened(open_engine) as engine:
            await engine.prepare(HERE, new.image)
            death = DiesAt(engine, at, is_made=is_made)
            try:
                await engine.create(new)
            except EngineUnavailable:
                assert death.is_dead
        async with opened(open_engine) as engine:
            refs = [seen.ref for seen in await engine.observe_all(HERE)]
            assert refs in ([old.ref], [new.ref]), "exactly one of the two has the files"
            assert docker_daemon.docker("ps", "-q") == "", "nobody runs on them"
            await engine.create(new)
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [new.ref]
            assert (await read_by(engine, new))[:2] == ["precious", "data"]
            assert len(docker_ids(docker_daemon)) == 1, "nothing is left of the old one, nor half made"
            await engine.remove(new.ref)
        return death.is_dead

    async def scenario() -> None:
        for is_made in (False, True):
            for at in itertools.count(1):
                if not await dies(at, is_made=is_made):
                    assert at > 2, "there are steps to die between"
                    break

    asyncio.run(scenario())


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_copy_that_is_given_up_leaves_the_old_one_whole(
    at: int, open_engine: OpenEngine, docker_daemon: Daemon
) -> None:
    async def scenario() -> None:
        async with opened(open_engine) as engine:
            old = await keeper(engine, 1, 3)
        async with opened(open_engine) as engine:
            DiesAt(engine, at, is_made=False)
            with pytest.raises(EngineUnavailable):
                await engine.create(with_gpus(taking_over(old, READ), 0))
        async with opened(open_engine) as engine:
            seen = await engine.observe_all(HERE)
            if [each.ref for each in seen] == [old.ref]:
                assert len(docker_ids(docker_daemon)) == 1, "a half-made copy is swept away"
            other = with_gpus(taking_over(dataclasses.replace(old, ref=seen[0].ref), READ), 2)
            await engine.create(other)
            assert (await read_by(engine, other))[:3] == ["precious", "data", "2"]

    asyncio.run(scenario())
