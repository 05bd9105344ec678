"""Which ended container a new one takes over: the least ``Affinity`` among those that can be.

In: the containers in the pool that the caller allows a request (account, image and scope are its business), the survey
of the request's demand, and the claims made during one call of ``place``. Out: the best of them, or none.

One can be taken over where its files are, so its machine must pass every rule for the request, as for a fresh start,
and have enough free GPUs. The order, most important first:

1. in place: as many GPUs are wanted as it had, and exactly those are free. The engine restarts it as it is, within
   milliseconds, while any other is copied first, which takes seconds when much was written;
2. those that ended well, before those that failed after a long run and may have left half a file;
3. those of the same deployment, since its files are the likeliest to be of use;
4. the most recently stopped, whose files are the likeliest to be in memory;
5. the uuid, so that equal ones give one answer.

As in ``candidates`` a heap holds them, and a claim can only make an entry worse (its GPUs are no longer all free) or
end it (it is taken, or its machine is full). An entry is therefore looked at again when it reaches the root, and sinks
or goes.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from muster.model.ids import ContainerUuid, MachineId
from muster.scheduler.filters import Survey
from muster.scheduler.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Reusable:
    """An ended container in the pool that a request may take over.

    ``ended_well`` is false for one that ended by failure after a long run.
    """

    uuid: ContainerUuid
    machine_id: MachineId
    gpu_indices: tuple[int, ...]
    is_same_deployment: bool
    ended_well: bool
    stopped_at: datetime.datetime


class Affinity(NamedTuple):
    """How good a reusable container is for a request; the least is taken."""

    is_copied: bool
    has_failed: bool
    is_of_another_deployment: bool
    seconds_before_epoch: float
    uuid: ContainerUuid


def affinity(reusable: Reusable, *, is_in_place: bool) -> Affinity:
    """Rank a container that can be taken over."""
    return Affinity(
        not is_in_place,
        not reusable.ended_well,
        not reusable.is_same_deployment,
        -reusable.stopped_at.timestamp(),
        reusable.uuid,
    )


class Reuses:
    """The reusable containers of one demand, best first."""

    def __init__(self, reusable: Sequence[Reusable], surveyed: Survey, ledger: Ledger) -> None:
        self._gpu_num = surveyed.demand.requirements.gpu_num
        self._ledger = ledger
        self._reusable = {each.uuid: each for each in reusable if each.machine_id in surveyed.suitable}
        self._heap = [self._affinity(each) for each in self._reusable.values() if self._is_there(each)]
        heapify(self._heap)

    def best(self, avoid: frozenset[MachineId]) -> tuple[Reusable, bool] | None:
        """Return the one of least affinity, and whether in place; on a machine to avoid only when there is no other."""
        avoided: list[Affinity] = []
        best: Affinity | None = None
        while self._heap and best is None:
            root = self._heap[0]
            reusable = self._reusable[root.uuid]
            if not self._is_there(reusable):
                heappop(self._heap)
            elif (now := self._affinity(reusable)) != root:
                heapreplace(self._heap, now)
            elif reusable.machine_id in avoid:
                avoided.append(heappop(self._heap))
            else:
                best = root
        for each in avoided:
            heappush(self._heap, each)
        if best is None and avoided:
            best = avoided[0]
        return None if best is None else (self._reusable[best.uuid], not best.is_copied)

    def _is_there(self, reusable: Reusable) -> bool:
        ledger = self._ledger
        return reusable.uuid not in ledger.reused and ledger.free_num[reusable.machine_id] >= self._gpu_num

    def _affinity(self, reusable: Reusable) -> Affinity:
        has_its_number = len(reusable.gpu_indices) == self._gpu_num
        return affinity(
            reusable, is_in_place=has_its_number and self._ledger.are_free(reusable.machine_id, reusable.gpu_indices)
        )
