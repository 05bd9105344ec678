"""Which replicas one request may go to now, by health, refusals, room and memory.

* A replica that cannot be reached is aside (``eject.py``). When hardly anybody is left (``PANIC_SHARE``), health is
  ignored: that everybody died at once is less likely than that the observer is cut off. Limits hold all the same, so
  the few healthy ones cannot be overrun, which is why the share can be far below Envoy's 50 %.
* A replica whose ingress refused gets nothing for a while (``refusal.py``). Nothing is held against it, and panic does
  not send anything there either: it would only refuse again.
* A retry avoids the replicas that it has tried while others exist, until they have answered somebody else since. When
  it has tried all of them, it uses any that is not aside; when all are aside it waits for the first to return, or for
  another set.
* A replica with budgets takes only what fits beside what our other requests hold there (``Replica.fits``).
"""

import math
from collections.abc import Sequence

from muster.balancer.ask import Demands
from muster.balancer.replica import Replica
from muster.balancer.ticket import Ticket

PANIC_SHARE = 0.1
"""Health is ignored when less than a tenth of the replicas is healthy; with ten or fewer: when none is."""


class Eligible:
    """The replicas of one set, and which of them need a closer look."""

    def __init__(self) -> None:
        self.serving: tuple[Replica, ...] = ()
        self._troubled: set[Replica] = set()
        self._refusing: set[Replica] = set()
        self.has_budgets = False

    def renew(self, serving: tuple[Replica, ...]) -> None:
        """Take over a new set's replicas."""
        self.serving = serving
        self._troubled = {replica for replica in serving if not replica.health.is_healthy}
        self._refusing = set()
        self.has_budgets = any(replica.endpoint.budgets for replica in serving)

    def check(self, replica: Replica) -> None:
        """Look anew at one whose health or refusals changed."""
        (self._troubled.discard if replica.health.is_healthy else self._troubled.add)(replica)
        if replica.refuses_until > 0.0:
            self._refusing.add(replica)

    def has_room(self) -> bool:
        """Whether any slot is free, whoever asks."""
        return any(each.in_flight < each.limit for each in self.serving)

    def candidates(self, ticket: Ticket, now: float, barred: Replica | None = None) -> Sequence[Replica]:
        """Return the replicas with room for a request. ``barred`` is kept free for somebody else."""
        serving: Sequence[Replica] = self.serving
        if self._refusing:
            serving = [each for each in serving if each.refuses_until <= now]
        admitted = serving if not self._troubled and not ticket.tried else self._admitted(serving, ticket, now)
        free = [each for each in admitted if each.in_flight < each.limit]
        if barred is not None:
            free = [each for each in free if each is not barred]
        if self.has_budgets:
            free = [each for each in free if each.fits(ticket.demands)]
        return free

    def most_free(self) -> dict[str, float]:
        """Return how much of each budget is free at most where a slot is, infinity where such a replica has none.

        Many may wait for memory, and to see that it is not there must not take a look at all replicas for each.
        """
        if not self.has_budgets:
            return {}
        roomy = [each for each in self.serving if each.in_flight < each.limit]
        names = {name for each in roomy for name in each.endpoint.budgets}
        return {name: max(each.free(name) for each in roomy) for name in names}

    def roomiest(self, demands: Demands) -> Replica | None:
        """Return where a request that fits nowhere now is likely to fit first; ``None`` if that needs no waiting."""
        able = [each for each in self.serving if each.endpoint.budgets and each.could_fit(demands)]
        return min(able, key=_fullness, default=None)

    def could_fit(self, demands: Demands) -> bool:
        """Whether any replica's budgets are large enough; also when nobody serves, since somebody may yet."""
        return not self.has_budgets or any(each.could_fit(demands) for each in self.serving)

    def largest(self) -> Demands:
        """Return what fits the replica with the largest budgets, and nothing beside it there. Somebody must serve."""
        return dict(max(self.serving, key=lambda each: sum(each.endpoint.budgets.values())).endpoint.budgets)

    def next_change(self, now: float) -> float:
        """Return when a replica comes back although nothing happened; infinity when none does."""
        self._refusing = {each for each in self._refusing if each.refuses_until > now}
        changes = (free_at(each, now) for each in self._troubled | self._refusing)
        return min((change for change in changes if change > now), default=math.inf)

    def _admitted(self, serving: Sequence[Replica], ticket: Ticket, now: float) -> Sequence[Replica]:
        tried, since = ticket.tried, ticket.queued_at
        fresh = [each for each in serving if each.endpoint.id not in tried or each.answered_at > since]
        if self._troubled and not _is_panic(serving):
            fresh = [each for each in fresh if not each.health.is_aside(now)]
            admitted = [each for each in fresh if each.health.admits(now)]
        else:
            admitted = fresh
        if not fresh:
            fresh = [each for each in serving if not each.health.is_aside(now)]
            admitted = [each for each in fresh if each.health.admits(now)]
        return admitted


def free_at(replica: Replica, now: float) -> float:
    """Return when a replica may get something again, as far as is known; a time that has passed: now."""
    aside_until = replica.health.aside_until if replica.health.is_aside(now) else 0.0
    return max(aside_until, replica.refuses_until)


def _is_panic(serving: Sequence[Replica]) -> bool:
    healthy = sum(each.health.is_healthy for each in serving)
    return healthy < math.ceil(len(serving) * PANIC_SHARE)


def _fullness(replica: Replica) -> float:
    return max((replica.held[name] / max(1, whole) for name, whole in replica.endpoint.budgets.items()), default=0.0)
