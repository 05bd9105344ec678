"""The end of a run in its steps, when the engine dies between two of them."""
# ruff: noqa: ASYNC110 - tests wait for levels

import asyncio
from pathlib import Path

import pytest

from muster.engine.port import Phase, StopOrder
from muster.testing.conformance.engine import launch, until, until_file, until_output
from tests.docker.daemon import Daemon
from tests.unit.engine.docker.opened import opened, order

pytestmark = pytest.mark.docker

NOTE = "/root/autodl-tmp/note"
STUBBORN = f"trap 'echo term >> {NOTE}' TERM; echo up; while :; do sleep 0.01; done"
BEFORE = f"echo before >> {NOTE}; sleep 1000"


def note(tmp_path: Path) -> Path:
    """Return what a container's NOTE is on the host."""
    (folder,) = (tmp_path / "root" / "objects").iterdir()
    return folder / "tmp" / "note"


@pytest.mark.parametrize("dies_after", ["before", "term"])
def test_the_next_engine_carries_a_stop_on_where_it_was(dies_after: str, docker_daemon: Daemon, tmp_path: Path) -> None:
    order_of_stop = StopOrder(BEFORE, before_seconds=1.0, term_seconds=1.0)

    async def scenario() -> None:
        run = order(STUBBORN)
        async with opened(docker_daemon, tmp_path) as engine:
            await launch(engine, run)
            await until_output(engine, run.ref)
            begun_at = asyncio.get_running_loop().time()
            assert (await engine.stop(run.ref, order_of_stop)).phase is Phase.RUNNING
            async with asyncio.timeout(10):
                while not note(tmp_path).exists() or dies_after not in note(tmp_path).read_text():
                    await asyncio.sleep(0.01)
            if dies_after == "term":  # that it was sent is noted a moment later
                async with asyncio.timeout(10):
                    while '"term_at": null' in (note(tmp_path).parents[1] / "stop.json").read_text():
                        await asyncio.sleep(0.01)
        async with opened(docker_daemon, tmp_path) as later:
            await later.stop(run.ref, StopOrder(f"echo another >> {NOTE}", term_seconds=1000))
            seen = await until(later, run.ref, Phase.EXITED)
            took_seconds = asyncio.get_running_loop().time() - begun_at
            assert (seen.exit_code, seen.reason) == (137, None)
            assert took_seconds > 1.9, "each step has its time; and no more, or nobody would have waited so long"
            assert note(tmp_path).read_text() == "before\nterm\n"

    asyncio.run(scenario())


def test_what_fails_before_the_shutdown_does_not_keep_it_from_coming(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order()
            await launch(engine, run)
            await engine.stop(run.ref, StopOrder("no-such-program", before_seconds=1000))
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 143

    asyncio.run(scenario())


def test_what_a_stopped_run_gets_is_read_from_no_command_line(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done", WORD="it's here")
            await launch(engine, run)
            await until_output(engine, run.ref)
            told = 'echo "$WORD `pwd` $0" > /root/autodl-tmp/note # \'"'
            await engine.stop(run.ref, StopOrder(told))
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0
            assert await until_file(note(tmp_path)) == "it's here /root /bin/sh"

    asyncio.run(scenario())
