"""The seam of requests: an adapter that sends each request of a ``requests.Session`` through the balancer.

``session.mount("http://digits", service.requests_adapter())``: scheme, host and port of the URL are replaced by the
chosen endpoint's. Options come in ``X-Muster-…`` headers, or from the callable that is given as ``features``.

It translates, and decides nothing: the request becomes one of httpx and goes through ``MusterTransport``, so that what
is retried, refused and learned is written down once. What belongs to urllib3 (``verify``, ``cert``, ``proxies``, its
own retries) has no meaning here: the set of endpoints says where to connect and whom to trust there.

Errors are those that requests has, and ours: ``except requests.ConnectionError`` and ``except muster.MusterError``
both catch that nobody serves. ``requests.ConnectTimeout`` is what requests calls safe to try again.
"""

import contextlib
import http.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import httpx
import requests
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from muster.balancer.transport import MusterTransport
from muster.balancer.waiting import Gate
from muster.errors import (
    BalancerError,
    CannotMeetDeadline,
    InvalidAsk,
    MusterError,
    NeverFits,
    NoEndpoints,
    QueueCancelled,
    QueueFull,
    QueueTimeout,
)

PreparedFeaturesOf = Callable[[requests.PreparedRequest], object]
"""What ``features=`` of an adapter is: gets the request, returns a mapping of numbers, or ``None``."""

_PREPARED = "muster.prepared"


class AskRefused(InvalidAsk, requests.exceptions.InvalidHeader):
    """``InvalidAsk`` for users of requests."""


class ServiceUnknown(NoEndpoints, requests.ConnectionError):
    """``NoEndpoints`` for users of requests."""


class ServiceOverloaded(QueueFull, requests.ConnectTimeout):
    """``QueueFull`` for users of requests."""


class ServiceBusy(QueueTimeout, requests.ConnectTimeout):
    """``QueueTimeout`` for users of requests."""


class DeadlineMissed(CannotMeetDeadline, requests.ConnectTimeout):
    """``CannotMeetDeadline`` for users of requests."""


class ServiceTooSmall(NeverFits, requests.exceptions.InvalidHeader):
    """``NeverFits`` for users of requests."""


class RequestCancelled(QueueCancelled, requests.ConnectTimeout):
    """``QueueCancelled`` for users of requests."""


class ServiceUnreachable(BalancerError, requests.ConnectionError):
    """Any other ``BalancerError`` for users of requests: nobody could be connected to, or the service was closed."""


class MusterAdapter(BaseAdapter):
    """Balances the requests of a ``requests.Session``; safe for threads."""

    def __init__(
        self,
        gate: Gate,
        *,
        lifetime: AbstractContextManager[object] | None = None,
        features: PreparedFeaturesOf | None = None,
    ) -> None:
        super().__init__()
        self._transport = MusterTransport(
            gate,
            lifetime=lifetime,
            features=None if features is None else lambda request: features(request.extensions[_PREPARED]),
        )

    def send(  # noqa: PLR0917 - as requests calls it
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 - the session reads the body where it is not to stream
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,  # noqa: ARG002 - the set says whom to trust
        cert: object = None,  # noqa: ARG002
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> requests.Response:
        """Send ``request`` to a replica, and to another one where that is safe and needed."""
        with _translated(request):
            return _response(self, request, self._transport.handle_request(_request(request, timeout)))

    def close(self) -> None:
        """Close all connections and leave the lifetime."""
        self._transport.close()


class Raw:
    """An answer's body, as much of it as requests uses of urllib3's; the lease lasts as long as it does."""

    def __init__(self, request: requests.PreparedRequest, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.reason = response.reason_phrase
        self.version = 10 if response.http_version == "HTTP/1.0" else 11
        message = http.client.HTTPMessage()
        for name, text in response.headers.multi_items():
            message[name] = text
        self._original_response = SimpleNamespace(msg=message)  # where requests looks for cookies
        self._request = request
        self._response = response
        self._chunks: Iterator[bytes] | None = None
        self._left = b""

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._response.is_closed

    def stream(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield the body as it comes, at most ``amt`` bytes at once."""
        while chunk := self._some(amt, decode_content):
            yield chunk

    def read(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """Return ``amt`` bytes; fewer only at the end."""
        found = bytearray()
        while (amt is None or len(found) < amt) and (
            chunk := self._some(None if amt is None else amt - len(found), decode_content)
        ):
            found += chunk
        return bytes(found)

    def close(self) -> None:
        """End the lease, and the connection if something is left to read."""
        self._response.close()

    def release_conn(self) -> None:
        """Do as ``close`` does: what urllib3 would keep for the next request, the transport keeps."""
        self.close()

    def _some(self, amt: int | None, decode_content: bool | None) -> bytes:
        """Return what comes next, empty at the end. Whether it is decoded is for the first call to say."""
        if self._chunks is None:
            self._chunks = self._response.iter_bytes() if decode_content else self._response.iter_raw()
        with _translated(self._request, is_body=True):
            try:
                while not self._left and (chunk := next(self._chunks, None)) is not None:
                    self._left = chunk
            except BaseException:
                self.close()  # requests leaves that to the collector, which ends no lease
                raise
        found, self._left = self._left[:amt], self._left[amt:] if amt is not None else b""
        return found


def _request(request: requests.PreparedRequest, timeout: object) -> httpx.Request:
    connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
    body: Any = request.body
    assert request.method is not None
    assert request.url is not None
    return httpx.Request(
        request.method,
        request.url,
        headers=[(_bytes(name), _bytes(text)) for name, text in request.headers.items()],
        content=body.encode() if isinstance(body, str) else body,  # urllib3 sends UTF-8 too
        extensions={
            "timeout": {"connect": connect, "read": read, "write": read, "pool": None},
            _PREPARED: request,
        },
    )


def _bytes(text: str | bytes) -> bytes:
    """Encode as requests does."""
    return text if isinstance(text, bytes) else text.encode("latin-1")


def _response(adapter: MusterAdapter, request: requests.PreparedRequest, answer: httpx.Response) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status_code
    response.headers = CaseInsensitiveDict(answer.headers.items())
    response.encoding = get_encoding_from_headers(response.headers)
    response.raw = Raw(request, answer)
    response.reason = answer.reason_phrase
    response.url = request.url or ""
    response.request = request
    response.connection = adapter  # type: ignore[assignment] # authentication sends again through it
    extract_cookies_to_jar(response.cookies, request, response.raw)  # type: ignore[no-untyped-call]
    return response


@contextlib.contextmanager
def _translated(request: requests.PreparedRequest, *, is_body: bool = False) -> Iterator[None]:
    try:
        yield
    except MusterError as error:
        raise _ours(error, request) from error.__cause__
    except httpx.TimeoutException as error:
        late = requests.ConnectionError if is_body else requests.ReadTimeout  # as requests itself does
        raise late(str(error), request=request) from error
    except httpx.TransportError as error:
        broken = requests.exceptions.ChunkedEncodingError if is_body else requests.ConnectionError
        raise broken(str(error), request=request) from error
    except httpx.DecodingError as error:
        raise requests.exceptions.ContentDecodingError(str(error), request=request) from error


def _ours(error: MusterError, request: requests.PreparedRequest) -> requests.RequestException:
    """Return ``error`` as one that users of requests catch too."""
    made: requests.RequestException
    if isinstance(error, InvalidAsk):
        made = AskRefused(error.field, error.reason)
    elif isinstance(error, NoEndpoints):
        made = ServiceUnknown(error.service, str(error))
    elif isinstance(error, QueueFull):
        made = ServiceOverloaded(str(error))
    elif isinstance(error, CannotMeetDeadline):
        made = DeadlineMissed(str(error), error.waited_seconds, error.expected_seconds)
    elif isinstance(error, QueueTimeout):
        made = ServiceBusy(str(error), error.waited_seconds)
    elif isinstance(error, NeverFits):
        made = ServiceTooSmall(str(error))
    elif isinstance(error, QueueCancelled):
        made = RequestCancelled(str(error))
    else:
        made = ServiceUnreachable(str(error))
    made.request = request
    return made
