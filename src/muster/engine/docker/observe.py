"""What Docker says of an object, with what its folder notes → an ``Observation``. Pure.

Docker has one state for an object, we have one for each of its runs: an object that was made another container's and
has not been started for it is still "exited" of its last run. The card remembers the start time that Docker told when
the object changed hands; as long as Docker tells the same, the present run is only created.

The exit code alone does not say why a run ended; what else is known is its ``Cause`` (see ``causes``).
"""

import datetime
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from muster.engine.docker.folder import Card, Cause, Stopping, from_epoch
from muster.engine.docker.spec import IMAGE_DIGEST
from muster.model.container import Address, Reason
from muster.model.deployment import PORTS
from muster.model.run import Observation, Phase, Ref

NEVER_STARTED = "stopped before it was started"
_NEVER = "0001-01-01T00:00:00Z"
_RUNNING = frozenset({"running", "paused", "restarting"})
_TIME = re.compile(r"(.*?)(?:\.(\d{1,6})\d*)?Z")


def observation(
    ref: Ref, info: Mapping[str, Any], card: Card | None, stopping: Stopping | None, cause: Cause
) -> Observation:
    """Return what is there. ``info`` is Docker's inspection of the object."""
    state = info["State"]
    digest = (info["Config"]["Labels"] or {}).get(IMAGE_DIGEST, "")
    if not was_started(info, card):
        if stopping is None:
            return Observation(ref, Phase.CREATED, image_digest=digest)
        ended_at = from_epoch(stopping.begun_at)
        return Observation(ref, Phase.EXITED, finished_at=ended_at, message=NEVER_STARTED, image_digest=digest)
    started_at = parse_time(state["StartedAt"])
    if state["Status"] in _RUNNING:
        return Observation(ref, Phase.RUNNING, addresses(info), started_at, image_digest=digest)
    if cause.was_started_twice and card is not None and card.starting_at is not None:
        started_at = from_epoch(card.starting_at)
    reason, message = _why(state, cause) if stopping is None else (None, "")
    return Observation(
        ref,
        Phase.EXITED,
        started_at=started_at,
        finished_at=max(started_at, parse_time(state["FinishedAt"])),  # Docker takes the two at different places
        exit_code=None if cause.was_started_twice else int(state["ExitCode"]),
        reason=reason,
        message=message,
        image_digest=digest,
    )


def was_started(info: Mapping[str, Any], card: Card | None) -> bool:
    """Tell whether the object was started since it became this run."""
    started_at = info["State"]["StartedAt"]
    return started_at != _NEVER and (card is None or started_at != card.started_before)


def addresses(info: Mapping[str, Any]) -> Mapping[int, Address]:
    """Return where the container's ports answer; nothing while it has no address."""
    for network in info["NetworkSettings"]["Networks"].values():
        if network["IPAddress"]:
            return MappingProxyType({port: Address(network["IPAddress"], port) for port in PORTS})
    return MappingProxyType({})


def parse_time(text: str) -> datetime.datetime:
    """Read Docker's time: RFC 3339 in UTC with up to nine digits after the point."""
    match = _TIME.fullmatch(text)
    assert match is not None, text
    moment = datetime.datetime.fromisoformat(match[1]).replace(tzinfo=datetime.UTC)
    return moment.replace(microsecond=int((match[2] or "0").ljust(6, "0")))


def _why(state: Mapping[str, Any], cause: Cause) -> tuple[Reason | None, str]:
    """Return what the exit code alone does not tell; what came from outside goes before what may have been inside."""
    if cause.host_ended:
        return Reason.MACHINE_LOST, "the machine was restarted"
    if cause.engine_ended:
        return Reason.ENGINE_RESTARTED, "Docker was stopped or restarted, and ended it"
    if cause.killed_by:
        words = f"somebody had Docker send it signal {cause.killed_by} (docker stop, docker kill, or Docker's own end)"
        return Reason.KILLED_EXTERNALLY, words
    if cause.was_started_twice:
        return Reason.ERROR, "it was started twice and ran once; how it ended was not seen"
    if int(state["ExitCode"]) != 0 and (cause.had_oom or state["OOMKilled"]):
        return Reason.OOM_KILLED, "a process of it was killed because the container's memory was used up"
    return None, str(state["Error"] or "")
