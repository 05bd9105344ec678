"""What it is worth that a broker dies: a trace of four clients while brokers are killed, beside the same one in peace.

python -m benchmarks.balance.failover              4 traces of 24 s for each way
python -m benchmarks.balance.failover --quick      one of 16 s

* **one, killed**: SIGKILL every ``EVERY_SECONDS``, and another one half a second later at the same address, with
  nothing of what the first knew. In between each client chooses by itself.
* **two, killed**: the one of two over a Redis that serves. The other takes over; the killed one starts again and stands
  by.

``alone`` is how long a client chose by itself after a kill, over all clients and kills, seen every 50 ms: until it has
come back, and was let in. What was not answered, for whatever reason, is counted.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from rich.table import Table

from benchmarks.balance.compare import against, goodput, p99, samples, share
from benchmarks.balance.report import written
from benchmarks.balance.shapes import MUSTER, MUSTER_BROKER, Shape
from benchmarks.balance.stage import Run, Together, run
from benchmarks.balance.targets import lost
from benchmarks.ingress.stand import raise_limit
from benchmarks.table import console, duration, machine, percentile, plain_table, show

EVERY_SECONDS = 8.0
SEEDS, SECONDS = 4, 24.0
QUICK_SECONDS = 16.0
SIDE_BY_SIDE = 2
BOUND_SECONDS = 2.8
"""A lease and a look of the broker that takes over, and a second for those who hold leases to tell (docs/broker.md); a
client's own pause before it comes again is beside that."""
PEACE, ALONE = "one, in peace", "none"
ONE, TWO = "one, killed", "two, killed"
"""Of two it is the one that serves."""
_LIKE = Shape("failover", "4 fast, 2 slow replicas, load 0.8, 4 independent clients", load=0.8, client_num=4)
WAYS: dict[str, tuple[Shape, str]] = {
    ALONE: (_LIKE, MUSTER),
    PEACE: (_LIKE, MUSTER_BROKER),
    ONE: (replace(_LIKE, broker_kill_every_seconds=EVERY_SECONDS), MUSTER_BROKER),
    TWO: (replace(_LIKE, broker_kill_every_seconds=EVERY_SECONDS, broker_num=2), MUSTER_BROKER),
}


def main() -> int:
    """Run what was asked for; 1 when something broke."""
    asked = _asked()
    raise_limit()
    out = console()
    out.print(machine(), highlight=False)
    out.print()
    ways = [name for name in WAYS if name != TWO or shutil.which("redis-server")]
    if len(ways) < len(WAYS):
        out.print(f"without {TWO}: redis-server is not installed (scripts/servers ensure)\n", highlight=False)
    wanted = [(seed, name) for seed in range(1, asked.seeds + 1) for name in ways]
    runs: list[Run] = []
    for begin in range(0, len(wanted), asked.side_by_side):
        now = wanted[begin : begin + asked.side_by_side]
        together = Together(len(now))
        with ThreadPoolExecutor(len(now)) as pool:
            runs += [each for each in pool.map(partial(_one, asked.seconds, together), now) if each is not None]
    show(out, table(runs, asked.seconds))
    return 0 if len(runs) == len(wanted) else 1


def absences(runs: Sequence[Run]) -> list[float]:
    """Return how long clients were without a broker each time, of what began while the trace ran."""
    return [end - begin for each in runs for _, begin, end in each.absences if begin >= 0]


def table(runs: Sequence[Run], seconds: float) -> Table:
    """Return the figures; each run is named by its way."""
    seeds = len({each.seed for each in runs})
    shown = plain_table(
        f"{_LIKE.name}: {_LIKE.title}; a broker killed (-9) every {EVERY_SECONDS:g} s",
        ("brokers", "kills", "not answered", "p99", "p99 / in peace", "good", "alone, p50", "max", "late"),
        f"{seeds} traces of {seconds:g} s, the same for all; alone: for how long a client had no broker each time\n"
        "late: p99 by which requests left their client after they should; a program that starts makes them late, too",
    )
    for name in dict.fromkeys(each.balancer for each in runs):
        chosen = [each for each in runs if each.balancer == name]
        away = absences(chosen)
        paired = {each.seed for each in runs if each.balancer == PEACE} == {each.seed for each in chosen}
        shown.add_row(
            name,
            str(sum(len(each.kills) for each in chosen)),
            f"{sum(samples(chosen, name, lost)) / len(chosen) * 100:.2f} %",
            duration(sum(samples(chosen, name, p99)) / len(chosen)),
            written(against(runs, name, PEACE, p99)) if paired and name != PEACE else "",
            f"{share(chosen, name, goodput).mean * 100:.1f} %",
            *((duration(percentile(away, 50)), duration(max(away))) if away else ("", "")),
            duration(max(each.figures.late_send for each in chosen)),
        )
    shown.add_row("target", "", "0", "", "", "", f"{BOUND_SECONDS:g} s, of two")
    for name, reason, count in _reasons(runs):
        shown.add_row(f"{name}: {reason}", "", str(count))
    return shown


def _reasons(runs: Sequence[Run]) -> Iterator[tuple[str, str, int]]:
    for each in runs:
        for reason, count in each.reasons.items():
            yield f"{each.balancer}, trace {each.seed}", reason, count


def _one(seconds: float, together: Together, wanted: tuple[int, str]) -> Run | None:
    seed, name = wanted
    shape, balancer = WAYS[name]
    try:
        return replace(run(shape, seed, balancer, seconds, together), balancer=name)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:  # the figures of the others are still wanted
        together.leave()
        print(f"{name}: {error}", file=sys.stderr)
        return None


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balance.failover", description="Kill brokers.")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"traces for each way (default: {SEEDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"length of a trace (default: {SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help=f"one trace of {QUICK_SECONDS:g} s for each way")
    parser.add_argument("--side-by-side", type=int, default=SIDE_BY_SIDE, metavar="N", help="runs at a time")
    asked = parser.parse_args()
    if asked.quick:
        asked.seeds, asked.seconds = 1, QUICK_SECONDS
    return asked


if __name__ == "__main__":
    sys.exit(main())
