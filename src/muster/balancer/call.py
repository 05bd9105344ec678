"""One HTTP request on its way through the balancer: where it goes next, and whether it may go again. No I/O.

Shared by the async and the sync transport, which only ask and send.

Sending again
* No connection came about: nothing was sent, so any request may go elsewhere, as often as it takes until its deadline.
* Anything later (broken connection, time-out, half a body): only if the call is idempotent: GET, HEAD, OPTIONS, or the
  caller says so, by ``extensions={"muster": {"idempotent": True}}`` or the header ``X-Muster-Idempotent: 1`` (taken
  out before sending, for SDKs that can only add headers). Costs a token of the retry budget.
* A body that can be read only once (a generator, a file) must not have been touched.
* 502, 503 and 504 are answers and go to the caller.

An idempotent call's answer of known and modest size is read before it is handed over, so that a break in its body is
repaired too; 1 MiB, because the caller would hold it in memory anyway and the wait for the first byte stays short.
"""

import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from muster.balancer.lease import Outcome
from muster.errors import InvalidSpec
from muster.model.endpoint import Endpoint

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IDEMPOTENT_HEADER = "X-Muster-Idempotent"
READ_WHOLE_UP_TO_BYTES = 1024 * 1024


class OneShotBody(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A body that cannot be replayed, with a note whether it has been touched."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.is_touched = False

    def __iter__(self) -> Iterator[bytes]:
        self.is_touched = True
        yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_touched = True
        async for chunk in self._stream:
            yield chunk

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller's request."""

    async def aclose(self) -> None:
        """Leave the stream open: it belongs to the caller's request."""


class Call:
    """The life of one request, over all its sends."""

    def __init__(self, request: httpx.Request, *, now: float, wait_seconds: float) -> None:
        options = request.extensions.get("muster") or {}
        timeout = options.get("timeout", wait_seconds)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or math.isnan(timeout):
            raise InvalidSpec('extensions["muster"]["timeout"]', f"{timeout!r} is not a number of seconds")
        self.deadline = now + timeout
        self.tried: frozenset[str] = frozenset()
        self.sends = 0
        self.last_error: httpx.TransportError | None = None
        self._request = request
        self._headers = request.headers.copy()
        marked = self._headers.pop(IDEMPOTENT_HEADER, "").strip().lower() in ("1", "true")
        self.is_idempotent = bool(options.get("idempotent", marked or request.method in SAFE_METHODS))
        self._extensions = {name: value for name, value in request.extensions.items() if name != "muster"}
        body = request.stream
        self._body = body if isinstance(body, httpx.ByteStream) else OneShotBody(body)

    def addressed_to(self, endpoint: Endpoint) -> httpx.Request:
        """Return the request as ``endpoint`` is to receive it: same path, query, headers and body; its own host."""
        self.sends += 1
        base = httpx.URL(endpoint.url)
        path = base.raw_path.rstrip(b"/") + self._request.url.raw_path
        self._headers["Host"] = base.netloc.decode("ascii")
        return httpx.Request(
            self._request.method,
            base.copy_with(raw_path=path),
            headers=self._headers,
            stream=self._body,
            extensions=self._extensions,
        )

    def failed(self, endpoint: Endpoint, error: httpx.TransportError) -> Outcome:
        """Note a failure at ``endpoint``; return what it says about the replica."""
        self.tried |= {endpoint.id}
        self.last_error = error
        return Outcome.REFUSED if _nothing_was_sent(error) else Outcome.FAILED

    def may_go_again(self, withdraw: Callable[[], bool], now: float) -> bool:
        """Tell whether the request may be sent once more after ``failed``; ``withdraw`` takes from the retry budget."""
        assert self.last_error is not None
        if isinstance(self.last_error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return False  # the request itself is wrong
        if isinstance(self._body, OneShotBody) and self._body.is_touched:
            return False
        if _nothing_was_sent(self.last_error):
            return True
        return self.is_idempotent and now < self.deadline and withdraw()

    def reads_whole(self, response: httpx.Response) -> bool:
        """Tell whether the answer is to be read before it is handed over."""
        length = response.headers.get("Content-Length", "")
        return self.is_idempotent and length.isascii() and length.isdigit() and int(length) <= READ_WHOLE_UP_TO_BYTES


def _nothing_was_sent(error: httpx.TransportError) -> bool:
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
