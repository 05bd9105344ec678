"""The addresses of a thousand containers, from the start of a killed ingress: how soon they are there, and the memory.

A home that ran before: authority, certificate and host key are there, the last table is the snapshot, and there is no
server. When a port listens is read from the kernel's table, every few milliseconds.
"""

import ssl
import statistics
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.ingress import stand
from benchmarks.ingress.backend import HOST
from benchmarks.ingress.own import Home, route
from benchmarks.ingress.program import PATIENCE_SECONDS, Program, running
from benchmarks.ingress.stand import Subject
from benchmarks.ingress.stream import connected, request
from benchmarks.table import duration, plain_table

CONTAINERS = 1_000
STARTS = 3
TARGET = "< 2 s"
_LOOK_SECONDS = 0.01
_SETTLE_SECONDS = 1.0
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds since the process was started, and what it had resident in the end."""

    services: float
    answer: float
    logins: float
    rss_bytes: int


def measure(folder: Path) -> tuple[list[Start], int]:
    """Start it again and again; return that, and what an ingress without containers has resident."""
    stand.raise_limit()
    backend_port, *ports = stand.free_ports(1 + 3 * CONTAINERS)
    https, raw, ssh = ports[::3], ports[1::3], ports[2::3]
    home = Home(folder / "many")
    home.give_engine()
    home.put(route(0, https[0], raw[0], backend_port, ssh[0]))
    with home.ingress() as program:
        _until_listening(program, {ssh[0]})
        time.sleep(_SETTLE_SECONDS)
        one_bytes = program.rss_bytes()
    home.put(*(route(number, https[number], raw[number], backend_port, ssh[number]) for number in range(CONTAINERS)))
    trust = ssl.create_default_context(cafile=home.authority)
    command = (sys.executable, "-m", "benchmarks.ingress.backend", str(backend_port))
    with running(command, folder / "many-backend.log") as backend:
        backend.wait_accepting(backend_port)
        starts = [_start(home, {*https, *raw}, set(ssh), https[-1], trust) for _ in range(STARTS)]
    return starts, one_bytes


def table(starts: list[Start], one_bytes: int, caption: str) -> Table:
    """Return the figures."""
    shown = plain_table(
        f"Ingress: {CONTAINERS:,} containers, from the snapshot, p50 and longest of {len(starts)} starts",
        ("from the start of the process to", "p50", "max", "target"),
        caption,
    )
    for what, part in (
        (f"{2 * CONTAINERS:,} service ports listen", "services"),
        ("the first answer over HTTPS, on the last of them", "answer"),
        (f"{CONTAINERS:,} SSH ports listen too", "logins"),
    ):
        seconds = [getattr(each, part) for each in starts]
        target = TARGET if part == "answer" else ""
        shown.add_row(what, duration(statistics.median(seconds)), duration(max(seconds)), target)
    rss = [each.rss_bytes for each in starts]
    shown.add_row("resident memory", f"{statistics.median(rss) / 1e6:.0f} MB", f"{max(rss) / 1e6:.0f} MB", "")
    each_bytes = (statistics.median(rss) - one_bytes) / (CONTAINERS - 1)
    shown.add_row("of that for each container: 2 services, 1 login", f"{each_bytes / 1e3:.1f} kB", "", "")
    return shown


def _start(home: Home, services: set[int], logins: set[int], asked: int, trust: ssl.SSLContext) -> Start:
    begun = time.perf_counter()
    with home.ingress() as program:
        _until_listening(program, services)
        services_seconds = time.perf_counter() - begun
        subject = Subject("ingress", program, asked, HOST)
        with connected(subject, trust) as connection:
            connection.sendall(request(subject, "/"))
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise RuntimeError("the last of the addresses does not answer")
        answer_seconds = time.perf_counter() - begun
        _until_listening(program, logins)
        logins_seconds = time.perf_counter() - begun
        time.sleep(_SETTLE_SECONDS)
        return Start(services_seconds, answer_seconds, logins_seconds, program.rss_bytes())


def _until_listening(program: Program, ports: Collection[int]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not _listening().issuperset(ports):
        program.check(until)
        time.sleep(_LOOK_SECONDS)


def _listening() -> set[int]:
    """Return every port of IPv4 that somebody listens on."""
    fields = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {int(each[1].partition(":")[2], 16) for each in fields if each[3] == _LISTENING}
