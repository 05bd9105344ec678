"""What a daemon that dies amid a start leaves behind keeps nobody from starting, and nothing runs unseen."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.port import ContainerRun, Phase, StopOrder
from muster.errors import EngineUnavailable
from muster.model.container import Reason
from muster.testing.conformance.engine import HERE, launch, output_of, until, until_output
from muster.testing.conformance.reuse import taking_over
from tests.docker import remains
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX, OwnDaemon
from tests.unit.engine.docker.opened import INSTALLATION, DiesAt, asked, docker_name, ended, opened, order

pytestmark = pytest.mark.docker

NOTES = Path("exec", "containerd", "daemon", "io.containerd.runtime.v2.task", "moby")
"""Where the daemon's containerd keeps what it has begun."""
SLEEP = "echo up; exec sleep 1000"


async def copies(daemon: Daemon) -> set[str]:
    """The images that containers were copied by; other tests of this daemon may have left some."""
    return set((await asked(daemon, "images", "--quiet", "muster.invalid/copy")).split())


async def docker_id(daemon: Daemon, run: ContainerRun) -> str:
    return await asked(daemon, "inspect", "--format", "{{.Id}}", docker_name(run))


def sleeping(daemon: Daemon) -> list[int]:
    return [each.pid for each in remains.processes(daemon.folder, daemon.cgroup) if each.name() == "sleep"]


async def forgotten(daemon: Daemon, run: ContainerRun) -> None:
    """Let the daemon die as if just before it noted that a container was started."""
    config = daemon.data / "containers" / await docker_id(daemon, run) / "config.v2.json"
    await asyncio.to_thread(daemon.kill)
    known = json.loads(config.read_text())
    known["State"].update(Running=False, Pid=0, StartedAt="0001-01-01T00:00:00Z")
    config.write_text(json.dumps(known))
    await asyncio.to_thread(daemon.start)


async def half_begun(daemon: Daemon, run: ContainerRun) -> None:
    """Leave what a containerd leaves that dies while it begins a container."""
    (daemon.folder / NOTES / await docker_id(daemon, run)).mkdir(parents=True)


async def run_to_end(engine: DockerEngine, run: ContainerRun) -> Sequence[str]:
    await engine.start(run.ref)
    assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0
    return (await output_of(engine, run.ref)).decode().splitlines()


def test_what_containerd_had_begun_is_begun_anew_with_the_same_files(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        others = await copies(docker_daemon)
        async with opened(docker_daemon, tmp_path) as engine:
            fresh = order("echo fresh; cat /root/none")
            await engine.create(fresh)
            await half_begun(docker_daemon, fresh)
            await engine.start(fresh.ref)
            assert (await until(engine, fresh.ref, Phase.EXITED)).exit_code == 1
            assert (await output_of(engine, fresh.ref)).startswith(b"fresh\n")

            run = order("echo 0 >/root/file; echo 0 >/root/autodl-tmp/file")
            await ended(engine, run)
            for number in ("1", "2"):
                run = taking_over(run, f"cat /root/file /root/autodl-tmp/file; echo {number} >/root/file; hostname")
                await engine.create(run)
                before = await docker_id(docker_daemon, run)
                inspected = json.loads(await asked(docker_daemon, "inspect", before))[0]
                await half_begun(docker_daemon, run)
                lines = await run_to_end(engine, run)
                assert lines == [str(int(number) - 1), "0", inspected["Config"]["Hostname"]]
                again = json.loads(await asked(docker_daemon, "inspect", docker_name(run)))[0]
                assert again["Id"] != before
                assert again["HostConfig"] == inspected["HostConfig"]
            assert len(await engine.observe_all(HERE)) == 2
            assert len((await asked(docker_daemon, "ps", "-aq")).split()) == 2
            for each in (fresh, run):
                await engine.remove(each.ref)
            assert await copies(docker_daemon) <= others
            assert await asked(docker_daemon, "images", "--quiet", "--filter", "dangling=true") == ""

    asyncio.run(scenario())


def test_an_object_is_made_anew_whatever_dies_on_the_way(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def dies(at: int, *, is_made: bool) -> bool:
        """Play one start that dies once; tell whether it came to die."""
        others = await copies(docker_daemon)
        async with opened(docker_daemon, tmp_path) as engine:
            old = order("echo kept >/root/file")
            await ended(engine, old)
            run = taking_over(old, "cat /root/file")
            await engine.create(run)
            await half_begun(docker_daemon, run)
        async with opened(docker_daemon, tmp_path) as engine:
            death = DiesAt(engine, at, is_made=is_made)
            try:
                await engine.start(run.ref)
            except EngineUnavailable:
                assert death.is_dead
        async with opened(docker_daemon, tmp_path) as engine:
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [run.ref]
            assert await run_to_end(engine, run) == ["kept"]
            assert len((await asked(docker_daemon, "ps", "-aq")).split()) == 1, "nothing is left of the old one"
            await engine.remove(run.ref)
            assert await copies(docker_daemon) <= others
        return death.is_dead

    async def scenario() -> None:
        for is_made in (False, True):
            for at in itertools.count(1):
                if not await dies(at, is_made=is_made):
                    assert at > 4, "there are steps to die between"
                    break

    asyncio.run(scenario())


def test_a_run_that_docker_has_lost_is_ended_and_not_run_again(own_daemon: OwnDaemon, tmp_path: Path) -> None:
    daemon = own_daemon(live_restore=True)

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine:
            run = order(SLEEP)
            await launch(engine, run)
            await until_output(engine, run.ref)
            await forgotten(daemon, run)
            assert sleeping(daemon), "it runs on"
            await engine.start(run.ref)
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.reason, seen.exit_code) == (Reason.ERROR, None), "nobody can say how it ended"
            assert sleeping(daemon) == []
            again = taking_over(run, "echo again")
            await engine.create(again)
            assert await run_to_end(engine, again) == ["again"]

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["stop", "remove"])
def test_a_run_that_docker_has_lost_ends_when_it_is_to(own_daemon: OwnDaemon, tmp_path: Path, way: str) -> None:
    daemon = own_daemon(live_restore=True)

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine:
            run = order(SLEEP)
            await launch(engine, run)
            await until_output(engine, run.ref)
            await forgotten(daemon, run)
            assert sleeping(daemon), "it runs on"
            if way == "stop":
                await engine.stop(run.ref, StopOrder())
                assert (await engine.observe(run.ref)).phase is Phase.EXITED
            else:
                await engine.remove(run.ref)
            assert sleeping(daemon) == []

    asyncio.run(scenario())


def test_the_end_of_a_network_that_was_left_is_in_nobodys_way(own_daemon: OwnDaemon, tmp_path: Path) -> None:
    daemon = own_daemon(live_restore=True)

    async def scenario() -> None:
        async with opened(daemon, tmp_path) as engine:
            await ended(engine, order("true"))  # which makes the account's network
            run = order("ip -4 address show eth0")
            network = f"muster-{INSTALLATION[:8]}-account-{run.account_id}"
            words = ("--network", network, "--name", docker_name(run), BUSYBOX, "sleep", "1000")
            other = await asked(daemon, "run", "--detach", "--init", *words)
            await asyncio.to_thread(daemon.kill)
            config = daemon.data / "containers" / other / "config.v2.json"
            config.write_text(json.dumps({**json.loads(config.read_text()), "Name": "/other"}))
            await asyncio.to_thread(daemon.start)  # where that end has a name which is nobody's any more
            await engine.create(run)
            await engine.start(run.ref)
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.message) == (0, "")
            assert "inet 10." in (await output_of(engine, run.ref)).decode()

    asyncio.run(scenario())
