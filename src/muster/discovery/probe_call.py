"""One look at a foreign address, to see whether anybody answers there.

A hosted gateway accepts connections for containers in which nobody listens, and then says 502, 503 or 504; any other
answer, a redirect or an error of the application's own, comes from somebody. The body is not read. An address of raw
TCP can only be connected to, which says little behind a gateway that accepts for everybody.
"""

import asyncio
import contextlib
import logging
import ssl
import urllib.parse
from enum import Enum, auto

import httpx

from muster.model.routes import REFUSED_HEADER, Refusal

TIMEOUT_SECONDS = 5.0
_BAD_GATEWAY, _UNAVAILABLE, _GATEWAY_TIMEOUT = 502, 503, 504
_NOT_BEHIND = frozenset({Refusal.ENDED, Refusal.NOT_STARTED, Refusal.UNREACHABLE})

_log = logging.getLogger(__name__)


class Outcome(Enum):
    """What a look at an address found."""

    ANSWERED = auto()
    BUSY = auto()
    """Somebody is there and takes nothing now."""
    UNSERVED = auto()
    """A gateway says that nobody is behind it."""
    UNREACHABLE = auto()
    """No connection, or one that broke."""
    TIMED_OUT = auto()


class Caller:
    """Looks at addresses; close it with ``aclose``. ``path`` is asked for where an address has none."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None,
        verify: ssl.SSLContext | bool,
        path: str,
        timeout_seconds: float,
    ) -> None:
        unkept = httpx.Limits(max_keepalive_connections=0)  # a connection that was kept proves nothing about a new one
        self._http = httpx.AsyncClient(
            transport=transport or httpx.AsyncHTTPTransport(verify=verify, limits=unkept, trust_env=False),
            timeout=None,  # noqa: S113 - the whole look has its time
            trust_env=False,  # clients do not go through a proxy either
            headers={"user-agent": "muster-probe"},
        )
        self._path = path
        self._timeout_seconds = timeout_seconds
        self._distrusted: set[str] = set()

    async def look(self, url: str) -> Outcome:
        """Look once; never raises, and takes no longer than the time-out."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                parts = urllib.parse.urlsplit(url)
                if parts.scheme == "tcp":
                    return await _connect(parts.hostname or "", parts.port or 0)
                return await self._get(url if parts.path not in ("", "/") else url.rstrip("/") + self._path)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome.TIMED_OUT
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            self._warn_of_tls(url, error)
            return Outcome.UNREACHABLE

    async def aclose(self) -> None:
        """Close what is open."""
        await self._http.aclose()

    async def _get(self, url: str) -> Outcome:
        async with self._http.stream("GET", url) as response:
            status = response.status_code
            if status not in (_BAD_GATEWAY, _UNAVAILABLE, _GATEWAY_TIMEOUT):
                return Outcome.ANSWERED
            refused = response.headers.get(REFUSED_HEADER)
            if status == _UNAVAILABLE and (refused is not None or "retry-after" in response.headers):
                return Outcome.UNSERVED if refused in _NOT_BEHIND else Outcome.BUSY
            return Outcome.UNSERVED

    def _warn_of_tls(self, url: str, error: BaseException) -> None:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, ssl.SSLError):
            reason = reason.__cause__ or reason.__context__
        host = urllib.parse.urlsplit(url).netloc
        if reason is not None and host not in self._distrusted:
            self._distrusted.add(host)
            _log.warning(
                "https://%s is not ready: its TLS fails (%s); give discovery the authority of its certificate",
                host,
                reason,
            )


async def _connect(host: str, port: int) -> Outcome:
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Outcome.ANSWERED
