"""``muster up``: keep a server running on this machine, with embedded defaults.

The server is a process of its own session, so it survives the supervisor; its output goes to ``<home>/logs``, so it
never writes into a pipe whose reader is gone. The next ``up`` on the same home adopts it. A server that dies is
started again, at the same address, after 0.2 s, doubling to 5 s while it keeps dying young. One that says it cannot
start as told ends ``up`` with its message, unless one was ready before under the same settings: then it is the world
that is out of order (the port is taken, the disk is full), and the next attempt may find it mended.

Being asked to stop (SIGINT, SIGTERM) stops the server too. Containers go on: ``muster down`` ends them.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from muster.api.auth import new_token
from muster.config import Settings
from muster.errors import SetupError
from muster.home import read_profile
from muster.processes.child import WatchedProcess
from muster.processes.http import free_port
from muster.processes.locks import HomeLock, holder_of
from muster.processes.server import EXIT_SETUP, LOCAL_FALLBACK
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.signals import until_stopped

LOCK = "up.lock"
SERVER = (sys.executable, "-P", "-m", "muster.processes.server")
"""``-P``: a ``logging.py`` in the folder where somebody types ``muster up`` is not ours to import."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A server that lived this long did not die young."""
START_SECONDS = 30.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.02


say_now = partial(print, flush=True)
"""Says a line at once, also into a file or a pipe: whoever waits for "ready" there must not wait for a full buffer."""


def run(settings: Settings, say: Callable[[str], None] = say_now) -> None:
    """Supervise until SIGINT or SIGTERM. Raises ``SetupError`` when the server cannot start as told."""
    asyncio.run(supervise(settings, say))


async def supervise(settings: Settings, say: Callable[[str], None]) -> None:
    """Hold the supervisor's lock and keep the server alive."""
    with HomeLock(settings.home / LOCK, "up"):
        server = WatchedProcess.adopt(settings.home / SERVER_LOCK)
        settings, is_new = _with_token(settings)
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
        self._url = ""
        """Where a server was last ready; empty before."""

    async def run(self) -> None:
        """Start, wait for the end, start again."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        while True:
            verb = "adopted" if self._server else "ready again" if self._url else "ready"
            begun = loop.time()
            log_end = self._log.stat().st_size if self._log.exists() else 0
            server = self._server = self._server or self._start()
            code = await self._follow(server, verb)
            server.close()
            self._server = None
            how = "" if code is None else f" with {code}"
            if code == EXIT_SETUP:
                error = _last_error(self._log, log_end)
                if not self._url:
                    raise SetupError(error)
                how = f" ({error})"
            if loop.time() - begun >= STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._say(f"the server ended{how}; starting it again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def end(self) -> None:
        """Stop the server, if one runs."""
        if self._server is not None:
            await self._server.end(STOP_SECONDS)
            self._server.close()
            self._server = None

    def _start(self) -> WatchedProcess:
        """Start a server with exactly our settings: it reads no file, so an edit waits for the next ``up``."""
        if self._settings.port == 0:
            port = urlsplit(self._url).port or free_port(self._settings.host)
            self._settings = self._settings.model_copy(update={"port": port})
        if self._settings.engine == "auto" and not self._url:
            self._say(f"warning: {LOCAL_FALLBACK}")
        env = {**os.environ, **self._settings.environment(), "MUSTER_CONFIG": os.devnull}
        return WatchedProcess.start(SERVER, env=env, log=self._log)

    async def _follow(self, server: WatchedProcess, verb: str) -> int | None:
        """Tell the person when it answers; return its exit code when it has ended."""
        async with asyncio.TaskGroup() as group:
            announcing = group.create_task(self._announce(server, verb), name="announce")
            code = await server.wait()
            announcing.cancel()
        return code

    async def _announce(self, server: WatchedProcess, verb: str) -> None:
        """Say once where it answers; say so too when that takes long."""
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + START_SECONDS
        async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
            while not (url := self._url_of(server)) or not await _answers(client, url):
                if loop.time() > patient_until:
                    self._say(f"the server does not answer yet; what it says is in {self._log}")
                    patient_until = float("inf")
                await asyncio.sleep(_POLL_SECONDS)
        self._url = url
        self._say(f"muster is {verb} at {url}  (home {self._settings.home}, log {self._log})")
        if self._shows_token and self._settings.admin_token is not None:
            self._say(f"admin token, shown once: {self._settings.admin_token.get_secret_value()}")
            self._say(f"commands on this machine find it by themselves in {self._settings.profile_path}")
            self._shows_token = False

    def _url_of(self, server: WatchedProcess) -> str:
        """Return what this very server says of itself; the profile may still tell of an earlier one."""
        holder = holder_of(self._settings.home / SERVER_LOCK)
        return holder.url if holder is not None and holder.pid == server.pid else ""


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK
    return False


def _with_token(settings: Settings) -> tuple[Settings, bool]:
    """Return the settings with an admin token, and whether it was drawn just now.

    The server is always given one, so that it never draws one itself and writes it into its log.
    """
    profile = read_profile(settings.profile_path)
    if settings.admin_token is not None:
        return settings, False
    token = profile.token if profile else new_token()
    return settings.model_copy(update={"admin_token": SecretStr(token)}), profile is None


def _last_error(log: Path, begin: int) -> str:
    """Return what the server said before it gave up, in the part of the log that is its own."""
    with log.open("rb") as file:
        file.seek(begin if begin <= log.stat().st_size else 0)  # the log may have been begun anew
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"the server cannot start; see {log}"
