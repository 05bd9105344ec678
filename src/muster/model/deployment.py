"""What a user wants: a deployment and its specification.

``DeploymentSpec`` is immutable but for ``replica_num``; the store keeps it as written. ``Deployment`` adds identity,
life (running, stopped, deleted) and the version that each of its containers carries.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
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


class ReuseScope(StrEnum):
    """Whose stopped containers may be taken over: the account's, or this deployment's own."""

    ALL = "all"
    DEPLOYMENT = "deployment"


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

    def __post_init__(self) -> None:
        if self.port not in PORTS:
            raise InvalidSpec("service.health_check.port", f"must be one of {PORTS}, got {self.port}")
        if self.path is not None and not self.path.startswith("/"):
            raise InvalidSpec("service.health_check.path", f"must start with '/', got {self.path!r}")
        if not 0.05 <= self.interval_seconds <= 3600:
            raise InvalidSpec("service.health_check.interval_seconds", "must be from 0.05 to 3600")
        if not 0.05 <= self.timeout_seconds <= 300:
            raise InvalidSpec("service.health_check.timeout_seconds", "must be from 0.05 to 300")
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
    health_check: HealthCheck | None = field(default_factory=HealthCheck)

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 1:
            raise InvalidSpec("service.concurrency", f"must be at least 1, got {self.concurrency}")
        if self.drain_seconds is not None and not 0 <= self.drain_seconds <= 86400:
            raise InvalidSpec("service.drain_seconds", f"must be from 0 to 86400, got {self.drain_seconds}")
        if not 0 <= self.drain_grace_seconds <= 86400:
            raise InvalidSpec("service.drain_grace_seconds", "must be from 0 to 86400")


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


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as the store keeps it.

    ``number`` is the integer ``id`` of the API. ``revision`` counts writes to the row, for optimistic updates.
    ``version`` names the specification that a container was made from. ``edited_at`` is when that last changed.
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
    revision: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether any container of it should run."""
        return self.status is DeploymentStatus.RUNNING and self.deleted_at is None
