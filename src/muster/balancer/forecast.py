"""When a request that must wait would start, so that one that cannot make its deadline is refused while that helps.

expected wait = until a slot is free + work before it ÷ (the fleet's capacity × what of it is not overtaken)

* Until a slot is free: what the request under way that is expected to end first still takes.
* Work before it: expected seconds of whoever waits and goes first (``queue.py``).
* Capacity: seconds of typical work that the replicas in use do per second, all slots busy.
* Those who overtake: smaller requests, and those of a higher priority, keep coming. How much of their work comes per
  second is measured over the last ``MEMORY_SECONDS``. At a load above 1 the large ones would wait for ever by that;
  what the queue reserves for whoever waits longest (``RESERVE``) is their bound.

An average, not a bound: a request is refused only if the forecast, shortened by ``DOUBT``, leaves less than what the
quickest tenth of such requests take. Nothing is refused before ``FEWEST`` answers taught what a request costs, and
nothing for which a slot is free: what is learned may be wrong, and is only learned anew by sending.
"""

import math

from muster.balancer.queue import RESERVE
from muster.balancer.ticket import Ticket

MEMORY_SECONDS = 10.0
DOUBT = 0.75
FEWEST = 20
MOST_KINDS = 1024
"""Tenants times sizes that are remembered; beyond that the half that came last is kept."""


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
            newest = sorted(self._work.items(), key=lambda item: item[1][1])[-MOST_KINDS // 2 :]
            self._work = dict(newest)

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


def expected_wait(*, ahead: float, older: float, overtaking: float, capacity: float) -> float:
    """Return seconds: ``ahead`` and ``older`` as the queue says, ``overtaking`` and ``capacity`` in work per second."""
    if capacity <= 0.0:
        return math.inf  # until a replica comes back, and nobody knows when
    free = max(0.0, 1.0 - overtaking / capacity)
    by_order = ahead / (capacity * free) if free > 0.0 else math.inf
    by_age = older * (1.0 + 1.0 / RESERVE) / capacity
    return min(by_order, by_age)


def quick(cost: float, spread: float) -> float:
    """Return the seconds in which a tenth of the requests of an expected ``cost`` are answered.

    ``spread`` is the deviation of the log of what they take; a mean is far above most of what is spread widely.
    """
    spread = min(spread, 2.0)
    return cost * math.exp(-spread * spread / 2 - 1.28 * spread)
