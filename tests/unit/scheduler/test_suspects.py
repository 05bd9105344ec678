"""Which hosts are named, and which are not: the border is what chance explains."""

import random

import pytest

from muster.model.container import Reason
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.scheduler.suspects import CHANCE, suspects


def machine(number: int, *, gpu_num: int = 4, model: str = "L20") -> Machine:
    return Machine(MachineId(f"{number:010}"), "lab-a", model, gpu_num, 64, 2**36, cuda=128, price_milliyuan=1980)


def found(*counts: int, gpu_num: int = 4) -> list[int]:
    """Return the numbers of the suspects when so much failed on each of equal machines."""
    machines = [machine(number, gpu_num=gpu_num) for number in range(len(counts))]
    failures = {each.id: {Reason.ERROR: count} for each, count in zip(machines, counts, strict=True) if count}
    return [int(machine_id) for machine_id in suspects(machines, failures)]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3, 0, 0), [0]),
        ((2, 0, 0), []),
        ((5, 1, 1), []),
        ((6, 1, 1), [0]),
        ((14, 5, 5), [0]),
        ((13, 5, 5), []),
        ((20, 20, 20, 20), []),  # a command that crashes everywhere accuses nobody
        ((9, 9, 0, 0, 0), [0, 1]),  # one broken host does not excuse another
        ((300, 2, 2, 2), [0]),
        ((5000, 1000, 1000), [0]),
    ],
)
def test_a_host_is_named_where_chance_does_not_explain_it(counts: tuple[int, ...], expected: list[int]) -> None:
    assert found(*counts) == expected


def test_one_alone_of_its_model_cannot_be_told() -> None:
    others = [machine(number, model="RTX 4090") for number in (1, 2)]
    assert not suspects([machine(0), *others], {machine(0).id: {Reason.ERROR: 100}})


def test_a_host_of_many_gpus_may_fail_more_often() -> None:
    small, large = [machine(number, gpu_num=1) for number in range(3)], machine(3, gpu_num=8)
    failures = {each.id: {Reason.ERROR: 1} for each in small}
    assert not suspects([*small, large], {**failures, large.id: {Reason.ERROR: 8}})
    assert list(suspects([*small, large], {**failures, large.id: {Reason.ERROR: 20}})) == [large.id]


def test_a_suspect_says_what_is_common_there() -> None:
    machines = [machine(0), machine(1)]
    counts = {Reason.START_FAILED: 5, Reason.ERROR: 2}
    suspect = suspects(machines, {machines[0].id: counts})[machines[0].id]
    assert (suspect.reason, suspect.reason_num, suspect.failure_num) == (Reason.START_FAILED, 5, 7)
    assert suspect.sentence() == ("7 containers failed here where 0.0 were to be expected, 5 of them start_failed")


def test_equal_hosts_are_hardly_ever_named() -> None:
    rng, named, hosts = random.Random(7), 0, 0
    for _ in range(200):
        counts = [sum(rng.random() < 0.02 for _ in range(100)) for _ in range(20)]
        named += len(found(*counts))
        hosts += len(counts)
    assert named <= 5 * hosts * CHANCE, f"{named} of {hosts}"
