"""The stand: a backend, and before it everything that is compared, all running for the length of the context.

Out: ``Subject``s, each a way to the same backend. The gateway is ``muster gateway`` with all settings at their defaults
but for those that a row names: one process or two (x1, x2), an access log or none, a broker or none. Peers log nothing,
so the rows without a log are those to compare. Two processes have a broker of their own, in their parent.
"""

import asyncio
import contextlib
import datetime
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.balance import brokers
from benchmarks.balance.brokers import Brokers
from benchmarks.balance.sdk_load import SERVICE
from benchmarks.gateway import peers
from benchmarks.ingress.backend import HOST
from benchmarks.ingress.peers import found
from benchmarks.ingress.program import Program, running
from benchmarks.ingress.stand import free_ports, raise_limit
from muster import registry
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey

DIRECT, NGINX, HAPROXY = "direct", "nginx", "HAProxy"
ONE, TWO = "gateway x1", "gateway x2, own broker"
LOGGED, BROKERED = "gateway x1, access log", "gateway x1, broker"
SUBJECTS = (DIRECT, NGINX, HAPROXY, ONE, LOGGED, BROKERED, TWO)
_FLAGS: dict[str, tuple[str, ...]] = {
    ONE: ("--processes", "1", "--access-log", "off"),
    LOGGED: ("--processes", "1"),
    BROKERED: ("--processes", "1", "--access-log", "off"),
    TWO: ("--processes", "2", "--access-log", "off"),
}
CONCURRENCY = 100_000
"""Declared, so that nothing waits: what is measured is the way."""
_MUSTER = Path(sys.executable).with_name("muster")
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR")
_PATIENCE_SECONDS = 20.0
_SETTLE_SECONDS = 3.0
"""Until a link to a broker that has just started is up: it grants after a second."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One way to the backend. ``broker`` is what it asks, if it does, and that is another program."""

    name: str
    program: Program
    port: int
    broker: Brokers | None = None

    def cpu_seconds(self) -> tuple[float, float]:
        """Return the processor time so far of who carries requests, and of the broker."""
        every = self.program.cpu_seconds()
        if self.name == TWO:
            own = self.program.first_cpu_seconds()
            return every - own, own
        return every, 0.0 if self.broker is None else self.broker.cpu_seconds()


@contextlib.contextmanager
def standing(folder: Path, names: Sequence[str] = SUBJECTS) -> Iterator[tuple[Subject, ...]]:
    """Start all of it in a new folder; a peer that is not installed is left out."""
    raise_limit()
    folder.mkdir()
    plain, broker_port, *ports = free_ports(2 + len(names))
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(
            running((sys.executable, "-m", "benchmarks.gateway.backend", str(plain)), folder / "backend.log")
        )
        backend.wait_accepting(plain)
        url = (folder / "registry").as_uri()
        broker = None
        if BROKERED in names:
            broker = stack.enter_context(Brokers(folder / "brokers", url, [broker_port]))
        asyncio.run(_publish(url, plain, None if broker is None else broker.ca_pem))
        subjects = []
        for name, port in zip(names, ports, strict=True):
            if name == DIRECT:
                subjects.append(Subject(name, backend, plain))
            elif name in (NGINX, HAPROXY):
                path, home = found(name.lower()), folder / name.lower()
                if path is not None:
                    start = peers.nginx if name == NGINX else peers.haproxy
                    subjects.append(Subject(name, stack.enter_context(start(path, home, plain, port)), port))
            else:
                asked = broker if name == BROKERED else None
                program = stack.enter_context(_gateway(folder, name, url, port, asked))
                subjects.append(Subject(name, program, port, asked))
        for each in subjects:
            _wait_answering(each)
        if broker is not None:
            time.sleep(_SETTLE_SECONDS)
        yield tuple(subjects)


@contextlib.contextmanager
def _gateway(folder: Path, name: str, registry_url: str, port: int, broker: Brokers | None) -> Iterator[Program]:
    flags = ["--registry", registry_url, "--service", SERVICE, "--listen", f"{HOST}:{port}", "--status", "off"]
    environment = {each: os.environ[each] for each in _INHERITED if each in os.environ}
    if broker is not None:
        flags += ["--broker", broker.urls]
        environment["MUSTER_TOKEN"] = brokers.TOKEN
    with running((str(_MUSTER), "gateway", *flags, *_FLAGS[name]), folder / f"{port}.log", environment) as program:
        program.wait_accepting(port)
        yield program


async def _publish(url: str, port: int, ca_pem: str | None) -> None:
    opened = registry.connect(url)
    endpoint = Endpoint("one", f"http://{HOST}:{port}", concurrency=CONCURRENCY)
    now = datetime.datetime.now(datetime.UTC)
    await opened.publish(ServiceKey("admin", SERVICE), EndpointSet(1, 1, (endpoint,), now, ca_pem=ca_pem))
    await opened.aclose()


def _wait_answering(subject: Subject) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://{HOST}:{subject.port}/", timeout=_PATIENCE_SECONDS).close()
        except (urllib.error.HTTPError, OSError):
            subject.program.check(until)
            time.sleep(0.05)
        else:
            return
