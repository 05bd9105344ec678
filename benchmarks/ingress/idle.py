"""Thousands of clients that keep their connection and ask nothing: what each costs in resident memory.

Each has had one answer before, as a client's pool would leave it, and afterwards each gets another one, so that those
that were quietly closed are not counted as cheap.
"""

import contextlib
import socket
import ssl
import time
from dataclasses import dataclass

from rich.table import Table

from benchmarks.ingress import stand
from benchmarks.ingress.backend import BODY
from benchmarks.ingress.stand import Stand, Subject
from benchmarks.ingress.stream import connected, request
from benchmarks.table import plain_table

CONNECTIONS = 5_000
_SPARE_FILES = 200
_SETTLE_SECONDS = 1.0
_READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Idle:
    """``bytes_each`` is the growth of the program's resident memory by each of ``count`` connections."""

    count: int
    bytes_each: float
    rss_bytes: int


def measure(standing: Stand) -> dict[str, Idle]:
    """Have them before each program that terminates HTTPS."""
    # Of ours each has a connection to its container too: two descriptors in one process.
    count = min(CONNECTIONS, (stand.raise_limit() - _SPARE_FILES) // 2)
    subjects = (standing.find(name) for name in (stand.OURS_HTTP, stand.NGINX, stand.HAPROXY_HTTP))
    return {each.name: _idle(each, standing.trust, count) for each in subjects if each is not None}


def table(idle: dict[str, Idle], caption: str) -> Table:
    """Return the figures."""
    shown = plain_table(
        "Ingress: idle HTTPS connections, each after one request",
        ("before", "connections", "memory/connection", "memory of the program"),
        caption,
    )
    for name, each in idle.items():
        shown.add_row(name, f"{each.count:,}", f"{each.bytes_each / 1e3:.1f} kB", f"{each.rss_bytes / 1e6:.0f} MB")
    return shown


def _idle(subject: Subject, trust: ssl.SSLContext, count: int) -> Idle:
    with contextlib.ExitStack() as stack:
        before = subject.program.rss_bytes()
        connections = []
        for _ in range(count):
            connection = stack.enter_context(connected(subject, trust))
            _ask(subject, connection)
            connections.append(connection)
        time.sleep(_SETTLE_SECONDS)
        after = subject.program.rss_bytes()
        for connection in connections:
            _ask(subject, connection)
        return Idle(count, (after - before) / count, after)


def _ask(subject: Subject, connection: socket.socket) -> None:
    connection.sendall(request(subject, "/"))
    answer = b""
    while not answer.endswith(BODY):
        got = connection.recv(_READ_BYTES)
        if not got:
            raise RuntimeError(f"{subject.name} closed an idle connection")
        answer += got
