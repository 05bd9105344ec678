"""The way in: a factory of protocols for a listener that accepts connections, and unwraps their TLS."""

import asyncio

from muster.gateway.connection import Connection
from muster.gateway.pools import Pools
from muster.gateway.port import Hall
from muster.gateway.shared import Guests, Shared


class GatewayProtocols:
    """Makes the protocol of each connection that is accepted; for one event loop, in which it must be made.

    To end gracefully: set ``hall.is_leaving``, ``guests.close_idle()``, wait until ``guests`` has nobody left or for as
    long as anybody is given, ``guests.abort()``, ``close()``.
    """

    def __init__(self, hall: Hall) -> None:
        loop = asyncio.get_running_loop()
        self._shared = Shared(hall, loop, Guests(), Pools(hall.limits, loop))

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol for a new connection."""
        return Connection(self._shared)

    @property
    def guests(self) -> Guests:
        """The connections as whoever counts and ends them sees them."""
        return self._shared.guests

    @property
    def pools(self) -> Pools:
        """The connections to replicas."""
        return self._shared.pools

    def close_idle(self) -> None:
        """End the connections that have no request."""
        self._shared.guests.close_idle()

    def close(self) -> None:
        """End the free connections to replicas, and keep none from now on."""
        self._shared.pools.close()


def gateway_protocol(hall: Hall) -> GatewayProtocols:
    """Return a factory of protocols that carry requests as ``hall.reception`` decides; call it on their loop."""
    return GatewayProtocols(hall)
