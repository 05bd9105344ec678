"""One HTTP request on its way through the balancer: where it goes next, and whether it may go again. No I/O.

Shared by every HTTP seam, async or sync, which only ask and send. What a request may say is read by ``options.py``.

Sending again
* No connection came about: nothing was sent, so any request may go elsewhere, as often as it takes until its deadline.
* Anything later (broken connection, time-out, half a body, bytes that are no HTTP): only if the call is idempotent:
  GET, HEAD, OPTIONS, or the caller says so. That costs a token of the retry budget (``budget.py``), and ends after
  ``resends`` times, so that a request which breaks whoever serves it does not break everybody.
* The replica's ingress refused (503 with ``x-muster-refused``): nothing was sent to the replica, so any request may go
  elsewhere, as if no connection had come about; see ``refusal.py``.
* A body that can be read only once (a generator, a file) must not have been touched. By the time of a refusal it has
  been, so the refusal is handed to the caller as the answer that it is.
* The replica's ingress got no answer (502 or 504 with ``x-muster-error``): as if the connection had broken, so it goes
  again if the caller says idempotent, and else the caller gets that answer.
* 502, 504 and any other 503 are answers and go to the caller.

Whoever could not connect to the same replica twice pauses, longer each time, so that no rule for picking among
replicas that all fail can make this a busy loop. Refusals need no pause: the balancer lets who refused rest.

An idempotent call's answer of known and modest size is read before it is handed over, so that a break in its body is
repaired too; 1 MiB, because the caller would hold it in memory anyway and the wait for the first byte stays short.

What is concluded about the replica: ``outcome_of_answer`` and ``outcome_of_error``. One time-out says little (busy is
not dead), an error that the request itself made says nothing; 4xx is an answer, but its time is no measure of the work.
A replica that answers of its own that it is overloaded (429, or 503 with ``Retry-After``) rests, or else its quick
answers would look like room and draw the traffic; the caller gets that answer, since the request has been there.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import httpx

from muster.balancer.lease import Outcome
from muster.balancer.options import take_options, too_late
from muster.balancer.refusal import outcome_of
from muster.errors import InvalidAsk
from muster.model.endpoint import Endpoint
from muster.model.routes import ERROR_HEADER, REFUSED_HEADER

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
READ_WHOLE_UP_TO_BYTES = 1024 * 1024
READ_REFUSAL_UP_TO_BYTES = 16 * 1024
"""A refusal's body is a line; reading it keeps the connection for the next request."""

FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 0.2
"""Far above a connect that fails on a local network, below what a caller notices."""

SHORTEST_STEP_SECONDS = 0.001
"""What a step gets after the deadline: httpcore takes 0 for *at once*, in which nothing can ever be read."""

FeaturesOf = Callable[[httpx.Request], object]
"""What ``features=`` of a transport is: gets the request, returns a mapping of numbers, or ``None``."""


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


class _StepsInTime(Mapping[str, float]):
    """Time-outs of httpx, no longer than is left until a deadline when the step begins, which is when httpcore asks.

    Reading an answer's body is one step, in which each chunk has the same time; ``hold.py`` looks at the clock too.
    """

    def __init__(self, given: Mapping[str, float | None], until: float, monotonic: Callable[[], float]) -> None:
        self._given = given
        self._until = until
        self._monotonic = monotonic

    def __getitem__(self, step: str) -> float:
        left = max(SHORTEST_STEP_SECONDS, self._until - self._monotonic())
        given = self._given.get(step)
        return left if given is None else min(given, left)

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4


class Call:
    """The life of one request, over all its sends."""

    def __init__(
        self, request: httpx.Request, *, now: float, wait_seconds: float, features: FeaturesOf | None = None
    ) -> None:
        self._request = request
        self._headers = request.headers.copy()
        options = take_options(
            self._headers, request.extensions.get("muster"), now, features and partial(features, request)
        )
        self.since = now
        self.ask = options.ask
        if self.ask.answer_by <= now:
            raise too_late(now - self.ask.answer_by)
        timeout = wait_seconds if options.timeout_seconds is None else options.timeout_seconds
        self.deadline = min(now + timeout, self.ask.answer_by)
        self.hedge_seconds = options.hedge_seconds
        said = options.is_idempotent
        self.is_idempotent = request.method in SAFE_METHODS if said is None else said
        self.tried: frozenset[str] = frozenset()
        self.sends = 0
        self.last_error: httpx.TransportError | None = None
        self.last_refusal = ""
        self._resends_left = options.resends
        self._unreached: Counter[str] | None = None
        self._rounds = 0
        self._extensions = {name: value for name, value in request.extensions.items() if name != "muster"}
        body = request.stream
        self._body = body if isinstance(body, httpx.ByteStream) else OneShotBody(body)
        if self.hedge_seconds is not None:
            self._require_hedgeable()

    @property
    def asked_before(self) -> float | None:
        """When the call began, if it has been sent before: its place among those that wait is that of its age."""
        return self.since if self.sends else None

    def addressed_to(self, endpoint: Endpoint, monotonic: Callable[[], float]) -> httpx.Request:
        """Return the request as ``endpoint`` is to receive it: same path, query, headers and body; its own host.

        ``monotonic`` is the balancer's clock, which bounds each step of a request that has a deadline.
        """
        self.sends += 1
        url, host = _address(endpoint.url, self._request.url.raw_path)
        self._headers["Host"] = host
        return httpx.Request(
            self._request.method,
            url,
            headers=self._headers,
            stream=self._body,
            extensions=self._extensions if math.isinf(self.ask.answer_by) else self._in_time(monotonic),
        )

    def failed(self, endpoint: Endpoint, error: httpx.TransportError) -> Outcome:
        """Note a failure at ``endpoint``; return what it says about the replica."""
        self.tried |= {endpoint.id}
        self.last_error, self.last_refusal = error, ""
        self._rounds = 0
        outcome = outcome_of_error(error)
        if outcome is Outcome.UNREACHABLE:
            self._unreached = self._unreached or Counter()
            self._rounds = self._unreached[endpoint.id]
            self._unreached[endpoint.id] += 1
        return outcome

    def may_go_again(self, withdraw: Callable[[], bool], now: float) -> bool:
        """Tell whether the request may be sent once more after ``failed``; ``withdraw`` takes from the retry budget."""
        assert self.last_error is not None
        if isinstance(self.last_error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return False  # the request itself is wrong
        if not self._is_replayable:
            return False
        if _nothing_was_sent(self.last_error):
            return True
        if not self.is_idempotent or not self._resends_left or now >= self.deadline or not withdraw():
            return False
        self._resends_left -= 1
        return True

    def answered(self, endpoint: Endpoint, response: httpx.Response) -> Outcome:
        """Note an answer of ``endpoint``; return what it says about the replica, once it has been read."""
        status = response.status_code
        if status in (httpx.codes.BAD_GATEWAY, httpx.codes.GATEWAY_TIMEOUT):
            failure = response.headers.get(ERROR_HEADER)
            if failure is not None:
                kind = httpx.RemoteProtocolError if status == httpx.codes.BAD_GATEWAY else httpx.ReadTimeout
                return self.failed(endpoint, kind(f"the ingress of {endpoint.id} got no answer: {failure}"))
        reason = response.headers.get(REFUSED_HEADER) if status == httpx.codes.SERVICE_UNAVAILABLE else None
        if reason is None:
            self.last_error, self.last_refusal = None, ""
            return outcome_of_answer(response)
        outcome = outcome_of(reason)
        if outcome is Outcome.UNREACHABLE:
            return self.failed(endpoint, httpx.ConnectError(f"the ingress of {endpoint.id} could not connect to it"))
        self.last_error, self.last_refusal = None, reason
        return outcome

    def goes_elsewhere(self, withdraw: Callable[[], bool], now: float) -> bool:
        """Tell whether the request, having been ``answered``, is to be sent to another replica."""
        if self.last_error is not None:
            return self.may_go_again(withdraw, now)
        return bool(self.last_refusal) and self._is_replayable

    def pause_seconds(self, share: float) -> float:
        """Return how long to wait before the next send; ``share`` is by chance, from 0 to 1, so that no two agree."""
        if not self._rounds or self.last_error is None:
            return 0.0
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._rounds - 1, 16))
        return longest * (1 + share) / 2

    def reads_whole(self, response: httpx.Response) -> bool:
        """Tell whether the answer is to be read before it is handed over."""
        return self.is_idempotent and _is_at_most(response, READ_WHOLE_UP_TO_BYTES)

    @property
    def _is_replayable(self) -> bool:
        return not (isinstance(self._body, OneShotBody) and self._body.is_touched)

    def _in_time(self, monotonic: Callable[[], float]) -> dict[str, Any]:
        """Bound each step of a send by the deadline: an answer after it is worth nothing."""
        given = self._extensions.get("timeout") or {}
        return {**self._extensions, "timeout": _StepsInTime(given, self.ask.answer_by, monotonic)}

    def _require_hedgeable(self) -> None:
        if not self.is_idempotent:
            raise InvalidAsk("hedge", "only an idempotent call may be sent to two replicas: say that it is idempotent")
        if isinstance(self._body, OneShotBody):
            raise InvalidAsk("hedge", "a body that can be read only once cannot be sent to two replicas: send bytes")


@lru_cache(maxsize=1024)
def _address(base: str, path: bytes) -> tuple[httpx.URL, str]:
    """Return where ``path`` is at an endpoint, and its host. Kept, because httpx takes 30 µs to put a URL together."""
    url = httpx.URL(base)
    return url.copy_with(raw_path=url.raw_path.rstrip(b"/") + path), url.netloc.decode("ascii")


def outcome_of_answer(response: httpx.Response) -> Outcome:
    """Return what an answer of the replica's own says about it, once it has been read to its end."""
    status = response.status_code
    is_turned_away = status == httpx.codes.SERVICE_UNAVAILABLE and "Retry-After" in response.headers
    if is_turned_away or status == httpx.codes.TOO_MANY_REQUESTS:
        return Outcome.BUSY
    if status >= 500:
        return Outcome.ERROR
    return Outcome.OK if status < 400 else Outcome.UNREAD


def outcome_of_error(error: BaseException) -> Outcome:
    """Return what a send that failed says about the replica."""
    if _nothing_was_sent(error):
        return Outcome.UNREACHABLE
    if isinstance(error, httpx.ReadTimeout):
        return Outcome.TIMED_OUT
    return Outcome.ERROR if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) else Outcome.FAILED


def is_small(refusal: httpx.Response) -> bool:
    """Tell whether a refusal's body is worth reading."""
    return _is_at_most(refusal, READ_REFUSAL_UP_TO_BYTES)


def _is_at_most(response: httpx.Response, limit_bytes: int) -> bool:
    length = response.headers.get("Content-Length", "")
    return length.isascii() and length.isdigit() and int(length) <= limit_bytes


def _nothing_was_sent(error: BaseException) -> bool:
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
