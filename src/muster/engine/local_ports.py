"""Which loopback ports belong to which container of a root.

A reservation is a symbolic link ``<root>/.ports/<port>`` to the container's id: made by one atomic call, so two
creators never get the same port, also in two processes. Ports are drawn at random from below the range that the
kernel takes source ports from, so that no outgoing connection can sit on one before its service binds it, and outside
of those that an ingress of this host gives out by default; they are tried once. A port stays reserved until the
container is removed, because its address was already told.
"""

import random
import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

_FOLDER = ".ports"
_LOWEST = 10_000
_DRAWS = 1000
_INGRESS = range(20_000, 30_000)
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class Ports:
    """The reservations of one root."""

    def __init__(self, root: Path) -> None:
        self._folder = root / _FOLDER

    def reserve(self, owner: str, count: int) -> tuple[int, ...]:
        """Return ports that can be bound now and that nobody else of this root has. Raises ``OSError``."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ports: list[int] = []
        for port in _candidates():
            if _is_free(port) and self._claim(port, owner):
                ports.append(port)
                if len(ports) == count:
                    return tuple(ports)
        self.release(ports, owner)
        raise OSError("hardly any loopback port is free")

    def release(self, ports: Collection[int], owner: str) -> None:
        """Give ports back that the owner holds; others stay."""
        for port in ports:
            link = self._folder / str(port)
            try:
                if str(link.readlink()) == owner:
                    link.unlink()
            except FileNotFoundError:
                continue

    def release_orphans(self, exists: Callable[[str], bool]) -> None:
        """Give back what belongs to owners that do not exist."""
        if self._folder.is_dir():
            for link in list(self._folder.iterdir()):
                owner = str(link.readlink())
                if not exists(owner):
                    self.release([int(link.name)], owner)

    def _claim(self, port: int, owner: str) -> bool:
        try:
            (self._folder / str(port)).symlink_to(owner)
        except FileExistsError:
            return False
        return True


def _candidates() -> Iterator[int]:
    """Draw ports; as many as would find a free one even if nine of ten were taken."""
    lowest_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    highest = lowest_ephemeral if lowest_ephemeral > _LOWEST + 1000 else 65_536
    for _ in range(_DRAWS):
        port = random.randrange(_LOWEST, highest)  # noqa: S311  nothing secret about a port
        if port not in _INGRESS:
            yield port


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
