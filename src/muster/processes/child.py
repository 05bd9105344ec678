"""A process that is ours to watch and to end, whether this process started it or found it running.

It is held by a pidfd, which always means the same process: a pid that was given to somebody else meanwhile can
neither be waited for nor killed by mistake.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from muster.processes.locks import holder_of

EXIT_SETUP = 3
"""The exit code by which a child says that it cannot start as told, and that trying again will not help."""
_LOG_BYTES = 10 * 2**20


class WatchedProcess:
    """One living process. Close it to let go of it without ending it."""

    def __init__(self, pid: int, pidfd: int, started: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._started = started

    @classmethod
    def start(cls, command: Sequence[str], *, env: Mapping[str, str], log: Path) -> Self:
        """Start a command in a session of its own, so that it survives us and our terminal; output goes to ``log``."""
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".1"))
        with log.open("ab") as output:
            child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        return cls(child.pid, os.pidfd_open(child.pid), child)

    @classmethod
    def adopt(cls, lock: Path) -> Self | None:
        """Return the process that holds ``lock``, ``None`` when there is none."""
        holder = holder_of(lock)
        pidfd = None if holder is None else holder.process.open()
        return None if holder is None or pidfd is None else cls(holder.pid, pidfd, None)

    async def wait(self) -> int | None:
        """Return when it has ended: its exit code (negative for a signal), ``None`` if it was not our child."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        mine = os.dup(self._pidfd)  # a loop has one reader for each descriptor, and several may wait
        loop.add_reader(mine, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(mine)
            os.close(mine)
        return None if self._started is None else self._started.wait()

    async def end(self, grace_seconds: float) -> None:
        """Ask it to stop, then make it; returns when it is gone."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await self.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self.wait()

    def ask_again(self) -> None:
        """Repeat that it is to stop: who still waits for something then ends at once."""
        self._signal(signal.SIGTERM)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pidfd)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            signal.pidfd_send_signal(self._pidfd, number)
