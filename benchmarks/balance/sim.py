"""`make sim`: the SDK's core in virtual time beside central queues that miss nothing: fleets that no machine here has.

python -m benchmarks.balance.sim                       every table
python -m benchmarks.balance.sim unlike-0.9 large      some of them

A simulation shows what the rules add up to, not what a request costs: no CPU, a round trip of 0.6 ms, no operating
system. The measured tables are those of ``make bench-lb``; ``tests/simulation`` asserts what is seen here.
"""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from benchmarks.balance import oracle, virtual
from benchmarks.balance.fleet import EQUAL, Fleet, capacity, fleet
from benchmarks.balance.oracle import Outage
from benchmarks.balance.shapes import OVERLOAD_DEADLINE_SECONDS, SHAPES, good_within
from benchmarks.balance.trace import Job, Work, make_trace
from benchmarks.balance.virtual import Told
from benchmarks.table import console, machine, percentile, plain_table, show

SEEDS = 10
SECONDS = 30.0
OUTAGES = tuple(Outage(number % 6, 4.0 * number + 2.0, 4.0 * number + 3.0) for number in range(7))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One table. ``told`` maps a row's name to what its clients are told."""

    title: str
    units: Fleet
    jobs: Callable[[int], Sequence[Job]]
    told: Mapping[str, Told]
    client_num: int = 1
    patience: float = 60.0
    outages: tuple[Outage, ...] = ()
    drifts: Mapping[float, Mapping[int, float]] = field(default_factory=dict)
    seeds: int = SEEDS


@dataclass(frozen=True, slots=True)
class Figures:
    """One row: means over the seeds."""

    p50: float
    p99: float
    goodput: float
    unanswered: float
    sends: float


def rows(scenario: Scenario) -> dict[str, Figures]:
    """Run a scenario for its oracles and for every row."""
    traces = [scenario.jobs(seed) for seed in range(1, scenario.seeds + 1)]
    found = {}
    for name in (oracle.ORACLE_FIFO, oracle.ORACLE_FEATURE):
        served = [
            oracle.serve(
                jobs, scenario.units, oracle.ORDERS[name], patience=scenario.patience, outages=scenario.outages
            )
            for jobs in traces
        ]
        found[name] = _mean([_figures(jobs, each.latency, 1.0) for jobs, each in zip(traces, served, strict=True)])
    for name, told in scenario.told.items():
        each_run = []
        for seed, jobs in enumerate(traces):
            result = virtual.run(
                jobs,
                scenario.units,
                told,
                patience=scenario.patience,
                client_num=scenario.client_num,
                outages=scenario.outages,
                drifts=scenario.drifts,
                seed=seed,
            )
            each_run.append(_figures(jobs, result.latency, result.sends / len(jobs)))
        found[name] = _mean(each_run)
    return found


def table(scenario: Scenario) -> Table:
    """Run a scenario and return its table."""
    columns = ("balancer", "p50 ms", "p99 ms", "goodput %", "unanswered %", "sends per request")
    shown = plain_table(scenario.title, columns, f"means of {scenario.seeds} traces")
    for name, each in rows(scenario).items():
        shown.add_row(
            name,
            f"{each.p50 * 1e3:.0f}",
            f"{each.p99 * 1e3:.0f}",
            f"{each.goodput * 100:.1f}",
            f"{each.unanswered * 100:.1f}",
            f"{each.sends:.2f}",
        )
    return shown


def _figures(jobs: Sequence[Job], latency: Sequence[float | None], sends: float) -> Figures:
    answered = [each for each in latency if each is not None]
    good = sum(each is not None and each <= good_within(job.work) for job, each in zip(jobs, latency, strict=True))
    return Figures(
        percentile(answered, 50),
        percentile(answered, 99),
        good / len(jobs),
        1 - len(answered) / len(jobs),
        sends,
    )


def _mean(found: Sequence[Figures]) -> Figures:
    count = len(found)
    return Figures(
        sum(each.p50 for each in found) / count,
        sum(each.p99 for each in found) / count,
        sum(each.goodput for each in found) / count,
        sum(each.unanswered for each in found) / count,
        sum(each.sends for each in found) / count,
    )


def _shape(name: str, told: Mapping[str, Told], *, outages: tuple[Outage, ...] = ()) -> Scenario:
    shape = SHAPES[name]
    return Scenario(
        shape.title,
        shape.fleet,
        lambda seed: shape.trace(seed, SECONDS),
        told,
        shape.client_num,
        shape.patience_seconds,
        outages,
    )


def _large(replica_num: int, client_num: int, seconds: float) -> Scenario:
    half = replica_num // 2
    units = fleet((half, 1, 2), (replica_num - half, 2, 2))

    def jobs(seed: int) -> Sequence[Job]:
        rng = random.Random(f"large/{replica_num}/{seed}")
        return make_trace(rng, seconds=seconds, load=0.9, capacity=capacity(units), client_num=client_num)

    title = f"{replica_num} replicas, half of them slow, {client_num} clients, load 0.9"
    return Scenario(title, units, jobs, BLIND_AND_TOLD, client_num, seeds=2)


BLIND_AND_TOLD = {"Muster": Told(), "Muster + feature": Told(feature=True)}
POLICIES = {
    "round robin": Told(policy="round_robin"),
    "weighted by speed": Told(policy="weighted"),
    "least loaded": Told(policy="least_loaded"),
    "power of two": Told(policy="power_of_two"),
    "least time (default)": Told(),
    "least time + feature": Told(feature=True),
}
UNDECLARED = {
    **BLIND_AND_TOLD,
    "no limit declared": Told(concurrency=False, is_enforced=False),
    "no limit declared + feature": Told(concurrency=False, is_enforced=False, feature=True),
}
LATE = {
    "Muster": Told(deadline_seconds=OVERLOAD_DEADLINE_SECONDS),
    "Muster + feature": Told(deadline_seconds=OVERLOAD_DEADLINE_SECONDS, feature=True),
}
DRIFT = {10.0: {0: 4.0, 1: 4.0}, 20.0: {0: 1.0, 1: 1.0, 2: 3.0}}

SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "unlike-0.7": lambda: _shape("unlike-0.7", {**POLICIES, **UNDECLARED}),
    "unlike-0.9": lambda: _shape("unlike-0.9", {**POLICIES, **UNDECLARED}),
    "varied-0.9": lambda: _shape("varied-0.9", POLICIES),
    "pareto-0.9": lambda: _shape("pareto-0.9", BLIND_AND_TOLD),
    "bimodal-0.9": lambda: _shape("bimodal-0.9", BLIND_AND_TOLD),
    "memory": lambda: _shape("memory", {"no budgets": Told(budgets=False), **BLIND_AND_TOLD}),
    "churn": lambda: _shape("churn", BLIND_AND_TOLD, outages=OUTAGES),
    "drift": lambda: Scenario(
        "6 equal replicas, load 0.6, of which two become 4 times as slow for 10 s",
        EQUAL,
        lambda seed: make_trace(random.Random(f"drift/{seed}"), seconds=SECONDS, load=0.6, capacity=capacity(EQUAL)),
        {"least loaded": Told(policy="least_loaded"), **BLIND_AND_TOLD},
        drifts=DRIFT,
    ),
    "overload": lambda: _shape("overload", LATE),
    "clients-4": lambda: _shape("clients-4", BLIND_AND_TOLD),
    "clients-16": lambda: Scenario(
        "12 replicas, 16 independent clients, load 0.9",
        fleet((8, 1, 4), (4, 2, 4)),
        lambda seed: make_trace(
            random.Random(f"clients-16/{seed}"), seconds=SECONDS, load=0.9, capacity=40.0, client_num=16
        ),
        BLIND_AND_TOLD,
        16,
        seeds=3,
    ),
    "hundred": lambda: _large(100, 8, 10.0),
    "thousand": lambda: _large(1000, 50, 3.0),
    "heavy": lambda: Scenario(
        "4 replicas of 1 slot, bounded Pareto work, load 0.8",
        fleet((4, 1, 1)),
        lambda seed: make_trace(
            random.Random(f"heavy/{seed}"), seconds=120.0, load=0.8, capacity=4.0, work=Work.PARETO
        ),
        POLICIES,
    ),
}


def main() -> int:
    """Print the tables asked for."""
    unknown = [name for name in sys.argv[1:] if name not in SCENARIOS]
    if unknown:
        print(f"no simulation {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    out = console()
    out.print(machine(), highlight=False)
    for name in sys.argv[1:] or SCENARIOS:
        show(out, table(SCENARIOS[name]()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
