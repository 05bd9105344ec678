"""WHAT a Job needs: ``replica_num`` containers that come to their own end, ``parallelism_num`` of them at a time.

What ended by itself counts, whatever its exit code; what never started, was stopped, or went with its machine does not
count and is made anew. There are never more live ones than are still to be completed, so never more complete than were
asked for. When all have, the deployment is over.

A Container is a Job of one, with one difference: who stops it through the API wants no other, so that ends it.

Starts that led to nothing (an image that cannot be fetched) are delayed as those of a ReplicaSet; a command that fails
has done its part, and the next one starts at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from muster.model.container import Container, Reason
from muster.model.deployment import DeploymentType
from muster.model.ids import ContainerId
from muster.planner.backoff import retry_at
from muster.planner.classify import Part, classify
from muster.planner.plan import Plan, Report, Situation, Stop
from muster.planner.scale_in import first_to_go


def plan_job(situation: Situation, *, new_id: Callable[[], ContainerId]) -> Plan:
    """Compare a Job, or a Container, with its containers and plan the difference."""
    deployment = situation.deployment
    parts = classify(situation.containers, situation.lost)
    here = [*parts[Part.UNPLACED], *parts[Part.STARTING], *parts[Part.RUNNING]]
    lost = parts[Part.LOST]
    left = max(0, deployment.spec.replica_num - situation.completed)
    wanted = min(left, deployment.spec.parallelism_num) if deployment.is_wanted else 0
    report = Report(
        wanted=wanted,
        unplaced=len(parts[Part.UNPLACED]),
        starting=len(parts[Part.STARTING]),
        running=len(parts[Part.RUNNING]),
        stopping=len(parts[Part.STOPPING]),
        outdated=sum(each.id in situation.outdated for each in here),
        lost=len(lost),
        completed=situation.completed,
    )
    if deployment.is_wanted and (left == 0 or _is_ended_by_user(situation)):
        return Plan(report, is_over=True)
    if not deployment.is_wanted:
        everything = sorted([*here, *lost], key=first_to_go)
        return Plan(report, stop=tuple(Stop(each.id, Reason.DEPLOYMENT_STOPPED) for each in everything))
    stops = _stops(situation, here, lost, wanted)
    gone = {each.container_id for each in stops}
    missing = wanted - sum(each.id not in gone for each in here)
    if missing <= 0:
        return Plan(report, stop=stops)
    not_before = retry_at(_fruitless(situation), deployment.edited_at, situation.now)
    if not_before is not None and situation.now < not_before:
        waiting = replace(report, backoff_until=not_before)
        return Plan(waiting, stop=stops, wake_at=not_before)
    return Plan(report, start=tuple(new_id() for _ in range(missing)), stop=stops)


def _stops(situation: Situation, here: Sequence[Container], lost: Sequence[Container], wanted: int) -> tuple[Stop, ...]:
    outdated = [each for each in here if each.id in situation.outdated]
    current = sorted((each for each in here if each.id not in situation.outdated), key=first_to_go)
    surplus_num = max(0, len(current) - wanted)
    surplus, staying = current[:surplus_num], current[surplus_num:]
    placed_num = sum(each.status is not None for each in staying)
    given_up = lost[: max(0, placed_num + len(lost) - wanted)]
    return (
        *(Stop(each.id, situation.outdated[each.id]) for each in outdated),
        *(Stop(each.id, Reason.SCALED_IN) for each in surplus),
        *(Stop(each.id, Reason.MACHINE_LOST) for each in given_up),
    )


def _is_ended_by_user(situation: Situation) -> bool:
    return situation.deployment.spec.type is DeploymentType.CONTAINER and any(
        each.stop is not None and each.stop.reason is Reason.STOPPED_BY_USER for each in situation.containers
    )


def _fruitless(situation: Situation) -> Sequence[Container]:
    """Return the containers since the last one that came to its own end: before that, starts led somewhere.

    An end of a clock that was ahead does not count: it would hide what fails now.
    """
    ends = (each.stopped_at for each in situation.containers if each.is_completed)
    last = max((end for end in ends if end is not None and end <= situation.now), default=None)
    return [
        each
        for each in situation.containers
        if not each.is_completed and (last is None or each.stopped_at is None or each.stopped_at > last)
    ]
