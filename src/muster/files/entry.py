r"""What there is at a path: names, kinds, sizes, times, as plain values.

Names that are not UTF-8 are shown with their odd bytes as ``\xff``; nobody can name them, but their folder.
"""

import datetime
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_PERMISSIONS = 0o777
_LATEST = datetime.datetime.max.replace(tzinfo=datetime.UTC) - datetime.timedelta(days=1)  # also in other zones
_EARLIEST = datetime.datetime.min.replace(tzinfo=datetime.UTC) + datetime.timedelta(days=1)


class Kind(StrEnum):
    """What an entry is; ``other`` are FIFOs, sockets and devices."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"

    def described(self) -> str:
        """Return it as part of a sentence."""
        return "a FIFO, a socket or a device" if self is Kind.OTHER else f"a {self.value}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder. ``mode`` is the permission bits."""

    name: str
    kind: Kind
    size_bytes: int
    modified_at: datetime.datetime
    mode: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What a path leads to, and of a folder the entries by name; ``is_complete`` unless more follow the last one."""

    itself: Entry
    entries: Sequence[Entry] = ()
    is_complete: bool = True


def entry(name: str, found: os.stat_result) -> Entry:
    """Read what the file system says of a name."""
    moment = moment_of(found.st_mtime_ns)
    return Entry(shown(name), kind_of(found.st_mode), found.st_size, moment, found.st_mode & _PERMISSIONS)


def kind_of(mode: int) -> Kind:
    """Return the kind that a mode holds."""
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.FOLDER
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER


def moment_of(nanoseconds: int) -> datetime.datetime:
    """Return a time of change; anybody may set one to the year 300000, which no calendar of ours holds."""
    try:
        moment = datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return _LATEST if nanoseconds > 0 else _EARLIEST
    return min(_LATEST, max(_EARLIEST, moment))


def shown(name: str) -> str:
    """Return a name as text that can be sent."""
    return os.fsencode(name).decode(errors="backslashreplace")
