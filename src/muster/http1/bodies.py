"""Where a body ends: three readers with one shape, and the writing of chunks.

``take(data, into)`` appends the payload found in ``data`` to ``into``, without looking at it, and returns how many
bytes of ``data`` belong to the body; ``is_over`` tells that its last byte was among them. Nothing is kept but an
unfinished line of a chunked body.

Chunks are never passed on as they came: sizes are written anew and extensions dropped, which every recipient must
ignore if it does not know them, and which two parsers are likely to read differently. Trailers are kept, less those
that would mean something else at the end than at the top.
"""

import re
from collections.abc import Collection, Iterable

from muster.http1.head_parser import BadMessage

_MOST_LINE_BYTES = 4096
"""Of a chunk's size and extensions."""
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_EXTENSION = rb';%b(?:=(?:%b|"[\t\x20\x21\x23-\x5b\x5d-\x7e]*"))?' % (_TOKEN, _TOKEN)
"""Of RFC 9112's grammar what servers agree on: no spaces about the signs, no quoted pairs."""
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*\r\n" % _EXTENSION)
_TRAILER = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)\r\n" % _TOKEN)

_NEVER_TRAILERS = frozenset(
    b"authorization connection content-encoding content-length content-range content-type cookie expect host keep-alive"
    b" proxy-connection set-cookie te trailer transfer-encoding upgrade"
    b" proxy-authorization x-api-key x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto".split()
)
"""Framing, routing, authentication and what says how to read the content: RFC 9110, 6.5.1."""


class LengthReader:
    """A body of a length that was told before; ``left`` bytes of it are to come."""

    __slots__ = ("is_over", "left")

    is_chunked = False

    def __init__(self, length: int) -> None:
        self.left = length
        self.is_over = length == 0

    def take(self, data: bytes, into: list[bytes]) -> int:
        """Append payload; return how much of ``data`` was the body's."""
        size = len(data)
        if size > self.left:
            size = self.left
            data = data[:size]
        self.left -= size
        self.is_over = self.left == 0
        if size:
            into.append(data)
        return size


class CloseReader:
    """A response body that ends with its connection."""

    __slots__ = ("is_over",)

    is_chunked = False

    def __init__(self) -> None:
        self.is_over = False

    def take(self, data: bytes, into: list[bytes]) -> int:
        """Append payload; return how much of ``data`` was the body's."""
        into.append(data)
        return len(data)


class ChunkedReader:
    """A chunked body. ``trailers`` are its lines after the last chunk, as received and checked."""

    __slots__ = (
        "_held",
        "_is_after_data",
        "_is_in_trailers",
        "_left",
        "_most_bytes",
        "_trailer_bytes",
        "is_over",
        "trailers",
    )

    is_chunked = True

    def __init__(self, most_trailer_bytes: int) -> None:
        self._most_bytes = most_trailer_bytes
        self._trailer_bytes = 0
        self._held = b""
        self._left = 0
        self._is_after_data = False
        self._is_in_trailers = False
        self.is_over = False
        self.trailers: list[tuple[bytes, bytes]] = []

    def take(self, data: bytes, into: list[bytes]) -> int:
        """Append payload; return how much of ``data`` was the body's. Raises ``BadMessage``."""
        at, size = 0, len(data)
        while at < size and not self.is_over:
            if self._left:
                end = min(size, at + self._left)
                into.append(data[at:end])
                self._left -= end - at
                self._is_after_data = self._left == 0
                at = end
            else:
                at = self._take_line(data, at)
        return at

    def _take_line(self, data: bytes, at: int) -> int:
        """Read one line, or hold what there is of it; return where it ends."""
        end = data.find(b"\n", at) + 1 or len(data)
        line = self._held + data[at:end]
        if self._is_after_data:
            if not line.startswith(b"\r\n"[: len(line)]) or len(line) > 2:
                raise BadMessage(400, "a chunk is longer than its size says")
        elif len(line) > (self._most_bytes if self._is_in_trailers else _MOST_LINE_BYTES):
            raise BadMessage(400, "a line between chunks is too long")
        if not line.endswith(b"\n"):
            self._held = line
            return end
        self._held = b""
        if self._is_after_data:
            self._is_after_data = False
        elif self._is_in_trailers:
            self._trailer(line)
        else:
            self._size(line)
        return end

    def _size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadMessage(400, "not the size of a chunk")
        self._left = int(match[1], 16)
        self._is_in_trailers = self._left == 0

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.is_over = True
            return
        self._trailer_bytes += len(line)
        match = _TRAILER.fullmatch(line)
        if match is None:
            raise BadMessage(400, "not a trailer field")
        if self._trailer_bytes > self._most_bytes:
            raise BadMessage(400, f"trailers are longer than {self._most_bytes} bytes")
        self.trailers.append((match[1], match[2].strip(b" \t")))


RequestBody = LengthReader | ChunkedReader
ResponseBody = LengthReader | ChunkedReader | CloseReader


def chunk(payload: list[bytes]) -> None:
    """Make one chunk of all of a payload, in place; nothing of nothing, which would mean the end."""
    size = sum(map(len, payload))
    if size:
        payload.insert(0, b"%x\r\n" % size)
        payload.append(b"\r\n")


def last_chunk(trailers: Iterable[tuple[bytes, bytes]], ours: Collection[bytes] = ()) -> bytes:
    """Return the end of a chunked body; ``ours`` are names that the sender may not use, in lower case."""
    lines = [
        b"%b: %b\r\n" % (name, value)
        for name, value in trailers
        if (lower := name.lower().replace(b"_", b"-")) not in _NEVER_TRAILERS and lower not in ours
    ]
    return b"0\r\n%b\r\n" % b"".join(lines)
