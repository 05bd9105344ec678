"""What is left of an installation: what nobody asks for is swept away, and the end of everything ends everything."""

import asyncio
import secrets
from pathlib import Path

import pytest

from muster.engine.docker import reuse, spec
from muster.engine.port import ContainerRun, StopOrder
from muster.testing.conformance.engine import AT_ONCE, HERE, launch, until_output
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX
from tests.unit.engine.docker.opened import INSTALLATION, asked, docker_name, ended, opened, order

pytestmark = pytest.mark.docker

GRACEFUL = "trap 'sleep 0.1; exit 0' TERM; echo up; while :; do sleep 0.01; done"
PREFIX = f"muster-{INSTALLATION[:8]}-"
OTHERS_COPY = f"{reuse.COPY_REPOSITORY}:muster-fedcba98-{'a' * 16}"


async def leave_behind(daemon: Daemon, root: Path, old: ContainerRun) -> None:
    """Do what an engine may have done when it died while it made a copy of ``old``, and in other work."""
    copy = secrets.token_hex(8)
    image = f"{reuse.COPY_REPOSITORY}:{PREFIX}{copy}"
    labels = {
        spec.INSTALLATION: INSTALLATION,
        spec.FOLDER: f"{old.ref.container_id}.1",
        spec.COPY_OF: old.ref.container_id,
        spec.COPY_IMAGE: image,
        spec.MACHINE: HERE,
        spec.ACCOUNT: "1",
        spec.GENERATION: "1",
    }
    await asked(daemon, "tag", BUSYBOX, image)
    words = [f"--label={name}={value}" for name, value in labels.items()]
    await asked(daemon, "create", "--name", f"{PREFIX}{copy}-copying", *words, image, "true")
    await asked(daemon, "tag", BUSYBOX, f"{reuse.COPY_REPOSITORY}:{PREFIX}{secrets.token_hex(8)}")
    trial = (f"--label={spec.INSTALLATION}={INSTALLATION}", f"--label={spec.TRIAL}=")
    await asked(daemon, "create", "--name", f"{PREFIX}trial-12345678", *trial, BUSYBOX, "true")
    folder = root / "objects" / f"{secrets.token_hex(8)}.1" / "run"
    folder.mkdir(parents=True)
    (folder / "env").write_text("export SECRET=x\n")


async def names(daemon: Daemon) -> list[str]:
    """Return what containers there are."""
    return sorted((await asked(daemon, "ps", "--all", "--format", "{{.Names}}")).split())


async def copy_images(daemon: Daemon) -> list[str]:
    """Return what images there are to make copies from."""
    return (await asked(daemon, "images", "--format", "{{.Repository}}:{{.Tag}}", reuse.COPY_REPOSITORY)).split()


def folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "root" / "objects").iterdir())


def test_a_look_at_everything_removes_what_was_left_half_made_and_nothing_else(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            old, running, waiting = order("echo kept > /root/autodl-tmp/note"), order(), order()
            await ended(engine, old)
            await launch(engine, running)
            await engine.create(waiting)
            await leave_behind(docker_daemon, tmp_path / "root", old)
            await asked(docker_daemon, "tag", BUSYBOX, OTHERS_COPY)
        async with opened(docker_daemon, tmp_path) as later:
            runs = (old, running, waiting)
            assert {seen.ref for seen in await later.observe_all(HERE)} == {run.ref for run in runs}
            assert await names(docker_daemon) == sorted(docker_name(run) for run in runs)
            assert await copy_images(docker_daemon) == [OTHERS_COPY]
            assert folders(tmp_path) == sorted(f"{run.ref.container_id}.1" for run in runs)
            await asked(docker_daemon, "rmi", OTHERS_COPY)

    asyncio.run(scenario())


def test_the_end_of_everything_is_orderly_and_keeps_what_is_left_if_so_ordered(
    docker_daemon: Daemon, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            graceful, stubborn, over = order(GRACEFUL), order("trap '' TERM; echo up; sleep 1000"), order("exit 3")
            for run in (graceful, stubborn):
                await launch(engine, run)
                await until_output(engine, run.ref)
            before = await ended(engine, over)
            stop = StopOrder("echo $$ > /root/autodl-tmp/before", term_seconds=0.5)
            assert await engine.end_all(stop, keeps_remains=True) == (2, 3)
            seen = [await engine.observe(run.ref) for run in (graceful, stubborn)]
            assert [(each.exit_code, each.reason) for each in seen] == [(0, None), (137, None)]
            assert await engine.observe(over.ref) == before
            assert len(list((tmp_path / "root" / "objects").glob("*/tmp/before"))) == 2
            assert await engine.end_all(stop, keeps_remains=True) == (0, 3)

    asyncio.run(scenario())


def test_a_purge_leaves_no_trace(docker_daemon: Daemon, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(docker_daemon, tmp_path) as engine:
            old, running, waiting = order("true"), order(account=2), order(account=3)
            await ended(engine, old)
            await launch(engine, running)
            await engine.create(waiting)
            await leave_behind(docker_daemon, tmp_path / "root", old)
        async with opened(docker_daemon, tmp_path) as later:
            assert await later.end_all(AT_ONCE, keeps_remains=False) == (1, 0)
            assert await names(docker_daemon) == []
            assert await copy_images(docker_daemon) == []
            assert folders(tmp_path) == []
            assert await asked(docker_daemon, "network", "ls", "--quiet", "--filter", "type=custom") == ""
            assert await later.end_all(AT_ONCE, keeps_remains=False) == (0, 0)

    asyncio.run(scenario())
