"""GPU unit arithmetic: what a container of k units is given on a machine.

A unit is one GPU with an equal share of the host's CPUs and memory. Ratios are fixed: a container cannot ask for more
memory on fewer GPUs, only for a machine whose share is large enough. Shares are rounded down per unit, before they are
multiplied, so that any way to divide a machine into containers fits into it.
"""

from collections.abc import Sequence

from muster.model.container import Placement
from muster.model.machine import Machine


def cpus(machine: Machine, gpu_num: int) -> int:
    """Return the whole CPUs that come with ``gpu_num`` units."""
    return machine.cpu_per_unit * gpu_num


def memory(machine: Machine, gpu_num: int) -> int:
    """Return the bytes of memory that come with ``gpu_num`` units."""
    return machine.memory_per_unit * gpu_num


def pick(free: Sequence[int], gpu_num: int, wanted_by_pool: frozenset[int]) -> tuple[int, ...]:
    """Pick ``gpu_num`` of the ascending ``free`` GPU indices, ascending.

    The lowest, but first those that no ended container in the reuse pool had: one of those can be restarted at once
    as long as its own GPUs are free, and is copied otherwise.
    """
    if not wanted_by_pool:
        return tuple(free[:gpu_num])
    return tuple(sorted(sorted(free, key=lambda index: (index in wanted_by_pool, index))[:gpu_num]))


def allot(machine: Machine, gpu_indices: tuple[int, ...]) -> Placement:
    """Give these GPUs of a machine, and what comes with them."""
    return Placement(
        machine_id=machine.id,
        data_center=machine.data_center,
        gpu_name=machine.gpu_name,
        gpu_indices=gpu_indices,
        cpu_num=cpus(machine, len(gpu_indices)),
        memory_bytes=memory(machine, len(gpu_indices)),
        price_milliyuan=machine.price_milliyuan,
    )
