"""The stand: a backend, and before it everything that is compared, all running for the length of the context.

Out: ``Subject``s, each a way to the same backend. A program that is not installed is no subject, and is named.
"""

import contextlib
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ingress import peers
from benchmarks.ingress.backend import HOST
from benchmarks.ingress.own import Home, raw_name, route
from benchmarks.ingress.program import Program, running

FIRST_PORT = 15_000
"""Below what the system gives to outgoing connections, and outside of the settings' defaults."""
ALONE, OURS_HTTP, OURS_RAW, OURS_TLS = "backend alone", "ingress, http", "ingress, tcp", "ingress, tcp in TLS (domain)"
NGINX, HAPROXY_HTTP = "nginx, http", "HAProxy, http"
HAPROXY_RAW, HAPROXY_TLS, STREAMS = "HAProxy, tcp", "HAProxy, tcp in TLS", "asyncio streams, tcp in TLS"


@dataclass(frozen=True, slots=True)
class Subject:
    """One way to the backend. ``server_name`` is what a client asks for by TLS; without TLS it is empty."""

    name: str
    program: Program
    port: int
    server_name: str = ""

    @property
    def url(self) -> str:
        """Where it is reached; a name that is no address resolves nowhere."""
        return f"https://{self.server_name}:{self.port}" if self.server_name else f"http://{HOST}:{self.port}"


@dataclass(frozen=True, slots=True)
class Stand:
    """``trust`` is what clients use; ``missing`` says which rows there cannot be."""

    subjects: tuple[Subject, ...]
    trust: ssl.SSLContext
    missing: tuple[str, ...]

    def find(self, name: str) -> Subject | None:
        """Return a subject by its name."""
        return next((each for each in self.subjects if each.name == name), None)


@contextlib.contextmanager
def standing(folder: Path) -> Iterator[Stand]:
    """Start all of it in a new folder."""
    raise_limit()
    folder.mkdir()
    http, raw, domain, plain, streams, nginx_port, *haproxy_ports = free_ports(9)
    home = Home(folder / "home", domain)
    ours = route(1, http, raw, plain)
    home.put(ours)
    missing: list[str] = []
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(_python("backend", folder, str(plain)))
        own = stack.enter_context(home.ingress())
        naive = stack.enter_context(
            _python("naive", folder, str(streams), str(plain), str(home.certificate), str(home.key))
        )
        backend.wait_accepting(plain)
        for port in (http, raw, domain):
            own.wait_accepting(port)
        naive.wait_accepting(streams)
        subjects = [Subject(ALONE, backend, plain), Subject(OURS_HTTP, own, http, HOST)]
        if path := peers.found("nginx"):
            nginx = stack.enter_context(peers.nginx(path, folder / "nginx", home, plain, nginx_port))
            subjects.append(Subject(NGINX, nginx, nginx_port, HOST))
        else:
            missing.append("nginx")
        if path := peers.found("haproxy"):
            https, unwrapped, wrapped = haproxy_ports
            haproxy = stack.enter_context(
                peers.haproxy(path, folder / "haproxy", home, plain, (https, unwrapped, wrapped))
            )
            subjects.append(Subject(HAPROXY_HTTP, haproxy, https, HOST))
            theirs = [Subject(HAPROXY_RAW, haproxy, unwrapped), Subject(HAPROXY_TLS, haproxy, wrapped, HOST)]
        else:
            missing.append("HAProxy")
            theirs = []
        subjects += [Subject(OURS_RAW, own, raw), *theirs[:1]]
        subjects += [Subject(OURS_TLS, own, domain, raw_name(ours)), *theirs[1:]]
        subjects.append(Subject(STREAMS, naive, streams, HOST))
        trust = ssl.create_default_context(cafile=home.authority)
        yield Stand(tuple(subjects), trust, tuple(missing))


def raise_limit() -> int:
    """Have as many descriptors as the system lets us, and the programs that are started; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on: who is measured is to be who was started."""
    found: list[int] = []
    for port in range(FIRST_PORT, 32_768):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"only {len(found)} of {count} ports are free")


def _python(name: str, folder: Path, *arguments: str) -> contextlib.AbstractContextManager[Program]:
    return running((sys.executable, "-m", f"benchmarks.ingress.{name}", *arguments), folder / f"{name}.log")
