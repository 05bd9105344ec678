"""What the rules add up to, against central queues that know everything at once: in virtual time, seeded.

The bounds are those of ``make sim`` with room for other seeds: each fails if the rule that it is about is taken out.
"""

import dataclasses
import random

import pytest

from benchmarks.balance import oracle, sim, virtual
from benchmarks.balance.fleet import EQUAL, capacity, fleet
from benchmarks.balance.oracle import ORACLE_FEATURE, ORACLE_FIFO
from benchmarks.balance.sim import Figures
from benchmarks.balance.trace import make_trace
from benchmarks.balance.virtual import Told

SEEDS = 3


def figures(name: str, *rows: str) -> dict[str, Figures]:
    scenario = sim.SCENARIOS[name]()
    told = {row: scenario.told[row] for row in rows}
    return sim.rows(dataclasses.replace(scenario, seeds=SEEDS, told=told))


@pytest.mark.parametrize("name", ["unlike-0.7", "unlike-0.9", "varied-0.9", "pareto-0.9"])
def test_without_features_it_is_as_good_as_a_central_queue_and_with_them_as_one_that_knows_them(name: str) -> None:
    blind, told = ("Muster", "Muster + feature") if name == "pareto-0.9" else ("least time (default)",) * 2
    told = "Muster + feature" if name == "pareto-0.9" else "least time + feature"
    found = figures(name, blind, told)
    assert found[blind].p99 <= 1.15 * found[ORACLE_FIFO].p99
    assert found[blind].goodput >= found[ORACLE_FIFO].goodput - 0.03
    assert found[told].goodput >= found[ORACLE_FEATURE].goodput - 0.01
    assert found[told].goodput >= 0.98


def test_nothing_dies_of_memory_with_budgets_and_slots_stay_busy() -> None:
    found = figures("memory", "no budgets", "Muster")
    assert found["no budgets"].unanswered > 0.02, "the shape is one in which memory matters"
    assert found["Muster"].unanswered == 0.0
    assert found["Muster"].goodput >= 0.995


def test_in_overload_the_small_are_served_and_the_rest_is_refused() -> None:
    found = figures("overload", "Muster", "Muster + feature")
    assert found[ORACLE_FIFO].goodput < 0.2
    assert found["Muster + feature"].goodput >= 0.88


def test_four_clients_that_know_nothing_of_each_other_come_near_one_queue() -> None:
    found = figures("clients-4", "Muster", "Muster + feature")
    assert found["Muster"].goodput >= found[ORACLE_FIFO].goodput - 0.06
    assert found["Muster"].p99 <= 1.5 * found[ORACLE_FIFO].p99
    assert found["Muster + feature"].goodput >= 0.94
    assert found["Muster"].sends <= 10.0


def test_replicas_that_die_and_are_replaced_lose_nothing() -> None:
    found = figures("churn", "Muster")
    assert found["Muster"].unanswered == 0.0
    assert found["Muster"].goodput >= found[ORACLE_FIFO].goodput - 0.03


def test_a_replica_never_holds_more_than_its_slots_whoever_asks() -> None:
    scenario = sim.SCENARIOS["unlike-0.9"]()
    for told in (Told(), Told(is_enforced=False)):
        result = virtual.run(scenario.jobs(1), scenario.units, told, patience=60.0, client_num=1)
        assert set(result.most.values()) == {2}


def test_unlike_speeds_are_learned_and_learned_anew() -> None:
    """Two of six become four times as slow: while they are, they get far less; when they are well, as much again."""
    jobs = make_trace(random.Random("relearn"), seconds=30.0, load=0.5, capacity=capacity(EQUAL))
    drifts = {10.0: {0: 4.0, 1: 4.0}, 20.0: {0: 1.0, 1: 1.0}}
    (client,) = virtual.run(jobs, EQUAL, Told(), patience=60.0, drifts=drifts).clients
    slowness = {each.id: each.slowness for each in client.statistics(30.0).replicas}
    assert max(slowness.values()) / min(slowness.values()) < 2.0, slowness
    (client,) = virtual.run(jobs, EQUAL, Told(), patience=60.0, drifts={10.0: drifts[10.0]}).clients
    replicas = client.statistics(30.0).replicas
    slow, fast = replicas[:2], replicas[2:]
    assert min(each.slowness for each in slow) > 2.0 * max(each.slowness for each in fast)


def test_a_thousand_replicas_and_fifty_clients() -> None:
    units = fleet((500, 1, 2), (500, 2, 2))
    rng = random.Random("thousand")
    jobs = make_trace(rng, seconds=0.5, load=0.8, capacity=capacity(units), client_num=50)
    result = virtual.run(jobs, units, Told(), patience=60.0, client_num=50)
    central = oracle.serve(jobs, units, oracle.ORDERS[ORACLE_FIFO], patience=60.0)
    answered = sorted(each for each in result.latency if each is not None)
    best = sorted(each for each in central.latency if each is not None)
    assert len(answered) == len(jobs)
    assert answered[len(jobs) // 2] <= 1.5 * best[len(jobs) // 2]


@pytest.mark.parametrize("feature", [False, True])
def test_a_tenant_that_floods_does_not_starve_another(feature: bool) -> None:
    """Ten times the capacity of one tenant; the other, well within its half, waits hardly longer than alone."""
    rng = random.Random("flood")
    flood = make_trace(rng, seconds=8.0, load=2.0, capacity=12.0)
    calm = make_trace(rng, seconds=8.0, load=0.2, capacity=12.0)
    jobs = sorted([*flood, *(dataclasses.replace(job, tenant="calm") for job in calm)], key=lambda job: job.at)
    result = virtual.run(jobs, EQUAL, Told(feature=feature), patience=60.0)
    waits = sorted(
        latency - job.work
        for job, latency in zip(jobs, result.latency, strict=True)
        if job.tenant == "calm" and latency is not None
    )
    assert len(waits) == len(calm)
    assert waits[len(waits) * 9 // 10] < 0.5
