"""The sockets of the ingress: how one listens, how one that was accepted is counted, how one is closed politely.

What connections need is set on the listening socket, because Linux hands it on to what is accepted: no delay for small
answers, and probes of silent peers, since nothing here has a time limit and a client that lost its power would keep its
place in a container for ever.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

BACKLOG = 1024
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A peer that is gone is known after two minutes."""
_RESET = struct.pack("ii", 1, 0)
_LINGER_SECONDS = 2.0
_DRAIN_BYTES = 65536


def listen_on(host: str, port: int) -> socket.socket:
    """Return a listening socket that does not block. Raises ``OSError``.

    The protocol is named: event loops switch Nagle's algorithm off only for sockets that say that they are TCP.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_NODELAY, 1), *_KEEPALIVE):
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


class AcceptedSocket(socket.socket):
    """A connection that tells when it is over, whoever closes it.

    An event loop closes the socket that it was given, or detaches it (uvloop), in the moment when it gives the
    descriptor up; that is the one place that sees the end of each connection, also of those whose handshake fails.
    """

    def __init__(self, accepted: socket.socket, on_closed: Callable[[], None]) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.setblocking(False)
        self._on_closed: Callable[[], None] | None = on_closed

    def detach(self) -> int:
        """Give the descriptor up to whoever asks."""
        self._tell()
        return super().detach()

    def close(self) -> None:
        """Close it."""
        self._tell()
        super().close()

    def _tell(self) -> None:
        told, self._on_closed = self._on_closed, None
        if told is not None:
            told()


async def close_politely(connection: socket.socket, last_words: bytes = b"") -> None:
    """Say something, if anything, and close without a reset that could overtake it.

    The kernel resets a connection that is closed while something unread has arrived, and the other side then throws
    away what it has not read yet: so it is given a moment to finish.
    """
    loop = asyncio.get_running_loop()
    with connection, contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            if last_words:
                await loop.sock_sendall(connection, last_words)
            connection.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(connection, _DRAIN_BYTES):
                pass


def reset(transport: asyncio.Transport) -> None:
    """End a connection so that its peer cannot take the end for a regular one."""
    if transport.is_closing():
        return
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is over already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
