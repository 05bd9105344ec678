"""A small server of HTTP for figures: one request a connection, reading only, with a bound on everything.

In: an address, and what finds the content of a path. A page in a browser on the same host reaches loopback, too, by a
name of its own that points there (DNS rebinding), so a ``Host`` that is a foreign name is refused.

Python's ``http.server`` was refused: a thread for each connection, and no bound on how long a header may take.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

HEAD_BYTES = 8192
"""A scraper's request has some 300."""
PATIENCE_SECONDS = 5.0
"""For a request to be there, and again for its answer to be taken; Prometheus waits for 10."""
MOST_CONNECTIONS = 16
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_log = logging.getLogger(__name__)


class Address(NamedTuple):
    """Where to listen. ``host`` is an IP address; port 0 is any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this host reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def url(self) -> str:
        """Where to ask, from this host if it listens everywhere."""
        asked = ipaddress.ip_address(self.host)
        if asked.is_unspecified:
            asked = ipaddress.ip_address("127.0.0.1" if asked.version == 4 else "::1")
        return f"http://{f'[{asked}]' if asked.version == 6 else asked}:{self.port}"


class Found(NamedTuple):
    """What is at a path."""

    content: str | bytes
    kind: str = TEXT
    status: HTTPStatus = HTTPStatus.OK


class StatusServer:
    """Answers ``GET`` and ``HEAD`` with what ``find`` returns for the path, without its query."""

    def __init__(self, address: Address, find: Callable[[str], Found]) -> None:
        self._address = address
        self._find = find
        self._open = 0

    async def listen(self, listener: socket.socket) -> asyncio.Server:
        """Serve on a listening socket, on the running loop, until that is closed."""
        return await asyncio.start_server(self._serve, sock=listener, limit=HEAD_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MOST_CONNECTIONS:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    answer = await self._answer(reader)
                writer.write(answer)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # it left, or is too slow: nobody to tell
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"at most {HEAD_BYTES} bytes\n")
        try:
            method, path = _checked(head, self._address)
            found = self._find(path)
        except _Refusal as refusal:
            return _response(refusal.status, f"{refusal}\n")
        except Exception:  # noqa: BLE001 what is told is other people's code, and the server has to go on
            _log.exception("the status of this process cannot be told")
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "see the log of the process\n")
        return _response(found.status, found.content, found.kind, has_body=method != "HEAD")


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _checked(head: bytes, address: Address) -> tuple[str, str]:
    """Return method and path of a request that may be answered. Raises ``_Refusal``."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _Refusal(HTTPStatus.BAD_REQUEST, "this speaks HTTP/1.1")
    hosts = [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].lower() == "host"]
    if len(hosts) != 1:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "one Host is needed")
    if not is_known_host(hosts[0], address):
        raise _Refusal(
            HTTPStatus.MISDIRECTED_REQUEST, f"this host is not known here by that name: ask at {address.url}"
        )
    if parts[0] not in {"GET", "HEAD"}:
        raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "this can only be read: GET")
    return parts[0], parts[1].partition("?")[0]


def is_known_host(host: str, address: Address) -> bool:
    """Whether a ``Host`` is no name that somebody else may have pointed here.

    An IP address is none, nor is ``localhost``. Where more than this host listens, neither is this host's own name or
    a name without a dot, which only the local network gives.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.lower().removesuffix(".")
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") else name)
        return True
    except ValueError:
        pass
    if name == "localhost":
        return True
    return not address.is_loopback and bool(name) and ("." not in name or name == socket.gethostname().lower())


def _response(status: HTTPStatus, body: str | bytes, kind: str = TEXT, *, has_body: bool = True) -> bytes:
    content = body.encode("utf-8", "replace") if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Connection: close",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (content if has_body else b"")
