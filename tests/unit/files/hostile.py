"""What a container may plant in its account's folder: everything that root can make in a folder of its own."""

import contextlib
import os
from pathlib import Path

SECRET = b"only the host knows"


def left(folder: Path) -> list[str]:
    """Return what is in a folder."""
    return sorted(each.name for each in folder.iterdir())


def open_descriptors() -> int:
    """Return how many files and folders this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Host:
    """A folder of the host with a secret beside the storage, and a picture of it to compare with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "host"
        (self.folder / "private").mkdir(parents=True)
        (self.folder / "secret").write_bytes(SECRET)
        (self.folder / "private" / "key").write_bytes(SECRET)
        self._before = self._picture()

    def check_untouched(self) -> None:
        assert self._picture() == self._before

    def _picture(self) -> list[tuple[str, int, int, bytes]]:
        found = sorted(self.folder.rglob("*"))
        return [
            (str(path), path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in found
        ]


def plant(kind: str, at: Path, host: Host) -> None:
    """Make one thing at a path without a link in it; what cannot be there is not made."""
    if os.path.realpath(at.parent) != str(at.parent):
        return
    with contextlib.suppress(OSError):
        match kind:
            case "file":
                at.touch(exist_ok=False)
            case "folder":
                at.mkdir()
            case "fifo":
                os.mkfifo(at)
            case "link to a file":
                at.symlink_to(host.folder / "secret")
            case "link to a folder":
                at.symlink_to(host.folder)
            case "link upwards":
                at.symlink_to("../" * 12 + str(host.folder).lstrip("/"))
            case "link to itself":
                at.symlink_to(at.name)
            case "hard link":
                at.with_name("twin").touch(exist_ok=False)
                at.hardlink_to(at.with_name("twin"))
            case _:
                raise AssertionError(kind)


KINDS = ["file", "folder", "fifo", "link to a file", "link to a folder", "link upwards", "link to itself", "hard link"]
