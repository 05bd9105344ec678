"""The balancer's errors as users of httpx meet them: each is both ours and httpx's.

Code that was written for httpx keeps working (``except httpx.TransportError``), code that knows Muster is exact
(``except QueueFull``). All of them are raised before anything was sent, or after nothing could be. What breaks later is
httpx's own error, with the replica's name (``raise_named``).
"""

from typing import NoReturn

import httpx

from muster.balancer.call import Call
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
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint


class ServiceUnknown(NoEndpoints, httpx.ConnectError):
    """``NoEndpoints`` for users of httpx."""


class ServiceOverloaded(QueueFull, httpx.PoolTimeout):
    """``QueueFull`` for users of httpx."""


class ServiceBusy(QueueTimeout, httpx.PoolTimeout):
    """``QueueTimeout`` for users of httpx.

    Also when every replica's ingress refused until the deadline: whether we or the ingress counted that all are busy is
    the same to a caller, who must not need two ways to learn it.
    """


class ServiceUnreachable(BalancerError, httpx.ConnectError):
    """No replica could be connected to before the deadline; the cause is the last attempt's error."""


class ServiceClosed(BalancerError, httpx.TransportError):
    """The service object or the client was closed while, or before, the request waited."""


class NotHttp(BalancerError, httpx.UnsupportedProtocol):
    """The service's port carries raw TCP: there is no HTTP to speak."""


class AskRefused(InvalidAsk, httpx.LocalProtocolError):
    """``InvalidAsk`` for users of httpx: the request is wrong, and no replica will mend it."""


class DeadlineMissed(CannotMeetDeadline, httpx.PoolTimeout):
    """``CannotMeetDeadline`` for users of httpx."""


class ServiceTooSmall(NeverFits, httpx.LocalProtocolError):
    """``NeverFits`` for users of httpx."""


class RequestCancelled(QueueCancelled, httpx.PoolTimeout):
    """``QueueCancelled`` for users of httpx."""


def as_httpx(error: MusterError, call: Call | None = None) -> MusterError:
    """Return ``error`` as one that users of httpx catch too; raise it ``from cause_of(error, call)``.

    Only what ``Call`` and a waiter raise.
    """
    if isinstance(error, InvalidAsk):
        return AskRefused(error.field, error.reason)
    if isinstance(error, NoEndpoints):
        return ServiceUnknown(error.service, str(error))
    if isinstance(error, QueueFull):
        return ServiceOverloaded(str(error))
    if isinstance(error, CannotMeetDeadline):
        return DeadlineMissed(str(error), error.waited_seconds, error.expected_seconds)
    if isinstance(error, NeverFits):
        return ServiceTooSmall(str(error))
    if isinstance(error, QueueTimeout):
        last, sends, refusal = (call.last_error, call.sends, call.last_refusal) if call is not None else (None, 0, "")
        if isinstance(last, httpx.ConnectError | httpx.ConnectTimeout):
            return ServiceUnreachable(f"{error}; {sends} attempts did not connect, the last: {last}")
        refused = f"; {sends} requests were refused, the last: {refusal}" if refusal else ""
        return ServiceBusy(f"{error}{refused}", error.waited_seconds)
    return RequestCancelled(str(error)) if isinstance(error, QueueCancelled) else ServiceClosed(str(error))


def cause_of(error: MusterError, call: Call | None = None) -> BaseException:
    """Return what an error of ``as_httpx`` comes from: the last attempt's error, or whatever raised ``error``."""
    if call is not None and call.last_error is not None:
        return call.last_error
    return error.__cause__ or error


def raise_named(error: httpx.TransportError, endpoint: Endpoint, circumstance: str = "") -> NoReturn:
    """Raise ``error`` as one of its own class that says at which replica it happened, and under which circumstance.

    Which class it is matters to callers, and httpx's time-outs have no text at all.
    """
    where = f"{endpoint.id} at {endpoint.url}: "
    said = str(error) or type(error).__name__
    if said.startswith(where):
        raise error
    raise type(error)(where + circumstance + said) from error


def require_http(endpoint: Endpoint) -> None:
    """Raise ``NotHttp`` unless ``endpoint`` can be spoken to by httpx."""
    if endpoint.protocol is not PortProtocol.HTTP:
        raise NotHttp(
            f"{endpoint.id} speaks {endpoint.protocol.value}, not HTTP: use acquire() and open {endpoint.url} yourself"
        )
