"""What is asked: arrivals, work, a noisy hint of it, and memory. Pure; the same seed makes the same trace.

* **Arrivals** are a Poisson process given its count: that many moments, uniform and independent. Bursty ones are the
  same in a time that runs five times as fast in some periods as in others, of about a second each.
* **Work** is in seconds on the fastest GPU, alone. All distributions have a mean of 100 ms. It is scaled so that the
  trace's own load is exactly the one asked for: otherwise heavy tails would make traces of one shape differ by 10 % of
  load, and what one compares would be traces instead of balancers.
* **The feature** is c * work^k * noise, as a caller would name pixels or tokens: in a unit of its own, not in
  proportion to seconds, and no better than a correlation of 0.9 between the logarithms.
* **Memory** is small for three of four requests, and for one of four so large that a replica holds only one such.
"""

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

MEAN_WORK_SECONDS = 0.1
LOG_NORMAL_SIGMA = 1.2
"""The longest of a hundred is eight times the mean."""
FEATURE = "pixels"
FEATURE_SCALE = 3.7e4
FEATURE_POWER = 0.7
FEATURE_CORRELATION = 0.9
LARGE_SHARE = 0.25
SMALL_MB, LARGE_MB = (1_500, 4_000), (9_000, 11_500)
BURST_SECONDS = 1.0
BURST_RATIO = 5.0


class Work(StrEnum):
    """How sizes are distributed."""

    LOG_NORMAL = "log-normal"
    PARETO = "pareto"
    BIMODAL = "bimodal"


@dataclass(frozen=True, slots=True)
class Job:
    """One request."""

    at: float
    """Seconds from the trace's start."""
    work: float
    feature: float
    memory_mb: int = 0
    client: int = 0
    tenant: str = ""


def make_trace(
    rng: random.Random,
    *,
    seconds: float,
    load: float,
    capacity: float,
    work: Work = Work.LOG_NORMAL,
    is_bursty: bool = False,
    has_memory: bool = False,
    client_num: int = 1,
) -> tuple[Job, ...]:
    """Return requests, by time, of ``load`` times what ``capacity`` does in ``seconds``."""
    count = max(2, round(load * capacity * seconds / MEAN_WORK_SECONDS))
    arrivals = _bursty(rng, count, seconds) if is_bursty else sorted(rng.uniform(0, seconds) for _ in range(count))
    raw = [_DISTRIBUTIONS[work](rng) for _ in range(count)]
    scale = load * capacity * seconds / sum(raw)
    sizes = [each * scale for each in raw]
    memory = [rng.randint(*(LARGE_MB if rng.random() < LARGE_SHARE else SMALL_MB)) for _ in range(count)]
    clients = [rng.randrange(client_num) for _ in range(count)]
    features = _features(rng, sizes)
    return tuple(
        Job(at, size, feature, megabytes if has_memory else 0, client)
        for at, size, feature, megabytes, client in zip(arrivals, sizes, features, memory, clients, strict=True)
    )


def _features(rng: random.Random, sizes: Sequence[float]) -> list[float]:
    spread = statistics.pstdev([math.log(each) for each in sizes])
    noise = FEATURE_POWER * spread * math.sqrt(1 / FEATURE_CORRELATION**2 - 1)
    return [FEATURE_SCALE * each**FEATURE_POWER * math.exp(rng.gauss(0, noise)) for each in sizes]


def _bursty(rng: random.Random, count: int, seconds: float) -> list[float]:
    edges = [0.0]
    while edges[-1] < seconds:
        edges.append(min(seconds, edges[-1] + rng.expovariate(1 / BURST_SECONDS)))
    periods = list(itertools.pairwise(edges))
    weights = [(end - begin) * (BURST_RATIO if index % 2 else 1.0) for index, (begin, end) in enumerate(periods)]
    return sorted(rng.uniform(*each) for each in rng.choices(periods, weights, k=count))


def _log_normal(rng: random.Random) -> float:
    return rng.lognormvariate(0.0, LOG_NORMAL_SIGMA)


def _pareto(rng: random.Random) -> float:
    """Bounded: shape 1.2, the longest 200 times the shortest, so that it has a mean that a short trace shows."""
    shape, ratio = 1.2, 200.0
    return math.pow(1 - rng.random() * (1 - math.pow(ratio, -shape)), -1 / shape)


def _bimodal(rng: random.Random) -> float:
    """Nine of ten a tenth as long as the others, give or take a tenth."""
    return (1.0 if rng.random() < 0.9 else 10.0) * rng.uniform(0.9, 1.1)


_DISTRIBUTIONS: dict[Work, Callable[[random.Random], float]] = {
    Work.LOG_NORMAL: _log_normal,
    Work.PARETO: _pareto,
    Work.BIMODAL: _bimodal,
}
