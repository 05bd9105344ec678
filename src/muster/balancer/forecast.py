"""When a request that comes now would start, so that one that cannot make its deadline is refused while that helps.

expected wait = work before it ÷ (the fleet's capacity × the part of it that does not go to those who overtake it)

* Work before it: expected seconds of whoever waits and goes first (``queue.py``), and one slot's turn.
* Capacity: seconds of typical work that the replicas in use do per second, all slots busy.
* Those who overtake: requests of smaller rank keep coming. How much of their work comes per second is measured over
  the last ``MEMORY_SECONDS``. At a load above 1 the large ones would wait for ever by that; what the queue reserves
  for whoever waits longest (``RESERVE``) is their bound.

An average, not a bound: a request is refused only if the forecast, shortened by ``DOUBT``, is still too long. Nothing
is refused before ``FEWEST`` answers taught what a request costs.
"""

import math

from muster.balancer.queue import RESERVE

MEMORY_SECONDS = 10.0
DOUBT = 0.75
FEWEST = 20


class Arrivals:
    """The expected work of requests that came lately, by rank: decayed sums, brought up to date when they are read."""

    def __init__(self) -> None:
        self._work: dict[int, tuple[float, float]] = {}
        self._since: float | None = None

    def note(self, rank: int, cost: float, now: float) -> None:
        """Count a request in."""
        if self._since is None:
            self._since = now
        work, at = self._work.get(rank, (0.0, now))
        self._work[rank] = work * math.exp((at - now) / MEMORY_SECONDS) + cost, now

    def work_per_second(self, rank: int, now: float) -> float:
        """Return the expected seconds of work that come per second with a smaller rank."""
        if self._since is None:
            return 0.0
        total = sum(
            work * math.exp((at - now) / MEMORY_SECONDS) for each, (work, at) in self._work.items() if each < rank
        )
        watched = MEMORY_SECONDS * -math.expm1(min(0.0, (self._since - now) / MEMORY_SECONDS))
        return total / max(watched, 1.0)


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
