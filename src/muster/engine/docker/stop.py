"""The end of a run: ``cmd_before_shutdown``, TERM, KILL, each with its time; carried on by whoever comes next.

The order is written into the object's folder before anything is done, with the moment when it was given; that the
command before shutdown is begun, before it is; that TERM was sent, afterwards. So a server that dies in between does
not begin the sequence anew: the next one waits for what is left of the time that the step was given. At worst TERM is
sent twice; it always comes with its whole time before KILL, also when the daemon was away at first.

The command before shutdown is read from a file, like every command: Docker shows what it was told to execute.
"""

import asyncio
import contextlib
import time
from dataclasses import replace

from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection
from muster.engine.docker.folder import Folder, Stopping
from muster.engine.docker.spec import BEFORE, EXEC
from muster.errors import EngineUnavailable

_POLL_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_GONE = frozenset({404, 409})
"""There is no such container, or it does not run."""


async def end_run(connection: Connection, docker_id: str, folder: Folder, stopping: Stopping) -> None:
    """Carry a stop order through to the end; tries on while the daemon is away.

    Raises ``DockerError`` when Docker cannot do it.
    """
    while True:
        try:
            await _end(connection, docker_id, folder, stopping)
        except EngineUnavailable:
            await asyncio.sleep(_RETRY_SECONDS)
            latest = await asyncio.to_thread(folder.stopping)
            stopping = stopping if latest is None else latest
        except DockerError as error:
            if error.status not in _GONE:
                raise
            return
        else:
            return


async def _end(connection: Connection, docker_id: str, folder: Folder, stopping: Stopping) -> None:
    order = stopping.order
    term_at = stopping.term_at
    if term_at is None:
        if order.cmd_before_shutdown.strip():
            stopping = await _before(connection, docker_id, folder, stopping)
        await connection.call("POST", f"containers/{docker_id}/kill", params={"signal": "TERM"})
        term_at = time.time()
        with contextlib.suppress(OSError):
            await asyncio.to_thread(folder.write_stopping, replace(stopping, term_at=term_at))
    try:
        await connection.call(
            "POST", f"containers/{docker_id}/wait", seconds=max(0.01, _left(term_at, order.term_seconds))
        )
    except EngineUnavailable:
        await connection.call("POST", f"containers/{docker_id}/kill", params={"signal": "KILL"})


async def _before(connection: Connection, docker_id: str, folder: Folder, stopping: Stopping) -> Stopping:
    """Run the command before shutdown once; one that was begun by a server that died is given the rest of its time."""
    order = stopping.order
    if stopping.is_before_run:
        await asyncio.sleep(_left(stopping.begun_at, order.before_seconds))
        return stopping
    begun = replace(stopping, is_before_run=True)
    # One that cannot be begun, on a full disk or in a container that is paused, must not keep TERM away.
    with contextlib.suppress(DockerError, OSError):
        await asyncio.to_thread(folder.write_before, order.cmd_before_shutdown)
        await asyncio.to_thread(folder.write_stopping, begun)
        await _run(connection, docker_id, order.before_seconds)
    return begun


async def _run(connection: Connection, docker_id: str, seconds: float) -> None:
    """Run the command before shutdown in the container; one that takes too long ends with the container."""
    made = await connection.call("POST", f"containers/{docker_id}/exec", body={"Cmd": [*EXEC, *BEFORE]})
    await connection.call("POST", f"exec/{made['Id']}/start", body={"Detach": True})
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not (await connection.call("GET", f"exec/{made['Id']}/json"))["Running"]:
            return
        await asyncio.sleep(_POLL_SECONDS)


def _left(begun_at: float, seconds: float) -> float:
    """Return what is left of a time that began then; never more than all of it, whatever the clock was set to."""
    return min(seconds, max(0.0, begun_at + seconds - time.time()))
