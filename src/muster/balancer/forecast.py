"""When a request that comes now would start, so that one that cannot make its deadline is refused while that helps.

expected wait = work before it ÷ (the fleet's capacity × the part of it that does not go to those who overtake it)

* Work before it: expected seconds of whoever waits and goes first (``queue.py``), and one slot's turn.
* Capacity: seconds of typical work that the replicas in use do per second, all slots busy.
* Those who overtake: smaller requests, and those of a higher priority, keep coming. How much of their work comes per
  second is measured over the last ``MEMORY_SECONDS``. At a load above 1 the large ones would wait for ever by that;
  what the queue reserves for whoever waits longest (``RESERVE``) is their bound.

An average, not a bound: a request is refused only if the forecast, shortened by ``DOUBT``, is still too long. Nothing
is refused before ``FEWEST`` answers taught what a request costs.
"""

import math

from muster.balancer.queue import RESERVE
from muster.balancer.ticket import Ticket

MEMORY_SECONDS = 10.0
DOUBT = 0.75
FEWEST = 20
MOST_KINDS = 4096
"""Tenants times sizes that are remembered; beyond that those which did not come lately are forgotten."""


class Arrivals:
    """The expected work of requests that came lately: decayed sums, brought up to date when they are read."""

    def __init__(self) -> None:
        self._work: dict[tuple[int, str, int], tuple[float, float]] = {}
        self._since: float | None = None

    def note(self, ticket: Ticket, now: float) -> None:
        """Count a request in."""
        if self._since is None:
            self._since = now
        kind = ticket.ask.priority, ticket.ask.tenant, ticket.rank
        work, at = self._work.get(kind, (0.0, now))
        self._work[kind] = work * math.exp((at - now) / MEMORY_SECONDS) + ticket.cost, now
        if len(self._work) > MOST_KINDS:
            recent = now - MEMORY_SECONDS
            self._work = {kind: each for kind, each in self._work.items() if each[1] > recent}

    def overtaking(self, ticket: Ticket, tenants: int, now: float) -> float:
        """Return the expected seconds of work that come per second and go before ``ticket``.

        What is of a higher priority does; of its own priority what is smaller and of its own tenant, and as much of
        each of the other ``tenants`` that wait, since fair shares let them have no more.
        """
        if self._since is None:
            return 0.0
        higher = smaller = 0.0
        mine = ticket.ask
        for (priority, tenant, rank), (work, at) in self._work.items():
            if priority > mine.priority:
                higher += work * math.exp((at - now) / MEMORY_SECONDS)
            elif priority == mine.priority and tenant == mine.tenant and rank < ticket.rank:
                smaller += work * math.exp((at - now) / MEMORY_SECONDS)
        watched = MEMORY_SECONDS * -math.expm1(min(0.0, (self._since - now) / MEMORY_SECONDS))
        return (higher + smaller * max(1, tenants)) / max(watched, 1.0)


def expected_wait(*, ahead: float, older: float, overtaking: float, turn: float, capacity: float) -> float:
    """Return seconds: ``ahead`` and ``older`` as the queue says, ``overtaking`` and ``capacity`` in work per second.

    ``turn`` is the work in the way of the next slot that becomes free.
    """
    if capacity <= 0.0:
        return math.inf  # until a replica comes back, and nobody knows when
    free = max(0.0, 1.0 - overtaking / capacity)
    by_order = (ahead + turn) / (capacity * free) if free > 0.0 else math.inf
    by_age = (older + turn) * (1.0 + 1.0 / RESERVE) / capacity
    return min(by_order, by_age)
