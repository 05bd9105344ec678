"""What all connections of one event loop share: the hall, the connections to replicas, and who is here."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from muster.gateway.pools import Pools
from muster.gateway.port import Hall

if TYPE_CHECKING:
    from muster.gateway.connection import Connection


@dataclass(slots=True)
class Guests:
    """Open connections of clients, for whoever counts and ends them."""

    connections: "set[Connection]" = field(default_factory=set)

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return len(self.connections)

    @property
    def in_flight(self) -> int:
        """How many requests have had a head and are not over, waiting ones among them."""
        return sum(each.has_request for each in self.connections)

    def close_idle(self) -> None:
        """End the connections that have no request, once ``Hall.is_leaving``; the others end with theirs."""
        for each in list(self.connections):
            if each.is_idle:
                each.close()

    def abort(self) -> None:
        """Break off all of them."""
        for each in list(self.connections):
            each.abort()


@dataclass(slots=True)
class Shared:
    """One loop's share."""

    hall: Hall
    loop: asyncio.AbstractEventLoop
    guests: Guests
    pools: Pools
    deciding_bytes: int = 0
    """Of bodies that are kept whole, since they say where they go."""
