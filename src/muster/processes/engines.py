"""Which engine a home runs its containers on: the one that was told, the one it has, or the one that is there.

A home remembers its engine, because containers of one are invisible to another: a server that found Docker away and
went on with plain processes would take every container for gone, and start all of them a second time. So ``auto``
decides once; from then on a Docker that does not answer is waited for, and told as ``engine_unavailable``.

Out: the engine, and a line for the operator where ``auto`` did not find what is best.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from muster import engine
from muster.config import Settings
from muster.engine.port import Engine
from muster.errors import SetupError
from muster.files import FileStorage
from muster.home import write_text
from muster.model.ids import AccountId

CONTAINERS = "containers"
DOCKER_OBJECTS = "docker"
CHOICE = "engine"
NO_DOCKER = "no container engine found: using the local one, which runs commands as plain processes of this host"


@dataclass(frozen=True, slots=True)
class Chosen:
    """An open engine; ``note`` is for the operator to read, usually empty."""

    engine: Engine
    name: str
    note: str = ""


def remembered(home: Path) -> str:
    """Return the engine that a home has, empty if it never had one."""
    with contextlib.suppress(FileNotFoundError):
        return (home / CHOICE).read_text().strip()
    return "local" if (home / CONTAINERS).exists() else ""


async def choose(settings: Settings, installation: str, files: FileStorage, *, has_containers: bool) -> Chosen:
    """Open the engine of a home and remember it. Raises ``SetupError`` when it cannot be had.

    ``has_containers``: some were not released yet, so the engine cannot be another than before.
    """
    before = remembered(settings.home)
    wanted = settings.engine
    if before and wanted not in ("auto", before) and has_containers:
        raise SetupError(
            f"the engine {before} has containers of {settings.home}, or what ended ones left, and {wanted} is wanted:"
            f" end and remove them with `muster down --purge`, or choose another folder with --home"
        )
    if wanted == "auto":
        chosen = await _found(settings, installation, files, before)
    else:
        chosen = Chosen(open_engine(settings, wanted, installation, files), wanted)
        if wanted == "docker" and before != "docker":
            await _check(chosen.engine)
    write_text(settings.home / CHOICE, chosen.name + "\n")
    return chosen


def open_engine(settings: Settings, name: str, installation: str, files: FileStorage) -> Engine:
    """Return the engine of that name; nothing is asked of it yet."""
    if name == "local":
        return engine.connect(f"local://{settings.home / CONTAINERS}")
    from muster.engine.docker.spec import Storage  # noqa: PLC0415  only who uses Docker pays for it

    def storage_of(account_id: AccountId, data_center: str) -> Storage:
        return Storage(files.folder(account_id, data_center), files.public_folder())

    return engine.connect(
        f"docker+{settings.docker_url}",
        installation=installation,
        root=settings.home / DOCKER_OBJECTS,
        storage_of=storage_of,
    )


async def _found(settings: Settings, installation: str, files: FileStorage, before: str) -> Chosen:
    """Return what the home has, or Docker if it can be used, or else the local engine with the reason."""
    if before:
        return Chosen(open_engine(settings, before, installation, files), before)
    socket = settings.docker_url.removeprefix("unix://")
    if socket != settings.docker_url and not await asyncio.to_thread(Path(socket).exists):
        return Chosen(open_engine(settings, "local", installation, files), "local", NO_DOCKER)
    try:
        docker = open_engine(settings, "docker", installation, files)
        await _check(docker)
    except SetupError as error:
        note = f"{error}; using the local engine, which runs commands as plain processes of this host"
        return Chosen(open_engine(settings, "local", installation, files), "local", note)
    return Chosen(docker, "docker")


async def _check(docker: Engine) -> None:
    from muster.engine.docker.engine import DockerEngine  # noqa: PLC0415

    assert isinstance(docker, DockerEngine)
    try:
        await docker.check()
    except SetupError:
        await docker.aclose()
        raise
