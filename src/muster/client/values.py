"""What the API tells, as small frozen values: memory in bytes, prices in 1/1000 yuan per GPU-hour, times aware.

They are the wire's view, not the model's: words stay text, so that a client reads a server that is newer than itself.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Deployment:
    """One row of the list of deployments. ``price_milliyuan`` is what its running containers cost in an hour."""

    uuid: str
    name: str
    type: str
    status: str
    replica_num: int
    parallelism_num: int
    starting_num: int
    running_num: int
    ready_num: int
    finished_num: int
    image_uuid: str
    gpu_names: tuple[str, ...]
    gpu_num: int
    price_milliyuan: int
    created_at: datetime.datetime
    updated_at: datetime.datetime
    stopped_at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A wanted container that no machine fits, and why."""

    id: str
    created_at: datetime.datetime
    explanation: str


@dataclass(frozen=True, slots=True)
class DeploymentDetail:
    """Everything about one deployment. ``spec`` is the JSON object that would create it, every field spelled out."""

    deployment: Deployment
    version: str
    spec: Mapping[str, Any]
    unplaced: tuple[Unplaced, ...]


@dataclass(frozen=True, slots=True)
class Container:
    """One placed container. Urls are empty while they are not known; so is ``reason`` while it is well."""

    uuid: str
    deployment_uuid: str
    version: str
    status: str
    is_ready: bool
    reason: str
    message: str
    exit_code: int | None
    reused_from: str | None
    machine_id: str
    data_center: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_bytes: int
    price_milliyuan: int
    image_uuid: str
    url_6006: str
    url_6008: str
    ssh_command: str
    root_password: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    started_at: datetime.datetime | None
    stopped_at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """One recorded transition. ``id`` is the cursor after it; ``kind`` is ``status``, ``ready`` or ``unready``."""

    id: int
    kind: str
    deployment_uuid: str
    container_uuid: str
    status: str
    reason: str
    message: str
    exit_code: int | None
    created_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Machine:
    """A host and which of its GPUs are taken."""

    id: str
    data_center: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_bytes: int
    cuda: int
    price_milliyuan: int
    chip_corp: str
    cpu_arch: str
    claimed_gpus: tuple[int, ...]

    @property
    def idle_gpu_num(self) -> int:
        """How many GPUs nobody holds."""
        return self.gpu_num - len(self.claimed_gpus)


@dataclass(frozen=True, slots=True)
class Stock:
    """How many GPUs of one model there are."""

    gpu_name: str
    idle_gpu_num: int
    total_gpu_num: int
    chip_corp: str
    cpu_arch: str


@dataclass(frozen=True, slots=True)
class Image:
    """An entry of the catalogue."""

    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant."""

    id: int
    name: str
    role: str
    created_at: datetime.datetime
