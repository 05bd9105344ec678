"""Connections into containers: from an address to the session of a connection.

How a socket comes to see what a container sees is the engine's matter (``MakeSocket``). Addresses are numbers, or
``localhost``, which is both of its numbers, one after the other. Names are refused: to look them up would ask the
host's resolver about the container's world.
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from muster.engine.session import Connection, SocketSession
from muster.engine.thread import make_in_thread
from muster.errors import EngineRejected
from muster.model.container import Reason

DIAL_SECONDS: Final = 10.0
_LOCALHOST = ("127.0.0.1", "::1")

MakeSocket = Callable[[socket.AddressFamily], socket.socket]
"""Makes a socket for TCP; blocks, and may refuse as an engine does."""


async def connect(host: str, port: int, make: MakeSocket, seconds: float = DIAL_SECONDS) -> SocketSession:
    """Connect a socket. Raises ``EngineRejected`` when nothing answers in time."""
    attempt = f"connection to {host}:{port} in the container"
    try:
        async with asyncio.timeout(seconds):
            return await _first(addresses(host, port), port, make)
    except TimeoutError:
        raise EngineRejected(Reason.ERROR, f"{attempt}: no answer within {seconds:g} s") from None
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        raise EngineRejected(Reason.ERROR, f"{attempt}: {words}") from error


def addresses(host: str, port: int) -> Sequence[str]:
    """Return the numbers that a host stands for. Raises ``EngineRejected`` for a name."""
    if not 0 < port < 65536:
        raise EngineRejected(Reason.ERROR, f"port {port} does not exist")
    if host == "localhost":
        return _LOCALHOST
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is None or "%" in host:
        raise EngineRejected(Reason.ERROR, f"{host!r}: only localhost and numeric addresses are connected to")
    return (str(address),)


async def _first(numbers: Sequence[str], port: int, make: MakeSocket) -> SocketSession:
    """Connect to the first one that answers. Raises the ``OSError`` of the first one when none does."""
    refusals = []
    for number in numbers:
        try:
            return SocketSession(await _connected(number, port, make), Connection())
        except OSError as error:
            refusals.append(error)
    raise refusals[0]


async def _connected(number: str, port: int, make: MakeSocket) -> socket.socket:
    family = socket.AF_INET6 if ":" in number else socket.AF_INET
    made = await make_in_thread(lambda: make(family), socket.socket.close)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, (number, port))
    except BaseException:
        made.close()
        raise
    return made
