"""A replica in the test's own loop that holds its limit as an ingress does: what is too much is refused and counted."""

import asyncio
import random
from dataclasses import dataclass, field

from muster.model.endpoint import Endpoint

LIMIT = 2


@dataclass(eq=False)
class Replica:
    """Answers after some milliseconds what it was sent, and refuses what is too much."""

    name: str
    chance: random.Random
    running: int = 0
    most: int = 0
    refused: int = 0
    port: int = 0
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, f"http://127.0.0.1:{self.port}", gpu_name="RTX 4090", concurrency=LIMIT)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                writer.write(await self._answer(body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, body: bytes) -> bytes:
        if self.running >= LIMIT:
            self.refused += 1
            return (
                b"HTTP/1.1 503 Service Unavailable\r\nx-muster-refused: over_capacity\r\nRetry-After: 1\r\n"
                b"Content-Length: 0\r\n\r\n"
            )
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.chance.uniform(0.005, 0.06))
        finally:
            self.running -= 1
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
