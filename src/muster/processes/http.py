"""Serve an ASGI application as one task among others: ready when it listens, gone when it is cancelled."""

import contextlib
import logging
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from muster.errors import SetupError

GRACE_SECONDS = 1
"""How long answers under way may take when the server stops; streams that never end are cut after it."""

_LONGEST_MESSAGE_BYTES = 1 << 20
"""Of a WebSocket: four times what any of our own protocols allows."""

_LOWEST_PORT = 10_000
_LOWEST_INGRESS_PORT = 20_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port(host: str) -> int:
    """Return a port that can be bound now, and that no outgoing connection will sit on later.

    The kernel's own choice (port 0) would be one that it also gives to outgoing connections: while a server is being
    restarted, somebody who keeps calling it could be given the server's own port as the source, and be answered by
    himself. Raises ``SetupError``.
    """
    try:
        end = int(_EPHEMERAL.read_text(encoding="ascii").split()[0])
    except OSError:
        end = 65_536
    for _ in range(100):
        # below those that an ingress gives out by default
        end = max(min(end, _LOWEST_INGRESS_PORT), _LOWEST_PORT + 1000)
        port = random.randrange(_LOWEST_PORT, end)  # noqa: S311  nothing secret about a port
        with contextlib.suppress(SetupError), listening(host, port):
            return port
    with listening(host, 0) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen before anything else is started, so that a port in use is one clear line. Raises ``SetupError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is told: else every second answer takes 40 ms,
    # because its body waits for the acknowledgement of its headers
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1024)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SetupError(f"cannot listen on {host} port {port} ({reason}); choose another with --port") from error
        listener.setblocking(False)
        yield listener


def _is_no_false_alarm(record: logging.LogRecord) -> bool:
    """Drop the error that uvicorn logs of every WebSocket which the application refused with an answer of its own.

    Its pull request 3138 is about this.
    """
    return record.msg != "ASGI callable returned without completing handshake."


class HttpServer:
    """Serves one application on one socket."""

    def __init__(self, listener: socket.socket) -> None:
        logging.getLogger("uvicorn.error").addFilter(_is_no_false_alarm)
        self._listener = listener
        self._server: uvicorn.Server | None = None

    @property
    def is_serving(self) -> bool:
        """Whether requests are answered."""
        return self._server is not None and self._server.started

    async def run(self, app: Any) -> None:
        """Serve until cancelled; then end answers under way within the grace."""
        server = self._server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
                ws_max_size=_LONGEST_MESSAGE_BYTES,
            )
        )
        try:
            await server.serve(sockets=[self._listener])
        finally:
            if server.started:
                await server.shutdown()


class _Uvicorn(uvicorn.Server):
    """Leaves the process's signal handlers alone: they belong to ``signals.until_stopped``."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield
