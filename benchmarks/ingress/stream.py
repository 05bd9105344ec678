"""A download of a gigabyte through each: how fast, and what it costs whoever stands in between."""

import socket
import ssl
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass

from rich.table import Table

from benchmarks.ingress import stand
from benchmarks.ingress.backend import BULK_BYTES, BULK_PATH, HOST
from benchmarks.ingress.program import PATIENCE_SECONDS
from benchmarks.ingress.stand import Stand, Subject
from benchmarks.table import plain_table

ROUNDS = 3
_READ_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Download:
    """One of them."""

    seconds: float
    cpu_seconds: float


def measure(standing: Stand) -> dict[str, list[Download]]:
    """Download through each, round after round."""
    found: dict[str, list[Download]] = defaultdict(list)
    for _ in range(ROUNDS):
        for each in standing.subjects:
            found[each.name].append(_download(each, standing.trust))
    return found


def table(downloads: dict[str, list[Download]], caption: str) -> Table:
    """Return the figures."""
    shown = plain_table("Ingress: a stream of 1 GB to one client", ("download", "MB/s", "CPU s/GB", "target"), caption)
    speeds = {
        name: BULK_BYTES / statistics.median(each.seconds for each in all_) / 1e6 for name, all_ in downloads.items()
    }
    for name, all_ in downloads.items():
        price = statistics.median(each.cpu_seconds for each in all_) / BULK_BYTES * 1e9
        shown.add_row(name, f"{speeds[name]:,.0f}", f"{price:.2f}", "")
    if stand.HAPROXY_TLS in speeds:
        ratio = speeds[stand.OURS_TLS] / speeds[stand.HAPROXY_TLS]
        shown.add_row("tcp in TLS: ratio to HAProxy", f"{ratio:.2f} x", "", "")
    return shown


def _download(subject: Subject, trust: ssl.SSLContext) -> Download:
    buffer = bytearray(_READ_BYTES)
    with connected(subject, trust) as connection:
        before, begun = subject.program.cpu_seconds(), time.perf_counter()
        connection.sendall(request(subject, BULK_PATH))
        got = connection.recv_into(buffer)
        head, _, rest = bytes(buffer[:got]).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or not got:
            raise RuntimeError(f"{subject.name}: {head!r}")
        left = BULK_BYTES - len(rest)
        while left > 0:
            got = connection.recv_into(buffer)
            if not got:
                raise RuntimeError(f"{subject.name}: the stream ended {left} bytes too early")
            left -= got
        return Download(time.perf_counter() - begun, subject.program.cpu_seconds() - before)


def connected(subject: Subject, trust: ssl.SSLContext) -> socket.socket:
    """Return a connection, inside TLS where there is TLS."""
    raw = socket.create_connection((HOST, subject.port), timeout=PATIENCE_SECONDS)
    return trust.wrap_socket(raw, server_hostname=subject.server_name) if subject.server_name else raw


def request(subject: Subject, path: str) -> bytes:
    """Return a request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: {subject.server_name or HOST}\r\n\r\n".encode()
