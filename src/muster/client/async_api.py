"""An AutoDL-compatible API for programs that follow it for months: async, patient, and clear about what went wrong.

In: a path and a body. Out: what the API says, or an exception of the feed's tree: ``FeedError`` for what may be over in
a second, ``FeedRefused`` for what a person has to change, ``NotFound`` and ``CursorExpired``. It knows the two forms of
answers, AutoDL's envelope and Muster's plain JSON, and nothing of what is in them: feeds and registries do.

Not the ``Client``: that one has a method per call for people's commands and blocks; a watcher needs three calls, waits
on many things at once, and must tell a server that restarts from an address that leads elsewhere. A message names the
address and what was found there, never the token.
"""

import asyncio
import functools
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from muster.client.wire import too_often
from muster.errors import (
    CursorExpired,
    FeedError,
    FeedRefused,
    InvalidSpec,
    MusterError,
    NotAnApi,
    NotFound,
    Unauthenticated,
)

T = TypeVar("T")

SILENCE_SECONDS = 30.0
"""A stream holds at least an empty line every 10 s: after three of them whoever sent it is gone."""
PATIENCE = 5
"""How often a call waits for the rate limit, each time twice as long, since others wait for the same bucket."""
LONGEST_WAIT_SECONDS = 60.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_NOT_ENTITLED = "无当前资源访问权限"
_UNAUTHORIZED, _FORBIDDEN, _NO_PATH, _GONE, _TOO_MANY_REQUESTS = 401, 403, 404, 410, 429
_SERVER_ERROR, _NO_METHOD = 500, 501


class AsyncApi:
    """One API, asked with one token. Paths are whole, as on the wire: ``/api/v1/dev/deployment/list``.

    ``ca_file`` holds the authorities to trust instead of those that everybody knows. Nothing is contacted before the
    first call. Raises ``InvalidSpec`` for what cannot be an address or authorities, ``Unauthenticated`` for what
    cannot be a token.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout_seconds: float = 10.0,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        host = _host(base_url)
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise Unauthenticated("the token holds characters that no token has")
        self.base_url = base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": token, "Content-Type": "application/json"} if token else {},
            timeout=timeout_seconds,
            transport=transport,
            verify=_trust(ca_file),
            trust_env=host not in _LOOPBACK,  # a proxy of the environment cannot reach our own loopback
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Call one of AutoDL's paths; returns the ``data`` of its envelope."""
        response = await self._patiently(path, lambda: self._http.post(path, json=body))
        wire = self._json(path, response)
        if not isinstance(wire, dict) or not isinstance(wire.get("code"), str):
            raise NotAnApi(f"{self._at(path)} answers JSON that is no answer of AutoDL's API: is the address right?")
        if wire["code"] != "Success":
            raise self._refusal(path, wire, response.status_code)
        return wire.get("data")

    async def get(self, path: str, **params: Any) -> Any:
        """Call one of Muster's own paths; returns its JSON. ``params`` that are ``None`` are left out."""
        response = await self._patiently(path, lambda: self._http.get(path, params=_given(params)))
        wire = self._json(path, response)
        self._check(path, response, wire)
        return wire

    async def lines(self, path: str, **params: Any) -> AsyncGenerator[Any, None]:
        """Yield what one of Muster's streams tells, one value a line; ends when the stream does.

        Raises ``FeedError`` also when nothing comes for 30 s. Close the iterator when you leave it early.
        """
        timeout = httpx.Timeout(self._timeout_seconds, read=SILENCE_SECONDS)
        request = self._http.build_request("GET", path, params=_given(params), timeout=timeout)
        response = await self._patiently(path, lambda: self._http.send(request, stream=True))
        try:
            if not response.is_success or "ndjson" not in response.headers.get("content-type", ""):
                await self._reaching(path, response.aread)
                self._check(path, response, self._json(path, response))
                raise FeedError(f"{self._at(path)} does not answer with a stream: is the address right?")
            found = response.aiter_lines()
            while (line := await self._reaching(path, lambda: anext(found, None))) is not None:
                if line.strip():  # an empty line only says that the server is still there
                    wire = _parsed(line)
                    if wire is None:
                        raise FeedError(f"{self._at(path)} sent a line that is no JSON")
                    self._check(path, response, wire)
                    yield wire
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections; streams under way end."""
        await self._http.aclose()

    def _at(self, path: str) -> str:
        return f"{self.base_url}{path}"

    async def _patiently(self, path: str, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        """Send, and after a while again what came too often for the rate limit: nothing was done of it."""
        for attempt in range(PATIENCE + 1):
            response = await self._reaching(path, send)
            wait_seconds = too_often(response)
            if wait_seconds is None and response.status_code == _TOO_MANY_REQUESTS:
                wait_seconds = 1.0
            if wait_seconds is None:
                return response
            await response.aclose()
            if attempt < PATIENCE:
                await asyncio.sleep(min(wait_seconds * 2**attempt, LONGEST_WAIT_SECONDS))
        raise FeedError(
            f"{self._at(path)}: the rate limit still held after {PATIENCE} waits: this token asks too often"
        )

    async def _reaching(self, path: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a part of a call; whatever goes wrong with the connection is a ``FeedError``."""
        try:
            return await call()
        except httpx.ConnectTimeout as error:
            raise FeedError(f"cannot reach {self._at(path)} within {self._timeout_seconds:g} s") from error
        except httpx.TimeoutException as error:
            raise FeedError(f"{self._at(path)} does not answer in time") from error
        except httpx.ConnectError as error:
            hint = ": its certificate is not trusted" if "CERTIFICATE_VERIFY_FAILED" in str(error) else ""
            raise FeedError(f"cannot reach {self._at(path)}{hint}") from error
        except httpx.HTTPError as error:
            raise FeedError(f"lost the connection to {self._at(path)}: {str(error) or type(error).__name__}") from error

    def _json(self, path: str, response: httpx.Response) -> Any:
        """Return the body of any answer that is JSON; raises what another body means."""
        wire = _parsed(response.content)
        if wire is not None:
            return wire
        status = response.status_code
        if response.has_redirect_location:
            raise NotAnApi(f"{self._at(path)} leads elsewhere (HTTP {status}): is the address right?")
        found = "HTML" if _is_html(response) else "something that is no JSON"
        if status == _NO_PATH:
            raise FeedRefused(f"{self._at(path)}: there is no such path (HTTP 404, {found}): is the address right?")
        if status == _UNAUTHORIZED:
            raise FeedRefused(f"{self._at(path)} refuses (HTTP 401, {found}): is the token right?")
        is_away = status >= _SERVER_ERROR and status != _NO_METHOD  # a proxy whose server is down has pages, too
        kind = FeedError if is_away else NotAnApi
        raise kind(f"{self._at(path)} answers {found}, not an API (HTTP {status}): is the address right?")

    def _check(self, path: str, response: httpx.Response, wire: Any) -> None:
        """Raise what an answer to one of Muster's paths says, unless that is success."""
        error = wire
        if isinstance(wire, dict):
            if isinstance(wire.get("error"), dict):
                raise self._refusal(path, wire["error"], response.status_code)
            if "code" in wire and "request_id" in wire:  # an envelope: another API, perhaps one that refuses
                raise self._refusal(path, wire, response.status_code)
        if response.status_code == _NO_PATH:
            raise FeedRefused(f"{self._at(path)}: there is no such path: is this Muster's API?")
        if not response.is_success:
            raise FeedError(f"{self._at(path)} answers HTTP {response.status_code}: {str(error)[:200]}")

    def _refusal(self, path: str, wire: Mapping[str, Any], status: int) -> MusterError:
        """Return the exception that an answer with a code stands for."""
        code, at = str(wire.get("code")), self._at(path)
        text = str(wire.get("message") or wire.get("msg") or "no reason given")
        if code == "AuthorizeFailed":
            return FeedRefused(f"{at} refuses: {text} (is the token right?)", code)
        if _NOT_ENTITLED in text or status == _FORBIDDEN:
            return FeedRefused(f"{at} refuses: {text} (the account is not entitled to this call)")
        if code == "RecordNotFoundError":
            return NotFound("record", path, f"{at}: {text}")
        if code == "CursorExpired" or status == _GONE:
            return CursorExpired(f"{at}: {text}")
        if status == _NO_PATH:
            return FeedRefused(f"{at}: there is no such path: is the address right? ({text})")
        if code == "Success":
            return FeedRefused(f"{at} is not Muster's API: it answers as AutoDL does")
        return FeedError(f"{at} refuses: {code}: {text}", code)


def _parsed(text: bytes | str) -> Any:
    """Return JSON that holds anything, else ``None``."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_html(response: httpx.Response) -> bool:
    return "html" in response.headers.get("content-type", "") or response.content.lstrip()[:1] == b"<"


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _host(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidSpec("url", f"is none: {error}") from error
    if parsed.userinfo:
        raise InvalidSpec("url", "holds a user or password: an API is asked with a token, which is given by itself")
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise InvalidSpec("url", f"must be like https://HOST[:PORT], got {url!r}")
    return parsed.host


@functools.cache
def _everybodys() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # 20 ms of processor time, and an SDK may open a hundred of these clients


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is None:
        return _everybodys()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise InvalidSpec("ca", f"{ca_file} holds no certificate authority: {error.strerror or error}") from error
