"""The daemon's events → hints that something changed, notes of what only events tell, and when the daemon was away.

Hints go to everybody who watches. Notes are for later (see ``causes``): Docker itself remembers its last 256 events and
none from before its start, and one container that is out of memory makes dozens of them.
"""

import asyncio
import datetime
import json
import signal
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection
from muster.engine.docker.folder import OOM, Heard, from_epoch
from muster.engine.docker.objects import Objects
from muster.engine.docker.spec import FOLDER, INSTALLATION
from muster.engine.inbox import Inbox
from muster.errors import EngineUnavailable
from muster.model.ids import ContainerId

_CHANGES = ("die", "destroy", "start", "rename")
_NOTED = ("oom", "kill")
_SPANS_KEPT = 10


class Watch:
    """Listens for as long as somebody reads the hints."""

    def __init__(self, connection: Connection, installation: str, objects: Objects) -> None:
        self._connection = connection
        self._installation = installation
        self._objects = objects
        self._inboxes: set[Inbox] = set()
        self._away_since: float | None = None
        self._without_memory: set[str] = set()
        self._away: list[tuple[datetime.datetime, datetime.datetime]] = []

    def hints(self) -> AsyncIterator[ContainerId]:
        """Yield ids of what changed from this call on; ends with ``close``. Raises ``EngineUnavailable``."""
        inbox = Inbox()
        self._inboxes.add(inbox)
        return self._hints(inbox, time.time())

    def hint(self, container_id: ContainerId) -> None:
        """Tell everybody who watches of a change that is our own doing."""
        for inbox in self._inboxes:
            inbox.put(container_id)

    def was_away(self, begin: datetime.datetime, end: datetime.datetime) -> bool:
        """Tell whether the daemon was gone at any time between these two, as far as was noticed."""
        spans = list(self._away)
        if self._away_since is not None:
            spans.append((from_epoch(self._away_since), datetime.datetime.now(datetime.UTC)))
        return any(left_at <= end and begin <= returned_at for left_at, returned_at in spans)

    def close(self) -> None:
        """End what everybody reads."""
        for inbox in tuple(self._inboxes):
            inbox.close()

    async def _hints(self, inbox: Inbox, since: float) -> AsyncIterator[ContainerId]:
        reader = asyncio.create_task(self._listen(inbox, since), name="docker events")
        try:
            while not inbox.is_closed:
                for container_id in inbox.take():
                    yield container_id
                waiter = asyncio.create_task(inbox.woken.wait())
                try:
                    await asyncio.wait({reader, waiter}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiter.cancel()
                if reader.done() and not inbox.is_closed:
                    reader.result()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._inboxes.discard(inbox)

    async def _listen(self, inbox: Inbox, since: float) -> None:
        """Turn the daemon's events into hints until they break off, which is told as ``EngineUnavailable``."""
        filters = {
            "type": ["container"],
            "event": [*_CHANGES, *_NOTED],
            "label": [f"{INSTALLATION}={self._installation}"],
        }
        try:
            async with self._connection.stream("events", {"since": f"{since:.9f}", "filters": filters}) as lines:
                self._returned()
                async for line in lines:
                    await self._hear(json.loads(line), inbox)
        except (aiohttp.ClientError, DockerError, OSError, ValueError) as error:
            self._left()
            raise EngineUnavailable(f"the events of Docker broke off: {error}") from error
        except EngineUnavailable:
            self._left()
            raise
        self._left()
        raise EngineUnavailable("the events of Docker ended")

    async def _hear(self, event: Mapping[str, Any], inbox: Inbox) -> None:
        attributes = event["Actor"]["Attributes"]
        folder = attributes.get(FOLDER, "")
        heard = heard_in(event)
        if heard is None:
            self._without_memory.discard(folder)
            parsed = self._objects.names.parse(attributes.get("name", ""))
            if parsed is not None:
                inbox.put(parsed[0])
        elif folder and not (heard.what == OOM and folder in self._without_memory):
            await asyncio.to_thread(self._objects.folder(folder).note, heard)
            if heard.what == OOM:
                self._without_memory.add(folder)

    def _left(self) -> None:
        if self._away_since is None:
            self._away_since = time.time()

    def _returned(self) -> None:
        if self._away_since is not None:
            span = (from_epoch(self._away_since), datetime.datetime.now(datetime.UTC))
            self._away = [*self._away[1 - _SPANS_KEPT :], span]
            self._away_since = None


def heard_in(event: Mapping[str, Any]) -> Heard | None:
    """Return what an event of Docker tells about the end of a run, if it does."""
    if event["Action"] == "oom":
        return Heard(event["timeNano"] / 1e9, OOM)
    if event["Action"] != "kill":
        return None
    word = str(event["Actor"]["Attributes"].get("signal", ""))  # a number with Docker, a name with others
    if not word.isdigit():
        name = f"SIG{word.removeprefix('SIG')}"
        word = str(int(signal.Signals[name])) if name in signal.Signals.__members__ else "0"
    return Heard(event["timeNano"] / 1e9, word)
