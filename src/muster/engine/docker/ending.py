"""The end of everything that an installation runs, and of every trace of it."""

import asyncio
import contextlib
import time

from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection
from muster.engine.docker.objects import Objects
from muster.engine.docker.stop import end_run
from muster.engine.port import StopOrder
from muster.errors import EngineUnavailable

_KILL_SECONDS = 60.0
"""What the kernel takes to end a container that was killed; one that waits for a broken disk takes for ever."""


async def end_all_runs(connection: Connection, objects: Objects, order: StopOrder) -> int:
    """End what runs, in order, side by side; returns how many ran. Raises ``DockerError`` and ``EngineUnavailable``."""
    running = await objects.running()
    seconds = order.before_seconds + order.term_seconds + _KILL_SECONDS
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(_end(connection, objects, docker_id, order) for docker_id in running))
    except TimeoutError as error:
        raise EngineUnavailable(f"containers still run after {seconds:g} s") from error
    return len(running)


async def _end(connection: Connection, objects: Objects, docker_id: str, order: StopOrder) -> None:
    thing = await objects.inspect(docker_id)
    if thing is not None:
        stopping = await asyncio.to_thread(thing.folder.order_stop, order, time.time())
        await end_run(connection, docker_id, thing.folder, stopping)
        with contextlib.suppress(DockerError):
            await connection.call("POST", f"containers/{docker_id}/wait", seconds=_KILL_SECONDS)
