"""Keep one child process alive: start or adopt it, tell when it is ready, start it again when it ends.

A child is a process of its own session whose output goes to a log, so it survives its supervisor; it holds a lock in
the home, in which it says where it answers. One that dies is started again after 0.2 s, doubling to 5 s while it keeps
dying young. One that says it cannot start as told (``EXIT_SETUP``) ends the supervisor with its message, unless it was
ready before under the same settings: then it is the world that is out of order (a port is taken, the disk is full), and
the next attempt may find it mended.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from muster.errors import SetupError
from muster.processes.child import EXIT_SETUP, WatchedProcess
from muster.processes.locks import Holder, holder_of

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A child that lived this long did not die young."""
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Child:
    """What is kept alive. ``env`` is asked at each start; ``told`` is called with its holder each time it is ready."""

    name: str
    command: Sequence[str]
    env: Callable[[], Mapping[str, str]]
    lock: Path
    log: Path
    told: Callable[[Holder, str], None]
    """Called with ``adopted``, ``ready`` or ``ready again``."""
    stop_seconds: float = STOP_SECONDS


class Supervisor:
    """Keeps one child alive until it is cancelled; ``end`` then stops the child too."""

    def __init__(self, child: Child, say: Callable[[str], None]) -> None:
        self._child = child
        self._say = say
        self._process = WatchedProcess.adopt(child.lock)
        self._was_ready = False

    async def run(self) -> None:
        """Start, wait for the end, start again. Raises ``SetupError`` when it cannot start as told."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        child = self._child
        while True:
            verb = "adopted" if self._process else "ready again" if self._was_ready else "ready"
            begun = loop.time()
            log_end = child.log.stat().st_size if child.log.exists() else 0
            process = self._process = self._process or self._start()
            code = await self._follow(process, verb)
            process.close()
            self._process = None
            how = "" if code is None else f" with {code}"
            if code == EXIT_SETUP:
                self._process = WatchedProcess.adopt(child.lock)
                if self._process is not None:
                    continue  # a supervisor that was killed had just started it, and it had no lock yet
                error = _last_error(child, log_end)
                if not self._was_ready:
                    raise SetupError(error)
                how = f" ({error})"
            if loop.time() - begun >= STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._say(f"the {child.name} ended{how}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def hurry(self) -> None:
        """Let a child that is being stopped wait for nothing any more."""
        if self._process is not None:
            self._process.ask_again()

    async def end(self) -> None:
        """Stop the child, if it runs."""
        if self._process is not None:
            await self._process.end(self._child.stop_seconds)
            self._process.close()
            self._process = None

    def _start(self) -> WatchedProcess:
        child = self._child
        return WatchedProcess.start(child.command, env=child.env(), log=child.log)

    async def _follow(self, process: WatchedProcess, verb: str) -> int | None:
        """Tell when it answers; return its exit code when it has ended."""
        async with asyncio.TaskGroup() as group:
            announcing = group.create_task(self._announce(process, verb), name=f"announce {self._child.name}")
            code = await process.wait()
            announcing.cancel()
        return code

    async def _announce(self, process: WatchedProcess, verb: str) -> None:
        """Say once where it answers; say so too when that takes long."""
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + START_SECONDS
        async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
            while (holder := self._holder_of(process)) is None or not await _answers(client, holder.url):
                if loop.time() > patient_until:
                    self._say(f"the {self._child.name} does not answer yet; what it says is in {self._child.log}")
                    patient_until = float("inf")
                await asyncio.sleep(_POLL_SECONDS)
        self._child.told(holder, verb)
        self._was_ready = True

    def _holder_of(self, process: WatchedProcess) -> Holder | None:
        """Return what this very process says of itself once it serves; the lock may still tell of an earlier one."""
        holder = holder_of(self._child.lock)
        return holder if holder is not None and holder.pid == process.pid and holder.url else None


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK
    return False


def _last_error(child: Child, begin: int) -> str:
    """Return what it said before it gave up, in the part of the log that is its own."""
    with child.log.open("rb") as file:
        file.seek(begin if begin <= child.log.stat().st_size else 0)  # the log may have been begun anew
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"the {child.name} cannot start; see {child.log}"
