"""What the API tells, as small frozen values: memory in bytes, prices in 1/1000 yuan per GPU-hour, times aware.

They are the wire's view, not the model's: words stay text, so that a client reads a server that is newer than itself.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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
    completed_num: int
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
class CommandWarning:
    """What is probably not meant in a start command; ``code`` is stable, ``message`` is for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CheckedDeployment:
    """A body as the server understands it, and what it thinks of the command in it."""

    spec: Mapping[str, Any]
    warnings: tuple[CommandWarning, ...]


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
class Suspect:
    """A host on which more failed than chance explains, against others of its model; the reason common there."""

    failure_num: int
    expected_num: float
    reason: str
    reason_num: int
    sentence: str


@dataclass(frozen=True, slots=True)
class SshKey:
    """A public key that opens the account's containers; ``key`` is its type and base64."""

    fingerprint: str
    name: str
    key: str
    created_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Blacklisted:
    """A machine that nothing of the account is placed on until ``expires_at``."""

    machine_id: str
    data_center: str
    comment: str
    created_at: datetime.datetime
    expires_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Machine:
    """A host and which of its GPUs are taken.

    ``state`` is ``usable``, or why nothing new is placed there: ``lost unreachable unavailable draining drained
    cordoned``; ``problem`` says what is wrong, if anything is. ``containers_left`` are still to go from one that is
    drained or lost. ``failures`` counts by reason what failed there within 24 hours; ``suspect``: more than chance
    explains. ``blacklisted_until`` is the account's own ban.
    """

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
    problem: str = ""
    state: str = "usable"
    unreachable_since: datetime.datetime | None = None
    lost_at: datetime.datetime | None = None
    is_cordoned: bool = False
    drain: str = "none"
    containers_left: int | None = None
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    suspect: Suspect | None = None
    blacklisted_until: datetime.datetime | None = None

    @property
    def idle_gpu_num(self) -> int:
        """How many GPUs can be had: nobody holds them, and the machine can be used."""
        is_usable = self.state == "usable" and not self.problem
        return self.gpu_num - len(self.claimed_gpus) if is_usable else 0


@dataclass(frozen=True, slots=True)
class Stock:
    """How many GPUs of one model there are; ``fits`` says how many containers of so many of them fit now."""

    gpu_name: str
    idle_gpu_num: int
    total_gpu_num: int
    chip_corp: str
    cpu_arch: str
    fits: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Image:
    """An entry of the catalogue."""

    uuid: str
    name: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A name in the account's storage. ``kind`` is ``file folder link other``, ``mode`` three octal digits."""

    name: str
    kind: str
    size_bytes: int
    modified_at: datetime.datetime
    mode: str


@dataclass(frozen=True, slots=True)
class PooledContainer:
    """An ended container whose files the next start that matches takes over, until ``expires_at``."""

    uuid: str
    account: str
    deployment_uuid: str
    deployment_name: str
    machine_id: str
    data_center: str
    gpu_name: str
    gpu_indices: tuple[int, ...]
    image_uuid: str
    image_reference: str
    reason: str
    stopped_at: datetime.datetime
    expires_at: datetime.datetime | None


@dataclass(frozen=True, slots=True)
class ReuseStats:
    """What reuse was good for. ``starts`` are those that might have reused something; ``hit_rate`` is of them."""

    starts: int
    reuses: int
    hit_rate: float
    seconds_saved: float
    pooled: int


@dataclass(frozen=True, slots=True)
class CatalogueImage:
    """An image that a deployment may name, with what its reference last stood for and the machines that hold it."""

    uuid: str
    name: str
    is_base: bool
    reference: str
    digest: str
    status: str
    message: str
    source_container_uuid: str | None
    held_on: tuple[str, ...]
    created_at: datetime.datetime
    updated_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class BoundImage:
    """What a name stands for now; if it was ``rebound``, what it stood for before and which machines hold that."""

    image: CatalogueImage
    rebound: bool
    old_reference: str
    old_digest: str
    outdated_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prewarm:
    """How far a machine is that is to hold an image: ``wanted done failed``, and the progress or why it failed."""

    machine_id: str
    state: str
    message: str
    updated_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant, how much it may want (``None``: no bound), and how much its running deployments want."""

    id: int
    name: str
    role: str
    created_at: datetime.datetime
    quota_gpu_num: int | None
    quota_container_num: int | None
    used_gpu_num: int
    used_container_num: int


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; ``last_used_at`` is up to a minute behind."""

    id: str
    prefix: str
    name: str
    created_at: datetime.datetime
    last_used_at: datetime.datetime | None
    expires_at: datetime.datetime | None
    is_expired: bool


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who changed what. ``account`` owns it, ``actor`` asked for it by the token ``token_id``."""

    id: int
    account: str
    actor: str
    token_id: str
    action: str
    target: str
    detail: str
    created_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class EditedDeployment:
    """What an edit came to. ``changed`` are the fields that differ now, dotted as in AutoDL's create body."""

    uuid: str
    version: str
    is_new_version: bool
    is_paused: bool
    changed: tuple[str, ...]
    warnings: tuple[CommandWarning, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far the present version of a deployment is; ``state`` is ``progressing paused complete failed``.

    ``updated_num`` live containers are of it, ``ready_num`` of those are ready, ``outdated_num`` are still of another.
    """

    uuid: str
    name: str
    state: str
    version: str
    stable_version: str | None
    is_paused: bool
    failure: str
    undo_version: str | None
    wanted_num: int
    updated_num: int
    ready_num: int
    outdated_num: int
    message: str


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a deployment: the one that is wanted, the last good one, or one of the past."""

    version: str
    number: int
    created_at: datetime.datetime
    is_wanted: bool
    is_stable: bool
    was_good: bool
    container_num: int
    image_uuid: str
    cmd: str
