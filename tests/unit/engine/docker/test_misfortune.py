"""What becomes of containers when their daemon is killed, stopped, hangs or has no disk left."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun, Observation, Phase, StopOrder
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.testing.conformance.engine import AT_ONCE, HERE, launch, output_of, until, until_output
from tests.docker.daemon import Daemon
from tests.docker.fixtures import OwnDaemon
from tests.unit.engine.docker.opened import Watching, asked, docker_name, ended, opened, order, output

pytestmark = pytest.mark.docker

GRACEFUL = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"
MIB = 2**20


async def until_back(engine: DockerEngine) -> None:
    """Wait until the engine can be used again."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(EngineUnavailable):
                await engine.observe_all(HERE)
                return
            await asyncio.sleep(0.05)


async def all_of(engine: DockerEngine, *runs: ContainerRun) -> list[Observation]:
    return [await engine.observe(run.ref) for run in runs]


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_daemon_that_ends_takes_its_containers_along_and_that_is_told(
    way: str, own_daemon: OwnDaemon, tmp_path: Path
) -> None:
    daemon = own_daemon()

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine, Watching(engine) as watching:
            # By itself it ends while there is no daemon; one that is stopped must find it running.
            by_itself = order("sleep 1; exit 7" if way == "kill" else "sleep 1000; exit 7")
            sleeper, graceful, before = order(), order(GRACEFUL), order("exit 5")
            failed_before = await ended(engine, before)
            for run in (sleeper, graceful, by_itself):
                await launch(engine, run)
            await until_output(engine, graceful.ref)
            await asyncio.to_thread(daemon.kill if way == "kill" else daemon.stop)
            with pytest.raises(EngineUnavailable, match="cannot be reached"):
                await engine.observe(sleeper.ref)
            if way == "kill":  # what is ended by nobody goes on without a daemon
                await asyncio.sleep(1)
            await asyncio.to_thread(daemon.start)
            await until_back(engine)
            seen = await all_of(engine, sleeper, graceful, by_itself)
            assert [each.phase for each in seen] == [Phase.EXITED] * 3
            assert [each.reason for each in seen[:2]] == [Reason.ENGINE_RESTARTED] * 2
            assert [each.exit_code for each in seen[:2]] == [143, 0]
            if way == "kill":
                assert (seen[2].exit_code, seen[2].reason) == (7, None), "its end was its own"
            else:
                assert seen[2].reason is Reason.ENGINE_RESTARTED
            assert await engine.observe(before.ref) == failed_before
            assert watching.breaks, "whoever watches is told to look at everything"
            again = order("echo fine")
            await asyncio.gather(watching.until_hint(again), ended(engine, again))
        async with opened(daemon, tmp_path) as later:
            assert await all_of(later, sleeper, graceful, by_itself) == seen, "that is not forgotten"

    asyncio.run(scenario())


def test_a_daemon_that_restores_its_containers_gives_them_back_as_they_were(
    own_daemon: OwnDaemon, tmp_path: Path
) -> None:
    daemon = own_daemon(live_restore=True)

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine, Watching(engine):
            server, waiting = order(GRACEFUL), order("echo later")
            await launch(engine, server)
            await until_output(engine, server.ref)
            await engine.create(waiting)
            before = await all_of(engine, server, waiting)
            for end in (daemon.kill, daemon.stop):
                short = order("sleep 0.5; exit 7")
                await launch(engine, short)
                await asyncio.to_thread(end)
                await asyncio.sleep(0.6)
                await asyncio.to_thread(daemon.start)
                await until_back(engine)
                assert await all_of(engine, server, waiting) == before
                seen = await until(engine, short.ref, Phase.EXITED)
                assert (seen.exit_code, seen.reason) == (7, None)
        async with opened(daemon, tmp_path) as later:
            assert await all_of(later, server, waiting) == before
            await later.stop(server.ref, AT_ONCE)
            assert (await until(later, server.ref, Phase.EXITED)).exit_code == 0
            await later.start(waiting.ref)
            assert (await until(later, waiting.ref, Phase.EXITED)).exit_code == 0
            assert await output_of(later, waiting.ref) == b"later\n"

    asyncio.run(scenario())


def test_a_daemon_that_hangs_is_unavailable_in_time_and_everything_goes_on_afterwards(
    own_daemon: OwnDaemon, tmp_path: Path
) -> None:
    daemon = own_daemon(live_restore=True)

    async def scenario() -> None:
        async with (
            opened(daemon, tmp_path) as engine,
            opened(daemon, tmp_path, call_seconds=1) as impatient,
            Watching(engine) as watching,
        ):
            running = [order() for _ in range(3)]
            for run in running:
                await launch(engine, run)
            stopping = order("trap 'sleep 1; exit 6' TERM; echo up; while :; do sleep 0.01; done")
            await launch(engine, stopping)
            await until_output(engine, stopping.ref)
            before = await all_of(engine, *running)
            await engine.stop(stopping.ref, StopOrder(term_seconds=20))
            daemon.pause()
            while await asyncio.to_thread(daemon.answers):  # SIGSTOP takes a moment
                pass
            begun_at = time.monotonic()
            said = await asyncio.gather(
                *(impatient.observe(run.ref) for run in running * 20),
                impatient.observe_all(HERE),
                impatient.create(order()),
                impatient.start(running[0].ref),
                impatient.stop(running[1].ref, AT_ONCE),
                impatient.remove(running[2].ref),
                return_exceptions=True,
            )
            assert {type(each) for each in said} == {EngineUnavailable}
            assert "does not answer" in str(said[0])
            assert time.monotonic() - begun_at < 10, "a second for all at once, not one after the other"
            daemon.resume()
            await until_back(engine)
            assert await all_of(engine, *running) == before
            assert (await until(engine, stopping.ref, Phase.EXITED)).exit_code == 6
            assert not watching.breaks
            again = order("true")
            await asyncio.gather(watching.until_hint(again), ended(engine, again))

    asyncio.run(scenario())


def test_a_stop_that_was_ordered_while_the_daemon_is_away_is_done_when_it_is_back(
    own_daemon: OwnDaemon, tmp_path: Path
) -> None:
    daemon = own_daemon(live_restore=True)

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine:
            run = order("trap 'sleep 0.5; exit 6' TERM; echo up; while :; do sleep 0.01; done")
            await launch(engine, run)
            await until_output(engine, run.ref)
            await engine.stop(run.ref, StopOrder("sleep 0.3", term_seconds=1.5))
            await asyncio.to_thread(daemon.kill)
            await asyncio.sleep(2)
            await asyncio.to_thread(daemon.start)
            await until_back(engine)
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (6, None), "it got its time although it was told late"

    asyncio.run(scenario())


def test_a_full_disk_is_told_as_such_and_leaves_nothing_half_made(own_daemon: OwnDaemon, tmp_path: Path) -> None:
    daemon = own_daemon(disk_bytes=96 * MIB)

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine:
            await launch(engine, before := order(GRACEFUL))
            await until_output(engine, before.ref)
            await asyncio.to_thread(fill, daemon.data / "fill")
            assert (await engine.disk(HERE)).free_bytes == 0
            run = order()
            with pytest.raises(EngineRejected, match="no space left on the disk of Docker") as refusal:
                await launch(engine, run)
            assert refusal.value.reason == Reason.START_FAILED
            await engine.remove(run.ref)
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [before.ref]
            assert (await asked(daemon, "ps", "--all", "--format", "{{.Names}}")).split() == [docker_name(before)]
            assert len(list((tmp_path / "root" / "objects").iterdir())) == 1
            await engine.stop(before.ref, AT_ONCE)
            assert (await until(engine, before.ref, Phase.EXITED)).exit_code == 0
            (daemon.data / "fill").unlink()
            assert await output(engine, order("echo room again")) == "room again\n"

    asyncio.run(scenario())


def test_a_full_disk_of_our_own_is_told_as_such_and_keeps_nothing_from_being_ended(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()

    async def scenario() -> None:
        async with opened(docker_daemon, home) as engine:
            run = order(GRACEFUL)
            await launch(engine, run)
            await until_output(engine, run.ref)
            await asyncio.to_thread(fill, home / "fill")
            with pytest.raises(EngineRejected, match=r"cannot be written: No space left on device") as refusal:
                await engine.create(order())
            assert refusal.value.reason == Reason.START_FAILED
            assert (await asked(docker_daemon, "ps", "--all", "--format", "{{.Names}}")).split() == [docker_name(run)]
            await engine.stop(run.ref, AT_ONCE)
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0

    with mounted(home, 4 * MIB):
        asyncio.run(scenario())


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[None]:
    """Give a folder a small disk of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size_bytes in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size_bytes)
