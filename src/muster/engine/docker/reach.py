"""Into running containers: commands, files, connections. Of the Docker engine, the part that needs nothing but to look.

In: a ref. Out: a session. Two processes use it on the same containers, the server and the ingress, so nothing here
writes anything: not a folder, nor a name that a copy still lacks (``Objects.find`` would give it). Files and ports are
reached by the kernel (``inside``), which only root of the daemon's own host can.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from muster.engine.dial import connect
from muster.engine.docker import spec
from muster.engine.docker.connection import Connection, converted
from muster.engine.docker.exec import open_exec
from muster.engine.docker.inside import can_enter, files_of, make_socket
from muster.engine.docker.making import NAME
from muster.engine.docker.objects import Objects
from muster.engine.port import ExecSession, Ref
from muster.engine.sftp.process import open_sftp
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.run import ExecOrder

STALE_GENERATION: Final = "stale_generation"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Reach:
    """Opens sessions. ``why_not`` says why files and ports cannot be reached; empty if they can."""

    def __init__(self, connection: Connection, objects: Objects) -> None:
        self._connection = connection
        self._objects = objects
        self.why_not = _why_not(connection.url)

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Run a command in a container, in the environment and folder of its own command."""
        docker_id, _ = await self._running(ref, "exec")
        command = (*spec.EXEC, *order.command)
        return await open_exec(
            self._connection.docker, docker_id, command, has_tty=order.has_tty, size=order.size, env=None
        )

    async def sftp(self, ref: Ref) -> ExecSession:
        """Open a container's files."""
        what = "files"
        self._check(ref, what)
        docker_id, pid = await self._running(ref, what)
        return await open_sftp(inside=lambda: files_of(docker_id, pid))

    async def dial(self, ref: Ref, host: str, port: int) -> ExecSession:
        """Connect to something in a container."""
        what = f"connection to {host}:{port}"
        self._check(ref, what)
        docker_id, pid = await self._running(ref, what)
        return await connect(host, port, lambda family: make_socket(docker_id, pid, family))

    def _check(self, ref: Ref, what: str) -> None:
        if self.why_not:
            raise EngineRejected(Reason.ERROR, f"{what} in {ref.container_id}: {self.why_not}")

    async def _running(self, ref: Ref, what: str) -> tuple[str, int]:
        """Return Docker's id of a run, and the number of its first process."""
        attempt = f"{what} in {ref.container_id}"
        thing = None
        if NAME.fullmatch(ref.container_id) is not None:
            with converted(attempt):
                thing = await self._objects.inspect(self._objects.names.container(ref.container_id))
        if thing is None or thing.ref.machine_id != ref.machine_id:
            raise EngineRejected(Reason.ERROR, f"{attempt}: it does not run")
        if thing.ref.generation > ref.generation:
            raise EngineRejected(STALE_GENERATION, f"{attempt}: it is at generation {thing.ref.generation}")
        state: dict[str, Any] = thing.info["State"]
        if thing.ref.generation != ref.generation or not state["Running"]:
            raise EngineRejected(Reason.ERROR, f"{attempt}: it does not run")
        return thing.docker_id, int(state["Pid"])


def is_here(url: str) -> bool:
    """Tell whether a daemon is on this host."""
    return url.startswith("unix://") or urlsplit(url).hostname in _LOOPBACK


def _why_not(url: str) -> str:
    if not is_here(url):
        return f"Docker at {url} is on another host"
    return "" if can_enter() else "only root may enter a container past Docker: run Muster as root"
