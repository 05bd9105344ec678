"""What the runs say: a table for each shape, and everything as JSON."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from benchmarks.balance import oracle, peers
from benchmarks.balance.compare import Measure, against, balancers, best_peer, goodput, p99
from benchmarks.balance.figures import Interval
from benchmarks.balance.hop import Hop
from benchmarks.balance.shapes import Shape
from benchmarks.balance.stage import Run
from benchmarks.table import plain_table


def tables(shape: Shape, runs: Sequence[Run], seconds: float) -> list[Table]:
    """Return what a shape's balancers did, and how they compare."""
    return [_absolute(shape, runs, seconds), _ratios(shape, runs)]


def to_json(runs: Sequence[Run], hops: Sequence[Hop], machine: str, seconds: float) -> str:
    """Return every run, for those who want other figures of it."""
    told = {
        "machine": machine,
        "peers": peers.versions(),
        "seconds": seconds,
        "runs": [asdict(each) for each in runs],
        "hops": [asdict(each) for each in hops],
    }
    return json.dumps(told, indent=1)


def written(found: Interval) -> str:
    """Write a ratio with its interval, if there is one."""
    if math.isnan(found.low):
        return f"{found.mean:.2f}"
    return f"{found.mean:.2f} ({found.low:.2f}–{found.high:.2f})"


def percent(found: Interval) -> str:
    """Write a share with its interval, if there is one."""
    if math.isnan(found.low):
        return f"{found.mean * 100:.1f} %"
    return f"{found.mean * 100:.1f} % ({found.low * 100:.1f}–{found.high * 100:.1f})"


def _absolute(shape: Shape, runs: Sequence[Run], seconds: float) -> Table:
    gpus = list(dict.fromkeys(unit.gpu for unit in shape.fleet))
    columns = (
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "good %",
        "failed %",
        "refused %",
        "gave up %",
        *(f"busy {x} %" for x in gpus),
    )
    late = max((run.figures.late_send for run in runs), default=0.0)
    shown = plain_table(
        f"{shape.name}: {shape.title}",
        ("balancer", *columns),
        f"means over {_seeds(runs)} traces of {seconds:g} s, the same for all; {peers.versions()}\n"
        f"good: answered within max(5 x own work, 300 ms); requests left up to {late * 1e3:.0f} ms late (p99)",
    )
    for name in balancers(runs):
        chosen = [run.figures for run in runs if run.balancer == name]
        shown.add_row(
            name,
            *(
                f"{statistics.fmean(each) * 1e3:,.0f}"
                for each in zip(*((x.p50, x.p95, x.p99) for x in chosen), strict=True)
            ),
            *(
                f"{statistics.fmean(each) * 100:.1f}"
                for each in zip(*((x.goodput, x.failed, x.refused, x.gave_up) for x in chosen), strict=True)
            ),
            *(f"{statistics.fmean(x.utilisation[gpu] for x in chosen) * 100:.0f}" for gpu in gpus),
        )
    return shown


def _ratios(shape: Shape, runs: Sequence[Run]) -> Table:
    best = {measure: best_peer(runs, measure) for measure in (p99, goodput)}
    shown = plain_table(
        f"{shape.name}: in proportion",
        ("balancer", "p99 / oracle", "good / oracle", "p99 / best peer", "good / best peer"),
        f"geometric means over {_seeds(runs)} pairs, with 95 % intervals; the oracle that knows no sizes\n"
        f"best peer by p99: {best[p99] or 'none'}; by goodput: {best[goodput] or 'none'}",
    )
    for name in balancers(runs):
        shown.add_row(
            name,
            *(_against(runs, name, oracle.ORACLE_FIFO, measure) for measure in (p99, goodput)),
            *(_against(runs, name, best[measure], measure) for measure in (p99, goodput)),
        )
    return shown


def _seeds(runs: Sequence[Run]) -> int:
    return len({run.seed for run in runs})


def _against(runs: Sequence[Run], name: str, other: str | None, measure: Measure) -> str:
    if other is None or other == name or other not in balancers(runs):
        return ""
    return written(against(runs, name, other, measure))
