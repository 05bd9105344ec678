"""``muster up``: keep a server and an ingress running on this machine, with embedded defaults.

Both are processes of their own (see ``supervise``): they survive the supervisor, and the next ``up`` on the same home
adopts them. A server that dies takes no address with it, an ingress that dies no container.

Being asked to stop (SIGINT, SIGTERM) stops both. Containers go on: ``muster down`` ends them.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

from pydantic import SecretStr

from muster.api.auth import new_token
from muster.config import Settings
from muster.home import read_profile
from muster.processes.child import WatchedProcess
from muster.processes.http import free_port
from muster.processes.locks import INGRESS_LOCK, Holder, HomeLock
from muster.processes.server import LOCK as SERVER_LOCK
from muster.processes.signals import STOPPING, until_stopped
from muster.processes.supervise import STOP_SECONDS, Child, Supervisor

LOCK = "up.lock"
_PATIENCE_SECONDS = 2.5
"""Longer than children take that wait for nothing."""
_PYTHON = (sys.executable, "-P", "-m")
"""``-P``: a ``logging.py`` in the folder where somebody types ``muster up`` is not ours to import."""


say_now = partial(print, flush=True)
"""Says a line at once, also into a file or a pipe: whoever waits for "ready" there must not wait for a full buffer."""


def run(settings: Settings, say: Callable[[str], None] = say_now) -> None:
    """Supervise until SIGINT or SIGTERM. Raises ``SetupError`` when a child cannot start as told."""
    asyncio.run(supervise(settings, say))


async def supervise(settings: Settings, say: Callable[[str], None]) -> None:
    """Hold the supervisor's lock and keep the children alive."""
    with HomeLock(settings.home / LOCK, "up"):
        house = _House(*_with_token(settings), say)
        supervisors = [Supervisor(house.server(), say)]
        if settings.ingress:
            supervisors.append(Supervisor(house.ingress(), say))
        else:
            await _end_ingress(settings)
        try:
            async with until_stopped() as group:
                for supervisor in supervisors:
                    group.create_task(supervisor.run(), name="supervisor")
        finally:
            await _end(supervisors, settings, say)
        say("stopped; containers go on, `muster up` adopts them and `muster down` ends them")


async def _end(supervisors: Sequence[Supervisor], settings: Settings, say: Callable[[str], None]) -> None:
    """Stop the children; who asks a second time is not made to wait for what is in flight."""
    loop = asyncio.get_running_loop()

    def hurry() -> None:
        for supervisor in supervisors:
            supervisor.hurry()

    for number in STOPPING:
        loop.add_signal_handler(number, hurry)
    try:
        ending = asyncio.gather(*(supervisor.end() for supervisor in supervisors))
        _, late = await asyncio.wait({asyncio.ensure_future(ending)}, timeout=_PATIENCE_SECONDS)
        if late:
            say(f"stopping; what is in flight may take up to {settings.longest_drain_seconds:g} s, again to cut it off")
        await ending
    finally:
        for number in STOPPING:
            loop.remove_signal_handler(number)


class _House:
    """What the children are told, and what is said of them."""

    def __init__(self, settings: Settings, is_new: bool, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._shows_token = is_new
        self._url = ""
        """Where a server was last ready; empty before."""
        self._has_ingress = not settings.ingress
        self._held_back: tuple[Holder, str] | None = None
        """A server that is ready before its ingress: what it would start had no address yet."""

    def server(self) -> Child:
        home = self._settings.home
        return Child(
            name="server",
            command=(*_PYTHON, "muster.processes.server"),
            env=self._server_env,
            lock=home / SERVER_LOCK,
            log=home / "logs" / "server.log",
            told=self._tell_server,
        )

    def ingress(self) -> Child:
        settings = self._settings
        return Child(
            name="ingress",
            command=(*_PYTHON, "muster.processes.ingress"),
            env=lambda: self._env({"MUSTER_ADMIN_TOKEN"}),
            lock=settings.home / INGRESS_LOCK,
            log=settings.home / "logs" / "ingress.log",
            told=self._tell_ingress,
            stop_seconds=settings.longest_drain_seconds + STOP_SECONDS,
        )

    def _server_env(self) -> Mapping[str, str]:
        if self._settings.port == 0:
            port = urlsplit(self._url).port or free_port(self._settings.host)
            self._settings = self._settings.model_copy(update={"port": port})
        return self._env(frozenset())

    def _env(self, without: set[str] | frozenset[str]) -> Mapping[str, str]:
        """Return exactly our settings: a child reads no file, so an edit waits for the next ``up``."""
        env = {**os.environ, **self._settings.environment(), "MUSTER_CONFIG": os.devnull}
        return {name: value for name, value in env.items() if name not in without}

    def _tell_server(self, holder: Holder, verb: str) -> None:
        if not self._has_ingress:
            self._held_back = holder, verb
            return
        if holder.note and not self._url:
            self._say(f"warning: {holder.note}")
        self._url = holder.url
        engine = f"engine {holder.engine}, " if holder.engine else ""
        home = self._settings.home
        self._say(f"muster is {verb} at {holder.url}  ({engine}home {home}, log {home / 'logs' / 'server.log'})")
        if self._shows_token and self._settings.admin_token is not None:
            self._say(f"admin token, shown once: {self._settings.admin_token.get_secret_value()}")
            self._say(f"commands on this machine find it by themselves in {self._settings.profile_path}")
            self._shows_token = False

    def _tell_ingress(self, holder: Holder, verb: str) -> None:
        settings = self._settings
        self._has_ingress = True
        if self._held_back is not None:
            self._tell_server(*self._held_back)
            self._held_back = None
        where = (
            f"{settings.ingress_public_host}, ports {settings.ingress_ports} (https, tcp), {settings.ssh_ports} (ssh)"
        )
        if settings.ingress_domain:
            where = f"*.{settings.ingress_domain}:{settings.ingress_domain_port}, and {where}"
        self._say(f"the ingress is {verb}: addresses at {where}; its own state at {holder.url}/metrics")


async def _end_ingress(settings: Settings) -> None:
    """End an ingress that an earlier ``up`` left and this one was told not to have."""
    process = WatchedProcess.adopt(settings.home / INGRESS_LOCK)
    if process is not None:
        await process.end(STOP_SECONDS)
        process.close()


def _with_token(settings: Settings) -> tuple[Settings, bool]:
    """Return the settings with an admin token, and whether it was drawn just now.

    The server is always given one, so that it never draws one itself and writes it into its log.
    """
    profile = read_profile(settings.profile_path)
    if settings.admin_token is not None:
        return settings, False
    token = profile.token if profile else new_token()
    return settings.model_copy(update={"admin_token": SecretStr(token)}), profile is None
