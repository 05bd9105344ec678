"""What the balancer learns from answers, and what it derives for its choices: cost, speed, limits, scores.

An answer teaches the cost model (``cost.py``: what a request costs by its features, how slow each replica is) and,
where no concurrency is declared, the limit of its GPU model (``limit.py``). What it tells of memory teaches
``demand.py``. All are kept per service, and limits per GPU model rather than per replica, so that a fleet learns as
many times faster as it has replicas.

A replica's ``score`` is the seconds that one more request would take there, in units of the typical replica alone:
slowness × (requests there, with this one) ^ crowding. Five things keep it honest

* Replicas of one kind are taken as equal unless they differ by more than chance makes them look (``SIGNIFICANT``
  standard errors). Otherwise whoever seems fastest would get everything while there is little to do.
* ``LEAST_CROWDING``: with no evidence that company slows a request, an idle replica is still preferred to one that is
  busy and 7 % faster, since so small a difference is noise.
* A replica that has not answered yet counts its company in full: it gets work, but not everything that comes.
* One whose answers are turned down (4xx), or not read, far more often than others' is as if it were much slower: it is
  quick at that, so it is always free, and would draw everything.
* One that is thought to hold as many requests as it may, other clients' among them, is tried last.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from muster.balancer.ask import Features
from muster.balancer.cost import CostModel
from muster.balancer.demand import DemandModel
from muster.balancer.limit import AdaptiveLimit
from muster.balancer.replica import Replica

SIGNIFICANT = 3.0
MEMORY = 100
"""Answers of a replica that its speed rests on: the model's own memory is fading, and half as long."""
LEAST_CROWDING = 0.1
FULL_PENALTY = 8.0
ODD_PENALTY = 16.0
ODD_BY = 0.2
"""Of its answers more than those of the mean replica; callers who turn down everything do so everywhere."""
ODD_MEMORY = 0.1
LOOKED_AT_EVERY = 32
"""Crowding moves slowly; every replica's score is computed anew after so many answers."""


class Answered(Protocol):
    """The part of a lease that is learned from."""

    replica: Replica
    features: Features | None
    busy_at_grant: int
    is_wanted: bool
    granted_at: float


class Learning:
    """One service's models."""

    def __init__(self, default_concurrency: int | None) -> None:
        self.cost = CostModel()
        self.demand = DemandModel()
        self.answered = 0
        self._limits: dict[str, AdaptiveLimit] = {}
        self.default_concurrency = default_concurrency
        self._crowding = LEAST_CROWDING
        self._odd: set[Replica] = set()

    def welcome(self, replica: Replica) -> None:
        """Set the limit, slowness and score of a replica that is new or changed."""
        replica.limit = self.limit_of(replica)
        replica.slowness = self.slowness(replica)
        self.score(replica)

    def slowness(self, replica: Replica) -> float:
        """Return how slow it is, relative to the typical replica, as far as that is more than chance."""
        kind = self.cost.slowness(replica.gpu, "")
        apart = math.log(self.cost.slowness(replica.gpu, replica.endpoint.id) / kind)
        chance = self.cost.spread / math.sqrt(min(replica.answers, MEMORY) + 1)
        is_certain = abs(apart) > SIGNIFICANT * chance
        return kind * math.exp(math.copysign(abs(apart) - chance, apart)) if is_certain else kind

    def limit_of(self, replica: Replica) -> int:
        """Return the declared concurrency, else the caller's default, else what was learned; at least 1."""
        given = self._given_limit(replica)
        return self._sought_limit(replica).value if given is None else max(1, given)

    def give_limit(self, default_concurrency: int | None, serving: Iterable[Replica]) -> None:
        """Have another limit for replicas that declare none; ``None``: find it."""
        self.default_concurrency = default_concurrency
        self._renew_limits(serving)

    def found_limit(self, replica: Replica) -> int | None:
        """Return what was found for replicas of its kind, ``None`` where a limit is given."""
        return self._sought_limit(replica).found if self._given_limit(replica) is None else None

    def follow(
        self, replica: Replica, limit: int, now: float, serving: Iterable[Replica], *, is_hint: bool = False
    ) -> bool:
        """Take over what somebody else has found for replicas of its kind; return whether that is another limit.

        Where a limit is given, that one holds; a hint counts where it is more than a start.
        """
        if self._given_limit(replica) is not None:
            return False
        sought = self._sought_limit(replica)
        if is_hint and not (sought.is_open and limit > sought.found):
            return False
        before = sought.value
        sought.follow(limit, now)
        if sought.value == before:
            return False
        self._renew_limits(serving)
        return True

    def score(self, replica: Replica) -> None:
        """Compute it anew, after the load or the speed changed."""
        busy = replica.in_flight + replica.others
        crowding = self._crowding if replica.answers else 1.0
        score = replica.slowness * (busy + 1) ** crowding * (1.0 + ODD_PENALTY * replica.oddness)
        if busy >= replica.limit:
            score *= FULL_PENALTY * (busy + 2 - replica.limit)
        replica.score = score

    def note_answer(self, replica: Replica, serving: Sequence[Replica], *, is_turned_down: bool) -> None:
        """Take over whether an answer was what its caller wanted."""
        replica.turned_down += ODD_MEMORY * (is_turned_down - replica.turned_down)
        if replica.turned_down <= ODD_BY and not self._odd:
            return
        mean = sum(each.turned_down for each in serving) / max(1, len(serving))
        for each in {replica, *self._odd}:
            each.oddness = max(0.0, each.turned_down - mean - ODD_BY)
            self.score(each)
        self._odd = {each for each in serving if each.oddness}

    def learn(self, lease: Answered, seconds: float, now: float, serving: Iterable[Replica]) -> None:
        """Take over what an answer took, from the grant to its last byte."""
        replica = lease.replica
        in_flight = max(1.0, (lease.busy_at_grant + replica.busy) / 2)
        ratio = self.cost.observe(lease.features, replica.gpu, replica.endpoint.id, max(seconds, 1e-6), in_flight)
        self.answered += 1
        replica.answered_at = now
        replica.answers += 1
        replica.slowness = self.slowness(replica)
        if self._given_limit(replica) is None:
            limit = self._sought_limit(replica)
            before = limit.value
            limit.observe(in_flight, ratio, lease.is_wanted, now, lease.granted_at)
            if limit.value != before:
                self._renew_limits(serving)
        if self.answered % LOOKED_AT_EVERY == 0:
            self._crowding = max(LEAST_CROWDING, self.cost.crowding)
            for each in serving:
                each.slowness = self.slowness(each)
                self.score(each)

    def _given_limit(self, replica: Replica) -> int | None:
        declared = replica.endpoint.concurrency
        return self.default_concurrency if declared is None else declared

    def _sought_limit(self, replica: Replica) -> AdaptiveLimit:
        found = self._limits.get(replica.gpu)
        if found is None:
            found = self._limits[replica.gpu] = AdaptiveLimit()
        return found

    def _renew_limits(self, serving: Iterable[Replica]) -> None:
        for each in serving:
            each.limit = self.limit_of(each)
            self.score(each)
