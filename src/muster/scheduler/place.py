"""WHERE: choose a machine and GPUs for each container that waits.

In: requests in the order in which they are to be served, and a frozen inventory. Out: one outcome per request, in the
same order: what to commit and why it is so, or why there is nothing.

The order of preference is: not on a machine to avoid; taking over a container of the pool (``reuse``); then the
machine as ``rank`` says, one that holds the image first.

A request is served as if the ones before it were already committed. One that does not fit is passed over and never
holds back those after it: a container of 8 GPUs waits for a whole machine while small ones go on filling the others
(holding GPUs back for it would leave paid hardware idle on a guess; a user who wants that stops something).

Explanations are given for the end of the call, one for each distinct demand: what people read is why it does not fit
*now*, and a request that did not fit in its turn does not fit later either, since a call only ever takes GPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from muster.model.container import Placement
from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, ContainerUuid, MachineId
from muster.scheduler.candidates import Candidates
from muster.scheduler.explain import Explanation, explain
from muster.scheduler.filters import Demand, survey
from muster.scheduler.inventory import Inventory
from muster.scheduler.ledger import Ledger
from muster.scheduler.reuse import Reusable, Reuses


@dataclass(frozen=True, slots=True)
class Request:
    """A container that waits for a machine.

    ``avoid`` is a wish: such a machine is taken when no other fits. ``blacklist`` is a ban of the account, ``cordoned``
    one of the operator, and ``unavailable`` one for as long as the engine of a machine cannot be used. ``reusable`` is
    what it may take over. ``image_holders`` are the machines that hold its image; ``None``: its engines know no images.
    ``is_image_saved``: the image was saved from a container and is to be had nowhere else. Requests that hold the very
    same tuples and sets are served fastest.
    """

    container_id: ContainerId
    requirements: Requirements
    avoid: frozenset[MachineId] = frozenset()
    blacklist: frozenset[MachineId] = frozenset()
    reusable: tuple[Reusable, ...] = ()
    image_holders: frozenset[MachineId] | None = None
    unavailable: frozenset[MachineId] = frozenset()
    is_image_saved: bool = False
    cordoned: frozenset[MachineId] = frozenset()


@dataclass(frozen=True, slots=True)
class Placed:
    """What to commit for a request, and what spoke for it.

    ``reuses`` is the container that it takes over, ``is_in_place`` whether on that one's very GPUs, so that the engine
    can restart it as it is. ``has_image`` is ``None`` where nobody asks. ``gpus_left`` are the GPUs of the machine that
    stay free.
    """

    placement: Placement
    reuses: ContainerUuid | None
    is_in_place: bool
    has_image: bool | None
    is_avoided: bool
    gpus_left: int

    def sentence(self) -> str:
        """Say in one line why it is here."""
        why = self._of_fresh() if self.reuses is None else self._of_reuse(self.reuses)
        return f"{why} (a machine to avoid, but no other fits)" if self.is_avoided else why

    def _of_reuse(self, uuid: ContainerUuid) -> str:
        if self.is_in_place:
            return f"reuses {uuid} with its GPUs"
        indices = ", ".join(map(str, self.placement.gpu_indices))
        return f"reuses {uuid}, copied to {'GPU' if self.placement.gpu_num == 1 else 'GPUs'} {indices}"

    def _of_fresh(self) -> str:
        packing = f"fewest GPUs left over: {self.gpus_left}"
        if self.has_image is None:
            return packing
        return f"{'the image is there' if self.has_image else 'the image must be fetched'}, {packing}"


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No machine fits, and why."""

    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Placements:
    """One outcome per request, in the order of the requests."""

    outcomes: tuple[Placed | Unplaceable, ...]


def place(requests: Sequence[Request], inventory: Inventory) -> Placements:
    """Choose a machine and GPUs for each request, or say why none fits.

    Order: as given; each choice is visible to the next.
    Shape: GPU indices ascending; in place those of the reused container, otherwise as ``units.pick`` chooses.
    Ties: as ``reuse`` and ``rank`` say, down to uuid and machine id; the same arguments always give the same outcomes.
    Raises: nothing; an impossible request is an ``Unplaceable`` holding its ``Explanation``.
    """
    ledger = Ledger(inventory)
    counters: dict[Demand, _Counter] = {}
    chosen: list[Placed | Demand] = []
    for request in requests:
        only_on = request.image_holders if request.is_image_saved else None
        demand = Demand(request.requirements, request.blacklist, request.unavailable, only_on, request.cordoned)
        if demand not in counters:
            counters[demand] = _Counter(demand, inventory, ledger)
        chosen.append(counters[demand].serve(request) or demand)
    unplaceable = {
        demand: Unplaceable(explain(counters[demand].surveyed, inventory.machines, ledger.free_num))
        for demand in dict.fromkeys(each for each in chosen if isinstance(each, Demand))
    }
    return Placements(tuple(unplaceable[each] if isinstance(each, Demand) else each for each in chosen))


class _Counter:
    """Where the requests of one demand are served: its survey, and what was sorted for it."""

    def __init__(self, demand: Demand, inventory: Inventory, ledger: Ledger) -> None:
        self.surveyed = survey(demand, inventory.machines)
        self._gpu_num = demand.requirements.gpu_num
        self._ledger = ledger
        self._candidates: dict[frozenset[MachineId] | None, Candidates] = {}
        # By identity: hashing a long tuple anew for each request would cost more than a second heap for an equal one.
        self._reuses: dict[int, Reuses] = {}

    def serve(self, request: Request) -> Placed | None:
        """Claim the best that there is for a request."""
        reuse = self._reuses_of(request).best(request.avoid) if request.reusable else None
        if reuse is not None and reuse[0].machine_id not in request.avoid:
            return self._take_over(request, *reuse)
        machine_id = self._candidates_of(request).best(request.avoid)
        if machine_id is None:
            return None
        if reuse is not None and machine_id in request.avoid:
            return self._take_over(request, *reuse)
        return self._placed(request, self._ledger.claim(machine_id, self._gpu_num))

    def _take_over(self, request: Request, reusable: Reusable, is_in_place: bool) -> Placed:
        self._ledger.reused.add(reusable.uuid)
        if is_in_place:
            placement = self._ledger.claim_exactly(reusable.machine_id, reusable.gpu_indices)
        else:
            placement = self._ledger.claim(reusable.machine_id, self._gpu_num)
        return self._placed(request, placement, reuses=reusable.uuid, is_in_place=is_in_place)

    def _placed(
        self,
        request: Request,
        placement: Placement,
        *,
        reuses: ContainerUuid | None = None,
        is_in_place: bool = False,
    ) -> Placed:
        machine_id = placement.machine_id
        return Placed(
            placement=placement,
            reuses=reuses,
            is_in_place=is_in_place,
            has_image=None if request.image_holders is None else machine_id in request.image_holders,
            is_avoided=machine_id in request.avoid,
            gpus_left=self._ledger.free_num[machine_id],
        )

    def _candidates_of(self, request: Request) -> Candidates:
        holders = request.image_holders
        if holders not in self._candidates:
            self._candidates[holders] = Candidates(self.surveyed, holders, self._ledger)
        return self._candidates[holders]

    def _reuses_of(self, request: Request) -> Reuses:
        key = id(request.reusable)
        if key not in self._reuses:
            self._reuses[key] = Reuses(request.reusable, self.surveyed, self._ledger)
        return self._reuses[key]
