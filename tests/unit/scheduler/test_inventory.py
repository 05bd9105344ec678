import pytest

from muster.errors import InvalidSpec
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.scheduler.inventory import Inventory

ONE, TWO = MachineId("1111111111"), MachineId("2222222222")


def machine(machine_id: MachineId, gpu_num: int = 4) -> Machine:
    return Machine(machine_id, "lab-a", "L20", gpu_num, 64, 2**36, cuda=128, price_milliyuan=1980)


def test_machines_are_ordered_by_id_whatever_order_they_come_in() -> None:
    assert [each.id for each in Inventory.of([machine(TWO), machine(ONE)], {}).machines] == [ONE, TWO]


def test_claimed_gpus_are_not_free() -> None:
    inventory = Inventory.of([machine(ONE), machine(TWO)], {ONE: frozenset({2, 0})})
    assert dict(inventory.free) == {ONE: (1, 3), TWO: (0, 1, 2, 3)}


def test_claims_of_retired_machines_and_of_gpus_that_are_gone_are_dropped() -> None:
    inventory = Inventory.of([machine(ONE, gpu_num=2)], {ONE: frozenset({1, 7}), TWO: frozenset({0})})
    assert dict(inventory.free) == {ONE: (0,)}


def test_claiming_gives_the_next_snapshot_and_leaves_this_one_alone() -> None:
    before = Inventory.of([machine(ONE)], {}, {ONE: frozenset({2})})
    after = before.claiming(ONE, (0, 3))
    assert after.wanted_by_pool == before.wanted_by_pool
    assert after.free[ONE] == (1, 2)
    assert before.free[ONE] == (0, 1, 2, 3)


def test_two_machines_with_one_id_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="same id"):
        Inventory.of([machine(ONE), machine(ONE)], {})
