"""WHAT a ReplicaSet needs: exactly ``replica_num`` live containers, whatever exits is replaced.

Scale-in takes those that serve nobody first: not yet placed, then on their way up, then running; in each group the
youngest first. Starts wait while containers die young (``backoff``); stops never wait.
"""

import datetime
from collections.abc import Callable, Iterable

from muster.model.container import Container, Reason
from muster.model.deployment import Deployment
from muster.model.ids import ContainerId
from muster.planner.backoff import retry_at
from muster.planner.classify import Part, classify
from muster.planner.plan import Plan, Report, Stop


def plan_replica_set(
    deployment: Deployment,
    containers: Iterable[Container],
    *,
    now: datetime.datetime,
    new_id: Callable[[], ContainerId],
) -> Plan:
    """Compare a ReplicaSet with its containers (all unfinished ones, and the recent past) and plan the difference."""
    history = tuple(containers)
    parts = classify(history)
    live = [*parts[Part.UNPLACED], *parts[Part.STARTING], *parts[Part.RUNNING]]
    wanted = deployment.spec.replica_num if deployment.is_wanted else 0
    missing = wanted - len(live)
    not_before = retry_at(history, deployment.edited_at, now) if missing > 0 else None
    waits = not_before is not None and now < not_before
    report = Report(
        wanted=wanted,
        unplaced=len(parts[Part.UNPLACED]),
        starting=len(parts[Part.STARTING]),
        running=len(parts[Part.RUNNING]),
        stopping=len(parts[Part.STOPPING]),
        backoff_until=not_before if waits else None,
    )
    if missing > 0:
        if waits:
            return Plan(report, wake_at=not_before)
        return Plan(report, start=tuple(new_id() for _ in range(missing)))
    reason = Reason.SCALED_IN if deployment.is_wanted else Reason.DEPLOYMENT_STOPPED
    surplus = sorted(live, key=_first_to_go)[:-missing] if missing else []
    return Plan(report, stop=tuple(Stop(container.id, reason) for container in surplus))


def _first_to_go(container: Container) -> tuple[int, float, int]:
    """Order for scale-in: who serves nobody yet, then the youngest."""
    progress = 0 if container.status is None else 1 if container.status.is_starting else 2
    born_at = container.started_at or container.created_at
    return progress, -born_at.timestamp(), -container.number
