"""What stands behind every proxy: a container that costs next to nothing, in a process of its own.

It answers each request with 31 bytes, and ``GET /bulk`` with ``BULK_BYTES`` as fast as they are taken. uvloop, no
parser and no routing, so that what is measured is whoever stands in front.

    python -m benchmarks.ingress.backend PORT
"""

import asyncio
import sys
from typing import cast

import uvloop

HOST = "127.0.0.1"
BULK_BYTES = 1_000_000_000
BULK_PATH = "/bulk"
BODY = b"31 bytes from a quick container"
_PIECE = bytes(256 * 1024)
_SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
_LONG = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % BULK_BYTES


class Container(asyncio.Protocol):
    """One connection; requests have no bodies."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._held = b""
        self._left_bytes = 0
        self._is_writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer every whole head."""
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(b"GET " + BULK_PATH.encode()):
                self._transport.write(_LONG)
                self._left_bytes = BULK_BYTES
                self._go_on()
            else:
                self._transport.write(_SHORT)

    def pause_writing(self) -> None:
        """Wait: it is not taken."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Go on: it was taken."""
        self._is_writable = True
        self._go_on()

    def _go_on(self) -> None:
        while self._left_bytes and self._is_writable and not self._transport.is_closing():
            size = min(self._left_bytes, len(_PIECE))
            self._left_bytes -= size
            self._transport.write(_PIECE[:size] if size < len(_PIECE) else _PIECE)


async def serve(port: int) -> None:
    """Listen for ever."""
    server = await asyncio.get_running_loop().create_server(Container, HOST, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
