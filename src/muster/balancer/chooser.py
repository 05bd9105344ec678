"""Which of the replicas that have room gets the request.

In: at least one candidate, what the request asks, chance. Out: one of the candidates. A rule looks at nothing but what
``Choosable`` names, so it needs no balancer, and each rule stands alone: ``policy.py`` gives them their names.

``by_size`` is the default: the least expected time. The exact minimum looks at everybody, power of two choices looks
at two. The exact rule is better wherever it is affordable, and its cost is linear; at 200 replicas it still takes some
ten microseconds per choice, beyond that two samples do (Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", 2001, section 1.1: the largest excess over the mean falls from Θ(log n / log log n) to Θ(log log n)).

Equals are decided by chance: a fixed order would send the first request of every client to the same replica.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import Protocol, TypeVar

from muster.balancer.ask import Ask
from muster.balancer.replica import Replica

EXACT_UP_TO = 200

EQUAL = 1.0 + 1e-9
"""Scores are products of learned factors: those of equal replicas may differ in the last bits."""

STEPS = 1 << 53
"""How finely chance is cut: as many steps as a float between 0.5 and 1 has."""

MOST_KNOWN = 10_000
"""Round robin remembers that many replicas; a service that replaces its containers all day would fill memory."""

_score = attrgetter("score")


class Randomness(Protocol):
    """The part of ``random.Random`` that choosing needs."""

    def randrange(self, stop: int, /) -> int:
        """Return an integer from 0 to ``stop - 1``."""
        ...


class Named(Protocol):
    """The part of an ``Endpoint`` that choosing needs."""

    @property
    def id(self) -> str:
        """Tells it from all others, in every process the same."""
        ...


class Choosable(Protocol):
    """The part of a ``Replica`` that choosing needs."""

    @property
    def endpoint(self) -> Named:
        """Who it is."""
        ...

    @property
    def in_flight(self) -> int:
        """How many requests it holds."""
        ...

    @property
    def limit(self) -> int:
        """How many it may hold, at least 1."""
        ...

    @property
    def slowness(self) -> float:
        """How long it takes, relative to the typical replica; above 0."""
        ...

    @property
    def score(self) -> float:
        """How long it would take with one request more; the smaller the better, never negative."""
        ...


C = TypeVar("C", bound=Choosable)

Chooser = Callable[[Sequence[Replica], Ask, Randomness], Replica]
"""Picks one of at least one candidate."""


def least_time(candidates: Sequence[C], _ask: Ask, rng: Randomness) -> C:
    """Pick the lowest score; among equals each has the same chance."""
    return _lowest(candidates, list(map(_score, candidates)), rng)


def power_of_two(candidates: Sequence[C], _ask: Ask, rng: Randomness) -> C:
    """Pick the lower score of two distinct candidates.

    The second index is drawn from one fewer and stepped over the first, so every pair has the same chance. The first
    wins a tie: it is as random as the second.
    """
    count = len(candidates)
    if count == 1:
        return candidates[0]
    first = rng.randrange(count)
    second = rng.randrange(count - 1)
    if second >= first:
        second += 1
    one, other = candidates[first], candidates[second]
    return other if other.score < one.score else one


def by_size(candidates: Sequence[C], ask: Ask, rng: Randomness) -> C:
    """Pick the lowest score exactly among few candidates, by two samples among many."""
    return (least_time if len(candidates) <= EXACT_UP_TO else power_of_two)(candidates, ask, rng)


def least_loaded(candidates: Sequence[C], _ask: Ask, rng: Randomness) -> C:
    """Pick the smallest share of slots in use, whatever is known of speed; among equals each has the same chance."""
    return _lowest(candidates, [each.in_flight / each.limit for each in candidates], rng)


def weighted(candidates: Sequence[C], _ask: Ask, rng: Randomness) -> C:
    """Pick at random, each with a chance in proportion to what it can do: slots per time of one request."""
    sums = list(accumulate([each.limit / each.slowness for each in candidates]))
    # The product may be rounded up to the whole sum, which is nobody's; then it is the last one's.
    drawn = rng.randrange(STEPS) / STEPS * sums[-1]
    return candidates[min(bisect_right(sums, drawn), len(candidates) - 1)]


class RoundRobin:
    """Picks whoever had no request for longest.

    A position in a list would start again, or skip somebody, whenever the candidates change, and they do with every
    replica that fills up. A turn that belongs to the replica does not. Somebody new gets a random place in the present
    cycle: at the front it would get the next request of every client at once.
    """

    __slots__ = ("_turn", "_turns")

    def __init__(self) -> None:
        self._turn = 0
        self._turns: dict[str, int] = {}

    def __call__(self, candidates: Sequence[C], _ask: Ask, rng: Randomness) -> C:
        """Pick the oldest turn; among equals (at the start all are) each has the same chance."""
        turns = list(map(self._turns.get, [each.endpoint.id for each in candidates]))
        known = [turn for turn in turns if turn is not None]
        if len(known) < len(turns):
            oldest = min(known, default=self._turn)
            for each, turn in zip(candidates, turns, strict=True):
                if turn is None:
                    self._turns[each.endpoint.id] = oldest + rng.randrange(self._turn - oldest + 1)
            known = [self._turns[each.endpoint.id] for each in candidates]
        chosen = _lowest(candidates, known, rng)
        self._turn += 1
        self._turns[chosen.endpoint.id] = self._turn
        if len(self._turns) > MOST_KNOWN:
            newest = sorted(self._turns.items(), key=lambda item: item[1])[-MOST_KNOWN // 2 :]
            self._turns = dict(newest)
        return chosen


def _lowest(candidates: Sequence[C], values: Sequence[float], rng: Randomness) -> C:
    """Return the candidate of the lowest value, one of those by chance."""
    lowest = min(values)
    bound = lowest * EQUAL
    equals = [index for index, value in enumerate(values) if value <= bound]
    return candidates[equals[0] if len(equals) == 1 else equals[rng.randrange(len(equals))]]
