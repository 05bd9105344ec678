"""Which of the replicas that have room gets the request.

Two rules, both "least loaded": the exact minimum looks at everybody, power of two choices looks at two. The exact
rule is better wherever it is affordable, and its cost is linear; at 200 replicas it still takes some ten microseconds
per choice, beyond that two samples do (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001,
section 1.1: the largest excess over the mean falls from Θ(log n / log log n) to Θ(log log n)).

Equal loads are decided by chance: a fixed order would send the first request of every client to the same replica.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from muster.balancer.replica import Replica

EXACT_UP_TO = 200


class Randomness(Protocol):
    """The part of ``random.Random`` that choosing needs."""

    def randrange(self, stop: int, /) -> int:
        """Return an integer from 0 to ``stop - 1``."""
        ...


Chooser = Callable[[Sequence[Replica], Randomness], Replica]
"""Picks one of at least one candidate."""


def least_loaded(candidates: Sequence[Replica], rng: Randomness) -> Replica:
    """Pick the lowest load; among equals each has the same chance."""
    loads = [replica.load.value for replica in candidates]
    lowest = min(loads)
    equals = loads.count(lowest)
    if equals == 1:
        return candidates[loads.index(lowest)]
    nth = rng.randrange(equals)
    return [replica for replica, load in zip(candidates, loads, strict=True) if load == lowest][nth]


def power_of_two(candidates: Sequence[Replica], rng: Randomness) -> Replica:
    """Pick the less loaded of two distinct candidates.

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
    return other if other.load.value < one.load.value else one


def by_size(candidates: Sequence[Replica], rng: Randomness) -> Replica:
    """Pick exactly among few candidates, by two samples among many."""
    return (least_loaded if len(candidates) <= EXACT_UP_TO else power_of_two)(candidates, rng)
