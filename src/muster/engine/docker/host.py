"""What the daemon's host has and allows, asked once: cores, memory, limits, the disk.

Whether a container may be given higher limits than the daemon's own (open files, locked memory) depends on how the
daemon was started, and Docker tells only when a container starts. So the first image is used for a trial: a container
that ends at once. Where the trial is refused, containers keep the daemon's limits.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aiodocker.exceptions import DockerError

from muster.engine.docker import spec
from muster.engine.docker.connection import Connection
from muster.errors import EngineUnavailable
from muster.model.run import Disk


@dataclass(frozen=True, slots=True)
class Host:
    """``ulimits`` is ``None`` until it was tried; ``disk_root`` is where Docker keeps everything."""

    cpu_num: int
    memory_bytes: int
    disk_root: str
    ulimits: tuple[spec.Ulimit, ...] | None = None


class HostProbe:
    """Asks, and remembers."""

    def __init__(self, connection: Connection, installation: str) -> None:
        self._connection = connection
        self._installation = installation
        self._host: Host | None = None
        self._lock = asyncio.Lock()

    async def host(self) -> Host:
        """Return what the daemon tells of itself."""
        if self._host is None:
            info = await self._connection.call("GET", "info")
            self._host = Host(int(info["NCPU"]), int(info["MemTotal"]), str(info["DockerRootDir"]))
        return self._host

    async def limits_for(self, image: str) -> spec.HostLimits:
        """Return what a container of an image can be given."""
        async with self._lock:
            host = await self.host()
            if host.ulimits is None:
                host = self._host = replace(host, ulimits=await self._try(image))
        return spec.HostLimits(host.cpu_num, host.memory_bytes, host.ulimits or ())

    async def disk(self, own: Path) -> Disk:
        """Return the disk of Docker's folder, or of ``own`` where that cannot be looked at."""
        return await asyncio.to_thread(_disk, Path((await self.host()).disk_root), own)

    async def sweep(self) -> None:
        """Remove what a trial left that died with its process."""
        if self._lock.locked():
            return
        filters = {"label": [f"{spec.INSTALLATION}={self._installation}", spec.TRIAL]}
        async with self._lock:
            for each in await self._connection.call("GET", "containers/json", params={"all": True, "filters": filters}):
                with contextlib.suppress(DockerError):
                    await self._connection.call("DELETE", f"containers/{each['Id']}", params={"force": True, "v": True})

    async def _try(self, image: str) -> tuple[spec.Ulimit, ...]:
        name = f"muster-{self._installation[:8]}-trial-{secrets.token_hex(4)}"
        if await self._starts(image, name, spec.ULIMITS):
            return spec.ULIMITS
        return ()

    async def _starts(self, image: str, name: str, ulimits: Sequence[spec.Ulimit]) -> bool:
        body = {
            "Image": image,
            "Entrypoint": ["/bin/sh"],
            "Cmd": ["-c", ":"],
            "Labels": {spec.INSTALLATION: self._installation, spec.TRIAL: ""},
            "HostConfig": {
                "NetworkMode": "none",
                "AutoRemove": True,
                "Ulimits": [each.to_docker() for each in ulimits],
            },
        }
        await self._connection.call("POST", "containers/create", params={"name": name}, body=body)
        try:
            await self._connection.call("POST", f"containers/{name}/start", seconds=120)
        except DockerError as error:
            return "rlimit" not in str(error.message)
        finally:
            with contextlib.suppress(DockerError):
                await self._connection.call("DELETE", f"containers/{name}", params={"force": True, "v": True})
        return True


def _disk(docker_root: Path, own: Path) -> Disk:
    for folder in (docker_root, own, *own.parents):
        with contextlib.suppress(OSError):
            found = os.statvfs(folder)
            return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    raise EngineUnavailable("the disk of Docker cannot be looked at")
