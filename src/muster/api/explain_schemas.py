"""The wire of explanations: why containers wait, where new ones would go, and what would help."""

from typing import Any

from pydantic import BaseModel

from muster.api.schemas import CommandWarningRow


class RejectedRow(BaseModel):
    """How many machines a rule rejects; each is counted once, under the first that does."""

    rule: str
    machine_num: int


class MissRow(BaseModel):
    """One rule that rejects the nearest machine, with the two values that it compared."""

    rule: str
    wanted: str
    offered: str


class NearestRow(BaseModel):
    """The machine that came closest, and everything that keeps it from fitting."""

    machine_id: str
    misses: list[MissRow]


class RemedyRow(BaseModel):
    """One change that makes it fit, on ``machine_num`` machines.

    ``field`` is one of ``container_template``, or ``blacklist``, or ``wait``. ``now`` and ``instead`` are its values,
    ``text`` says it in words. ``change`` are the fields of the template to send instead; empty unless one helps.
    """

    field: str
    now: Any
    instead: Any
    text: str
    machine_num: int
    machine_id: str | None
    change: dict[str, Any]


class UnfitRow(BaseModel):
    """Why so many equal containers fit nowhere: the counts of ``rejected`` add up to ``considered``."""

    container_num: int
    container_ids: list[str]
    text: str
    considered: int
    rejected: list[RejectedRow]
    nearest: NearestRow | None
    remedies: list[RemedyRow]


class PlannedRow(BaseModel):
    """What the planner sees; ``backoff_until``: containers die young, and the next starts no sooner."""

    wanted: int
    unplaced: int
    starting: int
    running: int
    stopping: int
    backoff_until: str | None
    text: str


class ExplainedDeployment(BaseModel):
    """Why a deployment is as it is. ``text`` is the whole in one sentence.

    ``placing_num`` of the unplaced containers find a machine as soon as the scheduler looks.
    """

    deployment_uuid: str
    name: str
    status: str
    rollout: str
    failure: str
    text: str
    planned: PlannedRow
    placing_num: int
    unfit: list[UnfitRow]


class WouldGoRow(BaseModel):
    """A machine that would get containers, and with which GPUs."""

    machine_id: str
    data_center: str
    gpu_name: str
    price: int
    containers: list[list[int]]


class WouldBe(BaseModel):
    """What would become of a deployment if it were created now, behind everybody who waits already."""

    text: str
    container_num: int
    placed: list[WouldGoRow]
    unfit: list[UnfitRow]
    spec: dict[str, Any]
    warnings: list[CommandWarningRow]
