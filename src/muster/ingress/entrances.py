"""What is behind a listen port, and how whoever comes in is brought there.

Two kinds, one for each layout. ``PortEntrance``: the port belongs to one container port, which may become another's
while it stays open. ``DomainEntrance``: one port is everybody's, and the name tells who is meant; of raw connections
only TLS tells the name (SNI), HTTP tells it once more with each request (``Host``), and the two must agree.

An entrance is asked anew for each request: what it answers is what the table in force says.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

from muster.ingress.gate import Gate
from muster.ingress.names import ServerNames
from muster.ingress.reception import Reception
from muster.ingress.tcp import Side, splice
from muster.model.deployment import PortProtocol
from muster.model.front import parse_hostname


class Target(NamedTuple):
    """Who is meant: a container port, by its gate."""

    gate: Gate
    container_port: int

    @property
    def protocol(self) -> PortProtocol | None:
        """What the port speaks, ``None`` if the container no longer has it."""
        port = self.gate.port(self.container_port)
        return None if port is None else port.protocol


Resolve = Callable[[str], tuple[Gate, int] | None]
"""Says who is meant by a request with this ``Host``, ``None`` if nobody is known by it."""
HttpPlane = Callable[[Resolve], Callable[[], asyncio.BaseProtocol]]
"""Makes what makes a protocol for each client of a port: ``ingress.http``, as the process sets it up."""


class Entrance(Protocol):
    """Takes what was accepted on a port."""

    def admit(self, accepted: socket.socket) -> None:
        """Take a connection."""
        ...


class PortEntrance:
    """A port that belongs to one container port."""

    def __init__(self, target: Target, reception: Reception, http: HttpPlane) -> None:
        self.target = target
        self._reception = reception
        self._protocol = http(self._resolve)

    def admit(self, accepted: socket.socket) -> None:
        """Take a connection."""
        if self.target.protocol is PortProtocol.TCP:
            self._reception.take_raw(accepted, *self.target)
        else:
            self._reception.take_tls(accepted, self._protocol)

    def _resolve(self, host: str) -> Target:
        del host  # the port has told
        return self.target


class DomainEntrance:
    """The port that is shared; ``gate_of`` finds a container by its uuid."""

    def __init__(
        self,
        domain: str,
        gate_of: Callable[[str], Gate | None],
        names: ServerNames,
        reception: Reception,
        http: HttpPlane,
    ) -> None:
        self._domain = domain
        self._gate_of = gate_of
        self._names = names
        self._reception = reception
        self._http = http

    def admit(self, accepted: socket.socket) -> None:
        """Take a connection."""
        self._reception.take_tls(accepted, lambda: _Hall(self))

    def target(self, name: str) -> Target | None:
        """Return who has a name; a port that its container does not have is nobody's, and not counted by its gate."""
        found = parse_hostname(name, self._domain)
        gate = None if found is None else self._gate_of(found[0])
        return None if found is None or gate is None or gate.port(found[1]) is None else Target(gate, found[1])

    def choose(self, transport: asyncio.Transport) -> asyncio.BaseProtocol:
        """Return what is to speak with a client whose handshake is done."""
        name = self._names.of(transport)
        target = self.target(name) if name else None
        if target is not None and target.protocol is PortProtocol.TCP:
            side = Side()
            self._reception.start(_splice_soon(side, target))
            return side
        return self._http(lambda host: self._resolve(name, host))()

    def _resolve(self, name: str, host: str) -> Target | None:
        asked = _without_port(host).rstrip(".").lower()
        if name and asked != name:
            return None
        target = self.target(asked)
        return None if target is None or target.protocol is PortProtocol.TCP else target


class _Hall(asyncio.Protocol):
    """Where a client stands between its handshake and the protocol that is for it."""

    def __init__(self, entrance: DomainEntrance) -> None:
        self._entrance = entrance

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass
        chosen = self._entrance.choose(client)
        client.set_protocol(chosen)
        chosen.connection_made(transport)


async def _splice_soon(side: Side, target: Target) -> None:
    await splice(side, *target)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
