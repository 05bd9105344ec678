"""What the ingress is to do with one container, from its row: pure, one table.

A container is routed from its placement until its ports have rested after its end, so that who has its address learns
what became of it. It takes requests until it is to stop; during the grace of a drain it still does.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from muster.model.container import Container, ContainerStatus
from muster.model.deployment import DeploymentSpec, PortProtocol
from muster.model.routes import PortRoute, Route, RouteState, SshRoute

ENDED_FOR = datetime.timedelta(minutes=10)
"""How long an ended container's addresses still say so: as long as its ports rest."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A route, ``None`` if there is to be none, and when it is to be looked at again."""

    route: Route | None
    wake_at: datetime.datetime | None = None


def route_of(
    container: Container, spec: DeploymentSpec, keys: Sequence[str], now: datetime.datetime, *, is_front_local: bool
) -> Routed:
    """Return the route of a container. ``is_front_local``: nobody but this host reaches the ingress's usual address.

    Then it listens for the container itself at the address by which that reaches this host, too.
    """
    placement, uuid = container.placement, container.uuid
    if placement is None or uuid is None or not container.listen_ports or container.status is None:
        return Routed(None)
    state, wake_at = _state(container, spec, now)
    if state is None:
        return Routed(None)
    has_ended = state is RouteState.ENDED
    ports = tuple(
        PortRoute(
            container_port=port,
            listen_port=listen_port,
            protocol=spec.protocols.get(port, PortProtocol.HTTP),
            backend=None if has_ended else container.addresses.get(port),
        )
        for port, listen_port in sorted(container.listen_ports.items())
    )
    ssh = None
    if container.ssh_port is not None:
        ssh = SshRoute(container.ssh_port, "" if has_ended else container.password_hash, tuple(keys))
    return Routed(
        Route(
            container_uuid=uuid,
            container_id=container.id,
            machine_id=placement.machine_id,
            generation=container.generation,
            account_id=container.account_id,
            deployment_id=container.deployment_id,
            state=state,
            ports=ports,
            ssh=ssh,
            concurrency=spec.service.concurrency,
            hosts=(container.host_address,) if is_front_local and container.host_address else (),
            is_running=container.status in (ContainerStatus.RUNNING, ContainerStatus.SHUTTING_DOWN),
            message=_message(container) if has_ended else "",
        ),
        wake_at,
    )


def _state(
    container: Container, spec: DeploymentSpec, now: datetime.datetime
) -> tuple[RouteState | None, datetime.datetime | None]:
    if container.status is ContainerStatus.SHUTDOWN:
        gone_at = (container.stopped_at or container.updated_at) + ENDED_FOR
        return (RouteState.ENDED, gone_at) if now < gone_at else (None, None)
    if container.stop is None:
        return RouteState.ACCEPT, None
    grace = datetime.timedelta(seconds=spec.service.drain_grace_seconds)
    refuses_from = container.stop.requested_at + grace
    if abs(now - container.stop.requested_at) < grace:
        return RouteState.ACCEPT, refuses_from
    return RouteState.REFUSE, None


def _message(container: Container) -> str:
    code = "" if container.exit_code is None else f", exit code {container.exit_code}"
    return f"container {container.uuid} has ended: {container.reason or 'unknown'}{code}"
