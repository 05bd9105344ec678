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

from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, ImageUuid, MachineId


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
    ENGINE_RESTARTED = "engine_restarted"
    KILLED_EXTERNALLY = "killed_externally"
    REMOVED_EXTERNALLY = "removed_externally"
    STOPPED_BY_USER = "stopped_by_user"
    SCALED_IN = "scaled_in"
    REPLACED = "replaced"
    DEPLOYMENT_STOPPED = "deployment_stopped"
    HOST_STOPPED = "host_stopped"
    HOST_DRAINED = "host_drained"
    ROLLED_BACK = "rolled_back"

    @property
    def is_intended(self) -> bool:
        """Whether the platform or a user stopped it, so that its end is no sign of trouble."""
        return self in _INTENDED

    @property
    def is_outside(self) -> bool:
        """Whether it ended for a reason that is neither its own nor ours, so that nothing speaks against its files."""
        return self in _OUTSIDE


_INTENDED = frozenset(
    {
        Reason.STOPPED_BY_USER,
        Reason.SCALED_IN,
        Reason.REPLACED,
        Reason.ROLLED_BACK,
        Reason.DEPLOYMENT_STOPPED,
        Reason.HOST_STOPPED,
        Reason.HOST_DRAINED,
    }
)

_OWN_ENDS = frozenset({Reason.COMPLETED, Reason.ERROR, Reason.OOM_KILLED})
_OUTSIDE = frozenset({Reason.MACHINE_LOST, Reason.ENGINE_RESTARTED, Reason.KILLED_EXTERNALLY})


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


class DrainStep(StrEnum):
    """How far the drain of a container that is to stop has come."""

    NONE = "none"
    REFUSING = "refusing"
    """The ingress lets nobody new in; who is in may finish."""
    DONE = "done"
    """Nobody is in, or their time is over."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the store keeps it.

    Writers: ``stop`` by whoever asks for it (API, deployment loop); ``placement`` and ``uuid`` by the placement loop;
    ``is_ready`` by the readiness loop; everything else by the container loop. ``revision`` guards every write.
    ``generation`` counts the runs of one engine object, so that an engine can refuse an order meant for an earlier
    run. ``placed_at`` is when it got its machine; ``image_reference`` is pinned then, so that a name that is bound anew
    later changes nothing about it. ``version`` names the specification that it was made from, and runs by to its end.
    ``ready_at`` is when it last became ready. ``listen_ports`` are the ingress's ports, by container port; ``ssh_port``
    too is its own from its placement to its end. ``host_address`` is the address by which it reaches this host, where
    that is not the one that others use. ``password`` is root's, sealed; the ingress is told ``password_hash``.

    The reuse pool: what is left of an ended container is offered to others of its account while ``is_pooled``, and
    destroyed at ``discard_at`` (``None``: when the platform's own time for remains is over). ``reused_from`` names the
    container whose files this one took over; whoever takes a container over releases its row in the same transaction,
    so a row is taken at most once. Nothing pooled is ever destroyed: it leaves the pool first, in a commit of its own.
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
    image: ImageUuid | None = None
    image_reference: str = ""
    image_digest: str = ""
    reused_from: ContainerUuid | None = None
    placed_at: datetime.datetime | None = None
    status: ContainerStatus | None = None
    addresses: Mapping[int, Address] = field(default_factory=lambda: MappingProxyType({}))
    listen_ports: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    ssh_port: int | None = None
    host_address: str = ""
    password: str = field(default="", repr=False)
    password_hash: str = field(default="", repr=False)
    drain: DrainStep = DrainStep.NONE
    is_ready: bool = False
    ready_at: datetime.datetime | None = None
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None
    started_at: datetime.datetime | None = None
    stopped_at: datetime.datetime | None = None
    released_at: datetime.datetime | None = None
    is_pooled: bool = False
    discard_at: datetime.datetime | None = None
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
    def is_completed(self) -> bool:
        """Whether it ran and came to its own end, whatever its exit code: what a Job counts."""
        return (
            self.status is ContainerStatus.SHUTDOWN
            and self.started_at is not None
            and self.stop is None
            and self.reason in _OWN_ENDS
        )

    @property
    def is_live(self) -> bool:
        """Whether it counts towards the wanted number: not over, and nobody asked it to stop."""
        return self.stop is None and self.status not in (
            ContainerStatus.SHUTTING_DOWN,
            ContainerStatus.SHUTDOWN,
        )
