"""Deployments → containers: commits what the planner proposes.

Owns the existence of container rows and their stop intents. It is woken by a change of the deployment or of one of
its containers, and by the planner's own ``wake_at`` (a backoff that ends). The plan is made twice when there is
something to do: once on a plain read, so that rest costs no write, and again inside the writing transaction, so that
what is committed was decided on what is stored.

The past is loaded only for a plan that would start something, because it can do nothing but delay a start; and enough
of it, or the crashes of many replicas would look like one and be retried every second for ever.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from muster.clock import Clock
from muster.model.container import Container, StopRequest
from muster.model.deployment import Deployment, DeploymentType
from muster.model.ids import ContainerId, DeploymentId
from muster.planner.backoff import history_needed
from muster.planner.plan import Plan
from muster.planner.replica_set import plan_replica_set
from muster.store.port import Store, Transaction
from muster.store.stop import ask_to_stop


class Planner(Protocol):
    """WHAT one type of deployment needs; see ``planner``."""

    def __call__(  # noqa: D102
        self,
        deployment: Deployment,
        containers: Iterable[Container],
        *,
        now: datetime.datetime,
        new_id: Callable[[], ContainerId],
    ) -> Plan: ...


PLANNERS: Mapping[DeploymentType, Planner] = {DeploymentType.REPLICA_SET: plan_replica_set}


class DeploymentReconciler:
    """Moves deployments; see the module's text."""

    name = "deployment"

    def __init__(self, store: Store, clock: Clock, new_id: Callable[[], ContainerId]) -> None:
        self._store = store
        self._clock = clock
        self._new_id = new_id

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

    def _plan(self, tx: Transaction, key: DeploymentId, now: datetime.datetime) -> Plan | None:
        deployment = tx.deployments.get(key)
        if deployment is None:
            return None
        planner = PLANNERS[deployment.spec.type]
        present = tx.containers.of_deployment(key, finished_limit=0)
        plan = planner(deployment, present, now=now, new_id=self._new_id)
        if not plan.start:
            return plan
        history = tx.containers.of_deployment(key, finished_limit=history_needed(deployment.spec.replica_num))
        return planner(deployment, history, now=now, new_id=self._new_id)

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
        return plan
