"""``muster up``: keep a server running on this machine, with embedded defaults.

The server is a process of its own session, so it survives the supervisor; its output goes to ``<home>/logs``, so it
never writes into a pipe whose reader is gone. The next ``up`` on the same home adopts it. A server that dies is
started again after 0.2 s, doubling to 5 s while it keeps dying young; one that says it cannot start as told ends
``up`` with its message.

Being asked to stop (SIGINT, SIGTERM) stops the server too. Containers go on: ``muster down`` ends them.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from pydantic import SecretStr

from muster.api.auth import new_token
from muster.config import Settings
from muster.errors import SetupError
from muster.home import read_profile
from muster.processes.child import WatchedProcess
from muster.processes.http import listening
from muster.processes.locks import HomeLock
from muster.processes.server import EXIT_SETUP
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.signals import until_stopped

LOCK = "up.lock"
SERVER = (sys.executable, "-m", "muster.processes.server")
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A server that lived this long did not die young."""
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.02


def run(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Supervise until SIGINT or SIGTERM. Raises ``SetupError`` when the server cannot start as told."""
    asyncio.run(supervise(settings, say))


async def supervise(settings: Settings, say: Callable[[str], None]) -> None:
    """Hold the supervisor's lock and keep the server alive."""
    with HomeLock(settings.home / LOCK, "up"):
        server = WatchedProcess.adopt(settings.home / SERVER_LOCK)
        if server is None:
            settings = _with_fixed_port(settings)
        is_new = server is None and settings.admin_token is None and read_profile(settings.profile_path) is None
        if is_new:
            settings = settings.model_copy(update={"admin_token": SecretStr(new_token())})
        supervisor = _Supervisor(settings, server, say, shows_token=is_new)
        try:
            async with until_stopped() as group:
                group.create_task(supervisor.run(), name="supervisor")
        finally:
            await supervisor.end()
        say("stopped; containers go on, `muster up` adopts them and `muster down` ends them")


class _Supervisor:
    def __init__(
        self, settings: Settings, server: WatchedProcess | None, say: Callable[[str], None], *, shows_token: bool
    ) -> None:
        self._settings = settings
        self._server = server
        self._say = say
        self._shows_token = shows_token
        self._log = settings.home / "logs" / "server.log"

    async def run(self) -> None:
        """Start, wait for the end, start again."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        while True:
            verb = "adopted" if self._server else "ready"
            begun = loop.time()
            server = self._server = self._server or self._start()
            code = await self._watch(server, verb)
            server.close()
            self._server = None
            if code == EXIT_SETUP:
                raise SetupError(_last_error(self._log))
            if loop.time() - begun >= STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._say(f"the server ended{'' if code is None else f' with {code}'}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def end(self) -> None:
        """Stop the server, if one runs."""
        if self._server is not None:
            await self._server.end(STOP_SECONDS)
            self._server.close()
            self._server = None

    def _start(self) -> WatchedProcess:
        env = {**os.environ, **self._settings.environment()}
        return WatchedProcess.start(SERVER, env=env, log=self._log)

    async def _watch(self, server: WatchedProcess, verb: str) -> int | None:
        """Tell the person when it answers; return its exit code when it has ended."""
        ended = asyncio.create_task(server.wait())
        try:
            answers = asyncio.create_task(self._until_it_answers())
            await asyncio.wait((ended, answers), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self._introduce(verb, answers.result())
            answers.cancel()
            return await ended
        finally:
            ended.cancel()

    async def _until_it_answers(self) -> str | None:
        """Return the URL once it answers, ``None`` when that takes too long."""
        async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    while True:
                        profile = read_profile(self._settings.profile_path)
                        url = profile.url if profile else self._settings.url
                        with contextlib.suppress(httpx.HTTPError):
                            if (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK:
                                return url
                        await asyncio.sleep(_POLL_SECONDS)
        return None

    def _introduce(self, verb: str, url: str | None) -> None:
        if url is None:
            self._say(f"the server does not answer yet; what it says is in {self._log}")
            return
        self._say(f"muster is {verb} at {url}  (home {self._settings.home}, log {self._log})")
        if self._shows_token and self._settings.admin_token is not None:
            self._say(f"admin token, shown once: {self._settings.admin_token.get_secret_value()}")
            self._say(f"commands on this machine find it by themselves in {self._settings.profile_path}")
            self._shows_token = False


def _with_fixed_port(settings: Settings) -> Settings:
    """Make "any free port" one certain port, so that it is the same after a restart of the server."""
    if settings.port != 0:
        return settings
    with listening(settings.host, 0) as listener:
        return settings.model_copy(update={"port": listener.getsockname()[1]})


def _last_error(log: Path) -> str:
    """Return what the server said before it gave up."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"the server cannot start; see {log}"
