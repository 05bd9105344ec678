"""`make bench-lb`: measure the balancer beside nginx and HAProxy, and print a table for each shape.

python -m benchmarks.balance                                  everything: 10 traces of 15 s for each shape
python -m benchmarks.balance --quick                          one short trace each
python -m benchmarks.balance --shapes unlike-0.9,hop --balancers haproxy-queue,muster --seeds 3

The machine must be idle: the SDK runs in its clients, so whoever takes their processor worsens its figures alone.
Where ``late`` is more than some milliseconds, the figures are the machine's.
"""

import argparse
import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.balance import hop, oracle, peers, report, targets
from benchmarks.balance.shapes import OURS, SHAPES, SHORT_NAMES, Shape
from benchmarks.balance.stage import Run, Together, foresee, run
from benchmarks.ingress.stand import raise_limit
from benchmarks.table import console, machine, show

HOP = "hop"
SEEDS, SECONDS = 10, 15.0
SIDE_BY_SIDE = 4
"""Replicas wait, so a run takes a tenth or two of a core; one of several clients with the SDK counts as so many. Those
of a batch start together, and the column ``late`` tells whether they were too many."""
QUICK_SECONDS = 6.0


def main() -> int:
    """Run what was asked for."""
    asked = _asked()
    raise_limit()
    out = console()
    out.print(machine(), highlight=False)
    out.print()
    missing = sorted({name for name in SHORT_NAMES.values() if name not in OURS and peers.program_of(name) is None})
    if missing:
        out.print(f"without {', '.join(missing)}: not installed (scripts/servers ensure)\n", highlight=False)
    balancers = [SHORT_NAMES[name] for name in asked.balancers if SHORT_NAMES[name] not in missing]
    shapes = [SHAPES[name] for name in asked.shapes if name != HOP]
    began = time.monotonic()
    runs: list[Run] = []
    for shape in shapes:
        found = _measure(shape, balancers, asked.seeds, asked.seconds, asked.side_by_side)
        runs += found
        for each in report.tables(shape, found, asked.seconds):
            show(out, each)
    hops = hop.measure(balancers, 1 if asked.quick else hop.ROUNDS) if HOP in asked.shapes else []
    if hops:
        show(out, hop.table(hops))
    if runs:
        show(out, targets.table(runs, hops))
    minutes = (time.monotonic() - began) / 60
    out.print(
        f"{asked.seeds} traces of {asked.seconds:g} s each, {asked.side_by_side} at a time; {minutes:.0f} minutes",
        highlight=False,
    )
    if asked.json is not None:
        asked.json.write_text(report.to_json(runs, hops, machine(), asked.seconds))
    return 0


def batch(weights: Sequence[int], most: int) -> int:
    """Return how many of the first go side by side: one at least, and together no more than ``most``."""
    return max(1, sum(total <= most for total in itertools.accumulate(weights)))


def _measure(shape: Shape, balancers: Sequence[str], seeds: int, seconds: float, side_by_side: int) -> list[Run]:
    chosen = [name for name in shape.balancers if name in balancers]
    found = [foresee(shape, seed, name, seconds) for name in oracle.ORDERS for seed in range(1, seeds + 1)]
    broken: set[str] = set()
    wanted = [(seed, name) for seed in range(1, seeds + 1) for name in chosen]
    while wanted:
        weights = [shape.process_num(name) if name in OURS else 1 for _, name in wanted]
        now = wanted[: batch(weights, side_by_side)]
        wanted = wanted[len(now) :]
        together = Together(len(now))
        with ThreadPoolExecutor(len(now)) as pool:
            runs = pool.map(partial(_one, shape, seconds, together), now)
            found += [each for each in runs if each is not None]
        broken |= {name for seed, name in now if not any((run.seed, run.balancer) == (seed, name) for run in found)}
        wanted = [each for each in wanted if each[1] not in broken]
        _note(f"{shape.name}: {len(wanted)} runs left")
    _note("")
    order = [*oracle.ORDERS, *chosen]
    whole = [each for each in found if each.balancer not in broken]  # pairs need all traces
    return sorted(whole, key=lambda run: (order.index(run.balancer), run.seed))


def _one(shape: Shape, seconds: float, together: Together, wanted: tuple[int, str]) -> Run | None:
    seed, name = wanted
    try:
        return run(shape, seed, name, seconds, together)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:  # the figures of the others are still wanted
        together.leave()
        print(f"{shape.name}, {name}: {error}", file=sys.stderr)
        return None


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balance", description="Measure the balancer.")
    shapes, balancers = [*SHAPES, HOP], [*SHORT_NAMES]
    parser.add_argument("--shapes", type=_names(shapes), default=shapes, metavar="A,B", help=", ".join(shapes))
    parser.add_argument(
        "--balancers", type=_names(balancers), default=balancers, metavar="A,B", help=", ".join(balancers)
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"traces for each shape (default: {SEEDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"length of a trace (default: {SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help=f"one trace of {QUICK_SECONDS:g} s for each shape")
    parser.add_argument(
        "--side-by-side",
        type=int,
        default=SIDE_BY_SIDE,
        metavar="N",
        help=f"runs at a time: more are faster, and less exact (default: {SIDE_BY_SIDE})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every run to a file")
    asked = parser.parse_args()
    if asked.quick:
        asked.seeds, asked.seconds = 1, QUICK_SECONDS
    return asked


class _names:  # noqa: N801  used as a function
    """A list of known names, written with commas."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in self._known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(self._known)}")
        return names


if __name__ == "__main__":
    sys.exit(main())
