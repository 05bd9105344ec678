"""WHAT a ReplicaSet needs: ``replica_num`` live containers of the target version; whatever exits is replaced.

Three kinds of live containers: *current* ones (of the target version), *outdated* ones, which are to be replaced, and
*lost* ones, whose machine is gone. Current ones are brought to ``replica_num``; that is all while there are no others.

**Lost.** Substitutes are started at once, but a lost container is ended only when its substitute has a machine: until
then it may come back, and scale-in then takes the substitute, which serves nobody.

**Outdated.** Ready containers never fall below ``replica_num`` if one more fits: replacements are started beside the
old ones (one until the target version is proven, then a quarter of all at a time), and an old one goes only when it is
one ready container too many; what is ready of a version that is not proven yet does not count (``rollout``). Old ones
that are not ready serve nobody and go at once, and so do those whose machine is to be empty now. Where nothing more
fits, one old one whose end makes room is drained first; the next only after its replacement is ready. A pause leaves
all as they are, also those that a rollout has beside the wanted ones.

Starts wait while containers of the target version die young (``backoff``); stops never wait. Whether the rollout is
good or has failed is told by ``rollout``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from muster.model.container import Container, Reason
from muster.model.ids import ContainerId
from muster.planner.backoff import retry_at
from muster.planner.classify import Part, classify
from muster.planner.plan import Plan, Report, Situation, Stop
from muster.planner.rollout import judge, proven_at
from muster.planner.scale_in import first_to_go

SURGE_SHARE = 4
"""A version that is proven is rolled out to one in so many at a time (Kubernetes: a quarter, too)."""


@dataclass(frozen=True, slots=True)
class _Live:
    """The live containers of a deployment, sorted."""

    current: Sequence[Container]
    outdated: Sequence[Container]
    lost: Sequence[Container]
    is_stopping: bool
    is_proven: bool


def plan_replica_set(situation: Situation, *, new_id: Callable[[], ContainerId]) -> Plan:
    """Compare a ReplicaSet with its containers and plan the difference."""
    deployment = situation.deployment
    parts = classify(situation.containers, situation.lost)
    here = [*parts[Part.UNPLACED], *parts[Part.STARTING], *parts[Part.RUNNING]]
    current = [each for each in here if each.id not in situation.outdated]
    steady_at = proven_at(current, situation.now)
    live = _Live(
        current=current,
        outdated=[each for each in here if each.id in situation.outdated],
        lost=parts[Part.LOST],
        is_stopping=bool(parts[Part.STOPPING]),
        is_proven=steady_at is not None and steady_at <= situation.now,
    )
    wanted = deployment.spec.replica_num if deployment.is_wanted else 0
    report = Report(
        wanted=wanted,
        unplaced=len(parts[Part.UNPLACED]),
        starting=len(parts[Part.STARTING]),
        running=len(parts[Part.RUNNING]),
        stopping=len(parts[Part.STOPPING]),
        outdated=len(live.outdated),
        lost=len(live.lost),
    )
    if not deployment.is_wanted:
        everything = sorted([*here, *live.lost], key=first_to_go)
        return Plan(report, stop=tuple(Stop(each.id, Reason.DEPLOYMENT_STOPPED) for each in everything))
    verdict = judge(situation, live.current, is_alone=not (live.outdated or live.lost))
    if verdict.failure:
        return Plan(report, failure=verdict.failure)
    stops = _stops(situation, live, wanted)
    wake_at = verdict.wake_at
    if live.outdated and steady_at is not None and not live.is_proven:
        wake_at = min(filter(None, (wake_at, steady_at)))
    plan = Plan(report, stop=stops, is_good=verdict.is_good, wake_at=wake_at)
    missing = _missing(live, wanted, {each.container_id for each in stops})
    if missing <= 0:
        return _with_room(situation, live, plan)
    not_before = retry_at(_of_target(situation), deployment.edited_at, situation.now)
    if not_before is not None and situation.now < not_before:
        wake_at = min(filter(None, (wake_at, not_before)))
        return replace(plan, report=replace(report, backoff_until=not_before), wake_at=wake_at)
    return _with_room(situation, live, replace(plan, start=tuple(new_id() for _ in range(missing))))


def _stops(situation: Situation, live: _Live, wanted: int) -> tuple[Stop, ...]:
    """End what is too much: of current ones, of outdated ones that nobody needs, of lost ones that are replaced."""
    current = sorted(live.current, key=first_to_go)
    surplus_num = max(0, len(current) - wanted - _held(situation, live, wanted))
    surplus, staying = current[:surplus_num], current[surplus_num:]
    useless = [each for each in live.outdated if not each.is_ready or each.id in situation.at_once]
    serving = [each for each in live.outdated if each.is_ready and each.id not in situation.at_once]
    useful_num = sum(each.is_ready for each in staying) if live.is_proven else 0
    replaced_num = min(len(serving), max(0, useful_num + len(serving) - wanted))
    replaced = sorted(serving, key=first_to_go)[:replaced_num]
    placed_num = sum(each.status is not None for each in staying) + len(serving) - replaced_num
    given_up = live.lost[: max(0, placed_num + len(live.lost) - wanted)]
    return (
        *(Stop(each.id, Reason.SCALED_IN) for each in surplus),
        *(Stop(each.id, situation.outdated[each.id]) for each in (*useless, *replaced)),
        *(Stop(each.id, Reason.MACHINE_LOST) for each in given_up),
    )


def _missing(live: _Live, wanted: int, gone: set[ContainerId]) -> int:
    """Return how many current ones to start now; beside outdated ones that stay only as many as the surge allows."""
    current_num = len(live.current)
    kept_num = sum(each.id not in gone for each in live.outdated)
    if kept_num == 0:
        return wanted - current_num
    surge = _surge(wanted) if live.is_proven else 1
    return min(wanted - current_num, wanted + surge - kept_num - current_num)


def _surge(wanted: int) -> int:
    return max(1, wanted // SURGE_SHARE)


def _held(situation: Situation, live: _Live, wanted: int) -> int:
    """Return how many more than wanted a pause leaves in peace: those that a rollout had beside the others."""
    is_mixed = len({each.version for each in live.current}) > 1
    return _surge(wanted) if wanted and is_mixed and situation.deployment.is_paused else 0


def _with_room(situation: Situation, live: _Live, plan: Plan) -> Plan:
    """Drain one outdated container where nothing more fits, if its end makes room and all before it are replaced."""
    waits = any(each.status is None for each in live.current)
    is_moving = live.is_stopping or plan.stop or any(each.status and not each.is_ready for each in live.current)
    drainable = {each.id for each in live.outdated if each.is_ready}
    if is_moving or not (waits and drainable and _is_made_good(situation, live)):
        return plan
    if situation.room is None:
        return replace(plan, wants_room=True)
    if situation.room not in drainable:
        return plan
    return replace(plan, stop=(Stop(situation.room, situation.outdated[situation.room]),))


def _is_made_good(situation: Situation, live: _Live) -> bool:
    """Tell whether there are as many ready ones as wanted, or one has become ready for each that this rollout ended.

    Without the second a deployment that never had all its containers could not be edited. What became ready may also be
    of the last good version: that is what takes the place of an ended one while a rollout is paused.
    """
    deployment = situation.deployment
    ready_num = sum(each.is_ready for each in (*live.outdated, *(live.current if live.is_proven else ())))
    if ready_num >= deployment.spec.replica_num:
        return True
    if Reason.HOST_DRAINED in situation.outdated.values():
        return False
    reason = Reason.ROLLED_BACK if deployment.failure else Reason.REPLACED
    ended_at = [
        each.stop.requested_at
        for each in situation.containers
        if each.stop is not None
        and each.stop.reason is reason
        and each.stop.requested_at >= deployment.edited_at
        and each.ready_at is not None
    ]
    if not ended_at:
        return True
    target, first_ended_at = deployment.target_version, min(ended_at)
    made = (each for each in _of_target(situation) if each.ready_at and each.ready_at >= deployment.edited_at)
    made_num = sum(1 for _ in made) if live.is_proven else 0
    # By when they were made: an old one that was not ready for a while in the pause has replaced nobody.
    made_in_pause = (each for each in situation.containers if each.version != target and each.ready_at)
    made_in_pause_num = sum(each.created_at > first_ended_at for each in made_in_pause)
    return made_num + made_in_pause_num >= len(ended_at)


def _of_target(situation: Situation) -> Sequence[Container]:
    target = situation.deployment.target_version
    return [each for each in situation.containers if each.version == target]
