"""Where a broker listens: ``tls://HOST:PORT``, ``tcp://HOST:PORT`` without TLS, ``unix:///PATH``.

A token stands in the first message, so ``tcp://`` beyond this host has to be asked for by name.
"""

import ipaddress
import urllib.parse
from typing import NamedTuple

from muster.errors import InvalidSpec

DEFAULT_PORT = 7690
_EXAMPLES = f"write tls://HOST:{DEFAULT_PORT}, tcp://127.0.0.1:{DEFAULT_PORT} or unix:///ABSOLUTE/PATH"


class Address(NamedTuple):
    """``path`` is that of a ``unix`` address, ``host`` and ``port`` are of the others; port 0 is any free one."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def url(self) -> str:
        """The address as it is written."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether nobody but this host reaches it."""
        if self.scheme == "unix" or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_everywhere(self) -> bool:
        """Whether it stands for all addresses of this host, so that nobody can connect to it by that."""
        try:
            return self.scheme != "unix" and ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


def read_address(written: str, field: str = "listen") -> Address:
    """Read an address. Raises ``InvalidSpec``, naming ``field``."""
    try:
        parts = urllib.parse.urlsplit(written.strip())
        port = parts.port
    except ValueError as error:
        raise InvalidSpec(field, f"{written!r} is no address ({error}): {_EXAMPLES}") from error
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidSpec(field, f"{written!r} holds more than an address: {_EXAMPLES}")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address("unix", path=urllib.parse.unquote(parts.path))
    if parts.scheme in {"tls", "tcp"} and parts.hostname and parts.path in {"", "/"}:
        return Address(parts.scheme, parts.hostname, DEFAULT_PORT if port is None else port)
    raise InvalidSpec(field, f"{written!r} is no address of a broker: {_EXAMPLES}")
