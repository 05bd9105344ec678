"""Somebody else who chooses, for this client and for others: what a gate needs of a broker's client.

While ``is_up``, asks go there and not to the core here. The core goes on counting what was granted and learning from
answers, so that it can choose by itself from one moment to the next: a remote that goes down hands every ticket that
waits back to the core, and takes the core's queue over when it comes up. Every call is made under the gate's lock.

It is attended to by one event loop. Should that end, or be held up, nobody else may be: whoever waits sees by
``next_tick`` that nobody has looked, and the gate goes on by itself (``lost``).
"""

from typing import Protocol

from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.ticket import Ticket


class Remote(Protocol):
    """One at a time is attached to a gate."""

    @property
    def url(self) -> str:
        """Who it is, for people."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether asks go there."""
        ...

    @property
    def waiting(self) -> int:
        """How many of our tickets wait there."""
        ...

    @property
    def next_tick(self) -> float:
        """By when its event loop looks after it; infinity while it is down."""
        ...

    def lost(self, now: float) -> None:
        """Go down: hand every ticket that waits there back to the core."""
        ...

    def closed(self) -> None:
        """Wake whoever waits: the gate was closed."""
        ...

    def ask(self, ticket: Ticket, now: float) -> None:
        """Ask for a lease; ``ticket.lease`` or ``ticket.error`` is set some time, and ``wake`` called."""
        ...

    def give_up(self, ticket: Ticket, now: float) -> None:
        """Wait no more for one; a ticket that does not wait there is no error."""
        ...

    def begin(self, ticket: Ticket, now: float) -> bool:
        """Say that the ticket's lease is used from now on; ``False`` if it is too late for that, and it waits again."""
        ...

    def took(self, lease: Lease, now: float) -> None:
        """Say that the core here has given a lease, past it."""
        ...

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """Say that a lease has ended; one that is unknown there is no error."""
        ...

    def reported(self, lease: Lease, report: LoadReport, now: float) -> None:
        """Pass on what a replica says of itself."""
        ...

    def answered(self, lease: Lease, now: float) -> None:
        """Pass on that a replica answers, before the lease ends."""
        ...
