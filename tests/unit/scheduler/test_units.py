from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB
from muster.scheduler import units


def machine(gpu_num: int, cpu_num: int, memory_bytes: int) -> Machine:
    return Machine(MachineId("0123456789"), "lab-a", "L20", gpu_num, cpu_num, memory_bytes, cuda=128, price_milliyuan=9)


def test_a_container_gets_its_share_of_the_host() -> None:
    host = machine(gpu_num=8, cpu_num=128, memory_bytes=720 * GIB)
    assert (units.cpus(host, 1), units.memory(host, 1)) == (16, 90 * GIB)
    assert (units.cpus(host, 8), units.memory(host, 8)) == (128, 720 * GIB)


def test_shares_are_rounded_down_per_unit_so_that_all_of_them_fit() -> None:
    host = machine(gpu_num=4, cpu_num=19, memory_bytes=4 * GIB + 3)
    assert (units.cpus(host, 1), units.memory(host, 1)) == (4, GIB)
    assert units.cpus(host, 4) == 16


def test_the_lowest_free_gpus_are_picked() -> None:
    assert units.pick((1, 4, 6, 7), 3, frozenset()) == (1, 4, 6)


def test_gpus_of_pooled_containers_are_picked_last_and_the_pick_still_ascends() -> None:
    assert units.pick((0, 1, 2, 3), 2, frozenset({0, 2})) == (1, 3)
    assert units.pick((0, 1, 2, 3), 3, frozenset({0, 2})) == (0, 1, 3)
    assert units.pick((0, 2), 1, frozenset({0, 2})) == (0,)


def test_gpus_are_given_with_what_comes_with_them() -> None:
    host = machine(gpu_num=8, cpu_num=128, memory_bytes=720 * GIB)
    placement = units.allot(host, (1, 4, 6))
    assert placement.gpu_indices == (1, 4, 6)
    assert (placement.machine_id, placement.data_center, placement.gpu_name) == (host.id, "lab-a", "L20")
    assert (placement.cpu_num, placement.memory_bytes, placement.price_milliyuan) == (48, 270 * GIB, 9)
