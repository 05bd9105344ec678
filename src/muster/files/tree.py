"""One account's files in one data center, touched from outside the containers that share them.

In: paths as callers write them. Out: entries, contents; or what speaks against it, as ``RequestError``.

Containers write here as root while we look. They plant links that lead out of the folder, FIFOs that never answer,
devices that act when they are opened, trees ten thousand levels deep, and they swap one for another between our looking
and our opening. So nothing is done by path:

* A path is walked one name at a time, each opened relative to the one before and never through a link; ``..`` is
  refused. What was reached this way lies in the account's folder and stays there: a container can neither rename nor
  hard-link across its mounts.
* A file is opened by ``O_PATH`` first, which touches nothing, and for reading only if that is a regular file.
* A file is written beside its place and renamed into it, so readers see the old or the new one, and what bore the name
  is replaced and never written through.
* Removal (``removal``) follows no link and holds a bounded number of descriptors.

An upload that was cut off by a crash leaves a ``.muster-upload-…`` behind, which anybody may remove. Refused:
``O_TMPFILE``, which would not, but network file systems lack it; and ``openat2``, which Python does not have.
"""

import contextlib
import heapq
import os
from collections.abc import Callable, Iterator, Sequence

from muster.errors import Conflict, InvalidSpec
from muster.files.content import OpenFile, Upload, check_replaceable
from muster.files.entry import Entry, Kind, Listing, entry, kind_of, shown
from muster.files.faults import of_path
from muster.files.folder import FOLDER
from muster.files.removal import remove_folder

PAGE = 1000


class FileTree:
    """Everything below one folder, which ``open_root`` opens; the descriptor is then this class's to close.

    Paths are relative to it, with or without a leading slash. Every method may raise ``RequestError``, and
    ``StorageError`` when it is the storage that does not work.
    """

    def __init__(self, open_root: Callable[[], int]) -> None:
        self._open_root = open_root

    def list(self, path: str, *, after: str = "", limit: int = PAGE) -> Listing:
        """Return what is at a path, and of a folder the first ``limit`` entries whose names follow ``after``."""
        itself = self.stat(path)
        if itself.kind is not Kind.FOLDER:
            return Listing(itself)
        with of_path(path), self._at(_parts(path)) as folder:
            with os.scandir(folder) as found:
                names = heapq.nsmallest(limit + 1, _names_after(found, after))
            entries = [each for _, name in names[:limit] for each in _if_there(name, folder)]
        return Listing(itself, entries, is_complete=len(names) <= limit)

    def stat(self, path: str) -> Entry:
        """Return what is at a path; of a link the link."""
        parts = _parts(path)
        with of_path(path), self._at(parts[:-1]) as above:
            return _stat(above, parts[-1]) if parts else entry("", os.fstat(above))

    def read(self, path: str) -> OpenFile:
        """Open a regular file for reading."""
        *above, name = _named(path)
        with of_path(path), self._at(above) as folder:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
            try:
                kind = kind_of(os.fstat(handle).st_mode)
                if kind is not Kind.FILE:
                    raise Conflict(f"{path}: is {kind.described()}, only files can be read")
                # The very inode that was looked at. Not to wait: a container may hold a lease on it.
                descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK)
            finally:
                os.close(handle)
            return OpenFile(os.fdopen(descriptor, "rb", buffering=0), path)

    def write(self, path: str, *, mode: int = 0o644) -> Upload:
        """Begin to write a file, in folders that are made where they are missing."""
        *above, name = _named(path)
        with of_path(path), self._at(above, makes=True) as folder:
            check_replaceable(folder, name, path)
            return Upload(os.dup(folder), name, path, mode)

    def make_folder(self, path: str) -> Entry:
        """Make a folder and those above it; one that is there stays as it is."""
        parts = _parts(path)
        with of_path(path), self._at(parts, makes=True) as folder:
            return entry(parts[-1] if parts else "", os.fstat(folder))

    def remove(self, path: str, *, is_recursive: bool = False) -> Entry:
        """Remove a file, a link, or with ``is_recursive`` a folder with everything in it; return what it was."""
        *above, name = _named(path)
        with of_path(path), self._at(above) as folder:
            removed = _stat(folder, name)
            if removed.kind is not Kind.FOLDER:
                os.unlink(name, dir_fd=folder)
            elif is_recursive:
                remove_folder(name, folder)
            else:
                raise Conflict(f"{path}: is a folder: remove it recursively (-r)")
        return removed

    @contextlib.contextmanager
    def _at(self, parts: Sequence[str], *, makes: bool = False) -> Iterator[int]:
        """Walk down to a folder and hold it open."""
        folder = self._open_root()
        try:
            for name in parts:
                if makes:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=folder)
                below = os.open(name, FOLDER, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


def _parts(path: str) -> list[str]:
    """Return the names on a path. Raises ``InvalidSpec`` for what could lead out of the folder, or is no name."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise InvalidSpec("path", "must not go up by '..'")
    if "\0" in path:
        raise InvalidSpec("path", "holds a NUL character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise InvalidSpec("path", "holds half of a surrogate pair") from error
    return parts


def _named(path: str) -> list[str]:
    """Return the names on a path that is not the whole folder."""
    parts = _parts(path)
    if not parts:
        raise InvalidSpec("path", "is the whole storage: name something in it")
    return parts


def _names_after(found: Iterator[os.DirEntry[str]], after: str) -> Iterator[tuple[str, str]]:
    """Yield names, as they are shown and as they are."""
    return ((shown(each.name), each.name) for each in found if shown(each.name) > after)


def _stat(folder: int, name: str) -> Entry:
    return entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False))


def _if_there(name: str, folder: int) -> Iterator[Entry]:
    """Yield an entry that was there a moment ago."""
    with contextlib.suppress(FileNotFoundError):
        yield _stat(folder, name)
