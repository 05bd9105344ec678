"""Lets a process that balances tell what it knows, at an address that is asked for: ``MUSTER_STATUS=127.0.0.1:9464``.

``/``: a line. ``/metrics``: for Prometheus. ``/services``: JSON, for ``muster lb show``. It only reads.

One server per address and process, however many connections ask for it: each is a source of statistics, and the server
ends with the last. It runs on a daemon thread with an event loop of its own, so it answers while the program computes
or blocks, and a program that forgets to close can end. It is no reason for a program to fail: where it cannot listen,
a warning says so and the program goes on.

It is read by whoever reaches the port, and so listens on loopback unless another IP address is written out; a name is
not taken, because nothing in it says what it stands for. How it is answered: ``status_http.py``.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus

from muster.balancer import metrics
from muster.balancer.statistics import Statistics
from muster.balancer.statistics_json import to_json
from muster.balancer.status_http import JSON, MOST_CONNECTIONS, Address, Found, StatusServer
from muster.errors import InvalidSpec

VARIABLE = "MUSTER_STATUS"

Source = Callable[[], Sequence[Statistics]]

_log = logging.getLogger(__name__)


class Status:
    """One source's part in the server of an address; ``url`` says where that listens."""

    def __init__(self, server: "_Server", source: Source) -> None:
        self.url = server.address.url
        self._server = server
        self._source = source

    def close(self) -> None:
        """Tell no more of this source; the server ends with its last."""
        _leave(self._server, self._source)


def read_address(written: str, field: str = "status") -> Address:
    """Return what ``127.0.0.1:9464``, ``[::1]:9464``, ``localhost:9464`` or ``:9464`` means, the last two loopback.

    Raises ``InvalidSpec``, naming ``field``.
    """
    host, _, port = written.strip().rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidSpec(field, f"{written!r} is no address to listen at: write 127.0.0.1:9464, or port 0 for any")
    if host in {"", "localhost"}:
        host = "127.0.0.1"
    try:
        return Address(str(ipaddress.ip_address(host[1:-1] if host[:1] + host[-1:] == "[]" else host)), int(port))
    except ValueError:
        raise InvalidSpec(
            field,
            f"{host!r} is neither localhost nor an IP address; write 127.0.0.1:{port}, or 0.0.0.0:{port} to let"
            " everybody read it who reaches this host",
        ) from None


def serve(written: str, source: Source, *, field: str = "status") -> Status | None:
    """Tell of ``source`` at an address, beginning now; ``None``, after a warning, where nobody can listen there.

    ``field`` names what the address was written in. Raises ``InvalidSpec`` for what is no address.
    """
    return _join(read_address(written, field), source, field)


def serve_if_asked(written: str | None, source: Source) -> Status | None:
    """Tell of ``source`` where ``written`` says or, if that is ``None``, ``MUSTER_STATUS``; an empty text is nowhere.

    What is wrong with the variable is only warned of: whoever set it may not be who wrote the program.
    """
    if written is not None:
        return serve(written, source) if written else None
    by_environment = os.environ.get(VARIABLE, "")
    try:
        return serve(by_environment, source, field=VARIABLE) if by_environment else None
    except InvalidSpec as error:
        _log.warning("%s; the program goes on without it", error)
        return None


_lock = threading.Lock()
_servers: list["_Server"] = []


def _join(address: Address, source: Source, field: str) -> Status | None:
    with _lock:
        server = next((each for each in _servers if address in {each.asked, each.address}), None)
        if server is None:
            try:
                server = _Server(address)
            except OSError as error:
                _log.warning(
                    "%s: cannot listen at %s:%d: %s; the program goes on without it"
                    " (of several processes each needs a port of its own, or port 0)",
                    field,
                    *address,
                    os.strerror(error.errno) if error.errno else error,  # strerror names the address again
                )
                return None
            _servers.append(server)
            _log.info("%s: the balancer's state is at %s", field, server.address.url)
        server.sources = (*server.sources, source)
        return Status(server, source)


def _leave(server: "_Server", source: Source) -> None:
    with _lock:
        if source not in server.sources:
            return
        server.sources = tuple(each for each in server.sources if each != source)
        if not server.sources:
            _servers.remove(server)
            server.stop()  # under the lock, so that whoever joins next finds the port free


def _forget_servers() -> None:
    """In a forked child: their threads are the parent's, and so are the ports."""
    global _lock  # noqa: PLW0603 whoever held it does not exist here
    _lock = threading.Lock()
    for server in _servers:
        server.abandon()
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_servers)


class _Server:
    """Listens at one address, until ``stop``."""

    def __init__(self, asked: Address) -> None:
        family = socket.AF_INET6 if ":" in asked.host else socket.AF_INET
        self._listener = socket.create_server(asked, family=family, backlog=MOST_CONNECTIONS)
        self.asked = asked
        self.address = Address(asked.host, self._listener.getsockname()[1])
        self.sources: tuple[Source, ...] = ()
        """Replaced as a whole: its thread reads it without the lock, under which it may be waited for."""
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="muster: status", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more, and cut off who is being answered."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def abandon(self) -> None:
        """Let the port go without a word to its thread, which is not in this process."""
        self._listener.close()
        self.sources = ()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await StatusServer(self.address, self._found).listen(self._listener)
        try:
            await self._ended.wait()
        finally:
            server.close()  # not waited for: what is open ends with the loop

    def _found(self, path: str) -> Found:
        match path:
            case "/metrics":
                return Found(metrics.text(self._statistics()), metrics.CONTENT_TYPE)
            case "/services":
                return Found(to_json(os.getpid(), self._statistics()), JSON)
            case "/":
                names = ", ".join(each.service for each in self._statistics()) or "nothing yet"
                line = f"muster: process {os.getpid()} balances {names}; /services, /metrics, or muster lb show URL\n"
                return Found(line)
        return Found("there is /services, /metrics and /\n", status=HTTPStatus.NOT_FOUND)

    def _statistics(self) -> list[Statistics]:
        """Look at all sources; a service that several of them have is told apart by a number."""
        found: list[Statistics] = []
        names: set[str] = set()
        for each in (each for source in self.sources for each in source()):
            name, number = each.service, 1
            while name in names:
                number += 1
                name = f"{each.service}#{number}"
            names.add(name)
            found.append(each._replace(service=name))
        return found
