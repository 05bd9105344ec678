"""Placed containers → running ones, and what became of them → status and events.

``reconcile`` is four lines of the flow: load, observe, decide (``planner.lifecycle``), commit, act. The row and its
events are committed before the engine is called; the call is idempotent, so a crash anywhere is repaired by the next
look. The full pass compares every row with what the engines really hold, wakes only where there is something to do,
and removes objects of ours that no row knows, or only one that was released: a row is always written first and released
last, so such an object is an orphan.
"""

import datetime
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from muster.clock import Clock
from muster.engine.port import Engine
from muster.errors import EngineError, EngineRejected
from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import Deployment
from muster.model.ids import ContainerId, MachineId
from muster.model.run import ContainerRun, Observation, Phase, Ref, StopOrder
from muster.planner.environment import environment
from muster.planner.lifecycle import Call, Step, Terms, fail, step
from muster.store.port import Store, Transaction

RECHECK = datetime.timedelta(seconds=1)
"""How soon to look again after a call whose effect is not seen yet; a hint of the engine usually comes first."""

_log = logging.getLogger(__name__)


class ContainerReconciler:
    """Moves placed containers; see the module's text."""

    name = "container"

    def __init__(self, store: Store, engine: Engine, clock: Clock, terms: Terms) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._terms = terms

    async def keys(self) -> Iterable[ContainerId]:
        """Compare all rows with all engine objects; return where they differ. Removes orphans on the way."""
        rows, machines = await self._store.read(
            lambda tx: (tx.containers.on_machines(), [machine.id for machine in tx.machines.offered()])
        )
        by_machine: dict[MachineId, list[Container]] = {machine_id: [] for machine_id in machines}
        for container in rows:
            by_machine.setdefault(_ref(container).machine_id, []).append(container)
        restless: list[ContainerId] = []
        for machine_id, containers in by_machine.items():
            try:
                seen = {each.ref.container_id: each for each in await self._engine.observe_all(machine_id)}
            except EngineError as error:
                _log.warning("machine %s cannot be observed: %s", machine_id, error)
                continue
            restless.extend(container.id for container in containers if self._is_restless(container, seen))
            await self._remove_orphans({key: seen[key] for key in seen.keys() - {each.id for each in containers}})
        return restless

    async def reconcile(self, key: ContainerId) -> datetime.datetime | None:
        """Move one container one step."""
        container, deployment = await self._store.read(lambda tx: _load(tx, key))
        if container is None or deployment is None or container.placement is None or container.released_at:
            return None
        observed = await self._engine.observe(_ref(container))
        now = self._clock.now()
        decided = step(container, observed, now, self._terms_of(deployment))
        if decided.container != container:
            container = await self._commit(decided, now)
        if decided.call is None:
            return decided.wake_at
        try:
            after = await self._act(decided.call, container, deployment)
        except EngineRejected as error:
            if decided.call not in (Call.CREATE, Call.START):
                raise
            await self._commit(fail(container, _reason(error), str(error), now), now)
            return None
        if decided.call is Call.REMOVE or after == observed.phase:  # nobody waits for a removal, and it may be slow
            return now + RECHECK
        return now

    async def _commit(self, decided: Step, now: datetime.datetime) -> Container:
        def work(tx: Transaction) -> Container:
            for event in decided.events:
                tx.events.append(event)
            return tx.containers.update(replace(decided.container, updated_at=now))

        return await self._store.write(work)

    async def _act(self, call: Call, container: Container, deployment: Deployment) -> Phase:
        """Make the engine call; return the phase that it led to."""
        ref = _ref(container)
        if call is Call.CREATE:
            image = await self._store.read(lambda tx: tx.images.get(deployment.account_id, deployment.spec.image))
            if image is None:
                raise EngineRejected(Reason.IMAGE_PULL_FAILED, f"image {deployment.spec.image} is not in the catalogue")
            return (await self._engine.create(_run(container, deployment, image.reference))).phase
        if call is Call.START:
            return (await self._engine.start(ref)).phase
        if call is Call.STOP:
            assert container.stop is not None
            before = container.stop.cmd_before_shutdown
            order = StopOrder(deployment.spec.cmd_before_shutdown if before is None else before)
            return (await self._engine.stop(ref, order)).phase
        await self._engine.remove(ref)
        return Phase.ABSENT

    def _terms_of(self, deployment: Deployment) -> Terms:
        service = deployment.spec.service
        drain = self._terms.drain_seconds if service.drain_seconds is None else service.drain_seconds
        return replace(self._terms, drain_seconds=service.drain_grace_seconds + drain)

    def _is_restless(self, container: Container, seen: Mapping[ContainerId, Observation]) -> bool:
        ref = _ref(container)
        observed = seen.get(container.id)
        if observed is None or observed.ref.generation < ref.generation:
            observed = Observation(ref, Phase.ABSENT)
        decided = step(container, observed, self._clock.now(), self._terms)
        if decided.container != container or decided.call is not None:
            return True
        # Remains need no timer beside the passes: one of these finds them due. A drain is too short to wait for that.
        return decided.wake_at is not None and container.status is not ContainerStatus.SHUTDOWN

    async def _remove_orphans(self, suspects: Mapping[ContainerId, Observation]) -> None:
        if not suspects:
            return
        known = await self._store.read(lambda tx: {key for key in suspects if _is_kept(tx, key)})
        for container_id, observed in suspects.items():
            if container_id in known:
                continue
            _log.warning("container %s is kept by no row: removing it", container_id)
            try:
                await self._engine.remove(observed.ref)
            except EngineError as error:
                _log.warning("container %s could not be removed, again with the next pass: %s", container_id, error)


def _load(tx: Transaction, key: ContainerId) -> tuple[Container | None, Deployment | None]:
    container = tx.containers.get(key)
    return container, None if container is None else tx.deployments.get(container.deployment_id)


def _is_kept(tx: Transaction, key: ContainerId) -> bool:
    container = tx.containers.get(key)
    return container is not None and container.released_at is None


def _ref(container: Container) -> Ref:
    assert container.placement is not None
    return Ref(container.placement.machine_id, container.id, container.generation)


def _run(container: Container, deployment: Deployment, image: str) -> ContainerRun:
    assert container.placement is not None
    assert container.uuid is not None
    return ContainerRun(
        ref=_ref(container),
        uuid=container.uuid,
        account_id=container.account_id,
        image=image,
        cmd=deployment.spec.cmd,
        env=environment(deployment, container),
        gpu_indices=container.placement.gpu_indices,
        cpu_num=container.placement.cpu_num,
        memory_bytes=container.placement.memory_bytes,
    )


def _reason(error: EngineRejected) -> Reason:
    try:
        return Reason(error.reason)
    except ValueError:
        return Reason.ERROR
