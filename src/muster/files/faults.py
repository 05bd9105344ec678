"""What the file system says, in our errors: whose mistake it was, and what to do about it.

A caller may have named what is not there or not a file (``RequestError``); or the disk is full, read-only or broken,
which no other request changes (``StorageError``).
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from muster.errors import Conflict, InvalidSpec, MusterError, NotFound, StorageError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM})
_NO_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})


@contextlib.contextmanager
def of_storage(root: Path) -> Iterator[None]:
    """Say what is wrong with the storage as a whole."""
    try:
        yield
    except OSError as error:
        raise _storage_error(str(root), error) from error


@contextlib.contextmanager
def of_path(path: str) -> Iterator[None]:
    """Say what is wrong with what a caller named."""
    try:
        yield
    except OSError as error:
        raise _path_error(path, error) from error


def _storage_error(where: str, error: OSError) -> StorageError:
    if error.errno in _NO_SPACE:
        return StorageError(f"{where}: no space is left in the file storage")
    if error.errno == errno.EROFS:
        return StorageError(f"{where}: the file storage is read-only")
    if error.errno in _NOT_ALLOWED:
        return StorageError(f"{where}: the server's user may not use this folder ({error.strerror})")
    return StorageError(f"{where}: the file storage does not work: {error.strerror or error}")


def _path_error(path: str, error: OSError) -> MusterError:
    if isinstance(error, FileNotFoundError):
        return NotFound("file", path)
    if isinstance(error, IsADirectoryError):
        return Conflict(f"{path}: is a folder")
    if isinstance(error, BlockingIOError):
        return Conflict(f"{path}: is held by a program that has leased it; try again")
    if error.errno in _NO_FOLDER:
        part = f"{error.filename!r}" if isinstance(error.filename, str) else "a part of it"
        return Conflict(f"{path}: {part} is no folder (links are not followed)")
    if error.errno == errno.ENOTEMPTY:
        return Conflict(f"{path}: something is being written into it; try again")
    if error.errno == errno.ENAMETOOLONG:
        return InvalidSpec("path", "has a name that is too long for the file storage")
    if error.errno in _NOT_ALLOWED:
        return Conflict(f"{path}: the server's user may not do this (containers write as root, so it should be root)")
    return _storage_error(path, error)
