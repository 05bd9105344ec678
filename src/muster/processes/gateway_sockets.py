"""Where a gateway listens: for each address a socket for each worker, over which the kernel spreads clients.

The parent opens them and keeps them (``SO_REUSEPORT``): what is queued at a worker's socket waits for its next life
when it dies. Another program that listens there would share the clients unseen, so the address is first taken the
exclusive way, for an instant.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence

from muster.errors import SetupError
from muster.gateway.config import Bind

BACKLOG = 1024


def listen(binds: Sequence[Bind], workers: int) -> tuple[list[Bind], list[list[socket.socket]]]:
    """Return the addresses, with the ports that were found for 0, and each worker's sockets. Raises ``SetupError``."""
    places: list[Bind] = []
    found: list[list[socket.socket]] = [[] for _ in range(workers)]
    with contextlib.ExitStack() as stack:
        for bind in binds:
            place = bind
            try:
                with _socket(bind, is_shared=False) as probe:
                    probe.bind(bind)
                for each in found:
                    listener = stack.enter_context(_socket(place, is_shared=True))
                    listener.bind(place)
                    listener.listen(BACKLOG)
                    place = Bind((bind[0], listener.getsockname()[1]))
                    each.append(listener)
            except OSError as error:
                raise SetupError(f"--listen: cannot listen at {bind}: {_words(error)}") from error
            places.append(place)
        stack.pop_all()
    return places, found


def _words(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something else does already; end it, or choose another port"
    return os.strerror(error.errno) if error.errno else str(error)


def _socket(bind: Bind, *, is_shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
    # Event loops switch Nagle's algorithm off only for sockets that say that they are TCP.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if is_shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setblocking(False)
    return made


def listen_alone(bind: Bind, flag: str) -> socket.socket:
    """Return a socket that listens at an address which nobody else has. Raises ``SetupError``."""
    listener = _socket(bind, is_shared=False)
    try:
        listener.bind(bind)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SetupError(f"{flag}: cannot listen at {bind}: {_words(error)}") from error
    return listener
