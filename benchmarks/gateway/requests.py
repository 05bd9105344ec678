"""Small requests over kept connections: what the way adds at a fixed rate, and what a request costs at full speed.

The rate is one at which nobody waits for a processor, so that what is added is the hop and not a queue; requests come
at random moments. At full speed there are as many at once as connections. The price is the processor time of the
program that stands in between, all its processes together, + that of its broker. A core's worth follows from it, which
is also what is measured where everything waits for that program: ``cores`` says how much of them it had, its broker
included.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.balance.process import helper
from benchmarks.gateway.stand import BROKERED, DIRECT, HAPROXY, NGINX, ONE, TWO, Subject
from benchmarks.table import plain_table

CONNECTIONS = 32
RATE = 1_000.0
ROUNDS, SECONDS = 3, 4.0
TARGET_PER_CORE = 3_000
TARGET_ADDED_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Saw:
    """One run of the client: seconds, and processor seconds for each request of the program and its broker."""

    p50: float
    p99: float
    late: float
    per_second: float
    cpu: float
    broker_cpu: float


@dataclass(slots=True)
class Runs:
    """All runs before one subject, one of each kind a round."""

    paced: list[Saw] = field(default_factory=list)
    full: list[Saw] = field(default_factory=list)

    def price(self) -> float:
        """Return the processor seconds of a request at full speed."""
        return statistics.median(run.cpu + run.broker_cpu for run in self.full)

    def per_second(self) -> float:
        """Return how many there are in a second."""
        return statistics.median(run.per_second for run in self.full)

    def busy(self) -> float:
        """Return how many cores the program had at full speed."""
        return statistics.median((run.cpu + run.broker_cpu) * run.per_second for run in self.full)


def measure(folder: Path, subjects: Sequence[Subject], rounds: int, seconds: float) -> dict[str, Runs]:
    """Load the subjects in turn, round after round, so that what disturbs the machine disturbs all of them."""
    runs = {each.name: Runs() for each in subjects}
    for number in range(rounds):
        for each in subjects:
            runs[each.name].paced.append(_run(folder, each, RATE, seconds, number))
            runs[each.name].full.append(_run(folder, each, None, seconds, number))
    return runs


def added(runs: dict[str, Runs], name: str, part: str) -> float:
    """Return by how much a percentile is above that of the direct way in the same round."""
    pairs = zip(runs[name].paced, runs[DIRECT].paced, strict=True)
    more: list[float] = [getattr(run, part) - getattr(direct, part) for run, direct in pairs]
    return statistics.median(more)


def table(runs: dict[str, Runs], caption: str) -> Table:
    """Return the figures."""
    columns = (
        "way",
        f"p50 at {RATE:,.0f}/s",
        "p99",
        "added p50",
        "added p99",
        "CPU/request",
        f"{CONNECTIONS} at once: /s",
        "cores",
        "CPU/request",
        "late",
    )
    shown = plain_table("Gateway: small requests over kept connections", columns, caption)
    for name, each in runs.items():
        is_way = name != DIRECT
        shown.add_row(
            name,
            *(_micro(statistics.median(getattr(run, part) for run in each.paced)) for part in ("p50", "p99")),
            *(_micro(added(runs, name, part)) if is_way else "" for part in ("p50", "p99")),
            _price(each.paced) if is_way else "",
            f"{each.per_second():,.0f}",
            f"{each.busy():.2f}",
            _price(each.full) if is_way else "",
            _micro(statistics.median(run.late for run in each.paced)),
        )
    return shown


def targets(runs: dict[str, Runs]) -> Table:
    """Return the figures to reach."""
    shown = plain_table("Gateway: figures to reach", ("what", "reached", "target", "verdict"))
    for name in (ONE, BROKERED, TWO):
        if name in runs:
            per_core = 1 / runs[name].price()
            is_reached = per_core >= TARGET_PER_CORE
            what = f"{name}: requests/s per core"
            shown.add_row(what, f"{per_core:,.0f}", f"≥ {TARGET_PER_CORE:,}", _verdict(is_reached=is_reached))
    for name in (ONE, BROKERED, TWO):
        if name in runs and DIRECT in runs:
            more = added(runs, name, "p50")
            limit = _micro(TARGET_ADDED_SECONDS)
            shown.add_row(
                f"{name}: added p50", _micro(more), f"< {limit}", _verdict(is_reached=more < TARGET_ADDED_SECONDS)
            )
    for peer in (NGINX, HAPROXY):
        if peer in runs and ONE in runs:
            shown.add_row(f"CPU/request over {peer}'s", f"{runs[ONE].price() / runs[peer].price():.1f} x", "", "")
    if ONE in runs and TWO in runs:
        more = runs[TWO].per_second() / runs[ONE].per_second()
        shown.add_row("requests/s of 2 processes over 1, on the cores that are left", f"{more:.2f} x", "", "")
    return shown


def _run(folder: Path, subject: Subject, rate: float | None, seconds: float, seed: int) -> Saw:
    wanted = {
        "port": subject.port,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "rate": rate,
        "seed": seed,
    }
    with helper("client", folder, json.dumps(wanted), package="gateway") as client:
        client.hear()
        before = subject.cpu_seconds()
        client.tell("")
        told: dict[str, Any] = json.loads(client.hear())
        used, broker_used = (after - begin for after, begin in zip(subject.cpu_seconds(), before, strict=True))
    count = told["requests"]
    return Saw(told["p50"], told["p99"], told["late"], count / told["seconds"], used / count, broker_used / count)


def _price(runs: Sequence[Saw]) -> str:
    own = _micro(statistics.median(run.cpu for run in runs))
    broker = statistics.median(run.broker_cpu for run in runs)
    return f"{own} + {_micro(broker)}" if broker else own


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs"


def _verdict(*, is_reached: bool) -> str:
    return "reached" if is_reached else "NOT reached"
