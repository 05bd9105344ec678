"""How aliases, claims and heartbeats are written down where a registry keeps text; pure.

An alias is ``{"schema":1,"target":{"account":…,"service":…,"port":…}}``, a claim ``[publisher, epoch]``, a heartbeat
``[count, seconds]``. Sets write themselves (``model/endpoint.py``).
"""

import json

from muster.errors import InvalidSpec
from muster.model.endpoint import ServiceKey
from muster.registry.port import Beat, Claim

ALIAS_SCHEMA = 1


def alias_to_text(target: ServiceKey) -> str:
    """Return what an alias of ``target`` holds."""
    wire = {"account": target.account, "service": target.service, "port": target.port}
    return json.dumps({"schema": ALIAS_SCHEMA, "target": wire}, separators=(",", ":"))


def alias_from_text(text: str | bytes) -> ServiceKey:
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


def claim_from_text(text: str | bytes) -> Claim:
    """Read a claim. Raises ``InvalidSpec`` for anything else."""
    try:
        publisher, epoch = json.loads(text)
        return Claim(str(publisher), int(epoch))
    except (ValueError, TypeError) as error:
        raise InvalidSpec("claim", f"is not one of ours: {error!r}") from error


def beat_to_text(beat: Beat) -> str:
    """Return what is stored for a heartbeat."""
    return json.dumps([beat.count, beat.seconds], separators=(",", ":"))


def beat_from_text(text: str | bytes) -> Beat:
    """Read a heartbeat. Raises ``InvalidSpec`` for anything else."""
    try:
        count, seconds = json.loads(text)
        return Beat(int(count), float(seconds))
    except (ValueError, TypeError) as error:
        raise InvalidSpec("heartbeat", f"is not one of ours: {error!r}") from error
