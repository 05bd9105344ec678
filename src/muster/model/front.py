"""By which names the world reaches containers: those of the ingress, or, where there is none, their own.

Two layouts. Without a domain each container port has a port of the ingress: ``https://HOST:20017``, or ``HOST:20017``
for raw TCP. With one, all share a TLS port, and the name says who is meant: ``https://<uuid>-6006.DOMAIN:443``; raw TCP
is then TLS too, because only TLS tells the name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from muster.model.container import Address, Container
from muster.model.deployment import PortProtocol

_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Front:
    """The ingress as clients see it. ``domain`` is empty in the layout of one port per address."""

    host: str
    domain: str = ""
    domain_port: int = 443

    def address(self, container: Container, port: int) -> Address | None:
        """Return where a container port is reached, ``None`` while it has no address."""
        listen_port = container.listen_ports.get(port)
        if listen_port is None or container.uuid is None:
            return None
        if self.domain:
            return Address(hostname(container.uuid, port, self.domain), self.domain_port)
        return Address(self.host, listen_port)


def hostname(container_uuid: str, port: int, domain: str) -> str:
    """Return the name of a container port in a domain."""
    return f"{container_uuid}-{port}.{domain}"


def parse_hostname(name: str, domain: str) -> tuple[str, int] | None:
    """Read a name of the domain: the container's uuid and port; ``None`` for any other."""
    label, dot, rest = name.rstrip(".").lower().partition(".")
    uuid, dash, port = label.rpartition("-")
    if not (dot and dash and uuid) or rest != domain.lower() or _PORT.fullmatch(port) is None:
        return None
    return uuid, int(port)


def service_address(front: Front | None, container: Container, port: int) -> Address | None:
    """Return where clients reach a container port: through the ingress if there is one."""
    return container.addresses.get(port) if front is None else front.address(container, port)


def service_url(front: Front | None, address: Address, protocol: PortProtocol) -> str:
    """Return the URL of an address: of AutoDL's forms, ``https://HOST:PORT``, or ``HOST:PORT`` for raw TCP.

    Without an ingress there is nobody who speaks TLS.
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    if protocol is PortProtocol.TCP:
        return f"{host}:{address.port}"
    return f"{'http' if front is None else 'https'}://{host}:{address.port}"


def addresses_of(front: Front | None, container: Container, ports: tuple[int, ...]) -> Mapping[int, Address]:
    """Return where clients reach each of the ports that have an address."""
    found = ((port, service_address(front, container, port)) for port in ports)
    return {port: address for port, address in found if address is not None}
