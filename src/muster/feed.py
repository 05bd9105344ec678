"""The event log as a feed: who is ready now, and which deployment changed since a cursor.

``StoreFeed`` fulfils ``model.feed.Feed`` for our own deployments. A change is announced by its events; what has no
event (a deployment deleted while nothing ran) by the store's commit hint. Both only name deployments.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from muster.clock import Clock, wait_for_event
from muster.model.container import Container, ContainerStatus
from muster.model.deployment import PORTS, DeploymentSpec, PortProtocol
from muster.model.endpoint import Endpoint, ServiceKey, Withheld
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.front import Front, service_address, service_url
from muster.model.ids import AccountId, DeploymentId
from muster.store.port import Changes, Store, Transaction
from muster.store.specs import spec_of

POLL_SECONDS = 1.0
"""How long a lost hint may delay a change."""
BREATHS = 4
"""The rest after a batch, in times of what its reader took: each change of a burst would cost it a look at the whole
deployment, so the work of n containers would grow with n²."""


class StoreFeed:
    """Reads readiness from the store; one instance may have many readers.

    Endpoints are addresses of ``front``, with certificates of ``ca_pem``; ``None``: of an authority clients know.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        front: Front | None = None,
        *,
        ca_pem: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._front = front
        self._ca_pem = ca_pem
        self._readers: set[_Reader] = set()
        store.on_commit(self._hint)

    async def services(self, account_id: AccountId | None = None) -> Listing:
        """Return every live deployment, of one account or of all, and the cursor of that moment."""
        ca_pem = self._ca_pem()

        def work(tx: Transaction) -> Listing:
            found = tx.deployments.unsettled()
            if account_id is not None:
                found = owned(tx, account_id, found)
            return Listing([_state(tx, each, self._front, ca_pem) for each in found], tx.events.last())

        return await self._store.read(work)

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        """Return one deployment as it is now."""
        ca_pem = self._ca_pem()
        return await self._store.read(lambda tx: _state(tx, deployment_id, self._front, ca_pem))

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        """Yield batches after ``cursor`` for ever."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            while True:
                reader.has_news.clear()
                hinted = reader.take()
                events = await self._store.read(lambda tx, after=cursor: tx.events.after(after))  # type: ignore[misc]
                changed = hinted | {event.deployment_id for event in events}
                if changed:
                    cursor = Cursor(events[-1].id) if events else cursor
                    told_at = self._clock.monotonic()
                    yield ChangeBatch(frozenset(changed), cursor)
                    await self._clock.sleep(BREATHS * (self._clock.monotonic() - told_at))
                else:
                    await wait_for_event(reader.has_news, self._clock, POLL_SECONDS)
        finally:
            self._readers.discard(reader)

    def _hint(self, changes: Changes) -> None:
        for reader in self._readers:
            reader.deployments |= changes.deployments
            reader.has_news.set()


def owned(tx: Transaction, account_id: AccountId, deployment_ids: Iterable[DeploymentId]) -> Sequence[DeploymentId]:
    """Return those of the deployments that belong to an account, deleted ones too."""
    found = ((each, tx.deployments.get(each)) for each in deployment_ids)
    return [each for each, deployment in found if deployment is not None and deployment.account_id == account_id]


class _Reader:
    """What one reader has not been told yet."""

    def __init__(self) -> None:
        self.deployments: set[DeploymentId] = set()
        self.has_news = asyncio.Event()

    def take(self) -> set[DeploymentId]:
        taken, self.deployments = self.deployments, set()
        return taken


def _state(tx: Transaction, deployment_id: DeploymentId, front: Front | None, ca_pem: str | None) -> ServiceState:
    deployment = tx.deployments.get(deployment_id)
    if deployment is None:
        return ServiceState(deployment_id, {}, {})
    account = tx.accounts.get(deployment.account_id)
    assert account is not None
    containers = tx.containers.of_deployment(deployment_id, finished_limit=0)
    ready = [(each, spec_of(tx, each, deployment)) for each in containers if _serves(each)]
    others = sorted((each.uuid, _why_not(each)) for each in containers if each.uuid is not None and not _serves(each))
    withheld = tuple(Withheld(uuid, reason) for uuid, reason in others)
    named = tx.deployments.oldest_live(deployment.account_id, deployment.spec.name)
    endpoints: dict[ServiceKey, tuple[Endpoint, ...]] = {}
    aliases: dict[ServiceKey, ServiceKey | None] = {}
    for port in PORTS:
        key = ServiceKey(account.name, deployment_id, port)
        found = (_endpoint(spec, container, port, front) for container, spec in ready)
        endpoints[key] = tuple(sorted((each for each in found if each), key=lambda each: each.id))
        alias = ServiceKey(account.name, deployment.spec.name, port)
        aliases[alias] = None if named is None else ServiceKey(account.name, named.id, port)
    return ServiceState(deployment_id, endpoints, aliases, dict.fromkeys(endpoints, withheld), ca_pem)


def _why_not(container: Container) -> str:
    if container.stop is not None or container.status is ContainerStatus.SHUTTING_DOWN:
        return "draining"
    return "not_ready" if container.status is ContainerStatus.RUNNING else "starting"


def _serves(container: Container) -> bool:
    return container.status is ContainerStatus.RUNNING and container.is_ready and container.stop is None


def _endpoint(spec: DeploymentSpec, container: Container, port: int, front: Front | None) -> Endpoint | None:
    address, placement = service_address(front, container, port), container.placement
    if address is None or placement is None or container.uuid is None:
        return None
    protocol = spec.protocols.get(port, PortProtocol.HTTP)
    url = service_url(front, address, protocol)
    return Endpoint(
        id=container.uuid,
        url=url if protocol is PortProtocol.HTTP else f"tcp://{url}",
        protocol=protocol,
        data_center=placement.data_center,
        gpu_name=placement.gpu_name,
        gpu_num=placement.gpu_num,
        concurrency=spec.service.concurrency,
        budgets=spec.service.budgets,
        started_at=container.started_at,
    )
