"""The fast part of placement: for each demand, the suitable machines in a heap that follows the claims of the others.

In: the survey of a demand, the machines that hold the image, and the claims made during one call of ``place``. Out: the
best machine. The answer is the one that filtering and ranking every machine anew for every request would give (the
tests hold that version against this one); the structure only avoids repeating work:

* the fixed rules are evaluated once per distinct demand, not once per request;
* the suitable machines of a demand lie in a heap by rank, so the best is at its root; one heap for each image, since
  who holds the image is part of the rank and does not change during a call;
* a claim is one line in the ledger's log. A heap reads the log from where it stopped the last time and adds the
  machines that changed under their new rank; their old entries are recognised as stale when they reach the root.

A machine only ever loses GPUs during a call, and losing GPUs only improves its rank until it drops out. That is why
stale entries may stay in a heap: they are worse than, and come after, the true one.
"""

from heapq import heapify, heappop, heappush

from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.scheduler.filters import Survey
from muster.scheduler.ledger import Ledger
from muster.scheduler.rank import Rank, rank


class Candidates:
    """The machines that suit one demand and image, best first. ``image_holders=None``: no machine lacks the image."""

    def __init__(self, surveyed: Survey, image_holders: frozenset[MachineId] | None, ledger: Ledger) -> None:
        self._suitable = surveyed.suitable
        self._gpu_num = surveyed.demand.requirements.gpu_num
        self._image_holders = image_holders
        self._ledger = ledger
        self._read = len(ledger.log)
        self._heap: list[Rank] = [
            self._rank(machine, left)
            for machine in self._suitable.values()
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
            machine = self._suitable.get(machine_id)
            if machine is not None and (left := free_num[machine.id] - self._gpu_num) >= 0:
                heappush(self._heap, self._rank(machine, left))
        self._read = len(log)

    def _rank(self, machine: Machine, gpus_left: int) -> Rank:
        holders = self._image_holders
        return rank(machine, gpus_left, lacks_image=holders is not None and machine.id not in holders)

    def _is_stale(self, entry: Rank) -> bool:
        return entry.gpus_left != self._ledger.free_num[entry.machine_id] - self._gpu_num
