"""What stands behind every proxy: it answers at once, or streams events and says nothing until it is told to.

``GET /events`` is a stream of server-sent events: one at its begin, and another one for each ``GET /tick``. Everything
else is answered with the ingress's 31 bytes. uvloop, no parser and no routing, so that what is measured is whoever
stands in front.

    python -m benchmarks.gateway.backend PORT
"""

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.ingress.backend import BODY, HOST

EVENTS_PATH, TICK_PATH = "/events", "/tick"
EVENT = b"data: nothing happened\n\n"
_SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
_CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNK


class Container(asyncio.Protocol):
    """One connection; requests have no bodies."""

    def __init__(self, streams: set[asyncio.Transport]) -> None:
        self._streams = streams
        self._transport: asyncio.Transport
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer every whole head."""
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(b"GET " + EVENTS_PATH.encode()):
                self._streams.add(self._transport)
                self._transport.write(_STREAM)
                continue
            if head.startswith(b"GET " + TICK_PATH.encode()):
                for stream in self._streams:
                    stream.write(_CHUNK)
            self._transport.write(_SHORT)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        """Stream no more."""
        self._streams.discard(self._transport)


async def serve(port: int) -> None:
    """Listen for ever."""
    streams: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Container(streams), HOST, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
