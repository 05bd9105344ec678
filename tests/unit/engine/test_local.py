"""What the local engine does when something is killed, and what it leaves behind: nothing."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from muster.engine import shim
from muster.engine.local import LocalEngine
from muster.engine.local_ports import Ports
from muster.engine.port import Phase, StopOrder
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.testing.conformance.engine import (
    DEADLINE_SECONDS,
    FOREVER,
    HERE,
    is_alive,
    launch,
    make_run,
    output_of,
    until,
    until_file,
    until_output,
)

pytestmark = pytest.mark.slow


def play(root: Path, scenario: Callable[[LocalEngine], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        engine = LocalEngine(root, **options)
        try:
            await scenario(engine)
        finally:
            await engine.purge()
            await engine.aclose()

    asyncio.run(main())


def shim_of(root: Path, container_id: str) -> int:
    return int((root / container_id / shim.RUN).read_text().splitlines()[1])


def test_a_killed_shim_takes_everything_with_it(tmp_path: Path) -> None:
    root, pids = tmp_path / "root", [tmp_path / "a", tmp_path / "b"]
    run = make_run(f"(setsid sh -c 'echo $$ > {pids[0]}; sleep 1000; true' &); echo $$ > {pids[1]}; sleep 1000; true")

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, run)
        inner = [int(await until_file(path)) for path in pids]
        os.kill(shim_of(root, run.ref.container_id), signal.SIGKILL)
        seen = await until(engine, run.ref, Phase.EXITED)
        assert not [pid for pid in inner if is_alive(pid)]
        assert (seen.exit_code, seen.reason) == (None, Reason.ERROR)
        assert "shim was killed" in seen.message
        assert await engine.start(run.ref) == seen

    play(root, scenario)


def test_a_killed_command_is_an_exit_with_137(tmp_path: Path) -> None:
    run = make_run(f"echo $$ > {tmp_path / 'pid'}; exec sleep 1000")

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, run)
        os.kill(int(await until_file(tmp_path / "pid")), signal.SIGKILL)
        assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 137

    play(tmp_path / "root", scenario)


def test_a_killed_server_leaves_the_run_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    program = f"""
import asyncio, os, signal
from muster.engine.local import LocalEngine
from muster.testing.conformance.engine import launch, make_run
async def main():
    run = make_run("until [ -e {tmp_path}/go ]; do sleep 0.01; done; exit 6")
    await launch(LocalEngine({str(root)!r}), run)
    print(run.ref.container_id, flush=True)
    os.killpg(0, signal.SIGKILL)
asyncio.run(main())
"""
    server = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True, check=False
    )
    assert server.returncode == -signal.SIGKILL

    async def scenario(engine: LocalEngine) -> None:
        (found,) = await engine.observe_all(HERE)
        assert found.ref.container_id == server.stdout.decode().strip()
        assert found.phase is Phase.RUNNING
        (tmp_path / "go").touch()
        assert (await until(engine, found.ref, Phase.EXITED)).exit_code == 6

    play(root, scenario)


@pytest.mark.parametrize("milliseconds", [0, 8, 16, 24, 32, 48])
def test_a_server_killed_at_any_moment_of_a_start_leaves_it_started_once_at_most(
    tmp_path: Path, milliseconds: int
) -> None:
    """Whatever the first server got done, starting again leads to exactly one run of the command."""
    root, note = tmp_path / "root", tmp_path / "note"
    program = f"""
import asyncio
from muster.engine.local import LocalEngine
from muster.testing.conformance.engine import make_run
async def main():
    engine, run = LocalEngine({str(root)!r}), make_run("echo begun >> {note}; sleep 0.1")
    await engine.create(run)
    print("created", flush=True)
    await engine.start(run.ref)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"created\n"
        time.sleep(milliseconds / 1000)
        server.kill()

    async def scenario(engine: LocalEngine) -> None:
        (found,) = await engine.observe_all(HERE)
        await engine.start(found.ref)
        assert (await until(engine, found.ref, Phase.EXITED)).exit_code == 0
        assert note.read_text() == "begun\n"

    play(root, scenario)


def test_a_shim_has_no_descriptor_of_the_server(tmp_path: Path) -> None:
    run = make_run("ls -l /proc/$$/fd /proc/$PPID/fd")
    with (tmp_path / "inheritable").open("w") as leaked:
        os.set_inheritable(leaked.fileno(), True)

        async def scenario(engine: LocalEngine) -> None:
            await launch(engine, run)
            text = (await output_of(engine, run.ref)).decode()
            assert "lock" in text
            assert "inheritable" not in text

        play(tmp_path / "root", scenario)


def test_starts_of_many_clients_at_once_run_the_command_once(tmp_path: Path) -> None:
    run = make_run(f"echo begun >> {tmp_path / 'note'}; exit 0")

    async def scenario(engine: LocalEngine) -> None:
        others = [LocalEngine(tmp_path / "root") for _ in range(5)]
        await engine.create(run)
        await asyncio.gather(*(other.start(run.ref) for other in others))
        await until(engine, run.ref, Phase.EXITED)
        assert (tmp_path / "note").read_text() == "begun\n"
        for other in others:
            await other.aclose()

    play(tmp_path / "root", scenario)


def test_a_run_that_was_marked_and_never_begun_is_not_run_again(tmp_path: Path) -> None:
    root, run = tmp_path / "root", make_run(f"echo begun > {tmp_path / 'note'}")

    async def scenario(engine: LocalEngine) -> None:
        await engine.create(run)
        (root / run.ref.container_id / shim.RUN).write_text(f"{shim.boot_id()}\n1\n1\n{time.time()}\n")
        seen = await engine.start(run.ref)
        assert (seen.phase, seen.reason) == (Phase.EXITED, Reason.ERROR)
        assert not (tmp_path / "note").exists()

    play(root, scenario)


def test_a_run_of_an_earlier_boot_ended_with_its_machine(tmp_path: Path) -> None:
    root, run = tmp_path / "root", make_run()

    async def scenario(engine: LocalEngine) -> None:
        await engine.create(run)
        (root / run.ref.container_id / shim.RUN).write_text(f"another-boot\n{os.getpid()}\n1\n{time.time()}\n")
        seen = await engine.observe(run.ref)
        assert (seen.phase, seen.reason, seen.exit_code) == (Phase.EXITED, Reason.MACHINE_LOST, None)
        assert seen.started_at is not None

    play(root, scenario)


def test_a_stale_identity_never_hits_a_stranger(tmp_path: Path) -> None:
    root, run = tmp_path / "root", make_run()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:

        async def scenario(engine: LocalEngine) -> None:
            await engine.create(run)
            marker = root / run.ref.container_id / shim.RUN
            marker.write_text(f"{shim.boot_id()}\n{stranger.pid}\n1\n{time.time()}\n")
            await engine.stop(run.ref, StopOrder())
            await engine.remove(run.ref)
            assert stranger.poll() is None

        play(root, scenario)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_a_shell_wraps_has_time_to_finish(tmp_path: Path) -> None:
    server = (
        f"trap 'sleep 0.3; echo finished > {tmp_path / 'note'}; exit 0' TERM; echo set; while :; do sleep 0.01; done"
    )
    run = make_run('bash -c "$SERVER"; exit 1', SERVER=server)

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, run)
        await until_output(engine, run.ref)
        await engine.stop(run.ref, StopOrder())
        await until(engine, run.ref, Phase.EXITED)
        assert (tmp_path / "note").read_text() == "finished\n"

    play(tmp_path / "root", scenario)


def test_output_is_bounded_and_its_newest_part_is_kept(tmp_path: Path) -> None:
    run = make_run("for i in $(seq 1 20000); do echo line $i; done")

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, run)
        await until(engine, run.ref, Phase.EXITED)
        lines = (await output_of(engine, run.ref, follow=False)).splitlines()
        assert lines[-1] == b"line 20000"
        assert sum(map(len, lines)) < 160_000
        assert await output_of(engine, run.ref, tail=3, follow=False) == b"line 19998\nline 19999\nline 20000\n"
        many = (await output_of(engine, run.ref, tail=6000, follow=False)).splitlines()
        assert many == lines[-6000:]

    play(tmp_path / "root", scenario, log_bytes=70_000)


def test_following_survives_rotation(tmp_path: Path) -> None:
    run = make_run("for i in $(seq 1 60); do echo line $i; sleep 0.01; done")

    async def scenario(engine: LocalEngine) -> None:
        await engine.create(run)
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(output_of(engine, run.ref))
            await engine.start(run.ref)
        assert reader.result() == b"".join(f"line {i}\n".encode() for i in range(1, 61))

    play(tmp_path / "root", scenario, log_bytes=350)


def test_without_a_shell_a_start_is_refused(tmp_path: Path) -> None:
    run = make_run()

    async def scenario(engine: LocalEngine) -> None:
        await engine.create(run)
        with pytest.raises(EngineRejected) as refusal:
            await engine.start(run.ref)
        assert refusal.value.reason == Reason.START_FAILED
        assert (await engine.observe(run.ref)).phase is Phase.CREATED

    play(tmp_path / "root", scenario, shells=("no-such-shell",))


def test_a_working_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        with pytest.raises(EngineRejected):
            await launch(engine, make_run())

    play(tmp_path / "root", scenario, workdir=tmp_path / "nowhere")


def test_commands_run_in_the_working_directory(tmp_path: Path) -> None:
    run = make_run("pwd")

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, run)
        assert (await output_of(engine, run.ref)).decode().strip() == str(tmp_path)

    play(tmp_path / "root", scenario, workdir=tmp_path)


def test_folders_are_private(tmp_path: Path) -> None:
    root, run = tmp_path / "root", make_run(PASSWORD="secret")

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, run)
        folder = root / run.ref.container_id
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / shim.ENVIRON).stat().st_mode & 0o777 == 0o600

    play(root, scenario)


def test_purge_ends_everything_and_leaves_nothing(tmp_path: Path) -> None:
    root, pid_file = tmp_path / "root", tmp_path / "pid"

    async def scenario(engine: LocalEngine) -> None:
        await launch(engine, make_run(f"trap '' TERM; echo $$ > {pid_file}; {FOREVER}"))
        await launch(engine, make_run("mkdir deep; touch deep/file; chmod 500 deep; exit 0"))
        await engine.create(make_run())
        (root / ".trash-x").mkdir()
        pid = int(await until_file(pid_file))
        assert await engine.purge() == 3
        assert not is_alive(pid)
        assert [path.name for path in root.iterdir()] == [".ports"]
        assert not list((root / ".ports").iterdir())

    play(root, scenario)


def test_a_crash_while_creating_or_removing_is_cleaned_up(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in (".new-aaaa-11111111", ".trash-bbbb-22222222", ".ports"):
        (root / name).mkdir(parents=True)
    os.utime(root / ".new-aaaa-11111111", (1, 1))
    (root / ".ports" / "12345").symlink_to("bbbb")

    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await engine.create(run)
        assert {path.name for path in root.iterdir()} == {".ports", run.ref.container_id}
        assert not (root / ".ports" / "12345").is_symlink()

    play(root, scenario)


def test_watching_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> None:
        engine = LocalEngine(tmp_path / "root", rescan_seconds=0.05)
        before = descriptors()
        for _ in range(5):
            await launch(engine, make_run())
        assert descriptors() == before + 5
        await engine.purge()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while descriptors() != before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await launch(engine, make_run())
        await engine.aclose()
        assert descriptors() == before
        other = LocalEngine(tmp_path / "root")
        await other.purge()
        await other.aclose()

    asyncio.run(main())


def test_a_rescan_finds_what_somebody_else_did(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        other = LocalEngine(tmp_path / "root")
        hints, created = engine.watch(), set[str]()

        async def hear() -> str:
            return await anext(hints)

        async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as tasks:
            first = tasks.create_task(hear())
            while not first.done():  # what is there when the watch begins is no news to it
                run = make_run()
                created.add(run.ref.container_id)
                await other.create(run)
                await asyncio.sleep(0.1)
        assert first.result() in created
        await other.aclose()

    play(tmp_path / "root", scenario, rescan_seconds=0.05)


def test_a_root_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def main() -> None:
        engine = LocalEngine(tmp_path / "file" / "root")
        with pytest.raises(EngineUnavailable):
            await engine.create(make_run())
        await engine.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("cmd", ["echo \0", "echo \ud800"])
def test_a_command_that_no_process_can_be_given_is_refused(tmp_path: Path, cmd: str) -> None:
    async def scenario(engine: LocalEngine) -> None:
        with pytest.raises(EngineRejected):
            await engine.create(make_run(cmd))

    play(tmp_path / "root", scenario)


def test_a_port_that_is_in_use_is_not_given_away(tmp_path: Path) -> None:
    ports = Ports(tmp_path)
    mine = ports.reserve("one", 2)
    assert not set(mine) & set(ports.reserve("two", 2))
    ports.release(mine, "two")
    assert (tmp_path / ".ports" / str(mine[0])).is_symlink()
    ports.release(mine, "one")
    assert not (tmp_path / ".ports" / str(mine[0])).is_symlink()
