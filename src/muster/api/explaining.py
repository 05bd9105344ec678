"""Explanations as the API shows them: what the scheduler would answer now, in AutoDL's words.

In: a deployment, or a specification that is none yet. Out: rows. The scheduler is asked anew, with everybody who waits,
so the answer is about this moment and says the same as the placement loop would. One transaction reads; what costs time
is decided after it.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from muster.api import catalogue, convert
from muster.api.explain_schemas import (
    ExplainedDeployment,
    MissRow,
    NearestRow,
    PlannedRow,
    RejectedRow,
    RemedyRow,
    UnfitRow,
    WouldGoRow,
)
from muster.controller.demand import load_bans, load_requests
from muster.controller.deployments import plan_of
from muster.controller.placements import OUT_OF_PORTS
from muster.model.account import Account
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentType, Requirements
from muster.model.ids import ContainerId
from muster.model.quantity import GIB, Range
from muster.model.reference import is_saved
from muster.planner.plan import Report
from muster.scheduler.explain import Explanation
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, place
from muster.scheduler.remedy import Remedy, remedies
from muster.store.port import Transaction


@dataclass(frozen=True, slots=True)
class Question:
    """Who waits, in order, what there is, and which of the waiting are asked about."""

    requests: Sequence[Request]
    inventory: Inventory
    about: frozenset[ContainerId]


@dataclass(frozen=True, slots=True)
class Answer:
    """Where those asked about would go, and why the others go nowhere, equal ones together."""

    placed: tuple[Placed, ...]
    unfit: tuple[UnfitRow, ...]


def about_deployment(
    tx: Transaction, deployment: Deployment, now: datetime.datetime, *, has_images: bool
) -> tuple[Question, Report]:
    """Load what explains a deployment."""
    live = tx.containers.of_deployment(deployment.id, finished_limit=0)
    requests, inventory = load_requests(tx, now, has_images=has_images)
    waiting = frozenset(each.id for each in live if each.is_live and each.placement is None)
    return Question(requests, inventory, waiting), plan_of(tx, deployment, now).report


def about_new(
    tx: Transaction, owner: Account, spec: DeploymentSpec, now: datetime.datetime, *, has_images: bool
) -> Question:
    """Load what tells where the first containers of a new deployment would go."""
    image = catalogue.usable(tx, owner, spec.image)
    bans = load_bans(tx, now)
    waiting, inventory = load_requests(tx, now, has_images=has_images, bans=bans)
    pattern = Request(
        ContainerId("new"),
        spec.requirements,
        blacklist=bans.blacklists.get(owner.id, frozenset()),
        image_holders=tx.held_images.holders(image.reference) if has_images else None,
        is_image_saved=is_saved(image.reference),
        unavailable=bans.unavailable,
        cordoned=bans.cordoned,
    )
    new = [replace(pattern, container_id=ContainerId(f"new-{number}")) for number in range(at_once(spec))]
    return Question([*waiting, *new], inventory, frozenset(each.container_id for each in new))


def at_once(spec: DeploymentSpec) -> int:
    """Return how many containers of a new deployment are started first."""
    return min(spec.replica_num, spec.parallelism_num) if spec.type is DeploymentType.JOB else spec.replica_num


def answer(question: Question, held_up: Callable[[ContainerId], Explanation | None] = lambda _: None) -> Answer:
    """Ask the scheduler. ``held_up`` says what else kept a container from a machine that has room, if anything did."""
    outcomes = place(question.requests, question.inventory).outcomes
    free = {machine_id: len(indices) for machine_id, indices in question.inventory.free.items()}
    placed: list[Placed] = []
    unfit: dict[int, tuple[Explanation, list[ContainerId]]] = {}
    obstructed: dict[str, tuple[Explanation, list[ContainerId]]] = {}
    for request, outcome in zip(question.requests, outcomes, strict=True):
        is_asked = request.container_id in question.about
        if isinstance(outcome, Placed):
            free[outcome.placement.machine_id] -= outcome.placement.gpu_num
            obstacle = held_up(request.container_id) if is_asked else None
            if obstacle is not None and obstacle.note:
                obstructed.setdefault(obstacle.note, (obstacle, []))[1].append(request.container_id)
            else:
                placed += [outcome] if is_asked else []
        elif is_asked:
            unfit.setdefault(id(outcome), (outcome.explanation, []))[1].append(request.container_id)
    rows = [
        _unfit_row(explanation, ids, remedies(explanation.demand, question.inventory.machines, free))
        for explanation, ids in unfit.values()
    ]
    rows += [_unfit_row(explanation, ids, ()) for explanation, ids in obstructed.values()]
    return Answer(tuple(placed), tuple(rows))


def explained(deployment: Deployment, report: Report, found: Answer, zone: datetime.tzinfo) -> ExplainedDeployment:
    """Show why a deployment is as it is."""
    planned = _planned_row(report, zone)
    unfit_num = sum(row.container_num for row in found.unfit)
    return ExplainedDeployment(
        deployment_uuid=deployment.id,
        name=deployment.spec.name,
        status=deployment.status.value,
        rollout=deployment.rollout.value,
        failure=deployment.failure,
        text=_summary(deployment, report, unfit_num, len(found.placed), found.unfit),
        planned=planned,
        placing_num=len(found.placed),
        unfit=list(found.unfit),
    )


def would_go(placed: Iterable[Placed]) -> list[WouldGoRow]:
    """Show where containers would go, machine by machine."""
    rows: dict[str, WouldGoRow] = {}
    for each in placed:
        placement = each.placement
        row = rows.setdefault(
            placement.machine_id,
            WouldGoRow(
                machine_id=placement.machine_id,
                data_center=placement.data_center,
                gpu_name=placement.gpu_name,
                price=placement.price_milliyuan,
                containers=[],
            ),
        )
        row.containers.append(list(placement.gpu_indices))
    return list(rows.values())


def would_be_text(container_num: int, found: Answer) -> str:
    """Say in a sentence what would become of a new deployment."""
    if not container_num:
        return "it wants no container, so nothing is placed"
    unfit = container_num - len(found.placed)
    if not unfit:
        return f"all {container_num} containers fit now" if container_num > 1 else "its container fits now"
    return f"{len(found.placed)} of {container_num} containers fit now, {unfit} would wait: {found.unfit[0].text}"


def _summary(deployment: Deployment, report: Report, unfit: int, placing: int, rows: Sequence[UnfitRow]) -> str:
    if not deployment.is_wanted:
        return "it is stopped: no container of it is wanted"
    if rows and all(not row.considered for row in rows) and rows[0].text == OUT_OF_PORTS:
        return f"{unfit} of {report.wanted} containers wait for an address"
    if unfit:
        return f"{unfit} of {report.wanted} containers fit on no machine"
    if placing:
        return f"{placing} containers are about to be placed"
    if report.backoff_until:
        return "nothing waits for a machine, but its containers die young: the next one is started later, see below"
    if deployment.failure:
        return f"nothing waits for a machine; version {deployment.version} was given up: {deployment.failure}"
    return "nothing waits for a machine"


def _planned_row(report: Report, zone: datetime.tzinfo) -> PlannedRow:
    return PlannedRow(
        wanted=report.wanted,
        unplaced=report.unplaced,
        starting=report.starting,
        running=report.running,
        stopping=report.stopping,
        backoff_until=None if report.backoff_until is None else convert.wire_time(report.backoff_until, zone),
        text=report.sentence,
    )


def _unfit_row(explanation: Explanation, ids: Sequence[ContainerId], found: Iterable[Remedy]) -> UnfitRow:
    nearest = explanation.nearest
    return UnfitRow(
        container_num=len(ids),
        container_ids=list(ids),
        text=explanation.sentence(),
        considered=explanation.considered,
        rejected=[RejectedRow(rule=rule, machine_num=count) for rule, count in explanation.rejected],
        nearest=None
        if nearest is None
        else NearestRow(
            machine_id=nearest.machine_id,
            misses=[MissRow(rule=each.rule, wanted=each.wanted, offered=each.offered) for each in nearest.misses],
        ),
        remedies=[_remedy_row(explanation.demand.requirements, each) for each in found],
    )


_FIELDS = {"gpu_name": "gpu_name_set", "data_center": "dc_list", "cuda": "cuda_v", "memory": "memory_size"}
"""What rules are called in AutoDL's template, where that is another word."""
_SUFFIXES = {"lower": "_from", "upper": "_to", "": ""}


def _remedy_row(requirements: Requirements, remedy: Remedy) -> RemedyRow:
    """Show a remedy as a change of AutoDL's fields."""
    field = _FIELDS.get(remedy.rule, remedy.rule) + _SUFFIXES[remedy.bound]
    before = _template(requirements)
    if remedy.demand is None:
        change: Mapping[str, Any] = {}
        field, text = "wait", f"wait: {remedy.would_fit}"
    elif remedy.rule == "blacklist":
        change, text = {}, f"take {remedy.machine_id} off the blacklist"
    else:
        after = _template(remedy.demand.requirements)
        change = {name: value for name, value in after.items() if value != before[name]}
        text = f"{field} {_said(after[field])} instead of {_said(before[field])}"
    return RemedyRow(
        field=field,
        now=before.get(field, remedy.wanted),
        instead=change.get(field, remedy.would_fit),
        text=text,
        machine_num=remedy.machine_num,
        machine_id=remedy.machine_id,
        change=dict(change),
    )


def _template(requirements: Requirements) -> dict[str, Any]:
    """Return the fields of AutoDL's template that say these requirements."""
    return {
        "gpu_name_set": sorted(requirements.gpu_names),
        "gpu_num": requirements.gpu_num,
        "dc_list": sorted(requirements.data_centers),
        **_bounds("cuda_v", requirements.cuda),
        **_bounds("cpu_num", requirements.cpu_num),
        **_bounds("memory_size", requirements.memory_bytes, unit=GIB),
        **_bounds("price", requirements.price_milliyuan),
    }


def _bounds(name: str, allowed: Range, *, unit: int = 1) -> dict[str, int]:
    return {f"{name}_from": allowed.lower // unit, f"{name}_to": (allowed.upper or 0) // unit}


def _said(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
