"""The balancer's errors as users of httpx meet them: each is both ours and httpx's.

Code that was written for httpx keeps working (``except httpx.TransportError``), code that knows Muster is exact
(``except QueueFull``). All of them are raised before anything was sent, or after nothing could be.
"""

import httpx

from muster.balancer.call import Call
from muster.errors import BalancerError, NoEndpoints, QueueFull, QueueTimeout
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
    """The service object was closed while, or before, the request waited."""


class NotHttp(BalancerError, httpx.UnsupportedProtocol):
    """The service's port carries raw TCP: there is no HTTP to speak."""


def as_httpx(error: BalancerError, call: Call) -> BalancerError:
    """Return ``error`` as one that users of httpx catch too; raise it ``from call.last_error or error``."""
    if isinstance(error, NoEndpoints):
        return ServiceUnknown(error.service, str(error))
    if isinstance(error, QueueFull):
        return ServiceOverloaded(str(error))
    if isinstance(error, QueueTimeout):
        if isinstance(call.last_error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServiceUnreachable(f"{error}; {call.sends} attempts did not connect, the last: {call.last_error}")
        refused = f"; {call.sends} requests were refused, the last: {call.last_refusal}" if call.last_refusal else ""
        return ServiceBusy(f"{error}{refused}", error.waited_seconds)
    return ServiceClosed(str(error))


def require_http(endpoint: Endpoint) -> None:
    """Raise ``NotHttp`` unless ``endpoint`` can be spoken to by httpx."""
    if endpoint.protocol is not PortProtocol.HTTP:
        raise NotHttp(
            f"{endpoint.id} speaks {endpoint.protocol.value}, not HTTP: use acquire() and open {endpoint.url} yourself"
        )
