"""Removes what deaths of ours left half made, and nobody will ask for: copies, their images, trials, bare folders.

Each is looked at again once its container is taken (see ``busy``), because it may have been made meanwhile. What cannot
be removed now is told and left for the next time: it is in nobody's way.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from aiodocker.exceptions import DockerError

from muster.engine.docker import reuse
from muster.engine.docker.busy import Busy
from muster.engine.docker.connection import Connection
from muster.engine.docker.host import HostProbe
from muster.engine.docker.objects import Objects
from muster.model.ids import ContainerId

_log = logging.getLogger(__name__)


class Sweep:
    """Sweeps one installation."""

    def __init__(self, connection: Connection, objects: Objects, probe: HostProbe, busy: Busy) -> None:
        self._connection = connection
        self._objects = objects
        self._probe = probe
        self._busy = busy
        self._is_running = False

    async def run(self) -> None:
        """Remove everything that nobody works on or has; once for all machines that are looked at together."""
        if self._is_running:
            return
        self._is_running = True
        try:
            await self._run()
        finally:
            self._is_running = False

    async def _run(self) -> None:
        await self._each(await self._objects.copying(), self._remove_copy)
        await self._each(await self._unused_images(), self._remove_image)
        await self._probe.sweep()
        await self._each(await self._unused_folders(), self._remove_folder)

    async def _each(
        self, found: Iterable[tuple[ContainerId, str]], remove: Callable[[ContainerId, str], Awaitable[None]]
    ) -> None:
        for container_id, name in found:
            if container_id not in self._busy:
                with self._busy.taking(container_id):
                    try:
                        await remove(container_id, name)
                    except (DockerError, OSError) as error:
                        _log.warning(
                            "%s is of nobody and could not be removed, again with the next look: %s", name, error
                        )

    async def _remove_copy(self, container_id: ContainerId, name: str) -> None:
        if await self._objects.find(container_id) is None:  # which finishes one that only lacks its last step
            copy = await self._objects.inspect(name)
            if copy is not None:
                await reuse.remove_object(self._connection, copy.docker_id)
                await reuse.remove_copied_image(self._connection, copy)

    async def _unused_images(self) -> list[tuple[ContainerId, str]]:
        found = await reuse.copied_images(self._connection, self._objects)
        in_use = await self._objects.copied_images_in_use() if found else frozenset()
        return [(container_id, image) for container_id, image in found if image not in in_use]

    async def _remove_image(self, _: ContainerId, image: str) -> None:
        if image not in await self._objects.copied_images_in_use():
            await reuse.remove_image(self._connection, image)

    async def _unused_folders(self) -> list[tuple[ContainerId, str]]:
        there = await asyncio.to_thread(_names_in, self._objects)
        in_use = await self._objects.folders_in_use() if there else frozenset()
        return [(ContainerId(name.rpartition(".")[0]), name) for name in there if name not in in_use]

    async def _remove_folder(self, _: ContainerId, name: str) -> None:
        if name not in await self._objects.folders_in_use():
            await asyncio.to_thread(self._objects.folder(name).destroy)


def _names_in(objects: Objects) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in objects.root.iterdir())
    return []
