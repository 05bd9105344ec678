"""Runs a command after changes: not for each, not too late, and never two at once.

The command is the operator's own line, run by ``sh -c``; no value of a registry is ever part of it. What it prints
goes to a file and not through a pipe, so that a command that leaves a daemon behind is over when it is over. It does
not see ``MUSTER_TOKEN`` or ``MUSTER_REGISTRY``, which may hold a password.
"""

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from typing import IO

from muster.clock import Clock, wait_for_event

QUIET_SECONDS = 0.5
"""A command waits until nothing has changed for so long: a rollout changes a set many times in a second."""
LATEST_SECONDS = 5.0
"""And no longer than this after the first change."""
RETRY_SECONDS = 30.0
LIMIT_SECONDS = 60.0
_SHOWN_BYTES = 2000
_SECRET = frozenset({"MUSTER_TOKEN", "MUSTER_REGISTRY"})

_log = logging.getLogger(__name__)


class Debounced:
    """Runs ``act`` after changes. ``act`` returns whether it went well; if not, it is run again later."""

    def __init__(self, clock: Clock, act: Callable[[], Awaitable[bool]]) -> None:
        self._clock = clock
        self._act = act
        self._changed = asyncio.Event()
        self._since: float | None = None

    def change(self) -> None:
        """Say that something has changed."""
        if self._since is None:
            self._since = self._clock.monotonic()
        self._changed.set()

    async def run(self) -> None:
        """Act for ever."""
        while True:
            await self._changed.wait()
            await self._until_quiet()
            while not await self._act():
                await wait_for_event(self._changed, self._clock, RETRY_SECONDS)
                if self._changed.is_set():
                    break

    async def _until_quiet(self) -> None:
        latest = (self._since or 0.0) + LATEST_SECONDS
        while self._changed.is_set():
            self._changed.clear()
            await wait_for_event(self._changed, self._clock, min(QUIET_SECONDS, latest - self._clock.monotonic()))
            if self._clock.monotonic() >= latest:
                self._changed.clear()
        self._since = None


async def run_command(command: str, stdin: bytes | None = None, *, limit_seconds: float = LIMIT_SECONDS) -> bool:
    """Run a command line to its end; return whether it succeeded. A failure is logged with what was printed last."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(stdin or b"")
        given.seek(0)
        env = {name: value for name, value in os.environ.items() if name not in _SECRET}
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", command, stdin=given, stdout=output, stderr=output, env=env, start_new_session=True
            )
        except OSError as error:
            _log.warning("the command of the export cannot be run: %s", error)
            return False
        said = ""
        try:
            async with asyncio.timeout(limit_seconds):
                code = await process.wait()
            if code != 0:
                said = f"ended with {code}"
        except TimeoutError:
            said = f"was ended: it took more than {limit_seconds:.0f} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if said:
            printed = _last(output)
            _log.warning("the command of the export %s%s", said, f"; it printed:\n{printed}" if printed else "")
        return not said


def _last(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _SHOWN_BYTES))
    return output.read().decode(errors="replace").strip()
