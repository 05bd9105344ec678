"""Which ports of the ingress a container gets: two for its addresses, one for its SSH login.

Inside a transaction: the store says which are free, its guard refuses a port that somebody else took meanwhile.
"""

import datetime
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from muster.errors import SetupError
from muster.model.container import Container
from muster.model.deployment import PORTS
from muster.store.port import Transaction

_OF_ONE_PORT = tuple(os.strerror(number).lower() for number in (errno.EADDRINUSE, errno.EACCES))
"""How the ingress, which is on this host, says that another program has a port, or that only root may."""


@dataclass(frozen=True, slots=True)
class PortRanges:
    """The ports that the operator gives to containers' addresses, and to their SSH logins.

    Raises ``SetupError`` for ranges that share a port: a container would get it twice.
    """

    addresses: range
    ssh: range

    def __post_init__(self) -> None:
        """Check them."""
        shared = range(max(self.addresses.start, self.ssh.start), min(self.addresses.stop, self.ssh.stop))
        if shared:
            raise SetupError(f"ingress_ports and ssh_ports share {shared.start}-{shared.stop - 1}: set one elsewhere")


def helped_by_others(failures: Mapping[int, str]) -> Mapping[int, str]:
    """Return the ports that could not be opened for a reason of their own.

    Want of descriptors or of the host's address is none: every other port would fail too, and each container would
    change its addresses for as long as there are any.
    """
    return {port: why for port, why in failures.items() if why.lower().endswith(_OF_ONE_PORT)}


def with_ports(tx: Transaction, container: Container, ranges: PortRanges, now: datetime.datetime) -> Container | None:
    """Return the container with ports of its own; ``None`` when too few are free."""
    found = tx.listen_ports.free(ranges.addresses, len(PORTS), now)
    ssh = tx.listen_ports.free(ranges.ssh, 1, now)
    if len(found) < len(PORTS) or not ssh:
        return None
    return replace(container, listen_ports=dict(zip(PORTS, found, strict=True)), ssh_port=ssh[0])


def relocated(
    tx: Transaction, container: Container, failures: Mapping[int, str], ranges: PortRanges, now: datetime.datetime
) -> tuple[Container, str] | None:
    """Return the container with others in place of its ports that failed, and what that means in words.

    ``None`` when too few are free. What failed rests like every port that was given up, and is tried again later.
    """
    bad = [port for port, listen_port in container.listen_ports.items() if listen_port in failures]
    free = tx.listen_ports.free(ranges.addresses, len(bad) + len(failures), now)
    fresh = [port for port in free if port not in failures]
    ssh_port = container.ssh_port
    if len(fresh) < len(bad):
        return None
    moves = {container.listen_ports[port]: new for port, new in zip(bad, fresh, strict=False)}
    if ssh_port in failures:
        others = [port for port in tx.listen_ports.free(ranges.ssh, 1 + len(failures), now) if port not in failures]
        if not others:
            return None
        assert ssh_port is not None
        moves[ssh_port] = others[0]
        ssh_port = others[0]
    listen_ports = {port: moves.get(old, old) for port, old in container.listen_ports.items()}
    told = "; ".join(f"port {old} cannot be opened ({failures[old]}): {new} instead" for old, new in moves.items())
    return replace(container, listen_ports=listen_ports, ssh_port=ssh_port), told
