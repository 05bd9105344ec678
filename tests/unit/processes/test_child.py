"""Processes that are watched: started or adopted, waited for, ended, and never mistaken for another."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.processes.child import WatchedProcess
from muster.processes.locks import HomeLock

pytestmark = pytest.mark.slow

LONG = ("sleep", "1000")
DEAF = ("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.01; done")
HOLDER = """
    import sys, time
    from pathlib import Path
    from muster.processes.locks import HomeLock
    with HomeLock(Path(sys.argv[1]), "server"):
        print("held", flush=True)
        time.sleep(1000)
"""


@contextmanager
def started(command: tuple[str, ...], log: Path, env: dict[str, str] | None = None) -> Iterator[WatchedProcess]:
    """A process that is gone when the block ends."""
    process = WatchedProcess.start(command, env=env or dict(os.environ), log=log)
    try:
        yield process
    finally:
        asyncio.run(process.end(0))
        process.close()


def test_it_runs_in_a_session_of_its_own_and_writes_into_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    with started(("sh", "-c", 'echo "$GREETING"; echo trouble >&2; exit 7'), log, {"GREETING": "hello"}) as process:
        assert asyncio.run(process.wait()) == 7
        assert log.read_text() == "hello\ntrouble\n"
    with started(LONG, log) as process:
        assert os.getsid(process.pid) == process.pid
        assert log.parent.stat().st_mode & 0o777 == 0o700


def test_a_signal_that_ended_it_is_its_exit_code(tmp_path: Path) -> None:
    with started(LONG, tmp_path / "log") as process:
        os.kill(process.pid, signal.SIGKILL)
        assert asyncio.run(process.wait()) == -signal.SIGKILL


def test_several_may_wait_and_one_may_give_up(tmp_path: Path) -> None:
    async def scenario(process: WatchedProcess) -> None:
        impatient, patient = asyncio.create_task(process.wait()), asyncio.create_task(process.wait())
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        assert impatient.cancelled()
        os.kill(process.pid, signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await patient == -signal.SIGTERM

    with started(LONG, tmp_path / "log") as process:
        asyncio.run(scenario(process))


def test_ending_asks_first_and_forces_after_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started(LONG, log) as process:
        asyncio.run(process.end(10))
        assert asyncio.run(process.wait()) == -signal.SIGTERM
    with started(DEAF, log) as process:
        _until_it_says(log, "deaf")
        asyncio.run(process.end(0.05))
        assert asyncio.run(process.wait()) == -signal.SIGKILL
        asyncio.run(process.end(0.05))  # twice is fine


def test_letting_go_ends_nothing_and_closes_the_descriptors(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with started(LONG, tmp_path / "log") as process, _holder(tmp_path / "lock") as holder:
        adopted = WatchedProcess.adopt(tmp_path / "lock")
        assert adopted is not None
        adopted.close()
        assert holder.poll() is None
        assert process.pid
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_the_holder_of_a_lock_is_adopted_waited_for_and_ended(tmp_path: Path) -> None:
    with _holder(tmp_path / "lock") as holder:
        adopted = WatchedProcess.adopt(tmp_path / "lock")
        assert adopted is not None
        assert adopted.pid == holder.pid
        asyncio.run(adopted.end(10))
        assert asyncio.run(adopted.wait()) is None, "the code of what is not our child is not ours to know"
        assert holder.wait(20) == -signal.SIGTERM
        adopted.close()


def test_nobody_is_adopted_where_nobody_holds_the_lock(tmp_path: Path) -> None:
    assert WatchedProcess.adopt(tmp_path / "lock") is None
    with HomeLock(tmp_path / "lock", "server"):
        pass
    assert WatchedProcess.adopt(tmp_path / "lock") is None, "what is written there counts only while it is held"


def test_a_log_that_grew_too_long_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("short\n")
    with started(("echo", "one"), log) as process:
        asyncio.run(process.wait())
    assert log.read_text() == "short\none\n"
    with log.open("ab") as file:
        file.truncate(11 * 2**20)
    with started(("echo", "two"), log) as process:
        asyncio.run(process.wait())
    assert log.read_text() == "two\n"
    assert log.with_suffix(".1").stat().st_size == 11 * 2**20


@contextmanager
def _holder(lock: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that holds a lock."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def _until_it_says(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
