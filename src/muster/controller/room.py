"""Who has to go so that a replacement finds a machine: asked by the deployment loop where nothing more fits.

The scheduler is asked the very question that the placement loop will ask it, with one outdated container thought away
at a time. So an end that helps nobody, or only somebody who waits longer, is never proposed; and where the replacement
fits by now without anybody's end, nothing is.

The answer is mostly the first candidate, or that nobody's end helps. The second is told by one question: whether
anything of the deployment fits when all its candidates and all who wait elsewhere are thought away. Of candidates with
as many GPUs of one machine only the first is asked about.
"""

import datetime
from collections.abc import Collection, Iterable, Sequence

from muster.controller.demand import load_requests
from muster.model.container import Container
from muster.model.ids import ContainerId
from muster.planner.plan import Situation
from muster.planner.scale_in import first_to_go
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, place
from muster.store.port import Transaction


def room_for(tx: Transaction, situation: Situation, now: datetime.datetime, *, has_images: bool) -> ContainerId | None:
    """Return the outdated container whose end lets one of the deployment's unplaced current ones be placed."""
    waiting = {
        each.id
        for each in situation.containers
        if each.status is None and each.is_live and each.id not in situation.outdated
    }
    candidates = sorted(
        (
            each
            for each in situation.containers
            if each.id in situation.outdated and each.is_ready and each.placement is not None
        ),
        key=first_to_go,
    )
    requests, inventory = load_requests(tx, now, has_images=has_images)
    last = max((n for n, each in enumerate(requests) if each.container_id in waiting), default=-1)
    asked = requests[: last + 1]  # who waits less long takes nothing from those before
    own = [each for each in asked if each.container_id in waiting]
    if _is_served(waiting, asked, inventory) or not _is_served(waiting, own, _without(inventory, candidates)):
        return None
    for candidate in _different(candidates):
        if _is_served(waiting, asked, _without(inventory, [candidate])):
            return candidate.id
    return None


def _is_served(waiting: Collection[ContainerId], requests: Sequence[Request], inventory: Inventory) -> bool:
    outcomes = place(requests, inventory).outcomes
    return any(
        isinstance(outcome, Placed) and request.container_id in waiting
        for request, outcome in zip(requests, outcomes, strict=True)
    )


def _without(inventory: Inventory, containers: Iterable[Container]) -> Inventory:
    for each in containers:
        assert each.placement is not None
        inventory = inventory.releasing(each.placement.machine_id, each.placement.gpu_indices)
    return inventory


def _different(candidates: Iterable[Container]) -> Iterable[Container]:
    kinds: dict[object, Container] = {}
    for each in candidates:
        assert each.placement is not None
        kinds.setdefault((each.placement.machine_id, each.placement.gpu_num), each)
    return kinds.values()
