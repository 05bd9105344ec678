"""The SFTP process as the engine sees it: started, talked to over pipes, ended.

It ends when its input does, so one whose engine was killed is not left behind. Who lets go of it does not wait for a
file system that hangs: it is killed after ``_LET_GO_SECONDS``.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from muster.engine.descriptor import Descriptor
from muster.engine.session import StreamSession
from muster.engine.thread import make_in_thread
from muster.errors import EngineUnavailable

_START_SECONDS = 15.0
_LET_GO_SECONDS = 3.0
_LONGEST_REPORT_BYTES = 4096
_COMMAND = (sys.executable, "-P", "-I", "-m", "muster.engine.sftp")
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TZ": "UTC0"}
"""Nothing of ours, and nothing for which libc would read a file later."""

Inside = Callable[[], AbstractContextManager[Mapping[str, int] | None]]
"""Opens descriptors of a container, by the names that ``__main__`` knows them by; none for this host's own files."""


async def open_sftp(folder: str | Path = "/", inside: Inside = contextlib.nullcontext) -> StreamSession:
    """Start the process and return its session. ``inside`` opens, in a thread, what its ``__main__`` takes.

    Raises ``EngineUnavailable`` when it cannot start, and what ``inside`` raises.
    """
    try:
        process, given, told, report = await make_in_thread(lambda: _spawn(folder, inside), _abandon)
    except OSError as error:
        raise EngineUnavailable(f"the SFTP process cannot start: {error}") from error
    words = Descriptor(report)
    session = StreamSession(Descriptor(given), {1: Descriptor(told)}, _Process(process))
    try:
        async with asyncio.timeout(_START_SECONDS):
            if refusal := await words.read(_LONGEST_REPORT_BYTES):
                raise EngineUnavailable(f"the SFTP process cannot start: {refusal.decode(errors='replace').strip()}")
    except BaseException as error:
        await session.aclose()
        if isinstance(error, TimeoutError):
            raise EngineUnavailable(f"the SFTP process did not start within {_START_SECONDS:g} s") from error
        raise
    finally:
        words.close()
    return session


class _Process:
    """The ending of a session that is a child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._watched = os.pidfd_open(process.pid)
        self._lock = asyncio.Lock()

    async def wait(self) -> int:
        async with self._lock:
            if self._process.returncode is None:
                await _readable(self._watched)
                self._process.wait()
                os.close(self._watched)
        code = self._process.returncode
        return code if code >= 0 else 128 - code

    async def let_go(self) -> None:
        try:
            async with asyncio.timeout(_LET_GO_SECONDS):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _spawn(folder: str | Path, inside: Inside) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """Start it; returns it and our ends of its pipes: input, output, standard error."""
    with inside() as descriptors:
        given = descriptors or {}
        process = subprocess.Popen(
            [*_COMMAND, *(f"{name}={number}" for name, number in given.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env=_ENVIRONMENT,
            pass_fds=tuple(given.values()),
            start_new_session=True,
        )
    pipes = process.stdin, process.stdout, process.stderr
    ends = []
    for pipe in pipes:
        assert pipe is not None
        ends.append(os.dup(pipe.fileno()))
        pipe.close()
    return process, ends[0], ends[1], ends[2]


def _abandon(started: tuple[subprocess.Popen[bytes], int, int, int]) -> None:
    """End what was started for somebody who has gone."""
    process, *ends = started
    for number in ends:
        os.close(number)
    process.kill()
    process.wait()
