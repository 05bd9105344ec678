"""A run → what Docker is told to create: names, labels, limits, mounts. Pure.

Everything that changes when a container is used again (environment, command, uuid) is *not* here but in its folder,
because Docker keeps what it was told at creation. What is here and changes too (CPU, memory, processes) is what
``docker update`` can change; GPUs, shared memory and mounts cannot be changed, so those decide whether a container
can be started again as it is.

Nothing here is secret: all of it shows in ``docker inspect``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.engine.docker.folder import RUN, STATE, TMP, Folder
from muster.model.ids import AccountId, ContainerId
from muster.model.quantity import GIB
from muster.model.run import ContainerRun

LABEL = "muster."
INSTALLATION, MACHINE, ACCOUNT = LABEL + "installation", LABEL + "machine", LABEL + "account"
UUID, GENERATION, FOLDER = LABEL + "uuid", LABEL + "generation", LABEL + "folder"
COPY_OF, COPY_IMAGE, IMAGE_DIGEST = LABEL + "copy-of", LABEL + "copy-image", LABEL + "image-digest"
TRIAL = LABEL + "trial"
"""Of a container that only tries whether Docker allows something."""
ALL_LABELS = (INSTALLATION, MACHINE, ACCOUNT, UUID, GENERATION, FOLDER, COPY_OF, COPY_IMAGE, IMAGE_DIGEST)

ENTRY = ("/bin/sh", "/.muster/run/entry.sh")
EXEC = ("/bin/sh", "/.muster/run/exec.sh")
BEFORE = ("/bin/sh", "/.muster/run/shell.sh", "/.muster/run/before")
_COPYING = "-copying"
_SHORT = 8

PIDS_PER_UNIT = 4096
"""A fork bomb ends in its own container; a training job with dozens of data loaders of dozens of threads does not."""
SHARED_MEMORY_SHARE = 2
"""Shared memory may be half of the memory, as on any Linux: data loaders pass batches through it, and Docker's 64 MB
fail them. It counts towards the container's memory."""
LOG_BYTES, LOG_FILES = "10m", "3"
DROPPED = ("MKNOD", "NET_RAW")
"""Of Docker's default capabilities: making device nodes, and raw packets, with which one container can answer for
another of its network."""


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit of each process; -1 is none."""

    name: str
    value: int

    def to_docker(self) -> dict[str, Any]:
        """Return it as Docker reads it."""
        return {"Name": self.name, "Soft": self.value, "Hard": self.value}


ULIMITS = (Ulimit("nofile", 1_048_576), Ulimit("memlock", -1))
"""Servers hold a file per connection; GPUs and RDMA read memory that is locked."""


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What the daemon's host has and allows. Docker refuses more, so what is enforced is the smaller of the two."""

    cpu_num: int
    memory_bytes: int
    ulimits: tuple[Ulimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Storage:
    """Host folders that a container mounts: the account's shared one, and public data if there are any."""

    shared: Path | None = None
    public: Path | None = None


class Names:
    """What the objects of one installation are called."""

    def __init__(self, installation: str) -> None:
        self._prefix = f"muster-{installation[:_SHORT]}-"

    def container(self, container_id: ContainerId) -> str:
        """Return the name of a container's object: it says which container an object is now."""
        return self._prefix + container_id

    def copying(self, container_id: ContainerId) -> str:
        """Return the name of an object that is not yet that container's."""
        return self._prefix + container_id + _COPYING

    def network(self, account_id: AccountId) -> str:
        """Return the name of an account's network."""
        return f"{self._prefix}account-{account_id}"

    def parse(self, name: str) -> tuple[ContainerId, bool] | None:
        """Return the container that an object's name tells, and whether it is still being copied."""
        plain = name.removeprefix("/")
        if not plain.startswith(self._prefix):
            return None
        container_id = plain.removeprefix(self._prefix)
        return ContainerId(container_id.removesuffix(_COPYING)), container_id.endswith(_COPYING)


def hostname(run: ContainerRun) -> str:
    """Return AutoDL's form of a container's host name, which programs look at; a label has 63 characters at most."""
    return f"autodl-container-{run.uuid}"[:63].rstrip("-")


def limits(run: ContainerRun, host: HostLimits) -> Mapping[str, Any]:
    """Return what ``docker update`` can change: CPU, memory without swap beyond it, processes. 0 is no limit."""
    memory_bytes = min(run.memory_bytes, host.memory_bytes)
    return {
        "NanoCpus": min(run.cpu_num, host.cpu_num) * 1_000_000_000,
        "Memory": memory_bytes,
        "MemorySwap": memory_bytes,
        "PidsLimit": PIDS_PER_UNIT * max(1, len(run.gpu_indices)),
    }


def device_requests(devices: Sequence[str]) -> list[dict[str, Any]]:
    """Return the request for exactly these GPUs; Docker keeps no account of them, so a count would never do."""
    if not devices:
        return []
    return [{"Driver": "", "DeviceIDs": list(devices), "Capabilities": [["gpu"]]}]


def creation(
    run: ContainerRun,
    *,
    image: str,
    digest: str,
    installation: str,
    network: str,
    folder: Folder,
    storage: Storage,
    host: HostLimits,
    copy_of: ContainerId | None = None,
) -> Mapping[str, Any]:
    """Return the body of the call that creates a container. ``copy_of``: the image holds another one's files."""
    shared_memory = min(run.memory_bytes, host.memory_bytes) // SHARED_MEMORY_SHARE
    labels = {
        INSTALLATION: installation,
        MACHINE: run.ref.machine_id,
        ACCOUNT: str(run.account_id),
        UUID: run.uuid,
        GENERATION: str(run.ref.generation),
        FOLDER: folder.name,
        IMAGE_DIGEST: digest,
        COPY_OF: copy_of or "",
        COPY_IMAGE: image if copy_of else "",
    }
    return {
        "Image": image,
        "Hostname": hostname(run),
        "User": "0:0",  # AutoDL's containers are root's, and /root holds its storage
        "Entrypoint": list(ENTRY),
        "Cmd": [],
        # The init passes a signal on to everybody in the command's process group: a shell would not tell its children.
        "Env": ["TINI_KILL_PROCESS_GROUP=1"],
        "StopSignal": "SIGTERM",  # and not the image's: Docker ends containers by it that Muster did not stop
        "WorkingDir": "/",
        "Labels": labels,
        "HostConfig": {
            **limits(run, host),
            "Init": True,
            "NetworkMode": network,
            "RestartPolicy": {"Name": "no"},
            "ShmSize": shared_memory or GIB,
            "Ulimits": [each.to_docker() for each in host.ulimits],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_BYTES, "max-file": LOG_FILES}},
            "SecurityOpt": ["no-new-privileges"],
            "CapDrop": list(DROPPED),
            "DeviceRequests": device_requests(run.devices),
            "Mounts": _mounts(folder, storage),
        },
    }


def _mounts(folder: Folder, storage: Storage) -> list[dict[str, Any]]:
    mounts = [
        _bind(folder.path / RUN, "/.muster/run", is_read_only=True),
        _bind(folder.path / STATE, "/.muster/state"),
        _bind(folder.path / TMP, "/root/autodl-tmp"),
    ]
    if storage.shared is not None:
        mounts.append(_bind(storage.shared, "/root/autodl-fs"))
    if storage.public is not None:
        mounts.append(_bind(storage.public, "/root/autodl-pub", is_read_only=True))
    return mounts


def _bind(source: Path, target: str, *, is_read_only: bool = False) -> dict[str, Any]:
    # A mount and not a bind string: Docker makes an empty folder of a source that is missing for the latter.
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": is_read_only}
