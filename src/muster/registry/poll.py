"""Tells watchers that files changed, by looking at them every 50 ms.

One round looks at the files of all watchers together, in a worker thread, so that hundreds of watched keys cost some
thousand ``stat`` calls a second and a slow disk slows the rounds, not the event loop. A signature is (inode, mtime,
size): a rename always brings another inode, so two writes within one tick of the file system's clock still differ.

The rounds are timers of the event loop, not a task: they start with the first subscriber and end with the last.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator

INTERVAL_SECONDS = 0.05
"""Half of the 100 ms that a change may take from the registry to the SDK."""

Signature = tuple[int, int, int]


def signature(path: str) -> Signature | None:
    """Return what tells one version of a file from another, ``None`` for a file that cannot be seen."""
    try:
        state = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


class Watched:
    """One subscriber's files, as it last saw them."""

    def __init__(self) -> None:
        self.files: dict[str, Signature | None] = {}
        self._changed = asyncio.Event()

    async def changed(self, files: dict[str, Signature | None]) -> None:
        """Return when one of ``files`` is no longer as given."""
        self.files = files
        self._changed.clear()
        await self._changed.wait()

    def wake(self) -> None:
        """Let the subscriber look again."""
        self._changed.set()


class Poller:
    """The rounds of one event loop."""

    def __init__(self, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._subscribers: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_looking = False

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[Watched]:
        """Look at a subscriber's files for as long as the context lasts."""
        watched = Watched()
        self._subscribers.add(watched)
        self._schedule()
        try:
            yield watched
        finally:
            self._subscribers.discard(watched)
            if not self._subscribers and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _schedule(self) -> None:
        if self._timer is None and not self._is_looking and self._subscribers:
            self._timer = asyncio.get_running_loop().call_later(self._interval_seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        self._is_looking = True
        wanted = [(watched, watched.files) for watched in self._subscribers]
        asyncio.get_running_loop().run_in_executor(None, _compare, wanted).add_done_callback(self._seen)

    def _seen(self, looking: "asyncio.Future[list[Watched]]") -> None:
        self._is_looking = False
        if not looking.cancelled():
            for watched in looking.result():
                watched.wake()
        self._schedule()


def _compare(wanted: list[tuple[Watched, dict[str, Signature | None]]]) -> list[Watched]:
    return [watched for watched, files in wanted if any(signature(path) != before for path, before in files.items())]
