"""The store port: transactions over nouns, stated for implementers.

``read`` and ``write`` take a plain function and run it inside one transaction: a function cannot await, so no engine
or network call can ever happen inside a transaction. ``write`` functions are serialised with each other; a read sees
one consistent state. If the function raises, nothing is written. The function may run in another thread and must
touch nothing but its transaction and immutable values.

Guards that every implementation keeps:

* an update whose ``revision`` is not the stored one raises ``StaleWrite`` and writes nothing;
* a GPU index of a machine belongs to at most one unfinished container: a write that would claim it twice raises
  ``StaleWrite`` (claims follow from the container rows: made when ``placement`` is first set, given up at
  ``SHUTDOWN``);
* events get ascending ids in commit order; a status change and its event are written by the same function.

After a commit, listeners are told what changed (on the event loop, in commit order). That only saves waiting: whoever
listens also looks at everything from time to time.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from muster.model.account import Account, Role
from muster.model.container import Container, ContainerStatus
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentStatus
from muster.model.event import Cursor, Event, EventKind, NewEvent
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, ImageUuid, MachineId
from muster.model.image import Image
from muster.model.machine import Machine
from muster.model.quantity import ANY, Range

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit touched: a container counts for its deployment too. A hint: it carries no values."""

    deployments: frozenset[DeploymentId] = frozenset()
    containers: frozenset[ContainerId] = frozenset()
    has_events: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a result: skip ``offset`` rows, return at most ``limit``."""

    offset: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Rows of a window, and how many there are in all."""

    items: Sequence[Item]
    total: int


@dataclass(frozen=True, slots=True)
class DeploymentQuery:
    """Which deployments of an account; ``None`` means no filter. Newest first; deleted ones never."""

    account_id: AccountId
    name: str | None = None
    status: DeploymentStatus | None = None
    deployment_id: DeploymentId | None = None
    window: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class ContainerQuery:
    """Which placed containers of an account; ``None`` and empty mean no filter. Newest first."""

    account_id: AccountId
    deployment_id: DeploymentId | None = None
    container_uuid: ContainerUuid | None = None
    created_from: datetime.datetime | None = None
    created_to: datetime.datetime | None = None
    gpu_name: str | None = None
    cpu_num: Range = ANY
    memory_bytes: Range = ANY
    price_milliyuan: Range = ANY
    is_released: bool | None = None
    statuses: frozenset[ContainerStatus] = frozenset()
    window: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events of an account; newest first."""

    account_id: AccountId
    deployment_id: DeploymentId | None = None
    container_uuid: ContainerUuid | None = None
    kinds: frozenset[EventKind] = frozenset({EventKind.STATUS})
    window: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class Counts:
    """Placed containers of a deployment by how far they are; ``finished`` counts all that ever finished."""

    starting: int = 0
    running: int = 0
    finished: int = 0
    ready: int = 0
    price_milliyuan: int = 0
    """Sum over running containers of GPU count × price: the current cost of an hour."""


class Accounts(Protocol):
    """Tenants and their tokens. Hashes are compared by the database, tokens themselves never reach it."""

    def add(self, name: str, role: Role, now: datetime.datetime) -> Account:
        """Write an account. Raises ``Conflict`` when the name is taken."""
        ...

    def get(self, account_id: AccountId) -> Account | None:
        """Return the account."""
        ...

    def by_name(self, name: str) -> Account | None:
        """Return the account of that name."""
        ...

    def by_token(self, token_hash: str) -> Account | None:
        """Return whose token has this hash."""
        ...

    def all(self) -> Sequence[Account]:
        """Return all accounts, oldest first."""
        ...

    def add_token(self, account_id: AccountId, token_hash: str, prefix: str, now: datetime.datetime) -> None:
        """Let a token act for an account; the same hash again changes nothing."""
        ...


class Deployments(Protocol):
    """What users want."""

    def add(
        self, account_id: AccountId, deployment_id: DeploymentId, spec: DeploymentSpec, now: datetime.datetime
    ) -> Deployment:
        """Write a new running deployment, version ``v1``."""
        ...

    def get(self, deployment_id: DeploymentId) -> Deployment | None:
        """Return it, deleted or not, whoever owns it: callers that act for an account check ``account_id``."""
        ...

    def update(self, deployment: Deployment) -> Deployment:
        """Write all but identity if ``revision`` is current; returns it with the next revision."""
        ...

    def find(self, query: DeploymentQuery) -> Page[Deployment]:
        """Return what matches, newest first."""
        ...

    def oldest_live(self, account_id: AccountId, name: str) -> Deployment | None:
        """Return the oldest running, not deleted deployment of that name: the one that the name stands for."""
        ...

    def unsettled(self) -> Sequence[DeploymentId]:
        """Return all that the deployment loop must look at: wanted ones, and others with a live container."""
        ...

    def counts(self, deployment_ids: Iterable[DeploymentId]) -> Mapping[DeploymentId, Counts]:
        """Return the counts of each id given (zeros where there is nothing)."""
        ...


class Containers(Protocol):
    """What runs, ran or should run."""

    def add(self, deployment: Deployment, container_id: ContainerId, now: datetime.datetime) -> Container:
        """Write a wanted, unplaced container of the deployment's version."""
        ...

    def get(self, container_id: ContainerId) -> Container | None:
        """Return it."""
        ...

    def by_uuid(self, uuid: ContainerUuid) -> Container | None:
        """Return the container that bears or bore this uuid."""
        ...

    def update(self, container: Container) -> Container:
        """Write all but identity if ``revision`` is current; returns it with the next revision.

        Setting ``placement`` claims its GPUs; ``SHUTDOWN`` gives them up.
        """
        ...

    def of_deployment(self, deployment_id: DeploymentId, *, finished_limit: int = 50) -> Sequence[Container]:
        """Return all unfinished ones and the ``finished_limit`` most recently finished, oldest first."""
        ...

    def find(self, query: ContainerQuery) -> Page[Container]:
        """Return what matches, newest first."""
        ...

    def unplaced(self) -> Sequence[Container]:
        """Return all that wait for a machine, oldest first."""
        ...

    def on_machines(self) -> Sequence[Container]:
        """Return every placed container that is not released yet, oldest first."""
        ...

    def claims(self) -> Mapping[MachineId, frozenset[int]]:
        """Return the GPU indices that are taken, by machine."""
        ...


class Machines(Protocol):
    """Hosts as declared."""

    def put(self, machine: Machine) -> None:
        """Write a machine, new or changed."""
        ...

    def retire_all_but(self, machine_ids: frozenset[MachineId]) -> None:
        """Offer only these machines from now on; others keep what runs there and get nothing new."""
        ...

    def get(self, machine_id: MachineId) -> Machine | None:
        """Return it, retired or not."""
        ...

    def offered(self) -> Sequence[Machine]:
        """Return all that are not retired, by id."""
        ...


class Images(Protocol):
    """The catalogue."""

    def put_base(self, uuid: ImageUuid, name: str, reference: str, now: datetime.datetime) -> Image:
        """Write an image of the platform, new or changed."""
        ...

    def get(self, account_id: AccountId, uuid: ImageUuid) -> Image | None:
        """Return it if the account may use it."""
        ...

    def find(self, account_id: AccountId | None, window: Window) -> Page[Image]:
        """Return an account's private images, or with ``None`` those of the platform; newest first."""
        ...


class Events(Protocol):
    """The log."""

    def append(self, event: NewEvent) -> Event:
        """Add an event at the end."""
        ...

    def find(self, query: EventQuery) -> Page[Event]:
        """Return what matches, newest first."""
        ...

    def after(self, cursor: Cursor, *, account_id: AccountId | None = None, limit: int = 1000) -> Sequence[Event]:
        """Return events of every kind after ``cursor``, oldest first.

        Raises ``CursorExpired`` when an event after it has been pruned.
        """
        ...

    def last(self) -> Cursor:
        """Return the cursor after the newest event (0 when there was never one)."""
        ...

    def prune(self, through: Cursor) -> int:
        """Forget the events up to ``through``, itself included; returns how many. ``last`` never goes back."""
        ...


class Transaction(Protocol):
    """One consistent view of all nouns."""

    @property
    def accounts(self) -> Accounts: ...  # noqa: D102
    @property
    def deployments(self) -> Deployments: ...  # noqa: D102
    @property
    def containers(self) -> Containers: ...  # noqa: D102
    @property
    def machines(self) -> Machines: ...  # noqa: D102
    @property
    def images(self) -> Images: ...  # noqa: D102
    @property
    def events(self) -> Events: ...  # noqa: D102


class Store(Protocol):
    """Runs functions inside transactions. Raises ``StoreUnavailable`` when the database cannot be used."""

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` against one consistent state; what it writes is refused."""
        ...

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` and commit; on any exception nothing is written."""
        ...

    def on_commit(self, listener: Callable[[Changes], None]) -> None:
        """Call ``listener`` on the event loop after each commit of this process; it must not block or raise."""
        ...

    async def aclose(self) -> None:
        """Finish the writes under way and close."""
        ...
