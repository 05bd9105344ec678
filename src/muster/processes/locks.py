"""One process per role and home, told by a lock that the kernel gives up when its holder dies.

A flock cannot be left behind by ``kill -9``, so "another one is running" is never a guess and a restart never waits
for a time-out. The holder writes who it is into the file. That text is trusted only while the lock is held *and* the
process it names lives: between taking the lock and writing, the file still names the holder before, whose pid may be a
stranger's by now.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from muster.engine.local_process import Identity
from muster.errors import SetupError

INGRESS_LOCK = "ingress.lock"
"""Named here, because who only asks for the holder need not load what an ingress is made of."""
_TRIES = 25
_PAUSE_SECONDS = 0.02
"""A killed holder keeps its lock until the last of its threads is gone, which a busy host may take its time for."""
_SILENT_SECONDS = 1.0
"""A holder needs microseconds to say who it is; this is for a host that is very busy."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock. ``url`` is empty until it serves; ``engine`` and ``note`` are for people to read."""

    process: Identity
    url: str
    engine: str = ""
    note: str = ""

    @property
    def pid(self) -> int:
        """Its pid, which is its own only as long as it lives."""
        return self.process.pid


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

    def tell(self, *, url: str = "", engine: str = "", note: str = "") -> None:
        """Write who holds the lock, for others to read."""
        assert self._descriptor is not None
        me = Identity.of(os.getpid())
        assert me is not None
        text = json.dumps({**asdict(me), "url": url, "engine": engine, "note": note}).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


def holder_of(path: Path) -> Holder | None:
    """Return the living process that holds the lock; ``None`` when nobody does.

    Asking takes the lock shared for an instant, which is why taking it tries more than once. Raises ``SetupError``
    when the holder cannot be seen from here.
    """
    deadline = time.monotonic() + _SILENT_SECONDS
    while _is_held(path):
        holder = _read(path)
        if holder is not None and _lives(holder.process):
            return holder
        if time.monotonic() > deadline:
            raise SetupError(f"{path} is held by a process that cannot be seen from here; is the home shared?")
        time.sleep(_PAUSE_SECONDS)
    return None


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lives(process: Identity) -> bool:
    descriptor = process.open()  # which takes a dying process for dead, though it may hold the lock a moment longer
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


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
        process = Identity(str(wire["boot_id"]), int(wire["pid"]), int(wire["start_time"]))
        return Holder(process, str(wire["url"]), str(wire.get("engine", "")), str(wire.get("note", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
