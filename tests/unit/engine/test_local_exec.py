"""Commands and files beside a local container's own: whoever is killed, nothing is left behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muster.engine import shim
from muster.engine.local import LocalEngine
from muster.engine.port import ContainerRun, Phase, StopOrder
from muster.errors import EngineRejected
from muster.model.run import ExecOrder
from muster.testing.conformance.access import executed, told_by, until_seen
from muster.testing.conformance.engine import DEADLINE_SECONDS, is_alive, launch, make_run, until, until_file
from tests.unit.engine.test_local import play

pytestmark = pytest.mark.slow

_CALLER = """
import asyncio, json, sys
from muster.engine.local import LocalEngine
from muster.model.run import ExecOrder, Ref

async def main():
    root, ref, note = sys.argv[1], Ref(*json.loads(sys.argv[2])), sys.argv[3]
    engine = LocalEngine(root)
    order = ExecOrder(("sh", "-c", f"echo $$ > {note}; exec sleep 1000"), has_tty=sys.argv[4] == "tty")
    session = await engine.execute(ref, order)
    files = await engine.sftp(ref)
    print("begun", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def until_dead(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while is_alive(pid):  # noqa: ASYNC110  the kernel tells only a parent
            await asyncio.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    threads = [each / "children" for each in listed.parent.parent.iterdir()]
    return [int(word) for each in threads for word in each.read_text().split()]


def shim_of(root: Path, run: ContainerRun) -> int:
    """Return the process that holds a container."""
    return int((root / run.ref.container_id / shim.RUN).read_text().splitlines()[1])


@pytest.mark.parametrize("kind", ["tty", "pipes"])
def test_a_caller_that_is_killed_leaves_neither_command_nor_worker(tmp_path: Path, kind: str) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        note, ref = tmp_path / "pid", [run.ref.machine_id, run.ref.container_id, run.ref.generation]
        words = [sys.executable, "-c", _CALLER, str(tmp_path / "root"), json.dumps(ref), str(note), kind]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as caller:  # noqa: ASYNC220  it is there at once
            assert caller.stdout is not None
            assert await asyncio.to_thread(caller.stdout.readline) == b"begun\n"
            command, workers = int(await until_file(note)), children_of(caller.pid)
            assert len(workers) == 1
            caller.kill()
            for pid in (command, *workers):
                await until_dead(pid)
        assert (await engine.observe(run.ref)).phase is Phase.RUNNING

    play(tmp_path / "root", scenario)


def test_a_shim_that_is_killed_takes_commands_and_workers_with_it(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        notes = [tmp_path / "own", tmp_path / "daemon"]
        script = f"(setsid sh -c 'echo $$ > {notes[1]}; sleep 1000' &); echo $$ > {notes[0]}; exec sleep 1000"
        async with executed(engine, run, "sh", "-c", script) as session:
            pids = [int(await until_file(note)) for note in notes]
            files = await engine.sftp(run.ref)
            os.kill(shim_of(tmp_path / "root", run), signal.SIGKILL)
            assert (await told_by(files))[2] != 0
            seen = await until(engine, run.ref, Phase.EXITED)
            assert "its shim was killed" in seen.message
            for pid in pids:
                await until_dead(pid)
            assert (await told_by(session))[2] == 137
            await files.aclose()

    play(tmp_path / "root", scenario)


def test_a_shell_that_stays_open_does_not_keep_a_container_from_ending(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        async with executed(engine, run, "sh", "-i", has_tty=True, size=(80, 24)) as session:
            chunks = session.output()
            await session.write(b"echo $((6 * 7))\n")
            await until_seen(chunks, b"42")
            await engine.stop(run.ref, StopOrder(term_seconds=1000))
            await until(engine, run.ref, Phase.EXITED)
            async for _ in chunks:
                pass
            assert await session.exit_code() in {137, 143}

    play(tmp_path / "root", scenario)


def test_what_left_its_shell_behind_ends_with_the_container(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        note = tmp_path / "pid"
        script = f"(env -i setsid sh -c 'trap \"\" TERM HUP; echo $$ > {note}; sleep 1000' >/dev/null 2>&1 &)"
        async with executed(engine, run, "sh", "-c", script) as session:
            assert (await told_by(session))[2] == 0
        pid = int(await until_file(note))
        assert is_alive(pid)
        await engine.remove(run.ref)
        assert not is_alive(pid)

    play(tmp_path / "root", scenario)


def test_who_does_not_read_holds_up_the_command_and_nobody_else(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        note = tmp_path / "count"
        script = f"i=0; while :; do head -c 65536 /dev/zero; i=$((i+1)); echo $i > {note}; done"
        async with executed(engine, run, "sh", "-c", script) as blocked:
            await until_file(note)
            async with executed(engine, run, "echo", "word") as other:
                assert await told_by(other) == (b"word\n", b"", 0)
            assert int(note.read_text() or "0") <= 2  # a pipe holds 65536 bytes
            async with asyncio.timeout(DEADLINE_SECONDS):
                await anext(blocked.output())
        assert (await engine.observe(run.ref)).phase is Phase.RUNNING

    play(tmp_path / "root", scenario)


def test_many_commands_run_at_once(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)

        async def echo(number: int) -> bytes:
            async with executed(engine, run, "sh", "-c", f"read -r word; echo {number} $word") as session:
                await session.write(b"word\n")
                return (await told_by(session))[0]

        said = await asyncio.gather(*(echo(number) for number in range(40)))
        assert said == [b"%d word\n" % number for number in range(40)]
        assert not children_of(shim_of(tmp_path / "root", run))[1:]  # the run's own command is left

    play(tmp_path / "root", scenario)


def test_words_that_no_process_can_be_given_are_refused(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        for words in (("echo", "x" * 200_000), ("echo", "a\0b")):
            with pytest.raises(EngineRejected):
                await engine.execute(run.ref, ExecOrder(words))

    play(tmp_path / "root", scenario)


def test_what_talks_nonsense_to_the_shim_does_not_disturb_it(tmp_path: Path) -> None:
    async def scenario(engine: LocalEngine) -> None:
        run = make_run()
        await launch(engine, run)
        for message in (b"", b"t", b"pecho", b"x" * 150_000):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                caller.settimeout(DEADLINE_SECONDS)
                caller.connect(f"/proc/{shim_of(tmp_path / 'root', run)}/cwd/{shim.EXEC}")
                caller.send(message)
                assert caller.recv(10) == b""
        async with executed(engine, run, "echo", "word") as session:
            assert await told_by(session) == (b"word\n", b"", 0)

    play(tmp_path / "root", scenario)
