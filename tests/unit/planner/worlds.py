"""Small worlds for planner tests: a deployment, containers in a given state, and a clock that tests read."""

import datetime
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from muster.model.container import Container, ContainerStatus, Placement, Reason, StopRequest
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentStatus, DeploymentType
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.image import LOCAL_IMAGE
from muster.planner.plan import Plan, Situation
from muster.planner.replica_set import plan_replica_set

T0 = datetime.datetime(2026, 3, 2, 9, 0, tzinfo=datetime.UTC)
MACHINE = MachineId("4be2107d9c")


def at(seconds: float) -> datetime.datetime:
    return T0 + datetime.timedelta(seconds=seconds)


def deployment(replica_num: int = 1, **changes: object) -> Deployment:
    spec = DeploymentSpec(
        name="asr", type=DeploymentType.REPLICA_SET, image=LOCAL_IMAGE, cmd="python serve.py", replica_num=replica_num
    )
    base = Deployment(
        id=DeploymentId("7c41f09ae2"),
        number=1,
        account_id=AccountId(1),
        spec=spec,
        status=DeploymentStatus.RUNNING,
        version="v1",
        created_at=T0,
        updated_at=T0,
        edited_at=T0,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def container(number: int, status: ContainerStatus | None, *, born: float = 0.0, **changes: object) -> Container:
    """A container made at ``born``; a running one started then, a shut down one ran from ``born`` on."""
    has_run = status is not None and status.rank >= ContainerStatus.RUNNING.rank
    base = Container(
        id=ContainerId(f"{number:016x}"),
        number=number,
        account_id=AccountId(1),
        deployment_id=DeploymentId("7c41f09ae2"),
        version="v1",
        created_at=at(born),
        updated_at=at(born),
        status=status,
        uuid=None if status is None else ContainerUuid(f"7c41f09ae2-{MACHINE}-{number:010x}"),
        placement=None if status is None else Placement(MACHINE, "lab-a", "RTX 4090", (0,), 16, 2**36, 1980),
        started_at=at(born) if has_run else None,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def stop(reason: Reason = Reason.SCALED_IN, seconds: float = 0.0) -> StopRequest:
    return StopRequest(reason, at(seconds))


def dead(number: int, *, born: float, died: float, reason: Reason = Reason.ERROR, **changes: object) -> Container:
    return container(number, ContainerStatus.SHUTDOWN, born=born, stopped_at=at(died), reason=reason, **changes)


def ready(number: int, version: str = "v1", *, born: float = 0.0, **changes: object) -> Container:
    """A running container that became ready as soon as it started."""
    made = {"version": version, "is_ready": True, "ready_at": at(born), **changes}
    return container(number, ContainerStatus.RUNNING, born=born, **made)


def edited(replica_num: int, *, seconds: float = 100.0, **changes: object) -> Deployment:
    """A deployment whose good version v1 was edited to v2."""
    made = {"version": "v2", "stable_version": "v1", "edited_at": at(seconds), **changes}
    return deployment(replica_num, **made)


def replaced_by_target(wanted: Deployment, containers: Sequence[Container]) -> dict[ContainerId, Reason]:
    """What is outdated where versions of other names differ in what they run."""
    return {
        each.id: Reason.ROLLED_BACK if wanted.failure and each.version == wanted.version else Reason.REPLACED
        for each in containers
        if each.is_live and each.version != wanted.target_version and not wanted.is_paused
    }


def situation(
    wanted: Deployment, containers: Sequence[Container], seconds: float, *, lost: Collection[int] = (), **more: object
) -> Situation:
    """A situation in which versions of other names are outdated, unless ``more`` says who is."""
    known = {
        "outdated": replaced_by_target(wanted, containers),
        "lost": frozenset(each.id for each in containers if each.number in lost),
        **more,
    }
    return Situation(wanted, tuple(containers), at(seconds), **known)  # type: ignore[arg-type]


def new_ids(first: int = 100) -> Callable[[], ContainerId]:
    numbers = itertools.count(first)
    return lambda: ContainerId(f"{next(numbers):016x}")


def planned(
    wanted: Deployment,
    containers: Sequence[Container],
    seconds: float = 115.0,
    *,
    lost: Collection[int] = (),
    **more: object,
) -> Plan:
    """What is planned of a ReplicaSet."""
    return plan_replica_set(situation(wanted, containers, seconds, lost=lost, **more), new_id=new_ids())


def stops(plan: Plan) -> list[tuple[int, Reason]]:
    return [(int(each.container_id, 16), each.reason) for each in plan.stop]
