"""Why a run ended, beside its exit code: out of Docker's events, what was noted of them, and when Docker was away.

Docker's inspection tells an exit code. That a worker was killed for want of memory, that somebody sent the signal, that
it was the daemon's own end: only events say so, of which Docker remembers the last 256 and none from before its own
start. So ``watch`` notes in the folder what it hears, and an answer, once found, is kept there too: it must not change
when events or processes are forgotten.

A daemon that ends sends TERM and KILL to its containers, and one that was killed does so when it is back, unless it
restores them. A container that ended by itself meanwhile got no signal: it is told by its exit code.

``State.OOMKilled`` is of the first process alone with some versions, hence the events; an exit code of 0 means that the
command coped with it.
"""

import asyncio
import datetime
import json
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from muster.engine.docker.connection import Connection
from muster.engine.docker.folder import OOM, Cause, Heard, boot_id, booted_at, from_epoch
from muster.engine.docker.objects import Thing
from muster.engine.docker.observe import parse_time
from muster.engine.docker.watch import Watch, heard_in

STARTED_TWICE = 254
"""What ``entry.sh`` ends with when its run has been started before."""

_ENDING = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM})
_KILLED = frozenset({128 + signal.SIGTERM, 128 + signal.SIGKILL})
_SLACK = datetime.timedelta(seconds=1)
"""Docker takes the time of an event a little after that of what it tells."""
_LONGEST_GOODBYE = datetime.timedelta(minutes=10)
"""A signal this long before the end was not the end's cause: the command has ignored it."""
_DAEMON_END = datetime.timedelta(seconds=20)
"""dockerd gives its containers 15 s before it ends itself."""


class Causes:
    """Finds causes, and remembers them."""

    def __init__(self, connection: Connection, watch: Watch) -> None:
        self._connection = connection
        self._watch = watch

    async def of(self, thing: Thing) -> Cause:
        """Return what is known of the end of a run that was not ordered."""
        started_at = thing.info["State"]["StartedAt"]
        cause = await asyncio.to_thread(thing.folder.end, started_at)
        if cause is None:
            cause = await self._find(thing)
            await asyncio.to_thread(thing.folder.write_end, started_at, cause)
        return cause

    async def _find(self, thing: Thing) -> Cause:
        state = thing.info["State"]
        begun_at, ended_at = parse_time(state["StartedAt"]), parse_time(state["FinishedAt"])
        if thing.card is not None and thing.card.starting_at is not None:
            begun_at = from_epoch(thing.card.starting_at)
        told = await self._told(thing.docker_id, begun_at, ended_at + _SLACK)
        noted = await asyncio.to_thread(thing.folder.heard)
        heard = [each for each in (*told, *noted) if begun_at <= from_epoch(each.at) <= ended_at + _SLACK]
        code = int(state["ExitCode"])
        killed_by = _ending_signal(heard, ended_at, code)
        return Cause(
            had_oom=any(each.what == OOM for each in heard),
            killed_by=killed_by,
            engine_ended=await self._was_ended_by_engine(ended_at, killed_by, code),
            host_ended=_was_ended_by_host(thing, ended_at, code),
            was_started_twice=code == STARTED_TWICE
            and await asyncio.to_thread(thing.folder.was_started_twice, thing.ref),
        )

    async def _was_ended_by_engine(self, ended_at: datetime.datetime, killed_by: int, code: int) -> bool:
        if killed_by:
            return self._watch.was_away(ended_at - _SLACK, ended_at + _DAEMON_END)
        if code not in _KILLED or not self._watch.was_away(ended_at - _SLACK, ended_at):
            return False
        # Its signal may have been forgotten already: a host with many containers has more than 256 events at once.
        return not (await self._connection.call("GET", "info")).get("LiveRestoreEnabled", False)

    async def _told(self, docker_id: str, since: datetime.datetime, until: datetime.datetime) -> Sequence[Heard]:
        now = datetime.datetime.now(datetime.UTC)
        params = {
            "since": f"{since.timestamp():.9f}",
            "until": f"{min(until, now).timestamp():.9f}",
            "filters": {"container": [docker_id], "event": ["kill", "oom"]},
        }
        events = _json_lines(await self._connection.call("GET", "events", params=params))
        return [heard for each in events if (heard := heard_in(each)) is not None]


def _ending_signal(heard: Sequence[Heard], ended_at: datetime.datetime, code: int) -> int:
    """Return the last signal that may have been the cause of an end, 0 if there is none."""
    earliest = (ended_at - _LONGEST_GOODBYE).timestamp()
    signals = [
        int(each.what) for each in sorted(heard, key=lambda each: each.at) if each.what != OOM and each.at >= earliest
    ]
    return next((number for number in reversed(signals) if number in _ENDING or code == 128 + number), 0)


def _was_ended_by_host(thing: Thing, ended_at: datetime.datetime, code: int) -> bool:
    """Tell whether a restart of the machine ended a run; Docker dates an end that it missed when it is back."""
    if thing.card is None or thing.card.boot_id in ("", boot_id()):
        return False
    return code in _KILLED or ended_at >= booted_at()


def _json_lines(text: Any) -> list[Mapping[str, Any]]:
    """Read one or several JSON values: Docker's list of events has no commas."""
    if isinstance(text, dict):
        return [text]
    return [json.loads(line) for line in str(text or "").splitlines() if line.strip()]
