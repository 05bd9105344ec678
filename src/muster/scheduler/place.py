"""WHERE: choose a machine and GPUs for each container that waits.

In: requests in the order in which they are to be served, and a frozen inventory. Out: one outcome per request, in the
same order: the ``Placement`` to commit, or why there is none.

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
from muster.model.ids import ContainerId, MachineId
from muster.scheduler.candidates import Candidates, Ledger
from muster.scheduler.explain import Explanation, explain
from muster.scheduler.filters import Demand, survey
from muster.scheduler.inventory import Inventory


@dataclass(frozen=True, slots=True)
class Request:
    """A container that waits for a machine.

    ``avoid`` is a wish: such a machine is taken when no other fits. ``blacklist`` is a ban.
    """

    container_id: ContainerId
    requirements: Requirements
    avoid: frozenset[MachineId] = frozenset()
    blacklist: frozenset[MachineId] = frozenset()


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No machine fits, and why."""

    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Placements:
    """One outcome per request, in the order of the requests."""

    outcomes: tuple[Placement | Unplaceable, ...]


def place(requests: Sequence[Request], inventory: Inventory) -> Placements:
    """Choose a machine and GPUs for each request, or say why none fits.

    Order: as given; each choice is visible to the next.
    Shape: GPU indices are the lowest free ones of the machine, ascending.
    Ties: as ``rank`` says, down to the machine id; the same arguments always give the same outcomes.
    Raises: nothing; an impossible request is an ``Unplaceable`` holding its ``Explanation``.
    """
    ledger = Ledger(inventory)
    candidates: dict[Demand, Candidates] = {}
    chosen: list[Placement | Demand] = []
    for request in requests:
        demand = Demand(request.requirements, request.blacklist)
        if demand not in candidates:
            candidates[demand] = Candidates(survey(demand, inventory.machines), ledger)
        machine_id = candidates[demand].best(request.avoid)
        chosen.append(demand if machine_id is None else ledger.claim(machine_id, request.requirements.gpu_num))
    unplaceable = {
        demand: Unplaceable(explain(candidates[demand].surveyed, inventory.machines, ledger.free_num))
        for demand in dict.fromkeys(each for each in chosen if isinstance(each, Demand))
    }
    return Placements(tuple(unplaceable[each] if isinstance(each, Demand) else each for each in chosen))
