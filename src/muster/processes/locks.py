"""One process per role and home, told by a lock that the kernel gives up when its holder dies.

A flock cannot be left behind by ``kill -9``, so "another one is running" is never a guess and a restart never waits
for a time-out. The holder writes who it is into the file; that text is trusted only while the lock is held.
"""

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from muster.errors import SetupError

_TRIES = 5
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock. ``url`` is empty until it serves."""

    pid: int
    url: str


class HomeLock:
    """Holds ``path`` locked while it is open; not inherited by child processes."""

    def __init__(self, path: Path, role: str) -> None:
        self._path = path
        self._role = role
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises ``SetupError`` when somebody has it, or when the folder cannot be written."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SetupError(
                f"{self._path.parent}: cannot be written ({error.strerror}); choose another folder with --home"
            ) from error
        if not _lock(descriptor):
            os.close(descriptor)
            holder = _read(self._path)
            who = f"process {holder.pid}" if holder else "another process"
            where = f" at {holder.url}" if holder and holder.url else ""
            raise SetupError(
                f"{who} already runs muster {self._role} on {self._path.parent}{where}; "
                "stop it, or choose another folder with --home"
            )
        self._descriptor = descriptor
        self.tell()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock up. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def tell(self, *, url: str = "") -> None:
        """Write who holds the lock, for others to read."""
        assert self._descriptor is not None
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


def holder_of(path: Path) -> Holder | None:
    """Return what the present holder of the lock wrote; ``None`` when nobody holds it.

    Asking takes the lock shared for an instant, which is why taking it tries more than once.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    else:
        return None
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
    return False


def _read(path: Path) -> Holder | None:
    try:
        wire = json.loads(path.read_text())
        return Holder(int(wire["pid"]), str(wire["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
