"""Takes this process into a container, for good, and leaves it nothing but the container's files.

In: descriptors of the container's namespaces and of its root. Afterwards every path is the container's, and

* nothing is loaded any more: what Python, libc or we would read later would be read from the container's files, and
  run here as root of the host (CVE-2019-14271 was that). ``warm_up`` has everything loaded, and after ``enter`` an
  import is refused. Users' names, time zones and messages in other languages, for which libc reads files, are not used;
* of root's capabilities four are left, which Docker gives a container too; no program could bring one back;
* there is no way out: no descriptor of the host is open, and who may not ``chroot`` cannot break out of one.

What holds the container otherwise (its control group, its filter of system calls, its device rules) does not hold this
process; ``files`` says what follows for devices. By itself it does nothing that was not asked over SFTP.
"""

import ctypes
import os
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from muster.engine.sftp import wire
from muster.engine.sftp.server import Server
from muster.engine.sftp.wire import Kind, string

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_CHOWN, _DAC_OVERRIDE, _FOWNER, _FSETID = 0, 1, 3, 4
KEPT: Final = 1 << _CHOWN | 1 << _DAC_OVERRIDE | 1 << _FOWNER | 1 << _FSETID
"""What root of a container may do to its files."""
_UMASK = 0o022

_libc = ctypes.CDLL(None, use_errno=True)


class _Refusal:
    """Finds no module, and lets nobody after it look."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Refuse."""
        del path, target
        raise ImportError(f"nothing is loaded inside a container, not {name}")


def warm_up() -> None:
    """Run every kind of request once, on this host, so that all that is loaded on first use is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        top = os.fsencode(folder)
        path, other = top + b"/f\xff", top + b"/g"
        server = Server()
        server.answer(bytes([Kind.INIT, 0, 0, 0, wire.VERSION]))

        def ask(kind: Kind, *rest: bytes) -> bytes:
            return server.answer(wire.packet(kind, 1, *rest)[4:])

        none, long, handle = struct.pack(">I", 0), struct.pack(">Q", 0), string(struct.pack(">Q", 1))
        changes = wire.Attributes(1, (os.getuid(), os.getgid()), 0o600, (1, 1)).pack()
        ask(Kind.OPEN, string(path), struct.pack(">I", 0x3B), none)
        ask(Kind.WRITE, handle, long, string(b"word"))
        ask(Kind.READ, handle, long, struct.pack(">I", 4))
        ask(Kind.FSETSTAT, handle, changes)
        ask(Kind.FSTAT, handle)
        ask(Kind.EXTENDED, string(b"fsync@openssh.com"), handle)
        ask(Kind.EXTENDED, string(b"fstatvfs@openssh.com"), handle)
        ask(Kind.CLOSE, handle)
        ask(Kind.SETSTAT, string(path), changes)
        ask(Kind.OPENDIR, string(top))
        ask(Kind.READDIR, string(struct.pack(">Q", 2)))
        ask(Kind.RENAME, string(path), string(other))
        ask(Kind.SYMLINK, string(other), string(path))
        for kind in (Kind.READLINK, Kind.REALPATH, Kind.LSTAT, Kind.STAT, Kind.REMOVE):
            ask(kind, string(path))
        for name in (b"limits@openssh.com", b"nobody@example.com"):
            ask(Kind.EXTENDED, string(name), string(top))
        ask(Kind.EXTENDED, string(b"statvfs@openssh.com"), string(top))
        for name in (b"hardlink@openssh.com", b"posix-rename@openssh.com"):
            ask(Kind.EXTENDED, string(name), string(other), string(path))
        for kind in (Kind.MKDIR, Kind.RMDIR):
            ask(kind, string(top + b"/folder"), none)
        ask(Kind.OPEN, string(b"/dev/null"), struct.pack(">I", 1), none)
        ask(Kind.OPEN, string(top + b"/absent"), struct.pack(">I", 1), none)
        ask(Kind.READ, handle, struct.pack(">Q", 1 << 63), none)
        ask(Kind.CLOSE, handle)
        server.close()
    time.localtime()


def enter(mount: int, root: int, user: int | None) -> None:
    """Go into the namespace ``mount`` and below ``root``, ``user`` first if the container has one of its own.

    The descriptors are closed. Raises ``OSError``; then this process is of no use any more.
    """
    if user is not None:
        _call("setns", user, _CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _call("setns", mount, _CLONE_NEWNS)
    os.fchdir(root)
    os.chroot(b".")
    for descriptor in (mount, root, *([] if user is None else [user])):
        os.close(descriptor)
    try:
        os.chdir(b"/root")
    except OSError:
        os.chdir(b"/")
    os.umask(_UMASK)
    _give_up_capabilities()


def refuse_imports() -> None:
    """Let nothing be loaded any more."""
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [_Refusal()]


def _give_up_capabilities() -> None:
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:  # until the kernel knows no more of them
        number += 1
    if number == 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", header, struct.pack("=6I", KEPT, KEPT, 0, 0, 0, 0))


def _call(name: str, *arguments: int | bytes) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
