"""An order for a run → its object in Docker: from an image, or out of the object that it takes over.

The folder is written before Docker is told of it. A call that dies in between leaves a folder without an object, which
the next one completes, or the sweep removes.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator

from aiodocker.exceptions import DockerError

from muster.engine.docker import reuse, spec
from muster.engine.docker.connection import Connection, converted, refusal
from muster.engine.docker.folder import Folder
from muster.engine.docker.host import HostProbe
from muster.engine.docker.networks import Networks
from muster.engine.docker.objects import Objects, Thing
from muster.errors import EngineRejected, EngineUnavailable, StorageError
from muster.model.container import Reason
from muster.model.ids import AccountId, ContainerId
from muster.model.image import HeldImage
from muster.model.run import ContainerRun

StorageOf = Callable[[AccountId, str], spec.Storage]
"""Returns what a container of an account in a data center mounts; blocks. Raises ``StorageError``."""

NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,127}")
"""What Docker lets an object be called."""

SHELL = "/bin/sh"
_VARIABLE = re.compile(r"[A-Za-z_][0-9A-Za-z_]*")
_LONGEST_BYTES = 120_000
"""Linux gives one argument or variable 128 KiB."""
_NOT_FOUND, _CONFLICT = 404, 409


class Maker:
    """Makes the objects of one installation."""

    def __init__(
        self,
        connection: Connection,
        installation: str,
        objects: Objects,
        *,
        networks: Networks,
        probe: HostProbe,
        storage_of: StorageOf,
    ) -> None:
        self._connection = connection
        self._installation = installation
        self._objects = objects
        self._networks = networks
        self._probe = probe
        self._storage_of = storage_of
        self._with_shell: set[str] = set()

    async def make(self, run: ContainerRun, image: HeldImage) -> None:
        """Make a new object from an image that is there; one that exists is left as it is."""
        storage = await asyncio.to_thread(self._storage, run)
        folder = self._objects.folder(f"{run.ref.container_id}.{run.ref.generation}")
        name = self._objects.names.container(run.ref.container_id)
        try:
            with converted(f"create of {run.ref.container_id}"), written(folder):
                await asyncio.to_thread(folder.make)
                await asyncio.to_thread(folder.write_run, run, started_before="")
                await self._create(run, folder, name, storage, image=image.reference, digest=image.digest)
                await self._check_shell(name, image)
        except EngineRejected:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(folder.destroy)
            raise

    async def take_over(self, run: ContainerRun) -> None:
        """Make another run's object this one's."""
        storage = await asyncio.to_thread(self._storage, run)

        async def copy(run: ContainerRun, image: str, folder: Folder, name: str, old: Thing) -> None:
            digest = old.labels.get(spec.IMAGE_DIGEST, "")
            await self._create(run, folder, name, storage, image=image, digest=digest, copy_of=old.container_id)

        assert run.takes_over is not None
        what = f"reuse of {run.takes_over.container_id} for {run.ref.container_id}"
        with converted(what, Reason.START_FAILED), written(self._objects.folder(run.takes_over.container_id)):
            await reuse.take_over(self._connection, self._objects, run, self._probe, copy)

    def _storage(self, run: ContainerRun) -> spec.Storage:
        try:
            return self._storage_of(run.account_id, run.data_center)
        except StorageError as error:
            raise EngineRejected(Reason.START_FAILED, str(error)) from error

    async def _create(
        self,
        run: ContainerRun,
        folder: Folder,
        name: str,
        storage: spec.Storage,
        *,
        image: str,
        digest: str,
        copy_of: ContainerId | None = None,
    ) -> None:
        network = await self._networks.of(run.account_id)
        try:
            body = spec.creation(
                run,
                image=image,
                digest=digest,
                installation=self._installation,
                network=network,
                folder=folder,
                storage=storage,
                host=await self._probe.limits_for(image),
                copy_of=copy_of,
            )
            await self._connection.call("POST", "containers/create", params={"name": name}, body=body, seconds=120)
        except DockerError as error:
            if error.status == _NOT_FOUND:
                raise EngineUnavailable(f"create of {run.ref.container_id}: {image} has just gone") from error
            if error.status != _CONFLICT:
                raise refusal(Reason.START_FAILED, f"create of {run.ref.container_id}", error) from error
            await self._check_owner(name)

    async def _check_shell(self, name: str, image: HeldImage) -> None:
        """Refuse an image without a shell; the init would start, and say "command not found" of it.

        To look takes Docker 50 ms, so it is done once for each image, by its id: a name may be another's next time.
        """
        image_id = str((await self._connection.call("GET", f"containers/{name}/json"))["Image"])
        if image_id in self._with_shell:
            return
        try:
            async with self._connection.stream(f"containers/{name}/archive", {"path": SHELL}):
                pass
        except DockerError as error:
            if error.status != _NOT_FOUND:
                raise refusal(Reason.START_FAILED, f"create of {name}", error) from error
            await reuse.remove_object(self._connection, name)
            raise EngineRejected(
                Reason.START_FAILED, f"{image.reference}: the image has no {SHELL}: commands are started by a shell"
            ) from error
        self._with_shell.add(image_id)

    async def _check_owner(self, name: str) -> None:
        """Refuse a name that a stranger's object has; one of ours is what was wanted, unless it is on its way out."""
        if await self._objects.is_foreign(name):
            words = f"a container {name} exists and is not of this installation: rename or remove it"
            raise EngineRejected(Reason.START_FAILED, words)
        if await self._objects.inspect(name) is None:
            raise EngineUnavailable(f"create of {name}: the one before it is still being removed")


def check_run(run: ContainerRun) -> None:
    """Refuse what can never run, before anything is made of it."""
    if NAME.fullmatch(run.ref.container_id) is None:
        raise EngineRejected(Reason.START_FAILED, f"{run.ref.container_id!r} cannot be a container's name")
    if any(_VARIABLE.fullmatch(name) is None for name in run.env):
        raise EngineRejected(Reason.START_FAILED, "a variable has a name that no shell can be given")
    for what, word in (("the command", run.cmd), *((f"the variable {name}", value) for name, value in run.env.items())):
        try:
            size_bytes = len(word.encode())
        except UnicodeEncodeError as error:
            raise EngineRejected(Reason.START_FAILED, f"{what} is no text: it holds half a character") from error
        if "\0" in word:
            raise EngineRejected(Reason.START_FAILED, f"{what} holds a zero byte, which no process can be given")
        if size_bytes > _LONGEST_BYTES:
            limit = f"{_LONGEST_BYTES // 1000} kB"
            raise EngineRejected(Reason.START_FAILED, f"{what} is longer than {limit}: put it into a file")


@contextlib.contextmanager
def written(folder: Folder) -> Iterator[None]:
    """Refuse what cannot be written down: on a full or broken disk nothing can be started."""
    try:
        yield
    except OSError as error:
        words = f"the folder {folder.path} cannot be written: {error.strerror}"
        raise EngineRejected(Reason.START_FAILED, words) from error
