"""What could be placed now: idle and total GPUs per model, and how many containers of k GPUs fit.

In: an inventory and the requirements to count under, the same rules that ``place`` applies. Out: numbers.

``stock`` counts as if scheduling one GPU at a time, which is what the AutoDL API answers: 2 idle GPUs may be on two
machines, so a container of 2 may still not fit. ``fits`` is the honest answer to that question, ``fits_by_size`` that
for each of the usual sizes.

A machine whose engine cannot be used has nothing idle and lets nothing fit, but its GPUs still count as owned.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from muster.model.deployment import Requirements
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.scheduler.filters import Demand, survey
from muster.scheduler.inventory import Inventory

SIZES: Final = (1, 2, 4, 8)
"""Numbers of GPUs that containers are usually made of."""


@dataclass(frozen=True, slots=True)
class Stock:
    """GPUs of one model on the machines that meet the requirements."""

    gpu_name: str
    idle_gpu_num: int
    total_gpu_num: int
    chip_corp: str
    cpu_arch: str


def stock(
    inventory: Inventory,
    requirements: Requirements,
    blacklist: frozenset[MachineId] = frozenset(),
    unavailable: frozenset[MachineId] = frozenset(),
) -> tuple[Stock, ...]:
    """Count GPUs by model name, in the order of names; ``gpu_num`` of the requirements counts as 1.

    A model of which no machine meets the requirements is absent; one that is merely busy is there with 0 idle.
    """
    by_name: dict[str, list[Machine]] = {}
    demand = Demand(replace(requirements, gpu_num=1), blacklist)
    for machine in survey(demand, inventory.machines).suitable.values():
        by_name.setdefault(machine.gpu_name, []).append(machine)
    return tuple(
        Stock(
            gpu_name=name,
            idle_gpu_num=_idle(inventory, (machine for machine in machines if machine.id not in unavailable)),
            total_gpu_num=sum(machine.gpu_num for machine in machines),
            chip_corp=machines[0].chip_corp,
            cpu_arch=machines[0].cpu_arch,
        )
        for name, machines in sorted(by_name.items())
    )


def fits(
    inventory: Inventory,
    requirements: Requirements,
    blacklist: frozenset[MachineId] = frozenset(),
    unavailable: frozenset[MachineId] = frozenset(),
) -> int:
    """Return how many containers with exactly these requirements could be placed now."""
    return sum(
        len(inventory.free[machine.id]) // requirements.gpu_num
        for machine in survey(Demand(requirements, blacklist, unavailable), inventory.machines).suitable.values()
    )


def fits_by_size(
    inventory: Inventory,
    requirements: Requirements,
    gpu_name: str,
    blacklist: frozenset[MachineId] = frozenset(),
    unavailable: frozenset[MachineId] = frozenset(),
) -> Mapping[int, int]:
    """Return for each usual size how many containers of so many GPUs of a model could be placed now.

    Each number is as if nothing of another size were placed; CPU and memory are required of the whole container.
    """
    return {
        size: fits(
            inventory,
            replace(requirements, gpu_num=size, gpu_names=frozenset({gpu_name})),
            blacklist,
            unavailable,
        )
        for size in SIZES
    }


def _idle(inventory: Inventory, machines: Iterable[Machine]) -> int:
    return sum(len(inventory.free[machine.id]) for machine in machines)
