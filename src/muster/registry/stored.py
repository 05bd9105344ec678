"""How aliases, claims and heartbeats are written down where a registry keeps text; pure.

An alias is ``{"schema":1,"target":{"account":…,"service":…,"port":…}}``, a claim ``[publisher, epoch]``, a heartbeat
``[count, seconds]``. Sets write themselves (``model/endpoint.py``).
"""

import json
import math
from typing import Any

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
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidSpec("alias", f"is not one of ours: {error!r}") from error


def claim_to_text(claim: Claim) -> str:
    """Return what is stored for a claim."""
    return json.dumps([claim.publisher, claim.epoch], separators=(",", ":"))


def claim_from_text(text: str | bytes) -> Claim:
    """Read a claim. Raises ``InvalidSpec`` for anything else."""
    return claim_from_wire(_json("claim", text))


def claim_from_wire(wire: Any) -> Claim:
    """Read a claim that was parsed. Raises ``InvalidSpec`` for anything else."""
    match wire:
        case [str(publisher), int(epoch)]:
            return Claim(publisher, epoch)
    raise InvalidSpec("claim", "is not one of ours")


def beat_to_text(beat: Beat) -> str:
    """Return what is stored for a heartbeat."""
    return json.dumps([beat.count, beat.seconds], separators=(",", ":"))


def beat_from_text(text: str | bytes) -> Beat:
    """Read a heartbeat. Raises ``InvalidSpec`` for anything else."""
    return beat_from_wire(_json("heartbeat", text))


def beat_from_wire(wire: Any) -> Beat:
    """Read a heartbeat that was parsed. Raises ``InvalidSpec`` for anything else."""
    match wire:
        case [int(count), int(seconds) | float(seconds)] if math.isfinite(seconds):
            return Beat(count, float(seconds))
    raise InvalidSpec("heartbeat", "is not one of ours")


def _json(what: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(what, f"is not one of ours: {error!r}") from error
