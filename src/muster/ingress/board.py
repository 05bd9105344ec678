"""The table in force: which ports are open, who is behind them, and what goes on there.

In: complete tables. ``apply`` makes the world so in one step of the loop: gates refuse from then on, ports are opened,
closed and kept. A gate is a container's for as long as anything goes on behind it, so its counts go on too; connections
of a container that is no longer in the table go on to their end, and nothing new begins there.

Out: the load, and which ports could not be opened and why. Those are tried again with each table, and every few seconds
in between: whoever has the port may go. A port that another program has is told to the server, which gives the
container another one.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from muster.clock import Clock
from muster.ingress.doors import Door
from muster.ingress.entrances import DomainEntrance, HttpPlane, PortEntrance, Target
from muster.ingress.gate import Gate
from muster.ingress.names import ServerNames
from muster.ingress.reception import Reception
from muster.model.ids import ContainerUuid
from muster.model.routes import LoadReport, Route, RouteState, RouteTable

MEND_SECONDS = 2.0
_LOOK_SECONDS = 0.02
_GONE = "this container is gone"


@dataclass(frozen=True, slots=True)
class Domain:
    """The layout of one port for all: names below ``name`` lead here."""

    name: str
    port: int
    names: ServerNames


class Board:
    """Belongs to one event loop. ``host`` is where ports are opened; routes may name more addresses."""

    def __init__(
        self, ingress: str, host: str, reception: Reception, http: HttpPlane, domain: Domain | None = None
    ) -> None:
        self.table: RouteTable | None = None
        self.gates: dict[ContainerUuid, Gate] = {}
        self._ingress = ingress
        self._host = host
        self._reception = reception
        self._http = http
        self._entrances: dict[int, PortEntrance] = {}
        self._doors: dict[int, Door] = {}
        self._hosts: dict[int, tuple[str, ...]] = {}
        self._failures: dict[int, str] = {}
        self._other_failures: dict[int, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._is_closed = False
        if domain is not None:
            shared = DomainEntrance(domain.name, self._gate_of, domain.names, reception, http)
            self._doors[domain.port] = Door(domain.port, shared.admit)
            self._hosts[domain.port] = ()

    @property
    def fence(self) -> tuple[int, int]:
        """Epoch and revision of the table in force, zeros before the first."""
        return (0, 0) if self.table is None else self.table.fence

    @property
    def bind_failures(self) -> dict[int, str]:
        """Ports that could not be opened, and why."""
        return {**self._failures, **self._other_failures}

    @property
    def in_flight(self) -> int:
        """Requests and raw connections that are not over."""
        return sum(gate_in_flight(gate) for gate in self.gates.values())

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called after each table, and when ports that failed were opened."""
        self._listeners.append(listener)

    def apply(self, table: RouteTable) -> None:
        """Put a table in force."""
        self._update_gates(table)
        self.table = table
        self._update_entrances(table)
        self.open_doors()
        self._tell()

    def tell_failures(self, failures: Mapping[int, str]) -> None:
        """Report these too: of ports that somebody else opens for the same containers."""
        if self._other_failures != failures:
            self._other_failures = dict(failures)
            self._tell()

    def open_doors(self) -> None:
        """Open every port that is to be open and is not."""
        if self._is_closed:
            return
        for port, hosts in self._hosts.items():
            reason = self._doors[port].open_at(self._host, hosts)
            if reason:
                self._failures[port] = reason
            else:
                self._failures.pop(port, None)

    async def run(self, clock: Clock) -> None:
        """Try what could not be opened again, for ever."""
        while True:
            await clock.sleep(MEND_SECONDS)
            if all(door.is_whole for door in self._doors.values()):
                continue
            before = dict(self._failures)
            self.open_doors()
            if self._failures != before:
                self._tell()

    def close(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self._is_closed = True
        for door in self._doors.values():
            door.close()

    async def quiet(self, patience_seconds: float) -> bool:
        """Wait until nothing is in flight, but not longer than this; whether it came so far."""
        try:
            async with asyncio.timeout(patience_seconds):
                while self.in_flight:  # noqa: ASYNC110  gates tell nobody: they are asked by each request
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            return False
        return True

    def report(self, now: float) -> LoadReport:
        """Return what the server is to know; ``now`` is of the loop's clock."""
        epoch, revision = self.fence
        loads = tuple(gate.load(now) for gate in self.gates.values())
        return LoadReport(self._ingress, epoch, revision, loads, self.bind_failures)

    def draining(self) -> dict[ContainerUuid, int]:
        """Return how much is in flight in each container that refuses: somebody waits for that to become nothing."""
        found = ((uuid, gate) for uuid, gate in self.gates.items() if gate.route.state is not RouteState.ACCEPT)
        return {uuid: count for uuid, gate in found if (count := gate_in_flight(gate))}

    def _gate_of(self, uuid: str) -> Gate | None:
        return self.gates.get(ContainerUuid(uuid))

    def _update_gates(self, table: RouteTable) -> None:
        before, self.gates = self.gates, {}
        for route in table.routes:
            gate = before.pop(route.container_uuid, None)
            if gate is None:
                gate = Gate(route)
            else:
                gate.route = route
            self.gates[route.container_uuid] = gate
        for uuid, gate in before.items():
            gate.route = replace(gate.route, state=RouteState.ENDED, message=gate.route.message or _GONE)
            if gate_in_flight(gate):
                self.gates[uuid] = gate

    def _update_entrances(self, table: RouteTable) -> None:
        wanted = {port: (target, hosts) for port, target, hosts in self._addresses(table)}
        for port in self._entrances.keys() - wanted.keys():
            self._doors.pop(port).close()
            del self._entrances[port], self._hosts[port]
            self._failures.pop(port, None)
        for port, (target, hosts) in wanted.items():
            entrance = self._entrances.get(port)
            if entrance is None:
                entrance = self._entrances[port] = PortEntrance(target, self._reception, self._http)
                self._doors[port] = Door(port, entrance.admit)
            entrance.target = target
            self._hosts[port] = hosts

    def _addresses(self, table: RouteTable) -> Iterator[tuple[int, Target, tuple[str, ...]]]:
        """Yield every address; of two with one port the later counts, so who ended comes first."""
        taken = self._doors.keys() - self._entrances.keys()
        ended: list[Route] = []
        others: list[Route] = []
        for route in table.routes:
            (ended if route.state is RouteState.ENDED else others).append(route)
        for route in itertools.chain(ended, others):
            for port in route.ports:
                if port.listen_port not in taken:  # the shared port
                    yield port.listen_port, Target(self.gates[route.container_uuid], port.container_port), route.hosts

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def gate_in_flight(gate: Gate) -> int:
    """Return what is in flight behind a gate, on all its ports."""
    return sum(counts.in_flight for counts in gate.counts.values())


def hosts_of(routes: tuple[Route, ...]) -> frozenset[str]:
    """Return every further address by which containers are to be reached."""
    return frozenset(host for route in routes for host in route.hosts)
