"""What a route may reach beyond its request: the arguments of ``create_app``, as one value."""

import datetime
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends
from fastapi.requests import HTTPConnection

from muster.api.addresses import Reach
from muster.api.rate_limit import TokenBuckets
from muster.api.signal import CommitSignal
from muster.api.token_use import TokenUses
from muster.clock import Clock
from muster.engine.port import Capabilities, ExecSession
from muster.feed import StoreFeed
from muster.files import FileStorage
from muster.model.ids import ContainerId
from muster.model.routes import LoadReport
from muster.model.run import ExecOrder, Ref
from muster.registry.port import Registry
from muster.scheduler.explain import Explanation
from muster.store.keyring import Keyring
from muster.store.port import Store


class ContainerAccess(Protocol):
    """What the API asks of an engine: to read what containers write, and to run commands in them. An engine is one."""

    @property
    def capabilities(self) -> Capabilities:
        """What can be asked."""
        ...

    def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield output in order, the newest ``tail`` lines of it; ``follow`` goes on until the run has ended."""
        ...

    async def execute(self, ref: Ref, order: ExecOrder) -> ExecSession:
        """Run a command in a running container."""
        ...


class IngressLink(Protocol):
    """What the server and its ingress tell each other; the control plane is one."""

    async def next_table(self, fence: tuple[int, int], seconds: float) -> str | None:
        """Return the first route table that is newer, as JSON, waiting for it; ``None`` when none comes in time."""
        ...

    def report(self, report: LoadReport) -> None:
        """Take what an ingress tells."""
        ...

    def is_ingress(self, token: str) -> bool:
        """Tell whether a token is the one that the ingress of this home has."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """The world of the API. ``explain`` says why a container has no machine, ``None`` if it was not yet looked at.

    ``reach`` says how containers are reached, ``ingress`` is what the ingress asks and tells, if there is one.
    ``host_key`` tells the SSH gateway's public key.
    ``uses`` learns which tokens were used, ``limit`` how often; without one, a token may ask as often as it likes.
    ``ca_pem`` tells the authority that clients of containers need, ``None`` if they need none.
    ``feed`` tells who is ready; ``installation`` is the id by which watchers elsewhere know whose services these are.
    """

    store: Store
    clock: Clock
    reach: Reach
    ingress: IngressLink | None
    zone: datetime.tzinfo
    registry: Registry
    access: ContainerAccess
    explain: Callable[[ContainerId], Explanation | None]
    is_ready: Callable[[], bool]
    isolates_tenants: bool
    commits: CommitSignal
    files: FileStorage | None
    keyring: Keyring
    uses: TokenUses
    limit: TokenBuckets | None
    random_hex: Callable[[int], str]
    ca_pem: Callable[[], str | None]
    feed: StoreFeed
    installation: str
    host_key: Callable[[], str] | None = None


async def _context(connection: HTTPConnection) -> Context:
    context = connection.app.state.context
    assert isinstance(context, Context)
    return context


Ctx = Annotated[Context, Depends(_context)]
