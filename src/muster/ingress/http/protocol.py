"""The way in: a factory of protocols for a listener that accepts connections, and unwraps their TLS."""

import asyncio

from muster.ingress.http.client import ClientSide
from muster.ingress.http.listening import Guests, Limits, Listening, OnAnswer, Resolve, nobody


class HttpProtocols:
    """Makes the protocol of each connection that a listener accepts; ``connections`` are those that are open."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol for a new connection; must be called on the loop that serves it."""
        return ClientSide(self._listening, asyncio.get_running_loop())

    @property
    def guests(self) -> Guests:
        """Return the connections as whoever ends them sees them."""
        return self._listening.guests

    @property
    def connections(self) -> frozenset[ClientSide]:
        """Return the open connections."""
        return frozenset(self._listening.guests.connections)

    @property
    def open_connections(self) -> int:
        """Return how many connections are open."""
        return len(self._listening.guests.connections)


def http_protocol(
    resolve: Resolve, limits: Limits | None = None, on_answer: OnAnswer = nobody, guests: Guests | None = None
) -> HttpProtocols:
    """Return a factory of protocols that carry requests to the containers that ``resolve`` names.

    ``guests`` is for whoever keeps the connections of several listeners.
    """
    return HttpProtocols(Listening(resolve, limits or Limits(), on_answer, guests or Guests()))
