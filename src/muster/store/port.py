"""The store port: transactions over nouns, stated for implementers.

``read`` and ``write`` take a plain function and run it inside one transaction: a function cannot await, so no engine
or network call can ever happen inside a transaction. ``write`` functions are serialised with each other; a read sees
one consistent state. If the function raises, nothing is written. The function may run in another thread and must
touch nothing but its transaction and immutable values.

Guards that every implementation keeps:

* an update whose ``revision`` is not the stored one raises ``StaleWrite`` and writes nothing;
* a GPU index of a machine belongs to at most one unfinished container: a write that would claim it twice raises
  ``StaleWrite`` (claims follow from the container rows: made when ``placement`` is first set, given up at
  ``SHUTDOWN``); so does a port of the ingress;
* events get ascending ids in commit order; a status change and its event are written by the same function.

After a commit, listeners are told what changed (on the event loop, in commit order). That only saves waiting: whoever
listens also looks at everything from time to time.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from muster.model.account import Account, Quota, Role, Token
from muster.model.audit import AuditEntry, NewAuditEntry
from muster.model.blacklist import BlacklistEntry
from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentStatus, Version
from muster.model.event import Cursor, Event, EventKind, NewEvent
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, ImageUuid, MachineId
from muster.model.image import HeldImage, Image, Prewarm
from muster.model.machine import Drain, Machine, MachineState
from muster.model.quantity import ANY, Range
from muster.model.ssh_key import SshKey

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit touched: a container counts for its deployment too, the wish for a prewarm for its image.

    ``accounts`` are those whose SSH keys changed. A hint: it carries no values.
    """

    deployments: frozenset[DeploymentId] = frozenset()
    containers: frozenset[ContainerId] = frozenset()
    has_events: bool = False
    has_machines: bool = False
    images: frozenset[ImageUuid] = frozenset()
    accounts: frozenset[AccountId] = frozenset()


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
    """Placed containers of a deployment by how far they are.

    ``finished`` counts all that ever finished, ``completed`` those of them that came to their own end.
    """

    starting: int = 0
    running: int = 0
    finished: int = 0
    completed: int = 0
    ready: int = 0
    price_milliyuan: int = 0
    """Sum over running containers of GPU count × price: the current cost of an hour."""


@dataclass(frozen=True, slots=True)
class ReuseFigures:
    """What reuse was good for. A start counts once it was seen running; only starts that might have reused count.

    ``seconds_saved``: for each reuse, how much sooner after its placement it ran than the average start of the same
    image without reuse, never less than 0; an image that was never started without reuse counts nothing.
    """

    starts: int = 0
    reuses: int = 0
    seconds_saved: float = 0.0


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

    def by_token(self, token_hash: str, now: datetime.datetime) -> Account | None:
        """Return whose token has this hash, unless it has expired."""
        ...

    def all(self) -> Sequence[Account]:
        """Return all accounts, oldest first."""
        ...

    def set_quota(self, account_id: AccountId, quota: Quota) -> None:
        """Write how much an account may want."""
        ...

    def add_token(
        self,
        account_id: AccountId,
        token_hash: str,
        prefix: str,
        now: datetime.datetime,
        *,
        name: str = "",
        expires_at: datetime.datetime | None = None,
    ) -> None:
        """Let a token act for an account; the same hash again changes nothing."""
        ...

    def tokens(self, account_id: AccountId) -> Sequence[Token]:
        """Return what is known of an account's tokens, oldest first; also of expired ones."""
        ...

    def revoke_token(self, account_id: AccountId, token_id: str) -> Token | None:
        """Forget a token of an account; returns what was known of it."""
        ...

    def note_use(self, token_hash: str, now: datetime.datetime) -> None:
        """Write when a token was last used; one that is gone stays gone."""
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

    def update(self, deployment: Deployment, *, replaces_all: bool = False) -> Deployment:
        """Write all but identity if ``revision`` is current; returns it with the next revision.

        The specification is written under the deployment's ``version`` too: one of that name is changed, a name that
        is new becomes the next version, which ``replaces_all`` belongs to. Once the version is the stable one, it is
        known as good from then on.
        """
        ...

    def version(self, deployment_id: DeploymentId, name: str) -> Version | None:
        """Return a version of a deployment."""
        ...

    def versions(self, deployment_id: DeploymentId) -> Sequence[Version]:
        """Return all versions of a deployment, newest first."""
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

    def using(self, image: ImageUuid) -> Sequence[Deployment]:
        """Return the running deployments that name an image, oldest first."""
        ...

    def status_counts(self) -> Mapping[DeploymentStatus, int]:
        """Count all deployments of everybody that are not deleted, by status."""
        ...

    def counts(self, deployment_ids: Iterable[DeploymentId]) -> Mapping[DeploymentId, Counts]:
        """Return the counts of each id given (zeros where there is nothing)."""
        ...


class Containers(Protocol):
    """What runs, ran or should run."""

    def add(self, deployment: Deployment, container_id: ContainerId, now: datetime.datetime) -> Container:
        """Write a wanted, unplaced container of the deployment's ``target_version``."""
        ...

    def get(self, container_id: ContainerId) -> Container | None:
        """Return it."""
        ...

    def by_uuid(self, uuid: ContainerUuid) -> Container | None:
        """Return the container that bears or bore this uuid."""
        ...

    def update(self, container: Container) -> Container:
        """Write all but identity if ``revision`` is current; returns it with the next revision.

        Setting ``placement`` claims its GPUs, ``listen_ports`` and ``ssh_port`` ports of the ingress; ``SHUTDOWN``
        gives them up.
        """
        ...

    def of_deployment(self, deployment_id: DeploymentId, *, finished_limit: int = 50) -> Sequence[Container]:
        """Return all unfinished ones and the ``finished_limit`` most recently finished, oldest first."""
        ...

    def find(self, query: ContainerQuery) -> Page[Container]:
        """Return what matches, newest first."""
        ...

    def ended_since(self, moment: datetime.datetime) -> Sequence[Container]:
        """Return the placed containers whose life ended after that, oldest first."""
        ...

    def unplaced(self) -> Sequence[Container]:
        """Return all that wait for a machine, oldest first."""
        ...

    def on_machines(self) -> Sequence[Container]:
        """Return every placed container that is not released yet, oldest first."""
        ...

    def pooled(self, account_id: AccountId | None = None) -> Sequence[Container]:
        """Return what is in the reuse pool, of one account or of all, most recently stopped first."""
        ...

    def completed(self, deployment_id: DeploymentId) -> int:
        """Count the containers of a deployment that ran and came to their own end, pruned ones included.

        That is ``completed``, ``error`` or ``oom_killed`` after a start, and nobody asked for a stop before.
        """
        ...

    def failures(
        self, since: datetime.datetime, account_id: AccountId | None = None
    ) -> Mapping[MachineId, Mapping[Reason, int]]:
        """Count by machine and reason what ended since then in a way that nobody wanted (``Reason.is_intended``).

        Not of versions of a ReplicaSet that never proved themselves: those may fail anywhere.
        """
        ...

    def prune(self, before: datetime.datetime, at_most: int) -> int:
        """Forget the oldest containers that were released before then; returns how many.

        Those that an unreleased one has taken over stay. Their deployment still counts them.
        """
        ...

    def taker_of(self, uuid: ContainerUuid) -> Container | None:
        """Return the unreleased container that took this one over, or is about to."""
        ...

    def reuse_figures(self, account_id: AccountId | None = None) -> ReuseFigures:
        """Count the starts of an account, or of all, and what reuse saved."""
        ...

    def unfinished_counts(self) -> Mapping[ContainerStatus | None, int]:
        """Count the containers of everybody whose life is not over, by status; ``None``: without a machine."""
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

    def set_problem(self, machine_id: MachineId, problem: str) -> None:
        """Note why a machine's engine cannot be used; empty: it can. The same again writes nothing."""
        ...

    def problems(self) -> Mapping[MachineId, str]:
        """Return the machines whose engines cannot be used, and why."""
        ...

    def states(self) -> Mapping[MachineId, MachineState]:
        """Return what is thought of all machines, retired ones too."""
        ...

    def given_up(self) -> Mapping[MachineId, MachineState]:
        """Return the states of the machines that are lost or are to be drained, usually none."""
        ...

    def set_unreachable(self, machine_id: MachineId, since: datetime.datetime | None) -> None:
        """Note since when a host does not answer; ``None``: it does."""
        ...

    def set_lost(self, machine_id: MachineId, at: datetime.datetime | None) -> None:
        """Note since when the containers of a machine are replaced; ``None``: it is there again."""
        ...

    def set_placing(self, machine_id: MachineId, *, is_cordoned: bool, drain: Drain) -> None:
        """Write what the operator wants of a machine."""
        ...


class Images(Protocol):
    """The catalogue."""

    def put_base(self, uuid: ImageUuid, name: str, reference: str, now: datetime.datetime) -> Image:
        """Write an image of the platform, new or changed. Raises ``Conflict`` when another has the name."""
        ...

    def get(self, account_id: AccountId, uuid: ImageUuid) -> Image | None:
        """Return it if the account may use it."""
        ...

    def put_private(
        self,
        account_id: AccountId,
        uuid: ImageUuid,
        name: str,
        reference: str,
        now: datetime.datetime,
        *,
        source_container: ContainerUuid | None = None,
    ) -> Image:
        """Write a new private image, ``saving`` when it has a source. Raises ``Conflict`` when the name is taken."""
        ...

    def by_name(self, account_id: AccountId | None, name: str) -> Image | None:
        """Return the account's private image of that name, or with ``None`` the platform's."""
        ...

    def update(self, image: Image) -> Image:
        """Write all but identity and owner. Raises ``NotFound`` for one that is gone, ``Conflict`` for a taken name."""
        ...

    def remove(self, uuid: ImageUuid) -> None:
        """Forget an image and its prewarms; what runs keeps its reference."""
        ...

    def find(self, account_id: AccountId | None, window: Window) -> Page[Image]:
        """Return an account's private images, or with ``None`` those of the platform; newest first."""
        ...

    def saving(self) -> Sequence[Image]:
        """Return all that are being saved, oldest first."""
        ...


class HeldImages(Protocol):
    """What machines hold, as it was last seen."""

    def hold(self, machine_id: MachineId, images: Iterable[HeldImage]) -> None:
        """Write what a machine holds in place of what it held; the same again writes nothing."""
        ...

    def add(self, machine_id: MachineId, image: HeldImage) -> None:
        """Write one more image that a machine holds; the same reference and digest again writes nothing."""
        ...

    def holders(self, reference: str) -> frozenset[MachineId]:
        """Return the machines that hold a reference."""
        ...

    def holders_of_digest(self, digest: str) -> frozenset[MachineId]:
        """Return the machines that hold a digest, by whatever reference; nobody holds an empty one."""
        ...


class Prewarms(Protocol):
    """Which machines are to hold which images before anybody waits for them."""

    def want(self, account_id: AccountId, image: ImageUuid, machine_id: MachineId, now: datetime.datetime) -> Prewarm:
        """Write the wish anew, also when it was fulfilled before: an image may have gone since."""
        ...

    def update(self, prewarm: Prewarm) -> None:
        """Write state and message; one that is gone stays gone."""
        ...

    def of(self, image: ImageUuid) -> Sequence[Prewarm]:
        """Return the prewarms of an image, by machine."""
        ...

    def wanted(self) -> Sequence[Prewarm]:
        """Return all that are still wanted, by image and machine."""
        ...

    def forget(self, image: ImageUuid) -> None:
        """Forget the prewarms of an image, which may stand for something else by now."""
        ...


class Credentials(Protocol):
    """What registries ask of accounts, encrypted by the caller."""

    def put(self, account_id: AccountId, registry: str, sealed: str, now: datetime.datetime) -> None:
        """Write it, new or changed."""
        ...

    def get(self, account_id: AccountId, registry: str) -> str | None:
        """Return it as it was written."""
        ...

    def registries(self, account_id: AccountId) -> Sequence[str]:
        """Return the registries that an account has credentials for, by name."""
        ...

    def remove(self, account_id: AccountId, registry: str) -> bool:
        """Forget it; tell whether there was one."""
        ...


class Blacklist(Protocol):
    """Machines that accounts do not want to be placed on."""

    def put(self, entry: BlacklistEntry) -> None:
        """Write it, new or anew; one that was in force at ``updated_at`` keeps its ``created_at``."""
        ...

    def of(self, account_id: AccountId, now: datetime.datetime) -> Sequence[BlacklistEntry]:
        """Return the entries of an account that are in force, by machine."""
        ...

    def in_force(self, now: datetime.datetime) -> Sequence[BlacklistEntry]:
        """Return the entries of everybody that are in force, by account and machine."""
        ...

    def remove(self, account_id: AccountId, machine_id: MachineId) -> bool:
        """Forget an entry; tell whether there was one, in force or not."""
        ...


class ListenPorts(Protocol):
    """The ports of the ingress; who has one follows from the containers."""

    def free(self, within: range, count: int, now: datetime.datetime) -> Sequence[int]:
        """Return up to ``count`` ports that may be taken: never held ones first, then those that rested longest.

        A port rests ten minutes after a container had it.
        """
        ...


class SshKeys(Protocol):
    """Public keys by which accounts enter their containers."""

    def add(self, account_id: AccountId, name: str, key: str, fingerprint: str, now: datetime.datetime) -> SshKey:
        """Write a key. Raises ``Conflict`` when the account has it."""
        ...

    def all_of(self, account_id: AccountId) -> Sequence[SshKey]:
        """Return an account's keys, oldest first."""
        ...

    def remove(self, account_id: AccountId, fingerprint: str) -> bool:
        """Forget a key; tell whether there was one."""
        ...


class Audit(Protocol):
    """Who changed what."""

    def append(self, entry: NewAuditEntry) -> None:
        """Add an entry at the end."""
        ...

    def find(self, account_id: AccountId | None, window: Window, *, target: str | None = None) -> Page[AuditEntry]:
        """Return the entries about an account's things, or about everybody's; newest first."""
        ...

    def prune(self, before: datetime.datetime, at_most: int) -> int:
        """Forget the oldest entries that are older; returns how many."""
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

    def last_before(self, moment: datetime.datetime, at_most: int) -> Cursor:
        """Return the last of the ``at_most`` oldest events up to which all are older than ``moment``; else 0."""
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
    def held_images(self) -> HeldImages: ...  # noqa: D102
    @property
    def prewarms(self) -> Prewarms: ...  # noqa: D102
    @property
    def credentials(self) -> Credentials: ...  # noqa: D102
    @property
    def events(self) -> Events: ...  # noqa: D102
    @property
    def blacklist(self) -> Blacklist: ...  # noqa: D102
    @property
    def audit(self) -> Audit: ...  # noqa: D102
    @property
    def listen_ports(self) -> ListenPorts: ...  # noqa: D102
    @property
    def ssh_keys(self) -> SshKeys: ...  # noqa: D102


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
