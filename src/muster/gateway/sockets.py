"""What a TCP connection is asked for beyond reading and writing; a Unix socket has none of it.

asyncio knows none of these: that a host which vanished is noticed, that one is not waited for which takes nothing of
what it is sent, that a connection breaks off by a reset instead of by an end, and whether somebody has gone who is not
read.
"""

import asyncio
import socket
import struct

_RESET = struct.pack("ii", 1, 0)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A client whose host vanished is noticed after two minutes; until then it counts as in flight."""
_GONE = frozenset([7, 8])
"""TCP_CLOSE and TCP_CLOSE_WAIT, as ``include/net/tcp_states.h`` of Linux counts them."""


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the system look whether the other host is still there."""
    if _is_tcp(transport):
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def bound_untaken(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Have the system end a connection whose other side has taken nothing for so long of what is sent to it.

    A client that never reads would keep a replica's slot for as long as it likes, and its connection after that.
    """
    if _is_tcp(transport) and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection = transport.get_extra_info("socket")
        milliseconds = min(max(1, round(seconds * 1000)), 2**31 - 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def break_off(transport: asyncio.Transport) -> None:
    """End a connection so that it cannot be taken for its proper end."""
    if _is_tcp(transport) and not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def has_gone(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the other side has ended the connection, although nothing is read from it."""
    if not _is_tcp(transport) or not hasattr(socket, "TCP_INFO"):
        return False
    state: bytes = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] in _GONE


def _is_tcp(transport: asyncio.BaseTransport) -> bool:
    return isinstance(transport.get_extra_info("sockname"), tuple)
