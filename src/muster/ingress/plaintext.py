"""What a connection to a TLS port begins with: a handshake, HTTP in plain text, or something else.

Only its first byte is looked at, and left in place for whoever is to read it. Somebody who typed ``http://`` is told
in HTTP, with the very address that was asked for, what would be right; everything else would not understand an answer.
"""

import asyncio
import json
import re
import socket
from enum import Enum

_HANDSHAKE = 0x16
"""Every TLS connection begins with a record of this type (RFC 8446, section 5.1)."""
_HEAD_BYTES = 8192
_REQUEST = re.compile(rb"([A-Za-z]+) (\S*) HTTP/\d")
_HOST = re.compile(rb"\r\n[Hh][Oo][Ss][Tt]:[ \t]*([A-Za-z0-9.\-:\[\]]{1,255})[ \t]*\r\n")
_TARGET = re.compile(rb"/[A-Za-z0-9\-._~:/?#@!$&()*+,;=%]{0,1000}")


class FirstByte(Enum):
    """What a connection seems to speak."""

    TLS = "tls"
    TEXT = "text"
    OTHER = "other"
    NOTHING = "nothing"
    """It ended before it said anything."""


async def first_byte(connection: socket.socket, patience_seconds: float) -> FirstByte:
    """Wait for the first byte and say what it is, without reading it. Raises ``TimeoutError`` and ``OSError``."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(patience_seconds):
        while True:
            try:
                return _kind(connection.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                pass
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)


async def read_head(connection: socket.socket, patience_seconds: float) -> bytes:
    """Return the beginning of a request, as much as came in time. Raises ``OSError``."""
    head = b""
    try:
        async with asyncio.timeout(patience_seconds):
            while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
                more = await asyncio.get_running_loop().sock_recv(connection, _HEAD_BYTES - len(head))
                if not more:
                    break
                head += more
    except TimeoutError:
        pass
    return head


def says_use_https(head: bytes, address: tuple[str, int]) -> bytes:
    """Return the answer to a request in plain text; ``address`` is for those that do not say whom they ask.

    What is repeated from the request are characters of host names and paths only.
    """
    request, host = _REQUEST.match(head), _HOST.search(head)
    name = host.group(1).decode() if host else _authority(*address)
    target = _TARGET.fullmatch(request.group(2)) if request else None
    url = f"https://{name}{target.group().decode() if target else '/'}"
    text = f"this address speaks HTTPS, and this request was plain HTTP: use {url}"
    body = json.dumps({"error": text, "reason": "plain_http"}).encode() + b"\n"
    answer = (
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    ).encode()
    return answer if request and request.group(1).upper() == b"HEAD" else answer + body


def _kind(first: bytes) -> FirstByte:
    if not first:
        return FirstByte.NOTHING
    if first[0] == _HANDSHAKE:
        return FirstByte.TLS
    return FirstByte.TEXT if first.isalpha() else FirstByte.OTHER


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
