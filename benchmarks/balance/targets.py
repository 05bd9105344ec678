"""The figures to reach, beside what was reached in this run; reached is what the 95 % interval includes or betters."""

import math
from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.balance.compare import Measure, against, balancers, best_peer, goodput, p99, samples, share
from benchmarks.balance.figures import Figures, Interval
from benchmarks.balance.hop import TARGET_ADDED_SECONDS, Hop
from benchmarks.balance.oracle import ORACLE_FIFO
from benchmarks.balance.report import percent, written
from benchmarks.balance.shapes import BROKERED, HAPROXY_LEAST, MUSTER, MUSTER_COST, ONE_FOR_ALL
from benchmarks.balance.stage import Run
from benchmarks.table import plain_table

WITHIN = 1.05
SHARED_WITHIN = 1.10
"""What a queue for several clients may cost, in proportion to one client for all."""
Row = tuple[str, str, str, str, str]


def table(runs: Sequence[Run], hops: Sequence[Hop]) -> Table:
    """Return what can be judged of what ran."""
    shown = plain_table("Figures to reach", ("what", "reached", "best peer", "target", "verdict"))
    for row in rows(runs, hops):
        shown.add_row(*row)
    return shown


def rows(runs: Sequence[Run], hops: Sequence[Hop]) -> Iterator[Row]:
    """Judge each figure whose runs are there."""
    for shape in ("equal", "unlike-0.7", "unlike-0.9"):
        yield from _ratio(runs, shape, MUSTER, ORACLE_FIFO, measure=p99, target=WITHIN)
        yield from _ratio(runs, shape, MUSTER, ORACLE_FIFO, measure=goodput, target=1 / WITHIN)
    yield from _share(runs, "unlike-0.9", MUSTER_COST, 0.96)
    yield from _none(runs, "memory", MUSTER)
    yield from _share(runs, "memory", MUSTER, 0.995)
    yield from _none(runs, "churn", MUSTER)
    yield from _share(runs, "overload", MUSTER_COST, 0.85)
    for balancer in (MUSTER, MUSTER_COST):
        yield from _ratio(runs, "clients-4", balancer, HAPROXY_LEAST, measure=p99, target=1.0)
        yield from _ratio(runs, "clients-4", balancer, HAPROXY_LEAST, measure=goodput, target=1.0)
    for shape in ("clients-4", "clients-16"):
        for balancer, one in zip(BROKERED, ONE_FOR_ALL, strict=True):
            yield from _ratio(runs, shape, balancer, one, measure=p99, target=SHARED_WITHIN)
            yield from _ratio(runs, shape, balancer, one, measure=goodput, target=1 / SHARED_WITHIN)
            yield from _none(runs, shape, balancer)
    for hop in hops:
        if hop.name == MUSTER and hop.added is not None:
            reached = f"{hop.added * 1e6:.0f} µs"
            yield (
                "SDK over plain httpx",
                reached,
                "",
                f"< {TARGET_ADDED_SECONDS * 1e6:.0f} µs",
                _verdict(is_reached=hop.added < TARGET_ADDED_SECONDS),
            )


def lost(each: Figures) -> float:
    """Whatever was not answered."""
    return each.failed + each.refused + each.gave_up


def _ratio(
    runs: Sequence[Run], shape: str, balancer: str, other: str, *, measure: Measure, target: float
) -> Iterator[Row]:
    chosen = _of(runs, shape)
    if {balancer, other} <= set(balancers(chosen)):
        found = against(chosen, balancer, other, measure)
        is_less = measure is p99
        peer = best_peer(chosen, measure)
        yield (
            f"{shape}, {balancer}: {'p99' if is_less else 'goodput'} / {other}",
            written(found),
            "" if peer is None else f"{against(chosen, peer, other, measure).mean:.2f}",
            f"{'≤' if is_less else '≥'} {target:.2f}",
            _verdict(is_reached=found.low <= target if is_less else found.high >= target, found=found),
        )


def _share(runs: Sequence[Run], shape: str, balancer: str, target: float) -> Iterator[Row]:
    chosen = _of(runs, shape)
    if balancer in balancers(chosen):
        found = share(chosen, balancer, goodput)
        peer = best_peer(chosen, goodput)
        yield (
            f"{shape}, {balancer}: goodput",
            percent(found),
            "" if peer is None else f"{share(chosen, peer, goodput).mean * 100:.1f} %",
            f"≥ {target * 100:g} %",
            _verdict(is_reached=found.high >= target, found=found),
        )


def _none(runs: Sequence[Run], shape: str, balancer: str) -> Iterator[Row]:
    chosen = _of(runs, shape)
    if balancer in balancers(chosen):
        worst = max(samples(chosen, balancer, lost))
        peer = best_peer(chosen, goodput)
        yield (
            f"{shape}, {balancer}: not answered, worst trace",
            f"{worst * 100:.2f} %",
            "" if peer is None else f"{max(samples(chosen, peer, lost)) * 100:.2f} %",
            "0",
            _verdict(is_reached=worst == 0),
        )


def _of(runs: Sequence[Run], shape: str) -> list[Run]:
    return [run for run in runs if run.shape == shape]


def _verdict(*, is_reached: bool, found: Interval | None = None) -> str:
    if found is not None and math.isnan(found.low):
        return "one trace only"  # of which nobody knows an interval
    return "reached" if is_reached else "NOT reached"
