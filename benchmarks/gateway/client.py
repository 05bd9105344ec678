"""Who asks: kept connections, one request at a time on each, and a clock.

    python -m benchmarks.gateway.client '{"port": 80, "connections": 32, "seconds": 4, "rate": null, "seed": 1}'

Without a ``rate`` each connection asks anew as soon as it is answered. With one, requests are sent at random moments,
so many a second on average, whether or not earlier ones are answered, and are timed from the moment at which they were
meant to be sent; one that finds all connections busy waits for the next. ``late`` is by how much its own work made
this program miss those moments.

It says ``ready`` when all connections have had an answer, begins when it reads a line, and writes what it saw as JSON.
``select`` and blocking sockets, since its time-out is in microseconds, and that of an event loop in milliseconds: the
requests of a millisecond would come together.
"""

import json
import random
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from benchmarks.ingress.backend import BODY, HOST
from benchmarks.table import percentile

REQUEST = b"GET /v1/ping HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
_WELL = b"HTTP/1.1 200 "
_PATIENCE_SECONDS = 10.0
_SPIN_SECONDS = 0.00002
"""Waking up takes longer than that, so the moment is as good as here."""


@dataclass(slots=True)
class Seen:
    """What was seen of one run. ``samples`` are seconds from the moment a request was meant to be sent."""

    samples: list[float]
    late: list[float]
    seconds: float

    def to_json(self) -> str:
        """Return one line."""
        told = {
            "requests": len(self.samples),
            "seconds": self.seconds,
            "p50": percentile(self.samples, 50),
            "p99": percentile(self.samples, 99),
            "late": percentile(self.late, 99) if self.late else 0.0,
        }
        return json.dumps(told)


class Asker:
    """Its connections; those that nobody uses are ``idle``, the last used on top."""

    def __init__(self, port: int, connections: int) -> None:
        self._meant: dict[socket.socket, float] = {}
        self.idle = [socket.create_connection((HOST, port), timeout=_PATIENCE_SECONDS) for _ in range(connections)]
        self._held = dict.fromkeys(self.idle, b"")
        for each in self.idle:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_busy(self) -> bool:
        """Whether anything is not answered."""
        return bool(self._meant)

    def send(self, connection: socket.socket, meant: float) -> None:
        """Ask on a connection that is nobody's."""
        self._meant[connection] = meant
        connection.sendall(REQUEST)

    def wait(self, seconds: float) -> list[tuple[socket.socket, float]]:
        """Return who was answered within the time, and how long that took."""
        answered = []
        readable, _, _ = select.select(list(self._meant), (), (), max(0.0, seconds))
        for each in readable:
            got = each.recv(4096)
            if not got:
                raise RuntimeError("a connection was closed")
            held = self._held[each] + got
            if len(held) > 4096 or not held.startswith(_WELL[: len(held)]):
                raise RuntimeError(f"answered {held[:200]!r}")
            if held.endswith(BODY):
                self._held[each] = b""
                answered.append((each, time.perf_counter() - self._meant.pop(each)))
            else:
                self._held[each] = held
        return answered


def saturate(asker: Asker, seconds: float) -> Seen:
    """Ask as fast as there are answers."""
    began = now = time.perf_counter()
    samples: list[float] = []
    for each in asker.idle:
        asker.send(each, time.perf_counter())
    while now < began + seconds:
        answered = asker.wait(_PATIENCE_SECONDS)
        if not answered:
            raise RuntimeError("nothing is answered")
        now = time.perf_counter()
        for connection, taken in answered:
            samples.append(taken)
            asker.send(connection, now)
    took, count = now - began, len(samples)
    while asker.is_busy:
        asker.wait(_PATIENCE_SECONDS)
    return Seen(samples[:count], [], took)


def pace(asker: Asker, seconds: float, rate: float, rng: random.Random) -> Seen:
    """Ask at random moments, ``rate`` a second."""
    began = time.perf_counter()
    due = began + rng.expovariate(rate)
    waiting: deque[float] = deque()
    seen = Seen([], [], seconds)
    while due < began + seconds or waiting or asker.is_busy:
        now = time.perf_counter()
        while due <= now + _SPIN_SECONDS and due < began + seconds:
            waiting.append(due)
            seen.late.append(max(0.0, now - due))
            due += rng.expovariate(rate)
        while waiting and asker.idle:
            asker.send(asker.idle.pop(), waiting.popleft())
        left = due - time.perf_counter() if due < began + seconds else _PATIENCE_SECONDS
        for connection, taken in asker.wait(left):
            seen.samples.append(taken)
            asker.idle.append(connection)
    return seen


def main() -> None:
    """Do what was asked for."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    asker = Asker(wanted["port"], wanted["connections"])
    for each in asker.idle:
        asker.send(each, time.perf_counter())
    while asker.is_busy:
        if not asker.wait(_PATIENCE_SECONDS):
            raise RuntimeError("nothing is answered")
    print("ready", flush=True)
    sys.stdin.readline()
    if wanted["rate"] is None:
        seen = saturate(asker, wanted["seconds"])
    else:
        seen = pace(asker, wanted["seconds"], wanted["rate"], random.Random(wanted["seed"]))
    print(seen.to_json(), flush=True)


if __name__ == "__main__":
    main()
