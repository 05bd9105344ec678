"""One file's content on its way out or in; one that comes in is not there until it is whole."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from muster.errors import Conflict
from muster.files.entry import Entry, Kind, entry, kind_of
from muster.files.faults import of_path

CHUNK_BYTES = 1 << 18


class OpenFile:
    """A regular file that is being read; use it as a context manager, or close it."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self.size_bytes = os.fstat(file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield exactly ``size_bytes`` of content. Raises ``Conflict`` when it has become shorter meanwhile."""
        left = self.size_bytes
        with of_path(self._path):
            while left and (chunk := self._file.read(min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
        if left:
            raise Conflict(f"{self._path}: became shorter while it was read")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Upload:
    """A file to be, which takes its name when it is complete; closing it before leaves nothing behind."""

    def __init__(self, folder: int, name: str, path: str, mode: int) -> None:
        """Begin; ``folder`` is an open one, owned from now on."""
        self._folder = folder
        self._name = name
        self._path = path
        self._mode = mode & 0o777
        self._draft = f".muster-upload-{secrets.token_hex(8)}"
        try:
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, chunk: bytes) -> None:
        """Add to the content. Raises ``StorageError``."""
        with of_path(self._path):
            self._file.write(chunk)

    def commit(self) -> Entry:
        """Put the file in its place, on the disk. Raises ``Conflict`` when something else than a file is there."""
        with of_path(self._path):
            self._file.flush()
            os.fchmod(self._file.fileno(), self._mode)
            os.fsync(self._file.fileno())
            check_replaceable(self._folder, self._name, self._path)
            os.rename(self._draft, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            _flush_folder(self._folder)
            return entry(self._name, os.fstat(self._file.fileno()))

    def close(self) -> None:
        """Let go of everything, and of the draft if it is still one."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):  # what is not written by now is not wanted
            self._file.close()
        with contextlib.suppress(OSError):  # renamed, as it should be; or gone with its folder
            os.unlink(self._draft, dir_fd=self._folder)
        os.close(self._folder)


def check_replaceable(folder: int, name: str, path: str) -> None:
    """Raise ``Conflict`` for what a file would replace to somebody's surprise."""
    with contextlib.suppress(FileNotFoundError):
        kind = kind_of(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if kind is not Kind.FILE:
            raise Conflict(f"{path}: is {kind.described()}, only files are replaced")


def _flush_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems need none
            raise
