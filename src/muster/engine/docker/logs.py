"""What a container wrote, out of Docker's log: its present run only.

Docker keeps one log for all runs of an object, with a time for every line; a run's begins where its start was ordered.
Docker does not follow what has not been started yet, so a reader waits for that first.
"""

import datetime
from collections.abc import AsyncIterator

from muster.engine.docker.connection import Connection
from muster.engine.docker.folder import from_epoch
from muster.engine.docker.objects import Thing
from muster.engine.docker.observe import parse_time

_HEADER_BYTES = 8


async def read(
    connection: Connection, thing: Thing, *, tail: int | None, since: datetime.datetime | None, follow: bool
) -> AsyncIterator[bytes]:
    """Yield the output of a run that was started."""
    begin = _begin(thing)
    begin = begin if since is None else max(begin, since)
    params = {
        "stdout": True,
        "stderr": True,
        "follow": follow,
        "tail": "all" if tail is None else tail,
        "since": f"{begin.timestamp():.9f}",
    }
    async with connection.stream(f"containers/{thing.docker_id}/logs", params) as content:
        while header := await content.read(_HEADER_BYTES):
            if len(header) < _HEADER_BYTES:
                header += await content.readexactly(_HEADER_BYTES - len(header))
            yield await content.readexactly(int.from_bytes(header[4:], "big"))


def _begin(thing: Thing) -> datetime.datetime:
    if thing.card is not None and thing.card.starting_at is not None:
        return from_epoch(thing.card.starting_at)
    return parse_time(thing.info["State"]["StartedAt"])
