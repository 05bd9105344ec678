"""Which machine counts as the nearest, one tie-break after the other."""

from dataclasses import replace

from muster.model.deployment import Requirements
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler.explain import Explanation, explain
from muster.scheduler.filters import Demand, survey

HOST = Machine(
    id=MachineId("m0"),
    data_center="lab-a",
    gpu_name="RTX 4090",
    gpu_num=4,
    cpu_num=64,
    memory_bytes=256 * GIB,
    cuda=124,
    price_milliyuan=1980,
)


def explained(requirements: Requirements, *machines: tuple[Machine, int]) -> Explanation:
    """Explain for machines, each with the number of its free GPUs."""
    hosts = [machine for machine, _ in machines]
    surveyed = survey(Demand(requirements), hosts)
    return explain(surveyed, hosts, {machine.id: free_num for machine, free_num in machines})


def nearest(explanation: Explanation) -> str:
    assert explanation.nearest is not None
    return explanation.nearest.machine_id


def named(name: str, machine: Machine = HOST) -> Machine:
    return replace(machine, id=MachineId(name))


L20_ONLY = Requirements(gpu_names=frozenset({"L20"}), cuda=Range(128), price_milliyuan=Range(0, 1000))


def test_fewer_rules_against_it_are_nearer_than_a_later_rule() -> None:
    one_early = named("m2", replace(HOST, cuda=128, price_milliyuan=900))
    two_late = named("m1", replace(HOST, gpu_name="L20"))
    for machines in ((one_early, two_late), (two_late, one_early)):
        explanation = explained(L20_ONLY, *((machine, 4) for machine in machines))
        assert nearest(explanation) == "m2"
        assert explanation.rejected == (("gpu_name", 1), ("cuda", 1))


def test_among_as_many_rules_a_later_one_is_nearer() -> None:
    by_model = named("m1", replace(HOST, cuda=128, price_milliyuan=900))
    by_price = named("m2", replace(HOST, gpu_name="L20", cuda=128))
    assert nearest(explained(L20_ONLY, (by_model, 4), (by_price, 4))) == "m2"


def test_among_equals_more_free_gpus_then_the_lower_id_are_nearer() -> None:
    wrong = Requirements(gpu_names=frozenset({"L20"}))
    assert nearest(explained(wrong, (named("m1"), 1), (named("m2"), 3), (named("m3"), 3))) == "m2"
    busy = Requirements(gpu_num=4)
    assert nearest(explained(busy, (named("m1"), 1), (named("m3"), 3), (named("m2"), 3))) == "m2"


def test_every_rule_against_the_nearest_machine_is_named() -> None:
    explanation = explained(L20_ONLY, (HOST, 0))
    assert explanation.nearest is not None
    assert [(miss.rule, miss.wanted, miss.offered) for miss in explanation.nearest.misses] == [
        ("gpu_name", "L20", "model RTX 4090"),
        ("cuda", "12.8 or more", "CUDA version 12.4"),
        ("price", "up to 1 yuan", "price 1.98 yuan"),
        ("free_gpus", "1", "0 of 4 GPUs free"),
    ]
