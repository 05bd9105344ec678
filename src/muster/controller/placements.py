"""Containers without a machine → placed containers. One key for all of them: GPUs are shared, so one writer places.

Commits placement, uuid, the claim of the GPUs, status ``creating`` and its event in one transaction. What the
scheduler could not place waits; why is kept in memory for ``explain`` and renewed with every look. It is woken by any
change of a container, because one that ends makes room.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from muster.clock import Clock
from muster.model.container import Container, ContainerStatus, Placement
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId, DeploymentId, fresh_container_uuid
from muster.planner.backoff import machine_to_avoid
from muster.scheduler.explain import Explanation
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Request, place
from muster.store.port import Store, Transaction

ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class _Choice:
    container_id: ContainerId
    placement: Placement


class PlacementReconciler:
    """Places containers; see the module's text."""

    name = "placement"

    def __init__(self, store: Store, clock: Clock, random_hex: Callable[[int], str]) -> None:
        self._store = store
        self._clock = clock
        self._random_hex = random_hex
        self._explanations: Mapping[ContainerId, Explanation] = {}

    def explanation(self, container_id: ContainerId) -> Explanation | None:
        """Say why a container had no machine when the scheduler last looked."""
        return self._explanations.get(container_id)

    async def keys(self) -> Iterable[str]:
        """Return the only key."""
        return (ALL,)

    async def reconcile(self, key: str) -> datetime.datetime | None:
        """Place what fits; oldest first."""
        assert key == ALL
        now = self._clock.now()
        loaded = await self._store.read(lambda tx: _load(tx, now))
        if loaded is None:
            self._explanations = {}
            return None
        requests, inventory = loaded
        choices: list[_Choice] = []
        unplaced: dict[ContainerId, Explanation] = {}
        for request, outcome in zip(requests, place(requests, inventory).outcomes, strict=True):
            if isinstance(outcome, Placement):
                choices.append(_Choice(request.container_id, outcome))
            else:
                unplaced[request.container_id] = outcome.explanation
        self._explanations = unplaced
        if choices:
            await self._store.write(lambda tx: self._commit(tx, choices, now))
        return None

    def _commit(self, tx: Transaction, choices: Iterable[_Choice], now: datetime.datetime) -> None:
        for choice in choices:
            container = tx.containers.get(choice.container_id)
            if container is None or container.stop is not None or container.placement is not None:
                continue  # it was given up, or placed, since the decision
            self._place(tx, container, choice.placement, now)

    def _place(self, tx: Transaction, container: Container, placement: Placement, now: datetime.datetime) -> None:
        uuid = fresh_container_uuid(container.deployment_id, placement.machine_id, self._random_hex(10))
        tx.containers.update(
            replace(container, placement=placement, uuid=uuid, status=ContainerStatus.CREATING, updated_at=now)
        )
        tx.events.append(
            NewEvent(
                account_id=container.account_id,
                deployment_id=container.deployment_id,
                container_id=container.id,
                container_uuid=uuid,
                kind=EventKind.STATUS,
                status=ContainerStatus.CREATING,
                created_at=now,
            )
        )


def _load(tx: Transaction, now: datetime.datetime) -> tuple[list[Request], Inventory] | None:
    """Return who waits and what there is; ``None`` when nobody waits, which is nearly always."""
    waiting = tx.containers.unplaced()
    if not waiting:
        return None
    avoided: dict[DeploymentId, Request] = {}
    requests = []
    for container in waiting:
        pattern = avoided.get(container.deployment_id)
        if pattern is None:
            deployment = tx.deployments.get(container.deployment_id)
            assert deployment is not None
            history = tx.containers.of_deployment(deployment.id)
            pattern = Request(
                container.id, deployment.spec.requirements, machine_to_avoid(history, deployment.edited_at, now)
            )
            avoided[deployment.id] = pattern
        requests.append(replace(pattern, container_id=container.id))
    return requests, Inventory.of(tx.machines.offered(), tx.containers.claims())
