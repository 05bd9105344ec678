"""One SFTP session: answers each packet with another, in order. Blocks.

In: packets without their length. Out: whole packets. What the kernel refuses is a status with its words; a packet that
does not parse is ``Malformed`` and ends the session. Every request is done before the next is looked at: files of a
container are local, and whoever asks for many at a time is answered from one loop.
"""

# ruff: noqa: PTH104, PTH106, PTH108, PTH115, PTH116, PTH211
# names are bytes, which pathlib does not take.

import errno
import os
import struct
from collections.abc import Callable, Mapping

from muster.engine.sftp import files, wire
from muster.engine.sftp.wire import MAX_DATA_BYTES, MAX_PACKET_BYTES, Attributes, Fields, Kind, Malformed, Status

MAX_HANDLES = 256
_ENTRIES_AT_ONCE = 100
"""A name has at most 255 bytes and comes twice, so an answer has at most 65 kB."""
_ST_RDONLY, _ST_NOSUID = 1, 2

_CODES = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.EBADF: Status.NO_SUCH_FILE,
    errno.ELOOP: Status.NO_SUCH_FILE,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EROFS: Status.PERMISSION_DENIED,
    errno.ENAMETOOLONG: Status.BAD_MESSAGE,
    errno.EINVAL: Status.BAD_MESSAGE,
}
"""As OpenSSH's server has it; anything else is a failure."""


class Server:
    """See the module's text; ``close`` ends it."""

    def __init__(self) -> None:
        self._has_begun = False
        self._files: dict[bytes, int] = {}
        self._folders: dict[bytes, files.Listing] = {}
        self._next_handle = 0

    def answer(self, packet: bytes) -> bytes:
        """Do what a packet asks; return the answer. Raises ``Malformed``."""
        fields = Fields(packet)
        number = fields.byte()
        if not self._has_begun:
            if number != Kind.INIT:
                raise Malformed(f"the first packet is a {number}")
            fields.number()  # the client's version; ours is the only one that we speak
            self._has_begun = True
            return wire.version()
        request = fields.number()
        handler = _HANDLERS.get(number)
        if handler is None:
            return wire.status(request, Status.OP_UNSUPPORTED, "not supported")
        try:
            return handler(self, request, fields)
        except OSError as error:
            code = _CODES.get(error.errno or 0, Status.FAILURE)
            return wire.status(request, code, error.strerror or "failed")
        except (OverflowError, ValueError) as error:  # a number that the kernel has no room for
            return wire.status(request, Status.BAD_MESSAGE, str(error))

    def close(self) -> None:
        """Close what is open."""
        for descriptor in self._files.values():
            os.close(descriptor)
        for listing in self._folders.values():
            listing.close()
        self._files.clear()
        self._folders.clear()

    # Handles.

    def _new_handle(self) -> bytes:
        if len(self._files) + len(self._folders) >= MAX_HANDLES:
            raise OSError(errno.EMFILE, f"more than {MAX_HANDLES} files are open")
        self._next_handle += 1
        return struct.pack(">Q", self._next_handle)

    def _file(self, fields: Fields) -> int:
        descriptor = self._files.get(fields.string())
        if descriptor is None:
            raise OSError(errno.EBADF, "no such handle")
        return descriptor

    # Requests.

    def _open(self, request: int, fields: Fields) -> bytes:
        handle = self._new_handle()
        self._files[handle] = files.open_file(fields.path(), fields.number(), fields.attributes())
        return wire.packet(Kind.HANDLE, request, wire.string(handle))

    def _close(self, request: int, fields: Fields) -> bytes:
        handle = fields.string()
        if handle in self._folders:
            self._folders.pop(handle).close()
        elif handle in self._files:
            os.close(self._files.pop(handle))
        else:
            raise OSError(errno.EBADF, "no such handle")
        return wire.status(request, Status.OK)

    def _read(self, request: int, fields: Fields) -> bytes:
        descriptor, offset, count = self._file(fields), fields.long(), fields.number()
        data = os.pread(descriptor, min(count, MAX_DATA_BYTES), offset)
        if not data and count:
            return wire.status(request, Status.EOF, "end of file")
        return wire.packet(Kind.DATA, request, wire.string(data))

    def _write(self, request: int, fields: Fields) -> bytes:
        descriptor, offset = self._file(fields), fields.long()
        files.write_all(descriptor, fields.string(), offset)
        return wire.status(request, Status.OK)

    def _stat(self, request: int, fields: Fields) -> bytes:
        return _attributes(request, os.stat(fields.path()))

    def _lstat(self, request: int, fields: Fields) -> bytes:
        return _attributes(request, os.lstat(fields.path()))

    def _fstat(self, request: int, fields: Fields) -> bytes:
        return _attributes(request, os.fstat(self._file(fields)))

    def _setstat(self, request: int, fields: Fields) -> bytes:
        files.change(fields.path(), fields.attributes())
        return wire.status(request, Status.OK)

    def _fsetstat(self, request: int, fields: Fields) -> bytes:
        files.change_open(self._file(fields), fields.attributes())
        return wire.status(request, Status.OK)

    def _opendir(self, request: int, fields: Fields) -> bytes:
        handle = self._new_handle()
        self._folders[handle] = files.Listing(fields.path())
        return wire.packet(Kind.HANDLE, request, wire.string(handle))

    def _readdir(self, request: int, fields: Fields) -> bytes:
        listing = self._folders.get(fields.string())
        if listing is None:
            raise OSError(errno.EBADF, "no such handle")
        found = listing.take(_ENTRIES_AT_ONCE)
        return wire.names(request, found) if found else wire.status(request, Status.EOF, "end of folder")

    def _remove(self, request: int, fields: Fields) -> bytes:
        os.unlink(fields.path())
        return wire.status(request, Status.OK)

    def _mkdir(self, request: int, fields: Fields) -> bytes:
        files.make_folder(fields.path(), fields.attributes())
        return wire.status(request, Status.OK)

    def _rmdir(self, request: int, fields: Fields) -> bytes:
        os.rmdir(fields.path())
        return wire.status(request, Status.OK)

    def _realpath(self, request: int, fields: Fields) -> bytes:
        path = os.path.realpath(fields.path())
        return wire.names(request, [(path, path, Attributes())])

    def _rename(self, request: int, fields: Fields) -> bytes:
        files.rename_new(fields.path(), fields.path())
        return wire.status(request, Status.OK)

    def _readlink(self, request: int, fields: Fields) -> bytes:
        target = os.readlink(fields.path())
        return wire.names(request, [(target, target, Attributes())])

    def _symlink(self, request: int, fields: Fields) -> bytes:
        target = fields.string()  # OpenSSH's order, which everybody follows; the draft has the link first
        os.symlink(target, fields.path())
        return wire.status(request, Status.OK)

    def _extended(self, request: int, fields: Fields) -> bytes:
        handler = _EXTENSIONS.get(fields.string())
        if handler is None:
            return wire.status(request, Status.OP_UNSUPPORTED, "not supported")
        return handler(self, request, fields)

    # What OpenSSH adds.

    def _posix_rename(self, request: int, fields: Fields) -> bytes:
        os.rename(fields.path(), fields.path())
        return wire.status(request, Status.OK)

    def _hardlink(self, request: int, fields: Fields) -> bytes:
        os.link(fields.path(), fields.path())
        return wire.status(request, Status.OK)

    def _fsync(self, request: int, fields: Fields) -> bytes:
        os.fsync(self._file(fields))
        return wire.status(request, Status.OK)

    def _statvfs(self, request: int, fields: Fields) -> bytes:
        return _disk(request, os.statvfs(fields.path()))

    def _fstatvfs(self, request: int, fields: Fields) -> bytes:
        return _disk(request, os.fstatvfs(self._file(fields)))

    def _limits(self, request: int, fields: Fields) -> bytes:
        del fields
        numbers = MAX_PACKET_BYTES, MAX_DATA_BYTES, MAX_DATA_BYTES, MAX_HANDLES
        return wire.packet(Kind.EXTENDED_REPLY, request, struct.pack(">4Q", *numbers))

    KINDS: Mapping[int, "_Handler"] = {
        Kind.OPEN: _open,
        Kind.CLOSE: _close,
        Kind.READ: _read,
        Kind.WRITE: _write,
        Kind.STAT: _stat,
        Kind.LSTAT: _lstat,
        Kind.FSTAT: _fstat,
        Kind.SETSTAT: _setstat,
        Kind.FSETSTAT: _fsetstat,
        Kind.OPENDIR: _opendir,
        Kind.READDIR: _readdir,
        Kind.REMOVE: _remove,
        Kind.MKDIR: _mkdir,
        Kind.RMDIR: _rmdir,
        Kind.REALPATH: _realpath,
        Kind.RENAME: _rename,
        Kind.READLINK: _readlink,
        Kind.SYMLINK: _symlink,
        Kind.EXTENDED: _extended,
    }
    EXTENSIONS: Mapping[bytes, "_Handler"] = {
        b"posix-rename@openssh.com": _posix_rename,
        b"statvfs@openssh.com": _statvfs,
        b"fstatvfs@openssh.com": _fstatvfs,
        b"hardlink@openssh.com": _hardlink,
        b"fsync@openssh.com": _fsync,
        b"limits@openssh.com": _limits,
    }


_Handler = Callable[[Server, int, Fields], bytes]
_HANDLERS, _EXTENSIONS = Server.KINDS, Server.EXTENSIONS


def _attributes(request: int, found: os.stat_result) -> bytes:
    return wire.packet(Kind.ATTRS, request, files.attributes_of(found).pack())


def _disk(request: int, found: os.statvfs_result) -> bytes:
    numbers = (
        *(found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail),
        *(found.f_files, found.f_ffree, found.f_favail, found.f_fsid & 0xFFFFFFFFFFFFFFFF),
        *(found.f_flag & (_ST_RDONLY | _ST_NOSUID), found.f_namemax),
    )
    return wire.packet(Kind.EXTENDED_REPLY, request, struct.pack(">11Q", *numbers))
