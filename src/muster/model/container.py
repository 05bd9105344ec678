"""One run of a deployment's command: what is wanted of it, where it is placed, what was seen of it.

Life: ``creating → created → starting → oss_merged → running → shutting_down → shutdown``, one event per step, in that
order; a failure skips forward to ``shutting_down``. Before placement a container has no status, no uuid and no events
(``status is None``); the AutoDL API does not show it.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId


class ContainerStatus(StrEnum):
    """The states of a placed container, in the order in which it passes them."""

    CREATING = "creating"
    CREATED = "created"
    STARTING = "starting"
    OSS_MERGED = "oss_merged"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting_down"
    SHUTDOWN = "shutdown"

    @property
    def rank(self) -> int:
        """Position in the order: a container's status never goes back to a lower one."""
        return _ORDER.index(self)

    @property
    def is_starting(self) -> bool:
        """Whether it is on its way up."""
        return self.rank < ContainerStatus.RUNNING.rank


_ORDER = tuple(ContainerStatus)


class Wanted(StrEnum):
    """What the platform wants of a container; a stop is never taken back."""

    RUN = "run"
    STOP = "stop"


class Reason(StrEnum):
    """Why a container stopped, or is being stopped."""

    COMPLETED = "completed"
    ERROR = "error"
    OOM_KILLED = "oom_killed"
    IMAGE_PULL_FAILED = "image_pull_failed"
    START_FAILED = "start_failed"
    MACHINE_LOST = "machine_lost"
    REMOVED_EXTERNALLY = "removed_externally"
    STOPPED_BY_USER = "stopped_by_user"
    SCALED_IN = "scaled_in"
    REPLACED = "replaced"
    DEPLOYMENT_STOPPED = "deployment_stopped"
    HOST_STOPPED = "host_stopped"

    @property
    def is_intended(self) -> bool:
        """Whether the platform or a user stopped it, so that its end is no sign of trouble."""
        return self in _INTENDED


_INTENDED = frozenset(
    {Reason.STOPPED_BY_USER, Reason.SCALED_IN, Reason.REPLACED, Reason.DEPLOYMENT_STOPPED, Reason.HOST_STOPPED}
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a container runs and what it gets there. GPU indices ascend; price is 1/1000 yuan per GPU-hour."""

    machine_id: MachineId
    data_center: str
    gpu_name: str
    gpu_indices: tuple[int, ...]
    cpu_num: int
    memory_bytes: int
    price_milliyuan: int

    @property
    def gpu_num(self) -> int:
        """Number of GPU units it holds."""
        return len(self.gpu_indices)


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address that answers for one container port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class StopRequest:
    """How a container is to be stopped: one committed intent, written together with ``wanted = stop``.

    ``cmd_before_shutdown=None`` means the deployment's own. ``no_cache`` keeps it out of the reuse pool.
    """

    reason: Reason
    requested_at: datetime.datetime
    no_cache: bool = False
    cmd_before_shutdown: str | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the store keeps it.

    Writers: ``stop`` by whoever asks for it (API, deployment loop); ``placement`` and ``uuid`` by the placement loop;
    ``is_ready`` by the readiness loop; everything else by the container loop. ``revision`` guards every write.
    ``generation`` counts the runs of one engine object, so that an engine can refuse an order meant for an earlier
    run. ``drain_from`` is when it stopped taking new requests.
    """

    id: ContainerId
    number: int
    account_id: AccountId
    deployment_id: DeploymentId
    version: str
    created_at: datetime.datetime
    updated_at: datetime.datetime
    generation: int = 1
    stop: StopRequest | None = None
    placement: Placement | None = None
    uuid: ContainerUuid | None = None
    status: ContainerStatus | None = None
    addresses: Mapping[int, Address] = field(default_factory=lambda: MappingProxyType({}))
    is_ready: bool = False
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None
    started_at: datetime.datetime | None = None
    stopped_at: datetime.datetime | None = None
    released_at: datetime.datetime | None = None
    revision: int = 0

    @property
    def wanted(self) -> Wanted:
        """Run until a stop was asked for."""
        return Wanted.RUN if self.stop is None else Wanted.STOP

    @property
    def is_finished(self) -> bool:
        """Whether its life is over (an unplaced container that was given up is over at once)."""
        return self.status is ContainerStatus.SHUTDOWN or (self.status is None and self.stop is not None)

    @property
    def is_live(self) -> bool:
        """Whether it counts towards the wanted number: not over, and nobody asked it to stop."""
        return self.stop is None and self.status not in (
            ContainerStatus.SHUTTING_DOWN,
            ContainerStatus.SHUTDOWN,
        )
