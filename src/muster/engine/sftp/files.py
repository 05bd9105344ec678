"""What SFTP does to files: opening, reading, listing, changing. Blocks; errors are ``OSError``.

In: paths as bytes and attributes of ``wire``. Out: descriptors and attributes. Only regular files and folders are ever
opened: inside a container this process is not held by the container's device rules, so a device node there, which an
image may bring along, would be the host's device. What may be one is looked at before it is opened and after, and a
FIFO is opened without waiting for its other end. Everything that does not open (rename, chmod, …) is as the kernel has
it; symbolic links and ``..`` end at the root of the container, because the process was put into it.

Owners are numbers and times are UTC: names of users, and time zones, would be read from files of the container by
libraries of ours.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH108, PTH116
# names are bytes, which pathlib does not take.

import errno
import os
import stat
import time

from muster.engine.sftp.wire import Attributes, Open

_DEFAULT_MODE = 0o666
_DEFAULT_FOLDER_MODE = 0o777
_MODE_BITS = 0o7777
_SAFE = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HALF_A_YEAR_SECONDS = 182 * 86400
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def open_file(path: bytes, how: int, attributes: Attributes) -> int:
    """Open a regular file; returns its descriptor."""
    flags = _flags(how)
    mode = _DEFAULT_MODE if attributes.permissions is None else attributes.permissions & _MODE_BITS
    try:
        _check_regular(os.stat(path))
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    descriptor = os.open(path, flags | _SAFE, mode)
    try:
        _check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class Listing:
    """An open folder, whose entries are taken a few at a time."""

    def __init__(self, path: bytes) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)  # its entries are looked at through it
        try:
            self._entries = os.scandir(self._descriptor)
        except OSError:
            os.close(self._descriptor)
            raise

    def take(self, count: int) -> list[tuple[bytes, bytes, Attributes]]:
        """Return the next entries, each with a line for people; none at the end."""
        now = time.time()
        taken = []
        for entry in self._entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            name = os.fsencode(entry.name)
            taken.append((name, _line(name, found, now), attributes_of(found)))
            if len(taken) == count:
                break
        return taken

    def close(self) -> None:
        """Let go of it."""
        self._entries.close()
        os.close(self._descriptor)


def attributes_of(found: os.stat_result) -> Attributes:
    """Return what the kernel tells of a file."""
    times = int(found.st_atime), int(found.st_mtime)
    return Attributes(found.st_size, (found.st_uid, found.st_gid), found.st_mode, times)


def change(path: bytes, attributes: Attributes) -> None:
    """Set attributes of a file, following links."""
    if attributes.size is not None:
        descriptor = open_file(path, Open.WRITE, Attributes())
        try:
            os.ftruncate(descriptor, attributes.size)
        finally:
            os.close(descriptor)
    _change(path, attributes)


def change_open(descriptor: int, attributes: Attributes) -> None:
    """Set attributes of what is open."""
    if attributes.size is not None:
        os.ftruncate(descriptor, attributes.size)
    _change(descriptor, attributes)


def make_folder(path: bytes, attributes: Attributes) -> None:
    """Make a folder."""
    permissions = attributes.permissions
    os.mkdir(path, _DEFAULT_FOLDER_MODE if permissions is None else permissions & _MODE_BITS)


def rename_new(old: bytes, new: bytes) -> None:
    """Rename, but never onto something that is there, as version 3 of the protocol has it."""
    if stat.S_ISREG(os.lstat(old).st_mode):
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EXDEV, errno.EMLINK}:
                raise
        else:
            os.unlink(old)
            return
    try:
        os.lstat(new)
    except FileNotFoundError:
        os.rename(old, new)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it at that place; where the file was opened to append, at the end."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _flags(how: int) -> int:
    flags = {Open.WRITE: os.O_WRONLY, Open.READ | Open.WRITE: os.O_RDWR}.get(how & 3, os.O_RDONLY)
    if how & Open.APPEND:
        flags |= os.O_APPEND
    if how & Open.CREAT:
        flags |= os.O_CREAT | (os.O_EXCL if how & Open.EXCL else 0)
    if how & Open.TRUNC:
        flags |= os.O_TRUNC
    return flags


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError(errno.EACCES, "is no regular file: devices, pipes and sockets are not opened")


def _change(target: bytes | int, attributes: Attributes) -> None:
    """Set all but the size: the owner first, which clears set-user bits, and times last, which all else changes."""
    if attributes.owner is not None:
        os.chown(target, *attributes.owner)
    if attributes.permissions is not None:
        os.chmod(target, attributes.permissions & _MODE_BITS)
    if attributes.times is not None:
        os.utime(target, attributes.times)


def _line(name: bytes, found: os.stat_result, now: float) -> bytes:
    """Return what ``ls -l`` would write, with numbers for users: clients show it as it is."""
    at = time.gmtime(min(max(found.st_mtime, 0), 0xFFFFFFFF))
    is_recent = now - _HALF_A_YEAR_SECONDS < found.st_mtime <= now
    hour = b"%02d:%02d" % (at.tm_hour, at.tm_min) if is_recent else b"%5d" % at.tm_year
    when = b"%s %2d %s" % (_MONTHS[at.tm_mon - 1], at.tm_mday, hour)
    mode = stat.filemode(found.st_mode).encode()
    owner = b"%-8d %-8d" % (found.st_uid, found.st_gid)
    return b"%s %3d %s %8d %s %s" % (mode, found.st_nlink, owner, found.st_size, when, name)
