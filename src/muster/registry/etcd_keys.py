"""Where things lie in etcd, and what they look like; pure.

::

    <prefix>/set/<account>/<service>/<port>      an endpoint set (docs/endpoint-set.md)
    <prefix>/alias/<account>/<service>/<port>    {"schema":1,"target":{"account":…,"service":…,"port":…}}
    <prefix>/claim/<account>/<service>/<port>    [publisher, epoch]
    <prefix>/beat/<publisher>                    [count, seconds]

Names are encoded as the file registry encodes them (``names.py``). The four kinds lie apart, so that one range read
answers "which sets are there", and so that etcd's permissions can let clients read sets and aliases and nothing else.
"""

from muster.model.endpoint import ServiceKey
from muster.registry import names


class Layout:
    """The keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.sets = f"{prefix}/set/".encode()
        self.aliases = f"{prefix}/alias/".encode()
        self.claims = f"{prefix}/claim/".encode()
        self.beats = f"{prefix}/beat/".encode()

    def set_of(self, key: ServiceKey) -> bytes:
        """Return where the set of ``key`` lies."""
        return self.sets + _path(key)

    def alias_of(self, key: ServiceKey) -> bytes:
        """Return where it says what ``key`` stands for."""
        return self.aliases + _path(key)

    def claim_of(self, key: ServiceKey) -> bytes:
        """Return where it says who publishes ``key``."""
        return self.claims + _path(key)

    def beat_of(self, publisher: str) -> bytes:
        """Return where a publisher's heartbeat lies."""
        return self.beats + names.encode(publisher).encode()


def end_of(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with ``prefix``, which ends with a slash."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def service_key(path: bytes) -> ServiceKey | None:
    """Read ``account/service/port`` back, ``None`` for what does not look like that."""
    try:
        account, service, port = path.decode().split("/")
    except ValueError:
        return None
    return names.key_of(account, service, f"{port}.json") if account and service else None


def publisher(path: bytes) -> str:
    """Read a publisher's name back."""
    return names.decode(path.decode(errors="replace"))


def _path(key: ServiceKey) -> bytes:
    return f"{names.encode(key.account)}/{names.encode(key.service)}/{key.port}".encode()
