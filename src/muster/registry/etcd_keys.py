"""Where things lie in etcd, and what they look like; pure.

::

    <prefix>/set/<account>/<service>/<port>      an endpoint set (docs/endpoint-set.md)
    <prefix>/alias/<account>/<service>/<port>    {"schema":1,"target":{"account":…,"service":…,"port":…}}
    <prefix>/claim/<account>/<service>/<port>    [publisher, epoch]
    <prefix>/beat/<publisher>                    [count, seconds]

Names are encoded as the file registry encodes them (``names.py``). The four kinds lie apart, so that one range read
answers "which sets are there", and so that etcd's permissions can let clients read sets and aliases and nothing else.
"""

import json

from muster.errors import InvalidSpec
from muster.model.endpoint import ServiceKey
from muster.registry import names
from muster.registry.port import Beat, Claim

ALIAS_SCHEMA = 1


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


def alias_to_text(target: ServiceKey) -> str:
    """Return what an alias of ``target`` holds."""
    wire = {"account": target.account, "service": target.service, "port": target.port}
    return json.dumps({"schema": ALIAS_SCHEMA, "target": wire}, separators=(",", ":"))


def alias_from_text(text: bytes) -> ServiceKey:
    """Read an alias. Raises ``InvalidSpec`` for anything else, and for one of a newer schema."""
    try:
        wire = json.loads(text)
        if wire["schema"] > ALIAS_SCHEMA:
            raise InvalidSpec("alias", f"schema {wire['schema']} is newer than {ALIAS_SCHEMA}: upgrade muster")
        target = wire["target"]
        return ServiceKey(str(target["account"]), str(target["service"]), int(target["port"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidSpec("alias", f"is not one of ours: {error!r}") from error


def claim_to_text(claim: Claim) -> str:
    """Return what is stored for a claim."""
    return json.dumps([claim.publisher, claim.epoch], separators=(",", ":"))


def claim_from_text(text: bytes) -> Claim:
    """Read a claim. Raises ``InvalidSpec`` for anything else."""
    try:
        owner, epoch = json.loads(text)
        return Claim(str(owner), int(epoch))
    except (ValueError, TypeError) as error:
        raise InvalidSpec("claim", f"is not one of ours: {error!r}") from error


def beat_to_text(beat: Beat) -> str:
    """Return what is stored for a heartbeat."""
    return json.dumps([beat.count, beat.seconds], separators=(",", ":"))


def beat_from_text(text: bytes) -> Beat:
    """Read a heartbeat. Raises ``InvalidSpec`` for anything else."""
    try:
        count, seconds = json.loads(text)
        return Beat(int(count), float(seconds))
    except (ValueError, TypeError) as error:
        raise InvalidSpec("heartbeat", f"is not one of ours: {error!r}") from error


def _path(key: ServiceKey) -> bytes:
    return f"{names.encode(key.account)}/{names.encode(key.service)}/{key.port}".encode()
