"""One HTTP request on its way through the balancer: where it goes next, and whether it may go again. No I/O.

Shared by the async and the sync transport, which only ask and send.

Sending again
* No connection came about: nothing was sent, so any request may go elsewhere, as often as it takes until its deadline.
* Anything later (broken connection, time-out, half a body): only if the call is idempotent: GET, HEAD, OPTIONS, or the
  caller says so, by ``extensions={"muster": {"idempotent": True}}`` or the header ``X-Muster-Idempotent: 1`` (taken
  out before sending, for SDKs that can only add headers). Costs a token of the retry budget.
* The replica's ingress refused (503 with ``x-muster-refused``): nothing was sent to the replica, so any request may go
  elsewhere, as if no connection had come about; see ``refusal.py``.
* A body that can be read only once (a generator, a file) must not have been touched. By the time of a refusal it has
  been, so the refusal is handed to the caller as the answer that it is.
* The replica's ingress got no answer (502 or 504 with ``x-muster-error``): as if the connection had broken, so it goes
  again if the caller says idempotent, and else the caller gets that answer.
* 502, 504 and any other 503 are answers and go to the caller.

An idempotent call's answer of known and modest size is read before it is handed over, so that a break in its body is
repaired too; 1 MiB, because the caller would hold it in memory anyway and the wait for the first byte stays short.
"""

import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

from muster.balancer.lease import Outcome
from muster.balancer.refusal import outcome_of
from muster.errors import InvalidSpec
from muster.model.endpoint import Endpoint
from muster.model.routes import ERROR_HEADER, REFUSED_HEADER

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IDEMPOTENT_HEADER = "X-Muster-Idempotent"
READ_WHOLE_UP_TO_BYTES = 1024 * 1024
READ_REFUSAL_UP_TO_BYTES = 16 * 1024
"""A refusal's body is a line; reading it keeps the connection for the next request."""


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
        self.last_refusal = ""
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
        self.last_error, self.last_refusal = error, ""
        return Outcome.UNREACHABLE if _nothing_was_sent(error) else Outcome.FAILED

    def may_go_again(self, withdraw: Callable[[], bool], now: float) -> bool:
        """Tell whether the request may be sent once more after ``failed``; ``withdraw`` takes from the retry budget."""
        assert self.last_error is not None
        if isinstance(self.last_error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return False  # the request itself is wrong
        if not self._is_replayable:
            return False
        if _nothing_was_sent(self.last_error):
            return True
        return self.is_idempotent and now < self.deadline and withdraw()

    def answered(self, endpoint: Endpoint, response: httpx.Response) -> Outcome:
        """Note an answer of ``endpoint``; return what it says about the replica: ``OK`` if it is the replica's own."""
        error = response.headers.get(ERROR_HEADER)
        if error is not None and response.status_code in (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT):
            return self.failed(
                endpoint, httpx.RemoteProtocolError(f"the ingress of {endpoint.id} got no answer: {error}")
            )
        reason = response.headers.get(REFUSED_HEADER)
        if reason is None or response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return Outcome.OK
        outcome = outcome_of(reason)
        if outcome is Outcome.UNREACHABLE:
            return self.failed(endpoint, httpx.ConnectError(f"the ingress of {endpoint.id} could not connect to it"))
        self.last_error, self.last_refusal = None, reason
        return outcome

    def goes_elsewhere(self, outcome: Outcome, withdraw: Callable[[], bool], now: float) -> bool:
        """Tell whether the request, having been ``answered``, is to be sent to another replica."""
        if outcome is Outcome.FAILED:
            return self.may_go_again(withdraw, now)
        return outcome is not Outcome.OK and self._is_replayable

    def reads_whole(self, response: httpx.Response) -> bool:
        """Tell whether the answer is to be read before it is handed over."""
        return self.is_idempotent and _is_at_most(response, READ_WHOLE_UP_TO_BYTES)

    @property
    def _is_replayable(self) -> bool:
        return not (isinstance(self._body, OneShotBody) and self._body.is_touched)


def is_small(refusal: httpx.Response) -> bool:
    """Tell whether a refusal's body is worth reading."""
    return _is_at_most(refusal, READ_REFUSAL_UP_TO_BYTES)


def _is_at_most(response: httpx.Response, limit_bytes: int) -> bool:
    length = response.headers.get("Content-Length", "")
    return length.isascii() and length.isdigit() and int(length) <= limit_bytes


def _nothing_was_sent(error: httpx.TransportError) -> bool:
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
