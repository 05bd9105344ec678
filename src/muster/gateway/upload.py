"""What a client sends after its head: counted, framed as it goes on, and kept as long as it may have to go again.

In: bytes as they arrive. Out: the same payload, in chunks of our own or as the length says. What is kept is the
payload, in one buffer (a list of a million one-byte chunks would be forty times as large), at most ``most_kept_bytes``;
more is sent once. With the head of an answer nothing need be kept any longer.
"""

from muster.http1.bodies import ChunkedReader, LengthReader, RequestBody, chunk, last_chunk
from muster.http1.request_head import RequestHead

_OURS = b"x-muster-"


def is_ours(name: bytes) -> bool:
    """Tell whether a trailer has a name that only the gateway may use, also as servers of the CGI tradition read it."""
    return name[:9].lower().replace(b"_", b"-") == _OURS


class Upload:
    """The body of one request. ``reader`` reads what has still to come, ``None`` once that is all here."""

    __slots__ = ("_end", "_is_chunked", "_kept", "most_bytes", "most_kept_bytes", "reader", "size_bytes")

    def __init__(self, head: RequestHead, most_kept_bytes: int, most_trailer_bytes: int) -> None:
        self._is_chunked = head.is_chunked
        self._end = b""
        self._kept: bytearray | None = bytearray() if head.has_body else None
        self.most_kept_bytes = most_kept_bytes
        self.most_bytes: int | None = None
        self.size_bytes = 0
        self.reader: RequestBody | None = None
        if head.is_chunked:
            self.reader = ChunkedReader(most_trailer_bytes)
        elif head.length:
            self.reader = LengthReader(head.length)

    @property
    def is_complete(self) -> bool:
        """Whether all of it has come."""
        return self.reader is None

    @property
    def is_too_large(self) -> bool:
        """Whether it is larger, or says that it will be, than ``most_bytes``."""
        if self.most_bytes is None:
            return False
        left = self.reader.left if isinstance(self.reader, LengthReader) else 0
        return self.size_bytes + left > self.most_bytes

    @property
    def is_kept(self) -> bool:
        """Whether all that has come is here."""
        return self._kept is not None or not self.size_bytes

    @property
    def kept(self) -> bytes:
        """What is here."""
        return bytes(self._kept or b"")

    @property
    def kept_bytes(self) -> int:
        """How much is here."""
        return len(self._kept) if self._kept is not None else 0

    def take(self, data: bytes) -> tuple[int, list[bytes]]:
        """Return how much of ``data`` belongs to it, and what goes on. Raises ``BadMessage``."""
        reader = self.reader
        if reader is None:
            return 0, []
        pieces: list[bytes] = []
        used = reader.take(data, pieces)
        size = sum(map(len, pieces))
        self.size_bytes += size
        kept = self._kept
        if kept is not None:
            if len(kept) + size > self.most_kept_bytes:
                self._kept = None
            else:
                for piece in pieces:
                    kept += piece
        if reader.is_over:
            self.reader = None
        if isinstance(reader, ChunkedReader):
            chunk(pieces)
            if reader.is_over:
                self._end = last_chunk([pair for pair in reader.trailers if not is_ours(pair[0])])
                pieces.append(self._end)
        return used, pieces

    def so_far(self) -> list[bytes]:
        """Return all that has come and was kept, as it goes on."""
        pieces = [bytes(self._kept)] if self._kept else []
        if self._is_chunked:
            chunk(pieces)
            if self._end:
                pieces.append(self._end)
        return pieces

    def forget(self) -> None:
        """Keep nothing any longer: it will not go again."""
        if self._kept is not None:
            self._kept = None
