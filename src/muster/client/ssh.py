"""SSH as methods of the client: the account's public keys, and the key by which the gateway is known."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from muster.client import wire
from muster.client.values import SshKey

Call = Callable[..., Any]


class Ssh:
    """Reached as ``client.ssh``. ``muster`` calls our own paths."""

    def __init__(self, muster: Call) -> None:
        self._muster = muster

    def keys(self) -> list[SshKey]:
        """Return the public keys that open the account's containers, oldest first."""
        return [_key(row) for row in self._muster("GET", "/ssh/keys")["keys"]]

    def add_key(self, key: str, *, name: str = "") -> SshKey:
        """Let the owner of a public key in; ``key`` is the line of a ``.pub`` file, whose comment is the name if none.

        Raises ``InvalidSpec`` for what is no such line, ``ApiError`` for one that is there already.
        """
        return _key(self._muster("POST", "/ssh/keys", {"key": key, "name": name}))

    def remove_key(self, fingerprint: str) -> SshKey:
        """Let nobody in by a key any more; who is in stays in."""
        path = f"/ssh/keys/{quote(fingerprint, safe='')}"
        return _key(self._muster("DELETE", path, named=("SSH key", fingerprint)))

    def host_key(self) -> str:
        """Return the gateway's public key, type and base64. Raises ``ApiError`` where there is no gateway."""
        return str(self._muster("GET", "/ssh/host-key")["host_key"])


def _key(row: Mapping[str, Any]) -> SshKey:
    return SshKey(
        fingerprint=row["fingerprint"],
        name=row["name"],
        key=row["key"],
        created_at=wire.time(row["created_at"]),
    )
