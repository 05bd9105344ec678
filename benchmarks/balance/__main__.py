"""`make bench-lb`: measure the balancer beside nginx and HAProxy, and print a table for each shape.

python -m benchmarks.balance                                  everything: 10 traces of 15 s for each shape
python -m benchmarks.balance --quick                          one short trace each
python -m benchmarks.balance --shapes unlike-0.9,hop --balancers haproxy-queue,muster --seeds 3
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.balance import hop, oracle, peers, report, targets
from benchmarks.balance.shapes import OURS, SHAPES, SHORT_NAMES, Shape
from benchmarks.balance.stage import Run, run
from benchmarks.ingress.stand import raise_limit
from benchmarks.table import console, machine, show

HOP = "hop"
SEEDS, SECONDS = 10, 15.0
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


def _measure(shape: Shape, balancers: Sequence[str], seeds: int, seconds: float, side_by_side: int) -> list[Run]:
    chosen = [*oracle.ORDERS, *(name for name in shape.balancers if name in balancers)]
    wanted = [(seed, balancer) for seed in range(1, seeds + 1) for balancer in chosen]
    broken: set[str] = set()

    def one(each: tuple[int, str]) -> Run | None:
        if each[1] in broken:
            return None
        try:
            return run(shape, each[0], each[1], seconds)
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # the figures of the others are still wanted
            broken.add(each[1])
            print(f"{shape.name}, {each[1]}: {error}", file=sys.stderr)
            return None

    found: list[Run] = []
    with ThreadPoolExecutor(side_by_side) as pool:
        for number, each in enumerate(pool.map(one, wanted), 1):
            found += [each] if each is not None else []
            _note(f"{shape.name}: {number} of {len(wanted)}")
    _note("")
    return [each for each in found if each.balancer not in broken]  # pairs need all traces


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balance", description="Measure the balancer.")
    shapes, balancers = [*SHAPES, HOP], [*SHORT_NAMES]
    parser.add_argument("--shapes", type=_names(shapes), default=shapes, metavar="A,B", help=", ".join(shapes))
    parser.add_argument("--balancers", type=_names(balancers), default=balancers, metavar="A,B", help=f"{balancers}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"traces for each shape (default: {SEEDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"length of a trace (default: {SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help=f"one trace of {QUICK_SECONDS:g} s for each shape")
    parser.add_argument(
        "--side-by-side", type=int, default=1, metavar="N", help="runs at a time: faster, less exact (default: 1)"
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
