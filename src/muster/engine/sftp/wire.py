"""SFTP version 3 as bytes: packets, their fields, file attributes. Pure.

In: the bytes of one packet. Out: values, and back. Source: draft-ietf-secsh-filexfer-02; what OpenSSH adds
(``PROTOCOL`` in its source, section 4) is in ``EXTENSIONS``. Names are bytes, as Linux has them.

Whatever does not parse is ``Malformed``: the two sides no longer agree on where a packet begins, so the session ends.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

VERSION: Final = 3
MAX_PACKET_BYTES: Final = 256 * 1024
"""Of OpenSSH's server too; a longer packet is no packet."""
MAX_DATA_BYTES: Final = MAX_PACKET_BYTES - 1024
"""Of one read or write."""

EXTENSIONS: Final = (
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
)


class Malformed(Exception):
    """The bytes are no SFTP."""


class Kind(IntEnum):
    """What a packet is."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """How a request went."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    OP_UNSUPPORTED = 8


class Open(IntEnum):
    """How a file is opened."""

    READ = 0x01
    WRITE = 0x02
    APPEND = 0x04
    CREAT = 0x08
    TRUNC = 0x10
    EXCL = 0x20


_SIZE, _OWNER, _PERMISSIONS, _TIMES, _EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known, or to be set, of a file: ``owner`` is user and group, ``times`` are of access and change."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None

    def pack(self) -> bytes:
        """Return it as a packet holds it."""
        flags, parts = 0, []
        if self.size is not None:
            flags |= _SIZE
            parts.append(struct.pack(">Q", self.size))
        if self.owner is not None:
            flags |= _OWNER
            parts.append(struct.pack(">II", *self.owner))
        if self.permissions is not None:
            flags |= _PERMISSIONS
            parts.append(struct.pack(">I", self.permissions))
        if self.times is not None:
            flags |= _TIMES
            # 32 bits last until 2106; what lies outside is shown at the nearer end
            parts.append(struct.pack(">II", *(min(max(each, 0), 0xFFFFFFFF) for each in self.times)))
        return struct.pack(">I", flags) + b"".join(parts)


class Fields:
    """Reads the fields of a packet, one after the other."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._at = 0

    def byte(self) -> int:
        """Return the next byte."""
        return self._take(1)[0]

    def number(self) -> int:
        """Return the next number of 32 bits."""
        return int.from_bytes(self._take(4), "big")

    def long(self) -> int:
        """Return the next number of 64 bits."""
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        """Return the next string."""
        return self._take(self.number())

    def path(self) -> bytes:
        """Return the next string, which names a file; the empty one is the folder that one is in."""
        path = self.string()
        if b"\0" in path:
            raise Malformed("a name with a zero in it")
        return path or b"."

    def attributes(self) -> Attributes:
        """Return the next attributes; what extends them is passed over."""
        flags = self.number()
        size = self.long() if flags & _SIZE else None
        owner = (self.number(), self.number()) if flags & _OWNER else None
        permissions = self.number() if flags & _PERMISSIONS else None
        times = (self.number(), self.number()) if flags & _TIMES else None
        if flags & _EXTENDED:
            for _ in range(self.number()):
                self.string()
                self.string()
        return Attributes(size, owner, permissions, times)

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._packet):
            raise Malformed(f"a packet of {len(self._packet)} bytes lacks {end - len(self._packet)}")
        taken = self._packet[self._at : end]
        self._at = end
        return taken


def string(value: bytes) -> bytes:
    """Pack a string."""
    return struct.pack(">I", len(value)) + value


def packet(kind: Kind, request: int, *rest: bytes) -> bytes:
    """Pack a whole packet with its length."""
    body = struct.pack(">BI", kind, request) + b"".join(rest)
    return struct.pack(">I", len(body)) + body


def status(request: int, code: Status, message: str = "") -> bytes:
    """Pack how a request went."""
    return packet(Kind.STATUS, request, struct.pack(">I", code), string(message.encode()), string(b"en"))


def names(request: int, entries: Sequence[tuple[bytes, bytes, Attributes]]) -> bytes:
    """Pack names of files: each with a line as ``ls -l`` writes it, and attributes."""
    packed = [string(name) + string(line) + attributes.pack() for name, line, attributes in entries]
    return packet(Kind.NAME, request, struct.pack(">I", len(entries)), *packed)


def version() -> bytes:
    """Pack the answer to INIT."""
    body = struct.pack(">BI", Kind.VERSION, VERSION) + b"".join(string(word) for pair in EXTENSIONS for word in pair)
    return struct.pack(">I", len(body)) + body


def split(received: bytearray) -> bytes | None:
    """Take the first packet off what was received, without its length; ``None`` while it is not all there."""
    if len(received) < 4:
        return None
    length = int.from_bytes(received[:4], "big")
    if not 0 < length <= MAX_PACKET_BYTES:
        raise Malformed(f"a packet of {length} bytes")
    if len(received) < 4 + length:
        return None
    body = bytes(memoryview(received)[4 : 4 + length])
    del received[: 4 + length]
    return body
