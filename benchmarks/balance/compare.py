"""Runs of the same traces beside each other: whose are whose, who is the best peer, and by how much they differ."""

import statistics
from collections.abc import Callable, Sequence

from benchmarks.balance.figures import Figures, Interval, interval, ratio
from benchmarks.balance.oracle import ORDERS
from benchmarks.balance.shapes import OURS
from benchmarks.balance.stage import Run

Measure = Callable[[Figures], float]


def p99(each: Figures) -> float:
    """Return the measure of waiting."""
    return each.p99


def goodput(each: Figures) -> float:
    """Return the measure of use."""
    return each.goodput


def samples(runs: Sequence[Run], balancer: str, measure: Measure) -> list[float]:
    """Return a measure of one balancer, by seed."""
    chosen = sorted((run for run in runs if run.balancer == balancer), key=lambda run: run.seed)
    return [measure(run.figures) for run in chosen]


def balancers(runs: Sequence[Run]) -> list[str]:
    """Return who ran, in order of appearance."""
    return list(dict.fromkeys(run.balancer for run in runs))


def best_peer(runs: Sequence[Run], measure: Measure) -> str | None:
    """Return the peer that does best over all seeds, for this measure."""
    there = [name for name in balancers(runs) if name not in OURS and name not in ORDERS]
    if not there:
        return None
    by_mean = sorted(there, key=lambda name: statistics.fmean(samples(runs, name, measure)))
    return by_mean[-1] if measure is goodput else by_mean[0]


def share(runs: Sequence[Run], balancer: str, measure: Measure) -> Interval:
    """Return the mean of a measure over the traces."""
    return interval(samples(runs, balancer, measure))


def against(runs: Sequence[Run], balancer: str, other: str, measure: Measure) -> Interval:
    """Return the ratio of a balancer's measure to another's, trace by trace."""
    return ratio(samples(runs, balancer, measure), samples(runs, other, measure))
