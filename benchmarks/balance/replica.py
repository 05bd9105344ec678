"""Replicas that wait instead of working, so that 2 cores hold a fleet: all those of a run in one process.

Each has ``slots`` requests running at once, and the others wait in the order of their arrival, as in front of a model
server. A request takes ``work * slowness`` seconds from the moment it gets a slot.

**Memory** is taken when a request begins, not when it arrives: what waits is in the host's memory, not in the GPU's. A
request that then does not fit is answered 500 at once, as CUDA would let it die, and hurts no other.

A client that goes away takes its waiting requests with it. One that runs keeps its slot to the end: a GPU is not
interrupted.

Every answer carries the load as the ingress tells it. With ``is_enforcing``, the replica refuses what is beyond its
slots at once, as the ingress does for declared concurrency; without, it is the bare server that a proxy would see.

    python -m benchmarks.balance.replica '{"units": […], "ports": [0, …], "is_enforcing": false, "listen_at": 0}'

It writes its ports to its output, as JSON, once it listens. ``GET /statistics`` says when its slots were busy, in
seconds of the monotonic clock, which all processes of a machine share.
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs

import uvloop

from benchmarks.balance.fleet import Unit
from muster.http1.load import load_text
from muster.model.routes import LOAD_HEADER, REFUSED_HEADER, Refusal

HOST = "127.0.0.1"
WORK_PATH, STATISTICS_PATH, HEALTH_PATH = "/work", "/statistics", "/health"
_OUT_OF_MEMORY = b"CUDA out of memory"
_PHRASES = {200: b"OK", 500: b"Internal Server Error", 503: b"Service Unavailable"}


@dataclass(slots=True)
class Counts:
    """What a replica did. ``busy`` are the times from begin to end of what had a slot."""

    begun: int = 0
    refused: int = 0
    out_of_memory: int = 0
    left: int = 0
    most_in_flight: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Request:
    """One that runs or waits."""

    connection: "_Connection"
    seconds: float
    memory_mb: int


class Replica:
    """Slots, a queue, and memory."""

    def __init__(self, unit: Unit, *, is_enforcing: bool) -> None:
        self.unit = unit
        self.counts = Counts()
        self._is_enforcing = is_enforcing
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Request] = deque()
        self._running = 0
        self._memory_mb = 0

    def take(self, request: Request) -> None:
        """Begin a request, let it wait, or refuse it."""
        if self._is_enforcing and self._in_flight >= self.unit.slots:
            self.counts.refused += 1
            refused = b"%b: %b\r\nretry-after: 1\r\n" % (REFUSED_HEADER.encode(), Refusal.OVER_CAPACITY.encode())
            request.connection.answer(503, refused + self.load(), b"over capacity")
            return
        self._queue.append(request)
        self.counts.most_in_flight = max(self.counts.most_in_flight, self._in_flight)
        self._begin()

    def drop(self, request: Request) -> None:
        """Let go of one that waits and whose client has left."""
        if request in self._queue:
            self.counts.left += 1
            self._queue.remove(request)

    def load(self, ending: int = 0) -> bytes:
        """Return the header that tells the load; ``ending`` are those that are answered with it."""
        return b"%b: %b\r\n" % (LOAD_HEADER.encode(), load_text(self._in_flight + ending, self.unit.slots))

    @property
    def _in_flight(self) -> int:
        return self._running + len(self._queue)

    def _begin(self) -> None:
        while self._queue and self._running < self.unit.slots:
            request = self._queue.popleft()
            if self.unit.memory_mb and self._memory_mb + request.memory_mb > self.unit.memory_mb:
                self.counts.out_of_memory += 1
                request.connection.answer(500, self.load(ending=1), _OUT_OF_MEMORY)
                continue
            self.counts.begun += 1
            if not request.seconds:
                request.connection.answer(200, self.load(ending=1), b"done")
                continue
            self._running += 1
            self._memory_mb += request.memory_mb
            self._loop.call_later(request.seconds * self.unit.slowness, self._end, request, time.monotonic())

    def _end(self, request: Request, begun_at: float) -> None:
        self.counts.busy.append((begun_at, time.monotonic()))
        request.connection.answer(200, self.load(), b"done")
        self._running -= 1
        self._memory_mb -= request.memory_mb
        self._begin()


class _Connection(asyncio.Protocol):
    """One client's connection; one request at a time, without a body."""

    def __init__(self, replica: Replica, every: list[Replica]) -> None:
        self._replica = replica
        self._every = every
        self._transport: asyncio.Transport
        self._held = b""
        self._request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a uvloop transport is no subclass

    def data_received(self, data: bytes) -> None:
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        for head in heads:
            path, _, query = head.split(b" ", 2)[1].decode().partition("?")
            if path == WORK_PATH:
                wanted = parse_qs(query)
                self._request = Request(self, float(wanted["seconds"][0]), int(wanted["memory_mb"][0]))
                self._replica.take(self._request)
            elif path == STATISTICS_PATH:
                told = {each.unit.name: asdict(each.counts) for each in self._every}
                self.answer(200, b"", json.dumps(told).encode())
            else:
                self.answer(200, b"", b"well")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol's signature
        if self._request is not None:
            self._replica.drop(self._request)

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        self._request = None
        if not self._transport.is_closing():
            head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n\r\n" % (status, _PHRASES[status], headers, len(body))
            self._transport.write(head + body)


async def serve(wanted: dict[str, Any]) -> None:
    """Listen for ever."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, wanted["listen_at"] - time.monotonic()))
    every = [Replica(Unit(**unit), is_enforcing=wanted["is_enforcing"]) for unit in wanted["units"]]
    servers = [
        await loop.create_server(lambda replica=replica: _Connection(replica, every), HOST, port, backlog=1024)  # type: ignore[misc]
        for replica, port in zip(every, wanted["ports"], strict=True)
    ]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(json.loads(sys.argv[1])))
