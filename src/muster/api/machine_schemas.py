"""The wire of machines: what they offer, what is thought of them, and what admins want of them."""

from typing import Annotated

from pydantic import BaseModel, Field

from muster.api.blacklist_schemas import DEFAULT_MINUTES, MOST_MINUTES
from muster.api.schemas import RequestBody
from muster.api.text import ONE_LINE


class DrainMachine(RequestBody):
    """How to empty a machine: Jobs and Containers come to their own end, or (``now``) are made anew elsewhere."""

    now: bool = False


class BlacklistHost(RequestBody):
    """Keep deployments of the account off a machine for a time."""

    expire_in_minutes: Annotated[int, Field(ge=1, le=MOST_MINUTES)] = DEFAULT_MINUTES
    comment: Annotated[str, Field(max_length=1000), ONE_LINE] = ""


class SuspectRow(BaseModel):
    """Why a host may be to blame: its failures, how many one like it was expected to have, the commonest reason."""

    failure_num: int
    expected_num: float
    reason: str
    reason_num: int
    sentence: str


class MachineRow(BaseModel):
    """A machine on offer and the GPUs that are taken, by whomever; memory in bytes.

    ``state`` is the first that applies of ``lost unreachable unavailable draining drained cordoned usable``; nothing
    new is placed on one that is not ``usable``, and ``problem`` says what is wrong, if anything is. ``containers_left``
    are those still to go from a machine that is drained or lost, otherwise ``null``. ``failures`` counts, by reason,
    what ended there within the last 24 hours in a way that nobody wanted: the caller's own, an admin's are everybody's.
    ``suspect``: that is more than chance explains. ``blacklisted_until`` is the caller's own ban.
    """

    machine_id: str
    data_center: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_size: int
    cuda_v: int
    price: int
    chip_corp: str
    cpu_arch: str
    claimed_gpus: list[int]
    state: str
    problem: str
    unreachable_since: str | None
    lost_at: str | None
    is_cordoned: bool
    drain: str
    containers_left: int | None
    failures: dict[str, int]
    suspect: SuspectRow | None
    blacklisted_until: str | None


class MachineList(BaseModel):
    """Machines by id."""

    machines: list[MachineRow]
