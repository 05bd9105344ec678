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
from benchmarks.balance.shapes import BROKERED, Shape
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
    has_broker = any(run.balancer in BROKERED for run in runs)
    columns = (
        "p50",
        "p95",
        "p99",
        "good %",
        "failed %",
        "refused %",
        "gave up %",
        "busy %",
        "late",
        "CPU",
        "sent back",
        *(("alone %",) if has_broker else ()),
    )
    shown = plain_table(
        f"{shape.name}: {shape.title}",
        ("balancer", *columns),
        f"means over {_seeds(runs)} traces of {seconds:g} s, the same for all; times in ms; {peers.versions()}\n"
        f"good: within max(5 x own work, 300 ms); busy: slots of {' / '.join(gpus)}; sent back: refusals for each"
        " request\nlate: p99 by which requests left their client after they should; CPU: the client's for each request,"
        " the SDK's with it" + (" + the broker's; alone: clients' time without a broker" if has_broker else ""),
    )
    for name in balancers(runs):
        chosen = [run for run in runs if run.balancer == name]
        saw = [run.figures for run in chosen]
        shown.add_row(
            name,
            *(_mean([getattr(each, part) for each in saw], 1e3, 0) for part in ("p50", "p95", "p99")),
            *(
                _mean([getattr(each, part) for each in saw], 100, 1)
                for part in ("goodput", "failed", "refused", "gave_up")
            ),
            " / ".join(_mean([each.utilisation[gpu] for each in saw], 100, 0) for gpu in gpus),
            *(
                ("", "", "")
                if name in oracle.ORDERS
                else (
                    _mean([each.late_send for each in saw], 1e3, 0),
                    _cpu(chosen),
                    _mean([run.refusals for run in chosen], 1, 2),
                )
            ),
            *([_mean([_alone(run, shape, seconds) for run in chosen], 100, 1)] if name in BROKERED else []),
        )
    return shown


def _cpu(runs: Sequence[Run]) -> str:
    own = _mean([run.client_cpu for run in runs], 1e3, 2)
    return f"{own} + {_mean([run.broker_cpu for run in runs], 1e3, 2)}" if any(run.broker_cpu for run in runs) else own


def _alone(run: Run, shape: Shape, seconds: float) -> float:
    """Return the share of the trace's time that clients were without a broker."""
    return sum(max(0.0, min(end, seconds) - max(0.0, begin)) for _, begin, end in run.absences) / (
        seconds * shape.client_num
    )


def _mean(values: Sequence[float], scale: float, digits: int) -> str:
    return f"{statistics.fmean(values) * scale:,.{digits}f}"


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
