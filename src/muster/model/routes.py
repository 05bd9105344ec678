"""What the ingress is told, and what it tells: the route table, and the load behind it.

A ``RouteTable`` is complete and immutable, like an endpoint set, but for the ingress: *every* placed container is in
it, ready or not, from its placement until ten minutes after its end, so that whoever has its address is told what
became of it. Tables are ordered by ``fence``: a restarted server begins a new epoch.

A ``LoadReport`` goes the other way: which table is in force, which addresses could not be opened, and for each
container what is in flight through its addresses and whether new requests are being refused. The server decides by
``ContainerLoad.is_refusing``, which is true only once the table that says so is in force.

The JSON forms are what ``/api/v1/muster/routes`` answers, and what the snapshot in the ingress's folder holds. They
hold hashes of passwords, never passwords.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from muster.errors import InvalidSpec
from muster.model.container import Address
from muster.model.deployment import PortProtocol
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId

SCHEMA = 1

LOAD_HEADER = "endpoint-load-metrics"
"""The load of the replica that answered, in the text form of ORCA (Open Request Cost Aggregation, which Envoy and gRPC
read): ``TEXT named_metrics.in_flight=2,named_metrics.concurrency=4``."""
REFUSED_HEADER = "x-muster-refused"
"""On an answer of the ingress's own: why nothing was sent to the container. Any request may be sent elsewhere."""
ERROR_HEADER = "x-muster-error"
"""On an answer of the ingress's own: what went wrong after the request was, or may have been, sent."""


class RouteState(StrEnum):
    """Whether a container's addresses take new requests; an ended one has nobody behind them."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    ENDED = "ended"


class Refusal(StrEnum):
    """Why a request was not sent to its container: the values of ``REFUSED_HEADER``."""

    DRAINING = "draining"
    OVER_CAPACITY = "over_capacity"
    ENDED = "ended"
    NOT_STARTED = "not_started"
    UNREACHABLE = "unreachable"
    """It could not be connected to."""


@dataclass(frozen=True, slots=True)
class PortRoute:
    """One address: the port that is listened on, and the container port behind it.

    ``backend=None``: the container has no address yet.
    """

    container_port: int
    listen_port: int
    protocol: PortProtocol
    backend: Address | None = None


@dataclass(frozen=True, slots=True)
class SshRoute:
    """The SSH login of a container. ``password_hash`` is as ``model.password`` writes it; ``keys`` are public keys."""

    listen_port: int
    password_hash: str = field(repr=False)
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """Everything about one container's addresses.

    ``concurrency`` is how many requests each of its ports takes at once (``None``: any number). ``hosts`` are addresses
    of this host to listen on beside the usual one: by them containers reach it. ``message`` is for whoever connects
    when ``state`` is ``ENDED``: what became of it. ``is_running``: a command can be run in it.
    """

    container_uuid: ContainerUuid
    container_id: ContainerId
    machine_id: MachineId
    generation: int
    account_id: AccountId
    deployment_id: DeploymentId
    state: RouteState
    ports: tuple[PortRoute, ...]
    ssh: SshRoute | None = None
    concurrency: int | None = None
    hosts: tuple[str, ...] = ()
    is_running: bool = False
    message: str = ""

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "container_uuid": self.container_uuid,
            "container_id": self.container_id,
            "machine_id": self.machine_id,
            "generation": self.generation,
            "account_id": self.account_id,
            "deployment_uuid": self.deployment_id,
            "state": self.state.value,
            "ports": [_port_to_wire(each) for each in self.ports],
            "ssh": None if self.ssh is None else _ssh_to_wire(self.ssh),
            "concurrency": self.concurrency,
            "hosts": list(self.hosts),
            "is_running": self.is_running,
            "message": self.message,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read the JSON form; raises whatever a wrong shape leads to."""
        return cls(
            container_uuid=ContainerUuid(wire["container_uuid"]),
            container_id=ContainerId(wire["container_id"]),
            machine_id=MachineId(wire["machine_id"]),
            generation=int(wire["generation"]),
            account_id=AccountId(int(wire["account_id"])),
            deployment_id=DeploymentId(wire["deployment_uuid"]),
            state=RouteState(wire["state"]),
            ports=tuple(_port_from_wire(each) for each in wire["ports"]),
            ssh=None if wire["ssh"] is None else _ssh_from_wire(wire["ssh"]),
            concurrency=wire["concurrency"],
            hosts=tuple(wire["hosts"]),
            is_running=bool(wire["is_running"]),
            message=str(wire["message"]),
        )


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All routes, ordered by container uuid."""

    epoch: int
    revision: int
    routes: tuple[Route, ...] = ()

    @property
    def fence(self) -> tuple[int, int]:
        """What orders tables: one replaces only those with a smaller fence."""
        return self.epoch, self.revision

    def to_json(self) -> str:
        """Return the documented form, one line."""
        return table_json(self.epoch, self.revision, (json.dumps(each.to_wire()) for each in self.routes))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the documented form; unknown keys are ignored. Raises ``InvalidSpec``."""
        try:
            wire = json.loads(text)
            if wire["schema"] > SCHEMA:
                raise InvalidSpec("schema", f"{wire['schema']} is newer than {SCHEMA}: upgrade the ingress")
            routes = tuple(Route.from_wire(each) for each in wire["routes"])
            return cls(int(wire["epoch"]), int(wire["revision"]), routes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidSpec("route table", f"is not one of ours: {error!r}") from error


def table_json(epoch: int, revision: int, routes: Sequence[str] | Any) -> str:
    """Write a table whose routes are JSON already: most of them are as they were in the table before."""
    return f'{{"schema":{SCHEMA},"epoch":{epoch},"revision":{revision},"routes":[{",".join(routes)}]}}'


@dataclass(frozen=True, slots=True)
class ContainerLoad:
    """What goes on behind a container's addresses, as its ingress sees it. Counts are since the ingress started.

    ``in_flight`` are requests and raw connections that are not over; a stream is over with its last byte.
    ``quiet_seconds`` is how long the container has sent nothing to anybody although somebody waits for an answer's
    first byte (0 if nobody does). ``longest_seconds`` is the longest that a first byte ever took and came after all.
    """

    container_uuid: ContainerUuid
    is_refusing: bool
    in_flight: int = 0
    served: int = 0
    refused: int = 0
    failed: int = 0
    quiet_seconds: float = 0.0
    longest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What one ingress tells. ``epoch`` and ``revision`` are those of the table in force; 0, 0: none yet.

    ``ingress`` is drawn at its start, so a restart, which forgets its counts, is seen. ``bind_failures`` maps listen
    ports to why they could not be opened.
    """

    ingress: str
    epoch: int
    revision: int
    loads: tuple[ContainerLoad, ...] = ()
    bind_failures: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps(
            {
                "ingress": self.ingress,
                "epoch": self.epoch,
                "revision": self.revision,
                "loads": [_load_to_wire(each) for each in self.loads],
                "bind_failures": {str(port): why for port, why in self.bind_failures.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form. Raises ``InvalidSpec``."""
        try:
            wire = json.loads(text)
            return cls(
                ingress=str(wire["ingress"]),
                epoch=int(wire["epoch"]),
                revision=int(wire["revision"]),
                loads=tuple(_load_from_wire(each) for each in wire["loads"]),
                bind_failures={int(port): str(why) for port, why in wire["bind_failures"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidSpec("load report", f"is not one of ours: {error!r}") from error


def _port_to_wire(port: PortRoute) -> dict[str, Any]:
    return {
        "container_port": port.container_port,
        "listen_port": port.listen_port,
        "protocol": port.protocol.value,
        "backend": None if port.backend is None else [port.backend.host, port.backend.port],
    }


def _port_from_wire(wire: Mapping[str, Any]) -> PortRoute:
    backend = wire["backend"]
    return PortRoute(
        container_port=int(wire["container_port"]),
        listen_port=int(wire["listen_port"]),
        protocol=PortProtocol(wire["protocol"]),
        backend=None if backend is None else Address(str(backend[0]), int(backend[1])),
    )


def _ssh_to_wire(ssh: SshRoute) -> dict[str, Any]:
    return {"listen_port": ssh.listen_port, "password_hash": ssh.password_hash, "keys": list(ssh.keys)}


def _ssh_from_wire(wire: Mapping[str, Any]) -> SshRoute:
    return SshRoute(int(wire["listen_port"]), str(wire["password_hash"]), tuple(map(str, wire["keys"])))


def _load_to_wire(load: ContainerLoad) -> dict[str, Any]:
    return {
        "container_uuid": load.container_uuid,
        "is_refusing": load.is_refusing,
        "in_flight": load.in_flight,
        "served": load.served,
        "refused": load.refused,
        "failed": load.failed,
        "quiet_seconds": round(load.quiet_seconds, 3),
        "longest_seconds": round(load.longest_seconds, 3),
    }


def _load_from_wire(wire: Mapping[str, Any]) -> ContainerLoad:
    return ContainerLoad(
        container_uuid=ContainerUuid(wire["container_uuid"]),
        is_refusing=bool(wire["is_refusing"]),
        in_flight=int(wire["in_flight"]),
        served=int(wire["served"]),
        refused=int(wire["refused"]),
        failed=int(wire["failed"]),
        quiet_seconds=float(wire["quiet_seconds"]),
        longest_seconds=float(wire["longest_seconds"]),
    )
