"""Each rule at its borders, with the words that it explains itself by."""

from dataclasses import replace

import pytest

from muster.model.deployment import Requirements
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler.filters import FIXED_RULES, RULES, Demand, Rule, rejecting, survey

RULE = {rule.name: rule for rule in RULES}
HOST = Machine(
    id=MachineId("0123456789"),
    data_center="lab-a",
    gpu_name="RTX 4090",
    gpu_num=8,
    cpu_num=128,
    memory_bytes=512 * GIB,
    cuda=124,
    price_milliyuan=1980,
)


def accepts(rule: Rule, requirements: Requirements, machine: Machine = HOST, free_num: int = 8) -> bool:
    return rule.accepts(Demand(requirements), machine, free_num)


@pytest.mark.parametrize(
    ("rule", "fits", "does_not"),
    [
        (
            "gpu_name",
            Requirements(gpu_names=frozenset({"L20", "RTX 4090"})),
            Requirements(gpu_names=frozenset({"L20"})),
        ),
        ("gpu_num", Requirements(gpu_num=8), Requirements(gpu_num=9)),
        ("data_center", Requirements(data_centers=frozenset({"lab-a"})), Requirements(data_centers=frozenset({"x"}))),
        ("cuda", Requirements(cuda=Range(124)), Requirements(cuda=Range(125))),
        ("cuda", Requirements(cuda=Range(0, 124)), Requirements(cuda=Range(0, 123))),
        ("cpu_num", Requirements(gpu_num=2, cpu_num=Range(32)), Requirements(gpu_num=2, cpu_num=Range(33))),
        ("cpu_num", Requirements(gpu_num=2, cpu_num=Range(0, 32)), Requirements(gpu_num=2, cpu_num=Range(0, 31))),
        ("memory", Requirements(memory_bytes=Range(64 * GIB)), Requirements(memory_bytes=Range(64 * GIB + 1))),
        ("memory", Requirements(memory_bytes=Range.exactly(64 * GIB)), Requirements(memory_bytes=Range(0, GIB))),
        ("price", Requirements(price_milliyuan=Range(0, 1980)), Requirements(price_milliyuan=Range(0, 1979))),
    ],
)
def test_a_rule_accepts_up_to_its_border_and_not_beyond(rule: str, fits: Requirements, does_not: Requirements) -> None:
    assert accepts(RULE[rule], fits)
    assert not accepts(RULE[rule], does_not)


def test_ranges_are_of_what_the_container_would_get_and_not_of_the_host() -> None:
    # 8 GPUs with 100 to 200 CPUs and 224 to 1024 GB: 64 cores are not enough, 360 GB are.
    wanted = Requirements(gpu_num=8, cpu_num=Range(100, 200), memory_bytes=Range(224 * GIB, 1024 * GIB))
    assert accepts(RULE["cpu_num"], wanted)
    assert not accepts(RULE["cpu_num"], wanted, replace(HOST, cpu_num=64))
    assert accepts(RULE["memory"], wanted, replace(HOST, memory_bytes=360 * GIB))


def test_free_gpus_the_blacklist_a_cordon_and_a_broken_engine_are_hard() -> None:
    assert accepts(RULE["free_gpus"], Requirements(gpu_num=3), free_num=3)
    assert not accepts(RULE["free_gpus"], Requirements(gpu_num=3), free_num=2)
    assert not RULE["blacklist"].accepts(Demand(Requirements(), frozenset({HOST.id})), HOST, 8)
    assert not RULE["cordoned"].accepts(Demand(Requirements(), cordoned=frozenset({HOST.id})), HOST, 8)
    assert not RULE["engine"].accepts(Demand(Requirements(), unavailable=frozenset({HOST.id})), HOST, 8)


def test_no_requirements_accept_every_machine_with_a_free_gpu() -> None:
    assert not list(rejecting(Demand(Requirements()), HOST, 1))
    assert [rule.name for rule in rejecting(Demand(Requirements()), HOST, 0)] == ["free_gpus"]


def test_a_survey_counts_each_machine_once_under_its_first_rule() -> None:
    demand = Demand(Requirements(gpu_names=frozenset({"L20"}), data_centers=frozenset({"lab-a"})))
    l20 = replace(HOST, id=MachineId("1"), gpu_name="L20")
    wrong_twice = replace(HOST, id=MachineId("2"), data_center="lab-b")
    far = replace(l20, id=MachineId("3"), data_center="lab-b")
    surveyed = survey(demand, [HOST, l20, wrong_twice, far])
    assert list(surveyed.suitable) == [l20.id]
    assert surveyed.rejected == {
        **dict.fromkeys((rule.name for rule in FIXED_RULES), 0),
        "gpu_name": 2,
        "data_center": 1,
    }


@pytest.mark.parametrize(
    ("rule", "requirements", "wanted", "offered", "verdict"),
    [
        ("gpu_num", Requirements(gpu_num=9), "9", "8 GPUs", "have fewer than 9 GPUs"),
        ("cuda", Requirements(cuda=Range(128)), "12.8 or more", "CUDA version 12.4", "have a CUDA version below 12.8"),
        ("cuda", Requirements(cuda=Range(0, 118)), "up to 11.8", "CUDA version 12.4", "have a CUDA version above 11.8"),
        ("cpu_num", Requirements(cpu_num=Range.exactly(8)), "8", "CPU count 16", "have a CPU count other than 8"),
        (
            "memory",
            Requirements(memory_bytes=Range(GIB, 3 * GIB // 2)),
            "1 GiB to 1536 MiB",
            "memory share 64 GiB",
            "have a memory share outside 1 GiB to 1536 MiB",
        ),
        (
            "price",
            Requirements(price_milliyuan=Range(0, 1500)),
            "up to 1.5 yuan",
            "price 1.98 yuan",
            "have a price above 1.5 yuan",
        ),
        ("free_gpus", Requirements(gpu_num=2), "2", "1 of 8 GPUs free", "have fewer than 2 GPUs free"),
    ],
)
def test_a_rule_explains_itself_in_the_units_of_people(
    rule: str, requirements: Requirements, wanted: str, offered: str, verdict: str
) -> None:
    demand = Demand(requirements)
    assert RULE[rule].wanted(demand) == wanted
    assert RULE[rule].offered(demand, HOST, 1) == offered
    assert RULE[rule].verdict(demand, 2) == verdict
    assert RULE[rule].verdict(demand, 1) == verdict.replace("have", "has", 1)


def test_an_engine_that_cannot_be_used_is_told_apart_from_what_a_user_could_change() -> None:
    rule, demand = RULE["engine"], Demand(Requirements(), unavailable=frozenset({HOST.id}))
    assert rule.verdict(demand, 1) == "cannot be used now: its engine does not answer"
    assert rule.verdict(demand, 2) == "cannot be used now: their engines do not answer"
    assert (rule.wanted(demand), rule.offered(demand, HOST, 8)) == ("a working one", "an engine that does not answer")
    # The last two are what time changes by itself.
    assert [rule.name for rule in RULES[-2:]] == ["engine", "free_gpus"]


def test_a_cordon_is_told_apart_from_the_blacklist_of_an_account() -> None:
    rule, demand = RULE["cordoned"], Demand(Requirements(), cordoned=frozenset({HOST.id}))
    assert rule.verdict(demand, 1) == "is cordoned or drained by the operator"
    assert rule.verdict(demand, 2) == "are cordoned or drained by the operator"
    assert (rule.wanted(demand), rule.offered(demand, HOST, 8)) == ("none", "a cordon of the operator")


def test_memory_that_only_just_misses_is_not_rounded_into_a_riddle() -> None:
    host = replace(HOST, memory_bytes=8 * (64 * GIB - 1))
    assert RULE["memory"].offered(Demand(Requirements()), host, 8) == f"memory share {64 * GIB - 1} bytes"
