"""What a gateway's parent and its workers say to each other: lines of JSON over a pair of sockets.

    parent ▸ worker   begin {settings, what it inherits} · configure {settings} · reopen · leave {seconds} · cut
    worker ▸ parent   ready · figures {counters, services} · configured {error} · failed {error}

It is also how each knows that the other lives: it ends with the process. What is said here (a registry's password, a
token, hashes of keys) stands on no command line and in no environment.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

MOST_LINE_BYTES = 64 * 2**20
"""Ten thousand keys are 3 MB; the figures of 256 services with 100 replicas each some 10."""
_SEND_SECONDS = 5.0

Message = Mapping[str, Any]


class Channel:
    """One end, on an event loop. Iterate over it for what the other end says, until that is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """Take over one end of a pair."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MOST_LINE_BYTES))

    def send(self, kind: str, **content: Any) -> None:
        """Say something; to nobody, if the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **content}).encode() + b"\n")

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield what the other end says."""
        while True:
            try:
                line = await self._reader.readline()
            except (OSError, ValueError):  # reset; or longer than anything that is said here
                return
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)

    async def aclose(self) -> None:
        """Send what was said, and end it."""
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._writer.drain()
        except (OSError, TimeoutError):
            pass
        self._writer.close()


def inherited(descriptor: int) -> socket.socket:
    """Return the end that a parent has handed on, and do not hand it on further."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
