"""What there is to give: the offered machines and which of their GPUs are taken, frozen at one moment.

In: the machines that the store offers and the claims that it keeps. Out: a value that every decision of one pass is
made against. It is immutable so that a decision can be repeated, compared and explained; ``claiming`` returns the next
snapshot instead of changing this one.

Claims that do not matter here are dropped: of machines that are no longer offered, and of GPU indices that a machine
declared smaller no longer has. Who may use which machine is not here; that belongs to a request.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

from muster.errors import InvalidSpec
from muster.model.ids import MachineId
from muster.model.machine import Machine

NOTHING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Inventory:
    """Machines in the order of their ids, and the GPU indices that are free on each, ascending.

    ``wanted_by_pool`` are the indices, free or not, that ended containers in the reuse pool had.
    """

    machines: tuple[Machine, ...] = ()
    free: Mapping[MachineId, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    wanted_by_pool: Mapping[MachineId, frozenset[int]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(
        cls,
        machines: Sequence[Machine],
        claims: Mapping[MachineId, frozenset[int]],
        wanted_by_pool: Mapping[MachineId, frozenset[int]] = MappingProxyType({}),
    ) -> Self:
        """Take a snapshot; raises ``InvalidSpec`` when two machines have one id."""
        ordered = tuple(sorted(machines, key=lambda machine: machine.id))
        free = {
            machine.id: tuple(index for index in range(machine.gpu_num) if index not in claims.get(machine.id, NOTHING))
            for machine in ordered
        }
        if len(free) != len(ordered):
            raise InvalidSpec("machines", "two of them have the same id")
        return cls(ordered, MappingProxyType(free), wanted_by_pool)

    def claiming(self, machine_id: MachineId, gpu_indices: Iterable[int]) -> Self:
        """Return the inventory as it is once these GPUs are taken too."""
        taken = frozenset(gpu_indices)
        left = tuple(index for index in self.free[machine_id] if index not in taken)
        return replace(self, free=MappingProxyType({**self.free, machine_id: left}))

    def releasing(self, machine_id: MachineId, gpu_indices: Iterable[int]) -> Self:
        """Return the inventory as it were if these GPUs were free; of a machine that is not offered nothing is."""
        if machine_id not in self.free:
            return self
        free = tuple(sorted({*self.free[machine_id], *gpu_indices}))
        return replace(self, free=MappingProxyType({**self.free, machine_id: free}))
