"""What an account publishes, from its rows and from what is known of their addresses: pure.

Only containers that the API calls running *and* that are ready on a port are in that port's set; the other running
ones are withheld. A name stands for the account's oldest live deployment of that name, also when that one is not
followed: every watcher of the account then points it the same way.
"""

from collections.abc import Callable, Iterable, Mapping

from muster.discovery.poll_rows import ContainerRow, DeploymentRow
from muster.model.deployment import PORTS, PortProtocol
from muster.model.endpoint import Endpoint, ServiceKey, Withheld
from muster.model.feed import ServiceState
from muster.model.ids import DeploymentId

IsReady = Callable[[ContainerRow, int], bool]


def oldest_by_name(live: Iterable[DeploymentRow]) -> dict[str, DeploymentId]:
    """Return which deployment each name stands for."""
    return {each.name: each.id for each in sorted(live, key=lambda each: (each.age, each.id), reverse=True)}


def service_state(
    account: str,
    deployment_id: DeploymentId,
    name: str,
    rows: Iterable[ContainerRow],
    *,
    is_ready: IsReady,
    oldest: Mapping[str, DeploymentId],
    concurrency: int | None,
    ca_pem: str | None = None,
) -> ServiceState:
    """Return one deployment as discovery publishes it; ``name`` is empty if nobody knows it."""
    ordered = sorted(rows, key=lambda row: row.uuid)
    endpoints: dict[ServiceKey, tuple[Endpoint, ...]] = {}
    withheld: dict[ServiceKey, tuple[Withheld, ...]] = {}
    aliases: dict[ServiceKey, ServiceKey | None] = {}
    for port in PORTS:
        key = ServiceKey(account, deployment_id, port)
        ready = [row for row in ordered if port in row.urls and is_ready(row, port)]
        endpoints[key] = tuple(_endpoint(row, port, concurrency) for row in ready)
        withheld[key] = tuple(Withheld(row.uuid, "not_ready") for row in ordered if row not in ready)
        if name:
            target = oldest.get(name)
            aliases[ServiceKey(account, name, port)] = None if target is None else ServiceKey(account, target, port)
    return ServiceState(deployment_id, endpoints, aliases, withheld, ca_pem)


def _endpoint(row: ContainerRow, port: int, concurrency: int | None) -> Endpoint:
    url = row.urls[port]
    return Endpoint(
        id=row.uuid,
        url=url,
        protocol=PortProtocol.TCP if url.startswith("tcp://") else PortProtocol.HTTP,
        data_center=row.data_center,
        gpu_name=row.gpu_name,
        gpu_num=row.gpu_num,
        concurrency=concurrency,
        started_at=row.started_at,
    )
