"""The fast part of placement: for each demand, the suitable machines in a heap that follows the claims of the others.

In: an inventory and the claims made during one call of ``place``. Out: the best machine for a demand. The answer is
the one that filtering and ranking every machine anew for every request would give (the tests hold that version against
this one); the structure only avoids repeating work:

* the fixed rules are evaluated once per distinct demand, not once per request;
* the suitable machines of a demand lie in a heap by rank, so the best is at its root;
* a claim is one line in the ledger's log. A heap reads the log from where it stopped the last time and adds the
  machines that changed under their new rank; their old entries are recognised as stale when they reach the root.

A machine only ever loses GPUs during a call, and losing GPUs only improves its rank until it drops out. That is why
stale entries may stay in a heap: they are worse than, and come after, the true one.
"""

from heapq import heapify, heappop, heappush

from muster.model.container import Placement
from muster.model.ids import MachineId
from muster.scheduler import units
from muster.scheduler.filters import Survey
from muster.scheduler.inventory import Inventory
from muster.scheduler.rank import Rank, rank


class Ledger:
    """The claims of one call of ``place`` over its inventory: what is free now, and which machines changed."""

    def __init__(self, inventory: Inventory) -> None:
        self._machines = {machine.id: machine for machine in inventory.machines}
        self._free = dict(inventory.free)
        self.free_num = {machine_id: len(free) for machine_id, free in inventory.free.items()}
        self.log: list[MachineId] = []

    def claim(self, machine_id: MachineId, gpu_num: int) -> Placement:
        """Take the lowest free GPUs of a machine."""
        placement = units.allot(self._machines[machine_id], self._free[machine_id], gpu_num)
        self._free[machine_id] = self._free[machine_id][gpu_num:]
        self.free_num[machine_id] -= gpu_num
        self.log.append(machine_id)
        return placement


class Candidates:
    """The machines that suit one demand, best first."""

    def __init__(self, surveyed: Survey, ledger: Ledger) -> None:
        self.surveyed = surveyed
        self._gpu_num = surveyed.demand.requirements.gpu_num
        self._ledger = ledger
        self._read = len(ledger.log)
        self._heap: list[Rank] = [
            rank(machine, left)
            for machine in self.surveyed.suitable.values()
            if (left := ledger.free_num[machine.id] - self._gpu_num) >= 0
        ]
        heapify(self._heap)

    def best(self, avoid: frozenset[MachineId]) -> MachineId | None:
        """Return the machine of least rank, or ``None`` when none has enough free GPUs."""
        self._catch_up()
        avoided: list[Rank] = []
        best: Rank | None = None
        while self._heap and best is None:
            if self._is_stale(self._heap[0]):
                heappop(self._heap)
            elif self._heap[0].machine_id in avoid:
                avoided.append(heappop(self._heap))
            else:
                best = self._heap[0]
        for each in avoided:
            heappush(self._heap, each)
        if best is None and avoided:
            best = avoided[0]
        return None if best is None else best.machine_id

    def _catch_up(self) -> None:
        log, free_num = self._ledger.log, self._ledger.free_num
        for machine_id in set(log[self._read :]):
            machine = self.surveyed.suitable.get(machine_id)
            if machine is not None and (left := free_num[machine.id] - self._gpu_num) >= 0:
                heappush(self._heap, rank(machine, left))
        self._read = len(log)

    def _is_stale(self, entry: Rank) -> bool:
        return entry.gpus_left != self._ledger.free_num[entry.machine_id] - self._gpu_num
