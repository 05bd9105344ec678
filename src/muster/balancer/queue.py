"""The one place where requests wait: bounded, first come first served.

A full queue refuses at once. 1,024 waiting requests on a service of 4 replicas with 8 slots are 32 rounds: at one
second a request that is the whole default wait of 30 seconds, so a longer queue would only hold requests that are
going to time out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.lease import Lease

DEFAULT_CAPACITY = 1024
DEFAULT_WAIT_SECONDS = 30.0


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that asked for a lease; it has one, or waits in the queue, or was given up.

    ``tried`` are endpoint ids to avoid while others exist. ``wake`` is called whenever it pays to look again.
    """

    asked_at: float
    deadline: float
    tried: frozenset[str]
    wake: Callable[[], None]
    ask: Ask = NOTHING_SAID
    lease: Lease | None = field(default=None)


class WaitingQueue:
    """Tickets in the order in which they asked."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._tickets: dict[Ticket, None] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate oldest first; no ticket may come or go meanwhile."""
        return iter(self._tickets)

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many."""
        return len(self._tickets) >= self._capacity

    def push(self, ticket: Ticket) -> None:
        """Append it."""
        self._tickets[ticket] = None

    def discard(self, ticket: Ticket) -> None:
        """Take it out, wherever it is; one that is not there is no error."""
        self._tickets.pop(ticket, None)

    def drop_expired(self, now: float) -> None:
        """Take out whoever is past its deadline; its owner learns it by its own timer."""
        self._tickets = {ticket: None for ticket in self._tickets if ticket.deadline > now}

    def clear(self) -> None:
        """Take out everybody."""
        self._tickets.clear()
