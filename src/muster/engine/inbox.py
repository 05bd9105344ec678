"""What one watcher of an engine has not been told yet."""

import asyncio

from muster.model.ids import ContainerId


class Inbox:
    """Hints for one watcher, each id once; for one event loop."""

    def __init__(self) -> None:
        self._ids: dict[ContainerId, None] = {}
        self.woken = asyncio.Event()
        self.is_closed = False

    def put(self, container_id: ContainerId) -> None:
        """Add a hint."""
        self._ids[container_id] = None
        self.woken.set()

    def take(self) -> list[ContainerId]:
        """Return what has come since the last time, oldest first."""
        ids = list(self._ids)
        self._ids.clear()
        if not self.is_closed:
            self.woken.clear()
        return ids

    def close(self) -> None:
        """Let the watcher end, now and for ever."""
        self.is_closed = True
        self.woken.set()
