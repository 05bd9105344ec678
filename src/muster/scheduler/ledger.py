"""What one call of ``place`` has given away so far, over an inventory that does not change.

In: an inventory, then one claim after the other. Out: what is free now, and the log of the machines that changed, which
lets whoever ranks machines look at those only. It lives as long as the call.
"""

from collections.abc import Iterable

from muster.model.container import Placement
from muster.model.ids import ContainerUuid, MachineId
from muster.scheduler import units
from muster.scheduler.inventory import NOTHING, Inventory


class Ledger:
    """What is free now, which machines changed, and which reusable containers are taken."""

    def __init__(self, inventory: Inventory) -> None:
        self._machines = {machine.id: machine for machine in inventory.machines}
        self._free = dict(inventory.free)
        self._wanted_by_pool = inventory.wanted_by_pool
        self.free_num = {machine_id: len(free) for machine_id, free in inventory.free.items()}
        self.log: list[MachineId] = []
        self.reused: set[ContainerUuid] = set()

    def are_free(self, machine_id: MachineId, gpu_indices: Iterable[int]) -> bool:
        """Tell whether all of these GPUs of a machine are free."""
        free = self._free[machine_id]
        return all(index in free for index in gpu_indices)

    def claim(self, machine_id: MachineId, gpu_num: int) -> Placement:
        """Take free GPUs of a machine, as ``units.pick`` chooses."""
        wanted_by_pool = self._wanted_by_pool.get(machine_id, NOTHING)
        return self.claim_exactly(machine_id, units.pick(self._free[machine_id], gpu_num, wanted_by_pool))

    def claim_exactly(self, machine_id: MachineId, gpu_indices: tuple[int, ...]) -> Placement:
        """Take these GPUs of a machine, which are free."""
        self._free[machine_id] = tuple(index for index in self._free[machine_id] if index not in gpu_indices)
        self.free_num[machine_id] -= len(gpu_indices)
        self.log.append(machine_id)
        return units.allot(self._machines[machine_id], gpu_indices)
