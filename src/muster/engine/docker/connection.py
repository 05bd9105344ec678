"""The way to a Docker daemon: one client, a deadline for every call, and one table from its errors to ours.

In: calls of the Docker Engine API, as paths and bodies. Out: its JSON. The version of the API is negotiated, never
pinned: Docker 20.10 refuses anything above 1.41, Docker 29 anything below 1.44. What Muster needs (device requests,
``--init``, container labels as event filters) is there since 1.40, Docker 19.03.

A daemon that is gone, hangs or is shutting down is ``EngineUnavailable``: nothing is known. Everything else that it
says no to comes out as aiodocker's ``DockerError`` inside this package, because only the caller knows what a 404 means;
``refusal`` makes it an ``EngineRejected``, in words that say what to do where Docker's own do not.

Refused: the ``docker`` command (a process per call, text to parse), and docker-py (blocking).
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from muster.errors import EngineRejected, EngineUnavailable, SetupError
from muster.model.container import Reason

OLDEST_API = (1, 40)
CALL_SECONDS = 30.0
"""A daemon that has not answered by then hangs; starting or removing a container takes seconds on a busy host."""

_CHECK_SECONDS = 10.0
_NOT_CONNECTED = 900
"""aiodocker's own status for "nobody there"."""

_TRANSIENT = re.compile(
    r"context canceled|context deadline exceeded|ttrpc: closed|transport is closing|connection error"
    r"|is shutting down|daemon is not running|error while dialing|connection refused|failed to update store",
    re.IGNORECASE,
)
"""What a daemon says that is on its way down or up, or whose containerd is: nothing about the container."""

_HINTS = (
    (re.compile(r"no space left on device", re.IGNORECASE), "no space left on the disk of Docker"),
    (
        re.compile(r"max depth exceeded", re.IGNORECASE),
        "it was copied or saved so often that Docker stacks no more layers: a new container has to begin from an image",
    ),
    (
        re.compile(r"exec: \"/bin/sh\"|exec /bin/sh failed", re.IGNORECASE),
        "the image has no /bin/sh: commands are started by a shell",
    ),
    (
        re.compile(r"could not select device driver", re.IGNORECASE),
        "Docker on this host cannot hand out GPUs: install the nvidia-container-toolkit and restart Docker",
    ),
    (
        re.compile(r"non-overlapping IPv4 address pool|all predefined address pools", re.IGNORECASE),
        "Docker has no subnet left for one more account's network: add default-address-pools to its daemon.json",
    ),
    (re.compile(r"on network .* does not exist"), "Docker has lost a network that is still in use: restart Docker"),
    (
        re.compile(r"iptables failed", re.IGNORECASE),
        "the firewall rules of Docker are gone (were they flushed?): restart Docker",
    ),
    (re.compile(r"docker-init.*(not found|no such file)", re.IGNORECASE), "Docker's init is missing: install tini"),
)


class Connection:
    """Calls one daemon. ``url`` is ``unix:///path`` or ``tcp://host:port``. Made for one event loop.

    ``call_seconds`` is the deadline of whatever says nothing else.
    """

    def __init__(self, url: str, call_seconds: float = CALL_SECONDS) -> None:
        self.url = url
        self.call_seconds = call_seconds
        self._docker: aiodocker.Docker | None = None
        self._is_closed = False

    @property
    def docker(self) -> aiodocker.Docker:
        """The client, made when it is first used: it belongs to the running loop."""
        if self._is_closed:
            raise EngineUnavailable(f"the connection to Docker at {self.url} was closed")
        if self._docker is None:
            # aiohttp's own limit of 100 connections would let as many readers of logs keep out everybody else
            path = self.url.removeprefix("unix://")
            connector = aiohttp.UnixConnector(path, limit=0) if path != self.url else aiohttp.TCPConnector(limit=0)
            session = aiohttp.ClientSession(connector=connector)
            self._docker = aiodocker.Docker(url=self.url, connector=connector, session=session)
            if path != self.url:
                self._docker.docker_host = "unix://localhost"
        return self._docker

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> Any:
        """Make one call; returns its JSON, or its text. Raises ``DockerError`` and ``EngineUnavailable``."""
        query = self.docker._query(  # noqa: SLF001  the package's own way to calls that it has no method for
            path,
            method=method,
            params=_plain(params),
            data=None if body is None else json.dumps(body),
            timeout=aiohttp.ClientTimeout(),
        )
        async with self.attempt(f"{method} {path}", seconds), query as response:
            content = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "")
        if not (content and is_json):
            return content.decode(errors="replace")
        try:
            return json.loads(content)
        except ValueError:  # several values, one a line, as events are told
            return content.decode()

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        params: Mapping[str, Any],
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open an answer that goes on, and read it while the block runs. Only its beginning has a deadline."""
        query = self.docker._query(  # noqa: SLF001
            path, method=method, params=_plain(params), headers=headers, timeout=aiohttp.ClientTimeout()
        )
        async with self.attempt(f"{method} {path}", seconds):
            response = await query.__aenter__()
        try:
            yield response.content
        finally:
            response.close()

    @asynccontextmanager
    async def attempt(self, what: str, seconds: float | None = None) -> AsyncIterator[None]:
        """Turn "nobody there" and "no answer" into ``EngineUnavailable``."""
        limit = self.call_seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            raise EngineUnavailable(f"Docker at {self.url} does not answer ({what} took over {limit:g} s)") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"Docker at {self.url} cannot be reached: {_said(error)}") from error
        except DockerError as error:
            if error.status == _NOT_CONNECTED:
                self.docker.api_version = "auto"  # it may come back as another version
                cause = error.__context__ or error
                raise EngineUnavailable(f"Docker at {self.url} cannot be reached: {_said(cause)}") from cause
            if error.status >= 500 and (_TRANSIENT.search(str(error.message)) or not await self._is_open()):
                raise EngineUnavailable(f"Docker at {self.url} is not in order ({what}): {error.message}") from error
            raise

    async def _is_open(self) -> bool:
        """Tell whether the daemon still lets anybody in; one that ends fails whoever is in, in many words."""
        path = self.url.removeprefix("unix://")
        address = urlsplit(self.url)
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                if path != self.url:
                    _, writer = await asyncio.open_unix_connection(path)
                else:
                    _, writer = await asyncio.open_connection(address.hostname, address.port)
        except OSError:  # among them TimeoutError
            return False
        writer.close()
        return True

    async def close(self) -> None:
        """Let go of the client."""
        self._is_closed = True
        if self._docker is not None:
            await self._docker.close()
            await self._docker.session.close()
            self._docker = None


async def check(connection: Connection) -> None:
    """See that a daemon answers and speaks a version that is new enough. Raises ``SetupError`` in one line."""
    try:
        version = await connection.call("GET", "version", seconds=_CHECK_SECONDS)
        spoken = tuple(int(part) for part in version["ApiVersion"].split(".")[:2])
    except EngineUnavailable as error:
        raise SetupError(_why_unreachable(connection.url, error)) from error
    except DockerError as error:
        raise SetupError(f"Docker at {connection.url} refuses: {error.message}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"what answers at {connection.url} is not Docker") from error
    if spoken < OLDEST_API:
        needed, has = (".".join(map(str, each)) for each in (OLDEST_API, spoken))
        raise SetupError(
            f"Docker at {connection.url} is {version.get('Version')} and speaks API {has};"
            f" Muster needs {needed} (Docker 19.03) or newer"
        )


@contextmanager
def converted(attempt: str, reason: Reason | None = None) -> Iterator[None]:
    """Let nothing out of a block that is not of the engine port.

    What Docker says no to is told as a refusal for this reason; without one the container cannot help it, and what
    failed is to be tried again.
    """
    try:
        yield
    except DockerError as error:
        if reason is None:
            raise EngineUnavailable(f"{attempt}: {error.message}") from error
        raise refusal(reason, attempt, error) from error
    except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
        raise EngineUnavailable(f"{attempt}: Docker broke off: {error}") from error


def refusal(reason: Reason, attempt: str, error: DockerError) -> EngineRejected:
    """Say no for good, with a hint where Docker's words need one."""
    said = str(error.message).strip()
    hint = next((words for pattern, words in _HINTS if pattern.search(said)), "")
    return EngineRejected(reason, f"{attempt}: {hint} ({said})" if hint else f"{attempt}: {said}")


def _why_unreachable(url: str, error: EngineUnavailable) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return (
                f"no permission for the Docker socket {url.removeprefix('unix://')}:"
                " run as root, or add this user to the group docker and log in again"
            )
        cause = cause.__cause__ or getattr(cause, "os_error", None)
    return f"{error}; is dockerd running?"


def _said(error: BaseException) -> str:
    inner = getattr(error, "os_error", None) or error
    if isinstance(inner, OSError) and (inner.errno or 0) > 0:
        return os.strerror(inner.errno or 0)  # asyncio puts other words into the error of a port that is closed
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _plain(params: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Write parameters as the API reads them: booleans as words, tables as JSON."""
    if params is None:
        return None
    return {
        name: json.dumps(value) if isinstance(value, dict | list | bool) else str(value)
        for name, value in params.items()
        if value is not None
    }
