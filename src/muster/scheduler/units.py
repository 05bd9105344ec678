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


def allot(machine: Machine, free: Sequence[int], gpu_num: int) -> Placement:
    """Give the lowest ``gpu_num`` of the ascending ``free`` GPU indices, and what comes with them."""
    return Placement(
        machine_id=machine.id,
        data_center=machine.data_center,
        gpu_name=machine.gpu_name,
        gpu_indices=tuple(free[:gpu_num]),
        cpu_num=cpus(machine, gpu_num),
        memory_bytes=memory(machine, gpu_num),
        price_milliyuan=machine.price_milliyuan,
    )
