"""Where the files of accounts lie: one folder per account and data center, below one root of this host.

::

    <root>/.muster-storage             the marker of a shared mount that the operator named
    <root>/<data center>/<account>/    what all containers of the account there see at /root/autodl-fs

In: the root, an account, a data center. Out: a folder that exists, to be mounted; or a ``FileTree`` over it.

**The marker.** A mount that is not mounted is an empty folder of the root disk: writing there fills that disk, and
hides the files as soon as the mount is back. So a root that the operator named is used only while it holds the marker,
and is never made. The marker is looked for in the very folder that is then walked down, by descriptor, so that a mount
that goes away in between changes nothing. Whoever mounts the returned path must not make it either.

**Modes.** Root and data centers are 0700, so that nobody else on the host reaches anybody's files. What belongs to an
account is 0755: a command in a container may have put root away and still wants to read it.

Refused: quotas (the file system's affair), mounting (the operator's), account names as folders (they may change).
"""

import contextlib
import os
import re
from pathlib import Path

from muster.errors import StorageError
from muster.files import faults
from muster.files.folder import FOLDER
from muster.files.tree import FileTree
from muster.model.ids import AccountId

MARKER = ".muster-storage"

_OURS = 0o700
_THEIRS = 0o755


class FileStorage:
    """The storage of all accounts; ``public`` is a folder that all containers may read. Touches nothing when made."""

    def __init__(self, root: Path, *, needs_marker: bool, public: Path | None = None) -> None:
        self._root = root
        self._needs_marker = needs_marker
        self._public = public

    def folder(self, account_id: AccountId, data_center: str) -> Path:
        """Return the folder of an account in a data center, made if it is not there.

        Raises ``StorageError``, also when nothing could be written there.
        """
        opened = self._open(account_id, data_center)
        try:
            is_read_only = bool(os.fstatvfs(opened).f_flag & os.ST_RDONLY)
        finally:
            os.close(opened)
        if is_read_only:
            raise StorageError(f"{self._root}: the file storage is read-only")
        return self._root / segment(data_center) / str(account_id)

    def tree(self, account_id: AccountId, data_center: str) -> FileTree:
        """Return the files of an account in a data center; each call on them may raise ``StorageError``."""
        return FileTree(lambda: self._open(account_id, data_center))

    def public_folder(self) -> Path | None:
        """Return the folder for all, ``None`` if there is none. Raises ``StorageError`` when it is not there."""
        if self._public is not None and not self._public.is_dir():
            raise StorageError(f"{self._public}: the folder of public data is not there; is it mounted?")
        return self._public

    def _open(self, account_id: AccountId, data_center: str) -> int:
        with faults.of_storage(self._root):
            folder = self._open_root()
            for name, mode in ((segment(data_center), _OURS), (str(account_id), _THEIRS)):
                try:
                    below = _open_or_make(name, mode, folder)
                finally:
                    os.close(folder)
                folder = below
            return folder

    def _open_root(self) -> int:
        if not self._needs_marker:
            self._root.mkdir(mode=_OURS, parents=True, exist_ok=True)
            return os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError as error:
            raise StorageError(f"{self._root}: there is no such folder; is the file storage mounted?") from error
        try:
            self._check_marker(root)
        except BaseException:
            os.close(root)
            raise
        return root

    def _check_marker(self, root: int) -> None:
        try:
            os.stat(MARKER, dir_fd=root)
        except FileNotFoundError as error:
            marker = self._root / MARKER
            hint = f"is the file storage mounted? if this is the right folder: touch {marker}"
            raise StorageError(f"{marker} is missing: {hint}") from error


def segment(name: str) -> str:
    """Return a data center's name as the name of one folder; ``urllib.parse.unquote`` gives it back."""
    return re.sub(r"[%/\x00-\x1f\x7f]|^\.", lambda found: f"%{ord(found[0]):02X}", name)


def _open_or_make(name: str, mode: int, folder: int) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=folder)
        os.chmod(name, mode, dir_fd=folder)  # what the umask took away
    return os.open(name, FOLDER, dir_fd=folder)
