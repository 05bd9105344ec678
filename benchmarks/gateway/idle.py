"""A thousand streams of events in which nothing happens: what each costs in resident memory.

Each is opened, has had its first event, and is left alone. Afterwards there is another event, which every client has to
get: a stream that was quietly ended is not cheap.
"""

import contextlib
import socket
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from benchmarks.gateway.backend import EVENT, EVENTS_PATH, TICK_PATH
from benchmarks.gateway.stand import DIRECT, HAPROXY, NGINX, ONE, Subject
from benchmarks.ingress.backend import HOST
from benchmarks.table import plain_table

STREAMS = 1_000
SUBJECTS = (DIRECT, NGINX, HAPROXY, ONE)
_SETTLE_SECONDS = 1.0
_PATIENCE_SECONDS = 20.0
_REQUEST = f"GET {EVENTS_PATH} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Idle:
    """``bytes_each`` is the growth of the program's resident memory by each of ``count`` streams."""

    count: int
    bytes_each: float
    rss_bytes: int


def measure(subjects: Sequence[Subject]) -> dict[str, Idle]:
    """Have them before each program; the backend's port is the first subject's."""
    direct, *others = subjects
    return {each.name: _idle(each, direct.port) for each in others}


def table(idle: dict[str, Idle], caption: str) -> Table:
    """Return the figures."""
    shown = plain_table(
        "Gateway: streams of events in which nothing happens",
        ("before", "streams", "memory/stream", "memory of the program"),
        caption,
    )
    for name, each in idle.items():
        shown.add_row(name, f"{each.count:,}", f"{each.bytes_each / 1e3:.1f} kB", f"{each.rss_bytes / 1e6:.0f} MB")
    return shown


def _idle(subject: Subject, backend_port: int) -> Idle:
    with contextlib.ExitStack() as stack:
        before = subject.program.rss_bytes()
        streams = []
        for _ in range(STREAMS):
            stream = stack.enter_context(socket.create_connection((HOST, subject.port), timeout=_PATIENCE_SECONDS))
            stream.sendall(_REQUEST)
            _hear(stream, subject)
            streams.append(stream)
        time.sleep(_SETTLE_SECONDS)
        after = subject.program.rss_bytes()
        urllib.request.urlopen(f"http://{HOST}:{backend_port}{TICK_PATH}", timeout=_PATIENCE_SECONDS).close()
        for stream in streams:
            _hear(stream, subject)
        return Idle(STREAMS, (after - before) / STREAMS, after)


def _hear(stream: socket.socket, subject: Subject) -> None:
    heard = b""
    while EVENT not in heard:
        got = stream.recv(4096)
        if not got:
            raise RuntimeError(f"{subject.name} ended a stream: {heard[:200]!r}")
        heard += got
    if heard.startswith(b"HTTP/") and not heard.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{subject.name}: {heard[:200]!r}")
