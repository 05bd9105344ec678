"""Deployments → containers: commits what the planner proposes.

Owns the existence of container rows and their stop intents, what became of a rollout, and the end of Jobs. It is woken
by a change of the deployment, of one of its containers or of machines, and by the planner's own ``wake_at`` (a backoff
that ends). The plan is made twice when there is something to do: once on a plain read, so that rest costs no write,
and again inside the writing transaction, so that what is committed was decided on what is stored.

A situation is loaded as far as the plan needs it. The past is loaded for a plan that would start something or while a
rollout is under way, because it can do nothing else; and enough of it, or the crashes of many replicas would look like
one and be retried every second for ever. Versions are loaded where a container is of another one, machines where one
is given up, and who must go to make room is asked of the scheduler only when the planner wants to know.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from muster.clock import Clock
from muster.controller.room import room_for
from muster.model.container import Container, Reason, StopRequest
from muster.model.deployment import Deployment, DeploymentStatus, DeploymentType, RolloutState
from muster.model.ids import ContainerId, DeploymentId, MachineId
from muster.model.machine import Drain, Machine, MachineState
from muster.planner.backoff import history_needed
from muster.planner.job import plan_job
from muster.planner.outdated import outdated
from muster.planner.plan import Plan, Planner, Situation
from muster.planner.replica_set import plan_replica_set
from muster.store.port import Store, Transaction
from muster.store.stop import ask_to_stop

PLANNERS: Mapping[DeploymentType, Planner] = {
    DeploymentType.REPLICA_SET: plan_replica_set,
    DeploymentType.JOB: plan_job,
    DeploymentType.CONTAINER: plan_job,
}
ROOM_RECHECK = datetime.timedelta(seconds=5)
"""How soon to look for room again: what others end is nothing that wakes this deployment."""


@dataclass(frozen=True, slots=True)
class Look:
    """How to plan: who names new containers, whether the engine fetches images, and since when this process looks."""

    new_id: Callable[[], ContainerId] = lambda: ContainerId("")
    has_images: bool = False
    since: datetime.datetime | None = None


LOOK = Look()
"""A look that is only a look: what it would start has no name."""


class DeploymentReconciler:
    """Moves deployments; see the module's text."""

    name = "deployment"

    def __init__(
        self, store: Store, clock: Clock, new_id: Callable[[], ContainerId], *, has_images: bool = False
    ) -> None:
        self._store = store
        self._clock = clock
        self._look = Look(new_id, has_images, clock.now())

    async def keys(self) -> Iterable[DeploymentId]:
        """Return deployments that want something, or have something left to stop."""
        return await self._store.read(lambda tx: tx.deployments.unsettled())

    async def reconcile(self, key: DeploymentId) -> datetime.datetime | None:
        """Plan, and commit the plan if it is not empty."""
        now = self._clock.now()
        plan = await self._store.read(lambda tx: self._plan(tx, key, now))
        if plan is not None and not plan.is_empty:
            plan = await self._store.write(lambda tx: self._commit(tx, key, now))
        return plan.wake_at if plan is not None else None

    def _commit(self, tx: Transaction, key: DeploymentId, now: datetime.datetime) -> Plan | None:
        deployment, plan = tx.deployments.get(key), self._plan(tx, key, now)
        if deployment is None or plan is None:
            return None
        for container_id in plan.start:
            tx.containers.add(deployment, container_id, now)
        for stop in plan.stop:
            container = tx.containers.get(stop.container_id)
            assert container is not None
            ask_to_stop(tx, container, StopRequest(stop.reason, now))
        if plan.is_good:
            tx.deployments.update(replace(deployment, stable_version=deployment.version, updated_at=now))
        elif plan.failure:
            tx.deployments.update(replace(deployment, failure=plan.failure, updated_at=now))
        elif plan.is_over:
            tx.deployments.update(replace(deployment, status=DeploymentStatus.STOPPED, stopped_at=now, updated_at=now))
        return plan

    def _plan(self, tx: Transaction, key: DeploymentId, now: datetime.datetime) -> Plan | None:
        deployment = tx.deployments.get(key)
        return None if deployment is None else plan_of(tx, deployment, now, self._look)


def outdated_of(
    tx: Transaction, deployment: Deployment, containers: Sequence[Container]
) -> Mapping[ContainerId, Reason]:
    """Return which of a deployment's containers are to be replaced, and why."""
    return _outdated(tx, deployment, containers, tx.machines.given_up())


def plan_of(tx: Transaction, deployment: Deployment, now: datetime.datetime, look: Look = LOOK) -> Plan:
    """Return what is to be done about a deployment now."""
    planner = PLANNERS[deployment.spec.type]
    is_past_needed = deployment.spec.type is DeploymentType.CONTAINER or (
        deployment.rollout is RolloutState.PROGRESSING and deployment.stable_version is not None
    )
    situation = replace(_situation(tx, deployment, now, with_past=is_past_needed), watched_since=look.since)
    plan = planner(situation, new_id=look.new_id)
    if not is_past_needed and (plan.start or plan.wants_room):
        situation = replace(_situation(tx, deployment, now, with_past=True), watched_since=look.since)
        plan = planner(situation, new_id=look.new_id)
    if plan.wants_room:
        room = room_for(tx, situation, now, has_images=look.has_images)
        found = planner(replace(situation, room=room), new_id=look.new_id) if room is not None else plan
        plan = replace(found, wake_at=min(filter(None, (found.wake_at, now + ROOM_RECHECK))))
    return plan


def _situation(tx: Transaction, deployment: Deployment, now: datetime.datetime, *, with_past: bool) -> Situation:
    limit = history_needed(deployment.spec.replica_num) if with_past else 0
    containers = tx.containers.of_deployment(deployment.id, finished_limit=limit)
    given_up = tx.machines.given_up()
    states = {each.id: _state(each, given_up) for each in containers if each.is_live} if given_up else {}
    return Situation(
        deployment=deployment,
        containers=tuple(containers),
        now=now,
        outdated=_outdated(tx, deployment, containers, given_up),
        at_once=frozenset(key for key, state in states.items() if state.drain is Drain.NOW),
        lost=frozenset(key for key, state in states.items() if state.lost_at is not None),
        completed=0 if deployment.spec.type is DeploymentType.REPLICA_SET else tx.containers.completed(deployment.id),
    )


def _outdated(
    tx: Transaction,
    deployment: Deployment,
    containers: Sequence[Container],
    given_up: Mapping[MachineId, MachineState],
) -> Mapping[ContainerId, Reason]:
    live = [each for each in containers if each.is_live]
    is_mixed = any(each.version != deployment.target_version for each in live)
    if not (is_mixed or given_up):
        return {}
    return outdated(
        deployment,
        live,
        versions={each.name: each for each in tx.deployments.versions(deployment.id)},
        machines=_machines(tx, live) if is_mixed else {},
        drains={machine_id: state.drain for machine_id, state in given_up.items()},
    )


def _machines(tx: Transaction, containers: Iterable[Container]) -> Mapping[MachineId, Machine]:
    ids = {each.placement.machine_id for each in containers if each.placement is not None}
    return {found.id: found for found in map(tx.machines.get, ids) if found is not None}


def _state(container: Container, states: Mapping[MachineId, MachineState]) -> MachineState:
    placement = container.placement
    return states.get(placement.machine_id, MachineState()) if placement is not None else MachineState()
