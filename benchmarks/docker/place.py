"""Where a benchmark measures: a real server on the private daemon, its events as they come, and Docker beside it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.docker.peer import Docker
from benchmarks.server import PATIENCE_SECONDS, Seen, Server, Stream, add_image, call, create, following
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH

FLEET = "1x128xRTX 4090@bench"
"""One machine with room for all of it; its GPUs are declared only."""
REST_SECONDS = 0.2
"""Between two measurements, so that none pays for what the one before left to do."""
_SECONDS_EACH = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """``image`` is what deployments call the small image; ``host_config`` what a peer's container is given."""

    daemon: Daemon
    docker: Docker
    server: Server
    client: httpx.AsyncClient
    stream: Stream
    image: str
    host_config: Mapping[str, Any]

    async def told(self, uuid: str, word: str, count: int = 1) -> list[Seen]:
        """Return a deployment's events of a kind, once there are so many."""
        seconds = PATIENCE_SECONDS + count * _SECONDS_EACH
        return await self.stream.until(
            lambda seen: seen.deployment == uuid and seen.word == word, count, seconds=seconds
        )

    async def delete(self, uuid: str, count: int = 1) -> None:
        """Delete a deployment, and wait until so many containers have ended."""
        await call(self.client, "DELETE", "", {"deployment_uuid": uuid})
        await self.told(uuid, "shutdown", count)

    async def decided_at(self) -> Mapping[int, float]:
        """Return when each event was decided."""
        return await asyncio.to_thread(self.server.decided_at)


@asynccontextmanager
async def place(daemon: Daemon) -> AsyncIterator[Place]:
    """Start a server and one container, which makes the network and tells what settings a container has."""
    with Server(fleet=FLEET, docker_host=daemon.url) as server:
        server.start()
        await asyncio.to_thread(server.wait_ready)
        async with Docker(daemon) as docker, server.client() as client, following(client) as stream:
            image = await add_image(client, "bash", BASH)
            uuid = await create(client, "first", 1, image=image)
            found = Place(daemon, docker, server, client, stream, image, {})
            await found.told(uuid, "running")
            (name,) = daemon.docker("ps", "--format", "{{.Names}}").splitlines()
            host_config = await docker.host_config(name)
            await found.delete(uuid)
            yield Place(daemon, docker, server, client, stream, image, host_config)
