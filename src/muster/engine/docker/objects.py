"""Finds the objects of one installation in Docker: by container, or all of a machine.

An object's name says which container it is; labels say whose it is and where its folder lies. Whatever lacks our
installation's label is invisible here, whatever its name.

A container that was copied (see ``reuse``) is made under a name of its own and becomes the new container's once the
old object is gone. Should we die between the two, nobody bears the files under a final name; so whoever looks for a
container finishes that last step. The folder, which both have, says whether it is due: its card is of the new container
by then. A copy that was given up is never finished, even if the old object goes, as it does when another takes it over.
Nothing else here changes anything.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection
from muster.engine.docker.folder import Card, Folder
from muster.engine.docker.spec import ACCOUNT, COPY_IMAGE, COPY_OF, FOLDER, GENERATION, INSTALLATION, MACHINE, Names
from muster.model.ids import ContainerId, MachineId
from muster.model.run import Ref

_NOT_FOUND, _CONFLICT = 404, 409
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: Docker's id and inspection of it, our folder and its card (``None``: not of its present run)."""

    docker_id: str
    container_id: ContainerId
    info: Mapping[str, Any]
    folder: Folder
    card: Card | None

    @property
    def labels(self) -> Mapping[str, str]:
        """What it was labelled with when it was made."""
        return self.info["Config"]["Labels"] or {}

    @property
    def ref(self) -> Ref:
        """The run that it is."""
        if self.card is not None:
            return self.card.ref
        return Ref(MachineId(self.labels[MACHINE]), self.container_id, int(self.labels[GENERATION]))

    @property
    def account_id(self) -> int:
        """Whose it is; an object never changes hands."""
        return int(self.labels[ACCOUNT])


class Objects:
    """See the module's text. ``root`` holds the folders."""

    def __init__(self, connection: Connection, installation: str, root: Path) -> None:
        self._connection = connection
        self._installation = installation
        self.root = root
        self.names = Names(installation)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def folder(self, name: str) -> Folder:
        """Return the folder of that name, which need not exist."""
        return Folder(self.root / name)

    async def find(self, container_id: ContainerId) -> Thing | None:
        """Return a container's object."""
        thing = await self.inspect(self.names.container(container_id))
        if thing is not None:
            return thing
        copy = await self.inspect(self.names.copying(container_id))
        if copy is None or copy.card is None:
            return None
        if await self.inspect(self.names.container(ContainerId(copy.labels[COPY_OF]))) is not None:
            return None
        await self.rename(copy.docker_id, self.names.container(container_id))
        return await self.inspect(self.names.container(container_id))

    async def all(self, machine_id: MachineId) -> Sequence[Thing]:
        """Return a machine's objects that have a final name; finishes copies whose last step is missing."""
        names = [name for name in await self._names(machine_id) if self.names.parse(name)]
        ids = {parsed[0] for name in names if (parsed := self.names.parse(name))}
        found = await asyncio.gather(*(self.find(container_id) for container_id in sorted(ids)))
        return [thing for thing in found if thing is not None]

    async def copying(self) -> Sequence[tuple[ContainerId, str]]:
        """Return the passing names that objects have, with the containers that they are to become."""
        names = [name.lstrip("/") for each in await self._ours() for name in each["Names"]]
        return [(parsed[0], name) for name in names if (parsed := self.names.parse(name)) is not None and parsed[1]]

    async def folders_in_use(self) -> frozenset[str]:
        """Return the names of all folders that an object has."""
        return frozenset(each["Labels"][FOLDER] for each in await self._ours())

    async def copied_images_in_use(self) -> frozenset[str]:
        """Return the images of copies that an object was made from."""
        return frozenset(each["Labels"].get(COPY_IMAGE, "") for each in await self._ours())

    async def running(self) -> Sequence[str]:
        """Return Docker's ids of all objects that run."""
        return [each["Id"] for each in await self._ours() if each["State"] in {"running", "paused", "restarting"}]

    async def everything(self) -> Sequence[str]:
        """Return Docker's ids of all objects of the installation."""
        return [each["Id"] for each in await self._ours()]

    async def inspect(self, name: str) -> Thing | None:
        """Return the object of a name or Docker id, if it is ours and stays."""
        info = await self._info(name)
        if info is None or not self._is_object(info["Name"], info["Config"]["Labels"] or {}):
            return None
        if info["State"]["Status"] == "removing":
            return None
        parsed = self.names.parse(info["Name"])
        assert parsed is not None
        folder = self.folder(info["Config"]["Labels"][FOLDER])
        card = await asyncio.to_thread(folder.card)
        is_current = card is not None and card.container_id == parsed[0]
        return Thing(info["Id"], parsed[0], info, folder, card if is_current else None)

    async def is_foreign(self, name: str) -> bool:
        """Tell whether a name is borne by something that is not of this installation."""
        info = await self._info(name)
        return info is not None and not self._is_object(info["Name"], info["Config"]["Labels"] or {})

    async def rename(self, docker_id: str, name: str) -> None:
        """Give an object another name; the same again succeeds."""
        try:
            await self._connection.call("POST", f"containers/{docker_id}/rename", params={"name": name})
        except DockerError as error:
            thing = await self.inspect(docker_id)
            if thing is None or thing.info["Name"] != f"/{name}":
                raise error from None

    async def _names(self, machine_id: MachineId) -> list[str]:
        labels = [f"{INSTALLATION}={self._installation}", f"{MACHINE}={machine_id}"]
        return [name.lstrip("/") for each in await self._list({"label": labels}) for name in each["Names"]]

    async def _info(self, name: str) -> Mapping[str, Any] | None:
        path = f"containers/{name}/json"
        try:
            async with self._connection.attempt(f"GET {path}"), self._slots:  # whoever waits for a slot, waits as well
                info: Mapping[str, Any] = await self._connection.call("GET", path)
        except DockerError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return info

    def _is_object(self, name: str, labels: Mapping[str, str]) -> bool:
        """Tell whether something is an object of ours: labels alone may have been inherited from an image."""
        is_labelled = labels.get(INSTALLATION) == self._installation and FOLDER in labels
        return is_labelled and self.names.parse(name) is not None

    async def _ours(self) -> Sequence[Mapping[str, Any]]:
        found = await self._list({"label": [f"{INSTALLATION}={self._installation}"]})
        return [each for each in found if any(self._is_object(name, each["Labels"]) for name in each["Names"])]

    async def _list(self, filters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = await self._connection.call(
            "GET", "containers/json", params={"all": True, "filters": dict(filters)}
        )
        return found
