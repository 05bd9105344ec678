"""What is said over the WebSocket of an exec: one command beside a container's own, its input, output and end.

Subprotocol ``v1.exec.muster``. Every message is binary: one byte names the channel, the rest is its payload. The
numbers are those of Kubernetes' remotecommand, which many know; ``CREDIT`` is ours.

====== ====== =============== ==================================================================================
number name   from            payload
====== ====== =============== ==================================================================================
0      STDIN  client          bytes for the command
1      STDOUT server          bytes of its standard output; with a terminal all that it writes
2      STDERR server          bytes of its standard error
3      END    server          JSON, ``{"exit_code": 7}`` or ``{"error": "…"}``; the last message, then it closes
4      RESIZE client          JSON, ``{"columns": 80, "rows": 24}``
5      CREDIT both            four bytes, big endian: how many bytes more the other side may send
255    CLOSE  client          one byte, the channel that ends: 0, for the end of the command's input
====== ====== =============== ==================================================================================

**Flow.** Each side may send ``WINDOW_BYTES`` of data (STDIN; STDOUT and STDERR together) at the beginning, and as much
more as it is credited. A receiver credits what it has passed on. So neither side ever stops reading its socket: a
command that does not read, or a terminal that is stopped, holds up the data and nothing else. Pings are answered, a
new size arrives, and who goes away is missed at once. (SSH has its window for the same reason, RFC 4254 section 5.2;
with TCP's own backpressure alone keepalive ends every transfer that pauses.)

Pure: bytes in, values out. Both sides use it, so neither repeats a number.
"""

import json
from enum import IntEnum

from muster.errors import InvalidSpec

SUBPROTOCOL = "v1.exec.muster"
WINDOW_BYTES = 1 << 18
"""Two round trips of 1 ms at 1 Gbit/s; and all that one side ever has to hold for a slow reader."""
CHUNK_BYTES = 1 << 15
"""Longest payload that we send."""
LONGEST_MESSAGE_BYTES = WINDOW_BYTES + 1
LARGEST_SIZE = 0xFFFF
"""Columns or rows: the kernel keeps them in 16 bits."""


class Channel(IntEnum):
    """The first byte of a message."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    END = 3
    RESIZE = 4
    CREDIT = 5
    CLOSE = 255


def message(channel: Channel | int, payload: bytes = b"") -> bytes:
    """Write one message."""
    return bytes((channel,)) + payload


def parse(raw: bytes) -> tuple[Channel, bytes]:
    """Read one message. Raises ``InvalidSpec`` for one without a known channel."""
    try:
        return Channel(raw[0]), raw[1:]
    except (IndexError, ValueError) as error:
        raise InvalidSpec("message", f"must begin with the number of a channel, not {raw[:1]!r}") from error


def credit(count: int) -> bytes:
    """Write that the other side may send so many bytes more."""
    return message(Channel.CREDIT, count.to_bytes(4, "big"))


def credited(payload: bytes) -> int:
    """Read how many bytes more may be sent. Raises ``InvalidSpec``."""
    if len(payload) != 4:
        raise InvalidSpec("credit", f"must be four bytes, not {len(payload)}")
    return int.from_bytes(payload, "big")


def close_of_input() -> bytes:
    """Write that the command's input has ended."""
    return message(Channel.CLOSE, bytes((Channel.STDIN,)))


def check_close(payload: bytes) -> None:
    """Raise ``InvalidSpec`` unless the channel that is closed is the command's input: no other can be."""
    if payload != bytes((Channel.STDIN,)):
        raise InvalidSpec("close", f"must name channel {Channel.STDIN}, the only one that a client can close")


def resize(columns: int, rows: int) -> bytes:
    """Write a terminal's new size."""
    return message(Channel.RESIZE, json.dumps({"columns": columns, "rows": rows}).encode())


def size(payload: bytes) -> tuple[int, int]:
    """Read a terminal's new size, as columns × rows. Raises ``InvalidSpec``."""
    try:
        told = json.loads(payload)
        columns, rows = told["columns"], told["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        columns = rows = None
    if not all(type(each) is int and 1 <= each <= LARGEST_SIZE for each in (columns, rows)):
        raise InvalidSpec("resize", f'must be {{"columns": N, "rows": N}} with numbers from 1 to {LARGEST_SIZE}')
    return columns, rows


def end(exit_code: int) -> bytes:
    """Write how the command ended."""
    return message(Channel.END, json.dumps({"exit_code": exit_code}).encode())


def failure(text: str) -> bytes:
    """Write that the command's end will not be known, and why."""
    return message(Channel.END, json.dumps({"error": text}, ensure_ascii=False).encode())


def outcome(payload: bytes) -> int | str:
    """Read how it ended: the exit code, or why that is not known. Raises ``InvalidSpec``."""
    try:
        told = json.loads(payload)
        if isinstance(told.get("error"), str):
            return str(told["error"])
        if type(told["exit_code"]) is int:
            return int(told["exit_code"])
    except (ValueError, KeyError, AttributeError, RecursionError):
        pass
    raise InvalidSpec("end", 'must be {"exit_code": N} or {"error": "…"}')
