"""What a user wants: a deployment, its specification, and the versions that edits made of it.

``Deployment`` is identity, life (running, stopped, deleted), what is wanted now (``spec``, called ``version``) and how
far the rollout of that is. A ``Version`` is a specification under its name; each container carries the name of the one
that it was made from. An edit that containers need not be replaced for changes the present version, any other makes a
new one; ``needs_new_container`` tells which it is.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from muster.errors import InvalidSpec
from muster.model.ids import AccountId, DeploymentId, ImageUuid
from muster.model.quantity import ANY, Range

PORTS = (6006, 6008)
"""The two container ports that get an address."""


class DeploymentType(StrEnum):
    """How many containers run, and what happens when one ends."""

    REPLICA_SET = "ReplicaSet"
    JOB = "Job"
    CONTAINER = "Container"


class DeploymentStatus(StrEnum):
    """Running also while nothing runs (``replica_num`` 0); stopped is final."""

    RUNNING = "running"
    STOPPED = "stopped"


class RolloutState(StrEnum):
    """How far the containers of a deployment have come with its present version."""

    PROGRESSING = "progressing"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"


class ReuseScope(StrEnum):
    """Whose stopped containers may be taken over: the account's, or this deployment's own."""

    ALL = "all"
    DEPLOYMENT = "deployment"


class ImagePull(StrEnum):
    """Whether an image that the host has is fetched again: a tag may name something else by now."""

    MISSING = "missing"
    ALWAYS = "always"


class PortProtocol(StrEnum):
    """How an address serves: TLS-terminated HTTP, or raw bytes."""

    HTTP = "http"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a machine must offer. Empty sets mean any; CPU and memory are of the container, not of the machine."""

    gpu_num: int = 1
    gpu_names: frozenset[str] = frozenset()
    data_centers: frozenset[str] = frozenset()
    cuda: Range = ANY
    cpu_num: Range = ANY
    memory_bytes: Range = ANY
    price_milliyuan: Range = ANY

    def __post_init__(self) -> None:
        if self.gpu_num < 1:
            raise InvalidSpec("gpu_num", f"must be at least 1, got {self.gpu_num}")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How the readiness loop probes: ``path=None`` is a TCP connect, else ``GET path`` must give 2xx or 3xx."""

    port: int = 6006
    path: str | None = None
    interval_seconds: float = 2.0
    timeout_seconds: float = 2.0
    unhealthy_after: int = 3
    stalled_after_seconds: float = 600.0
    """How long a container whose port is open may answer nobody although somebody waits."""

    def __post_init__(self) -> None:
        if self.port not in PORTS:
            raise InvalidSpec("service.health_check.port", f"must be one of {PORTS}, got {self.port}")
        if self.path is not None and not self.path.startswith("/"):
            raise InvalidSpec("service.health_check.path", f"must start with '/', got {self.path!r}")
        if not 0.05 <= self.interval_seconds <= 3600:
            raise InvalidSpec("service.health_check.interval_seconds", "must be from 0.05 to 3600")
        if not 0.05 <= self.timeout_seconds <= 300:
            raise InvalidSpec("service.health_check.timeout_seconds", "must be from 0.05 to 300")
        if not 1 <= self.stalled_after_seconds <= 86400:
            raise InvalidSpec("service.health_check.stalled_after_seconds", "must be from 1 to 86400")
        if self.unhealthy_after < 1:
            raise InvalidSpec("service.health_check.unhealthy_after", "must be at least 1")


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """How a deployment serves requests. ``health_check=None`` means: ready as soon as it runs."""

    concurrency: int | None = None
    budgets: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    drain_seconds: float | None = None
    """Longest wait for requests in flight before a stop; ``None`` is the platform's default."""
    drain_grace_seconds: float = 0.0
    ready_within_seconds: float = 600.0
    """How long a new version may take, from a container's start or while it finds no machine, before it has failed."""
    health_check: HealthCheck | None = field(default_factory=HealthCheck)

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise InvalidSpec("service.concurrency", f"must be at least 1, got {self.concurrency}")
        if self.drain_seconds is not None and not 0 <= self.drain_seconds <= 86400:
            raise InvalidSpec("service.drain_seconds", f"must be from 0 to 86400, got {self.drain_seconds}")
        if not 0 <= self.drain_grace_seconds <= 86400:
            raise InvalidSpec("service.drain_grace_seconds", "must be from 0 to 86400")
        if not 1 <= self.ready_within_seconds <= 86400:
            raise InvalidSpec("service.ready_within_seconds", "must be from 1 to 86400")


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """Everything that a user says about a deployment.

    ``env`` never shows in ``repr``: values may be secret.
    """

    name: str
    type: DeploymentType
    image: ImageUuid
    cmd: str
    replica_num: int = 1
    parallelism_num: int = 1
    requirements: Requirements = field(default_factory=Requirements)
    cmd_before_shutdown: str = ""
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    protocols: Mapping[int, PortProtocol] = field(
        default_factory=lambda: MappingProxyType(dict.fromkeys(PORTS, PortProtocol.HTTP))
    )
    reuse_container: bool = False
    reuse_scope: ReuseScope = ReuseScope.ALL
    image_pull: ImagePull = ImagePull.MISSING
    service: ServiceSpec = field(default_factory=ServiceSpec)

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidSpec("name", "must not be empty")
        if self.replica_num < 0:
            raise InvalidSpec("replica_num", f"must be at least 0, got {self.replica_num}")
        if self.parallelism_num < 1:
            raise InvalidSpec("parallelism_num", f"must be at least 1, got {self.parallelism_num}")
        if not self.cmd.strip():
            raise InvalidSpec("container_template.cmd", "must not be empty: its life is the container's life")


def needs_new_container(old: DeploymentSpec, new: DeploymentSpec) -> bool:
    """Tell whether a container made from ``old`` cannot be one of ``new``, wherever it runs.

    What it runs, with what, and how many GPUs are its own. All else holds for a container that runs, too: numbers,
    reuse and service fields at once, ``cmd_before_shutdown`` at its stop. Ranges are filters on machines: whether it
    still matches them is a question about its machine.
    """
    return (old.image, old.cmd, old.env, old.protocols) != (
        new.image,
        new.cmd,
        new.env,
        new.protocols,
    ) or old.requirements.gpu_num != new.requirements.gpu_num


def with_present(version: DeploymentSpec, now: DeploymentSpec) -> DeploymentSpec:
    """Return a version's specification with what holds for all versions at once, as it is now."""
    return replace(
        version,
        name=now.name,
        replica_num=now.replica_num,
        parallelism_num=now.parallelism_num,
        reuse_container=now.reuse_container,
        reuse_scope=now.reuse_scope,
        image_pull=now.image_pull,
        service=now.service,
    )


@dataclass(frozen=True, slots=True)
class Version:
    """A specification of a deployment under its name; ``number`` counts from 1.

    ``replaces_all``: whoever made it gave it a name of his own and wants every container made anew from it.
    ``good_at`` is when it first proved itself; ``None``: it never did.
    """

    deployment_id: DeploymentId
    name: str
    number: int
    spec: DeploymentSpec
    created_at: datetime.datetime
    replaces_all: bool = False
    good_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as the store keeps it.

    ``number`` is the integer ``id`` of the API. ``revision`` counts writes to the row, for optimistic updates.
    ``version`` names the specification that is wanted. ``edited_at`` is when that last changed, or when a failed
    rollout was told to go on.

    The rollout: ``stable_version`` is the last one that was good and is what to fall back to; an edit keeps it only
    while something of it is ready. ``is_paused`` is the user's. ``failure`` says why the present version was given up
    (empty: it was not). While it is paused or has failed, containers are made from the stable version, if there is one.
    """

    id: DeploymentId
    number: int
    account_id: AccountId
    spec: DeploymentSpec
    status: DeploymentStatus
    version: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    edited_at: datetime.datetime
    stopped_at: datetime.datetime | None = None
    deleted_at: datetime.datetime | None = None
    stable_version: str | None = None
    is_paused: bool = False
    failure: str = ""
    revision: int = 0

    @property
    def rollout(self) -> RolloutState:
        """How far the present version is."""
        if self.failure:
            return RolloutState.FAILED
        if self.stable_version == self.version:
            return RolloutState.COMPLETE
        return RolloutState.PAUSED if self.is_paused else RolloutState.PROGRESSING

    @property
    def target_version(self) -> str:
        """The version that new containers are made from, and old ones are replaced by."""
        is_held_back = bool(self.failure) or self.is_paused
        return self.stable_version if is_held_back and self.stable_version else self.version

    @property
    def is_wanted(self) -> bool:
        """Whether any container of it should run."""
        return self.status is DeploymentStatus.RUNNING and self.deleted_at is None
