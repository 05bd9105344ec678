"""Frames: four bytes with a length, most significant first, and so many bytes of JSON, one object.

In: bytes as they arrive. Out: objects. A frame that is too long, or is no object, ends the connection, because nobody
can tell where the next one begins. JSON, because every language has it and a frame can be read by a person; a choice
costs more than its text (``benchmarks.broker``).
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

from muster.errors import MusterError

MOST_BYTES = 64 * 1024
"""An ask with sixteen features has some 600."""

_LENGTH = struct.Struct(">I")
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_decoder = json.JSONDecoder()


class BadFrame(MusterError):
    """What arrived is no frame of this protocol; ``reason`` is a word, the message says what was wrong."""

    def __init__(self, message: str, reason: str = "not_understood") -> None:
        super().__init__(message)
        self.reason = reason


def frame(message: Mapping[str, Any]) -> bytes:
    """Return a message as it is sent."""
    body = _encoder.encode(message).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Takes bytes, gives messages."""

    __slots__ = ("_held", "_most_bytes")

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that are complete now. Raises ``BadFrame``; what was complete before it is lost."""
        if self._held:
            data = self._held + data
        found: list[dict[str, Any]] = []
        at, size = 0, len(data)
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._most_bytes:
                raise BadFrame(f"a frame of {length} bytes: at most {self._most_bytes} are taken", "too_large")
            end = at + 4 + length
            if end > size:
                break
            found.append(_object(data[at + 4 : end]))
            at = end
        self._held = data[at:] if at else data
        return found


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = _decoder.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"a frame holds no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise BadFrame('a frame holds no object with a "type"')
    return found
