"""What others do to a container behind our back, and what is told of it: on a daemon that is well all the time."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from muster.engine.docker.causes import _was_ended_by_host
from muster.engine.docker.folder import Card, Folder, boot_id, booted_at
from muster.engine.docker.objects import Thing
from muster.engine.port import Observation, Phase, StopOrder
from muster.model.container import Reason
from muster.testing.conformance.engine import launch, until, until_output
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX
from tests.unit.engine.docker.opened import Watching, asked, docker_name, ended, opened, order, output

pytestmark = pytest.mark.docker

GRACEFUL = "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"
EVENTS_KEPT = 256
"""How many events Docker remembers."""


@pytest.mark.parametrize(
    ("words", "exit_code", "signal"),
    [(("kill",), 137, 9), (("kill", "--signal", "INT"), 130, 2), (("stop",), 0, 15), (("restart",), None, 15)],
    ids=["kill", "kill --signal INT", "stop", "restart"],
)
def test_who_is_ended_by_docker_was_killed_externally(
    words: tuple[str, ...], exit_code: int | None, signal: int, docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine, Watching(engine) as watching:
            run = order(GRACEFUL)
            await launch(engine, run)
            await until_output(engine, run.ref)
            await asyncio.gather(watching.until_hint(run), asked(docker_daemon, *words, docker_name(run)))
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (exit_code, Reason.KILLED_EXTERNALLY)
            assert f"send it signal {signal} (docker stop, docker kill" in seen.message
        async with opened(docker_daemon, tmp_path) as later:
            assert await later.observe(run.ref) == seen

    asyncio.run(scenario())


def test_who_is_removed_is_absent_and_leaves_nothing(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine, Watching(engine) as watching:
            run, other = order(), order()
            await launch(engine, run)
            await launch(engine, other)
            await asyncio.gather(
                watching.until_hint(run), asked(docker_daemon, "rm", "--force", "--volumes", docker_name(run))
            )
            assert await engine.observe(run.ref) == Observation(run.ref, Phase.ABSENT)
            assert [seen.ref for seen in await engine.observe_all(run.ref.machine_id)] == [other.ref]
            (folder,) = (tmp_path / "root" / "objects").iterdir()
            assert folder.name.startswith(other.ref.container_id)
            await engine.remove(run.ref)
            assert (await engine.stop(run.ref, StopOrder())).phase is Phase.ABSENT

    asyncio.run(scenario())


def test_signals_that_did_not_end_it_are_no_cause(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order("trap 'done=1' USR1; echo up; while [ -z $done ]; do sleep 0.01; done; exit 3")
            await launch(engine, run)
            await until_output(engine, run.ref)
            for signal in ("URG", "WINCH", "USR1"):
                await asked(docker_daemon, "kill", "--signal", signal, docker_name(run))
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (3, None)

    asyncio.run(scenario())


def test_one_that_is_paused_runs_and_can_be_stopped(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            run = order()
            begun = await launch(engine, run)
            await asked(docker_daemon, "pause", docker_name(run))
            assert await engine.observe(run.ref) == begun
            await engine.stop(run.ref, StopOrder(cmd_before_shutdown="true", before_seconds=0.5))
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (143, None)

    asyncio.run(scenario())


def test_a_cause_is_known_after_docker_has_forgotten_it(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine, Watching(engine) as watching:
            await launch(engine, run := order())
            await asyncio.gather(watching.until_hint(run), asked(docker_daemon, "kill", docker_name(run)))
            tag, name = f"images/{BUSYBOX}/tag", {"repo": "noise", "tag": "1"}
            for _ in range(EVENTS_KEPT // 16 + 1):
                await asyncio.gather(*(engine._connection.call("POST", tag, params=name) for _ in range(16)))
            await asked(docker_daemon, "rmi", "noise:1")
            seen = await engine.observe(run.ref)
            assert (seen.exit_code, seen.reason) == (137, Reason.KILLED_EXTERNALLY)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("boot", "after_boot_seconds", "code", "is_ended"),
    [
        (boot_id(), 10, 137, False),  # nothing was restarted
        ("another", 10, 255, True),  # Docker dates an end that it missed when it is back
        ("another", -10, 143, True),  # there was time to end it
        ("another", -10, 3, False),  # it ended by itself before
    ],
)
def test_a_restart_of_the_machine_is_told_from_an_end_before_it(
    boot: str, after_boot_seconds: int, code: int, is_ended: bool
) -> None:
    run = order()
    card = Card(run.ref.machine_id, run.ref.container_id, 1, 1, boot_id=boot)
    thing = Thing("docker-id", run.ref.container_id, {}, Folder(Path("none")), card)
    assert _was_ended_by_host(thing, booted_at() + timedelta(seconds=after_boot_seconds), code) is is_ended


def test_a_network_that_was_pruned_is_made_again(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            await ended(engine, order("true"))
            waiting = order("echo fine")
            await engine.create(waiting)
            await asked(docker_daemon, "network", "prune", "--force")
            begun = await engine.start(waiting.ref)
            assert begun.started_at is not None
            assert (await until(engine, waiting.ref, Phase.EXITED)).exit_code == 0
            assert await output(engine, order("echo fine, too")) == "fine, too\n"

    asyncio.run(scenario())
