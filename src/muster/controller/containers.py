"""Placed containers → running ones, and what became of them → status and events.

``reconcile`` is four lines of the flow: load, observe, decide (``planner.lifecycle``), commit, act; what the engine
answers is the next observation, so a start is one look. The row and its events are committed before the engine is
called; the call is idempotent, so a crash anywhere is repaired by the next look. A commit fails as ``StaleWrite`` when
somebody else wrote meanwhile, who may want the container stopped.

The full pass compares every row with what the engines really hold, wakes only where there is something to do, and
removes objects of ours that no row knows, or only one that was released: a row is always written first and released
last, so such an object is an orphan. What a container of the pool left behind is none while somebody is about to take
it over, though its own row is released by then.

A taker that ends before its engine made anything of it gives what it took back to the pool: files that were promised
to be kept are not lost because their next user changed his mind.

The full pass also notes which machines' engines cannot be used, and which hosts do not answer at all; nothing is placed
there until they do. One that answers again while something runs there that is over on paper stays closed until that is
removed: its GPUs may be claimed by nobody, and are in use all the same.

On a lost machine a container that is to stop comes to its end unseen: nobody can be told to stop it.
"""

import asyncio
import datetime
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from muster.clock import Clock
from muster.controller.traffic import Traffic
from muster.engine.port import Engine
from muster.errors import EngineError, EngineRejected, EngineUnavailable, MachineUnreachable
from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import Deployment, DeploymentType, ImagePull
from muster.model.front import Front
from muster.model.ids import AccountId, ContainerId, MachineId
from muster.model.image import Credential, ImageOrder
from muster.model.machine import RETURNING, MachineState
from muster.model.routes import ContainerLoad
from muster.model.run import ContainerRun, Observation, Phase, Ref, StopOrder
from muster.planner.environment import environment
from muster.planner.lifecycle import Call, Step, Terms, fail, give_up, progress, step
from muster.store.fetched import note_digest
from muster.store.port import Store, Transaction
from muster.store.specs import spec_of

RECHECK = datetime.timedelta(seconds=1)
"""How soon to look again after a call whose effect is not seen yet; a hint of the engine usually comes first."""

CredentialFor = Callable[[Transaction, AccountId, str], Credential | None]
"""Finds what the registry of a reference asks of an account."""

_log = logging.getLogger(__name__)


def no_credential(tx: Transaction, account_id: AccountId, reference: str) -> Credential | None:
    """Know of no credentials."""
    del tx, account_id, reference
    return None


@dataclass(frozen=True, slots=True)
class _Look:
    """What a pass saw of a machine: its objects, or (``seen=None``) why there is nothing to see."""

    machine_id: MachineId
    seen: Mapping[ContainerId, Observation] | None = None
    problem: str = ""
    is_unreachable: bool = False


class ContainerReconciler:
    """Moves placed containers; see the module's text."""

    name = "container"

    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        terms: Terms,
        credential_for: CredentialFor = no_credential,
        *,
        traffic: Traffic | None = None,
        front: Front | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._terms = terms
        self._credential_for = credential_for
        self._traffic = traffic
        self._front = front
        self.trouble = asyncio.Event()
        """Set while the last full pass found an engine whose state may soon change: the next one should come soon."""

    async def keys(self) -> Iterable[ContainerId]:
        """Compare all rows with all engine objects; return where they differ. Removes orphans on the way."""
        rows, machines, states = await self._store.read(
            lambda tx: (
                tx.containers.on_machines(),
                [machine.id for machine in tx.machines.offered()],
                tx.machines.states(),
            )
        )
        by_machine: dict[MachineId, list[Container]] = {machine_id: [] for machine_id in machines}
        for container in rows:
            by_machine.setdefault(_ref(container).machine_id, []).append(container)
        restless: list[ContainerId] = []
        for look in await self._observe_all(by_machine, states):
            containers, seen = by_machine[look.machine_id], look.seen
            if seen is None:
                is_lost = states.get(look.machine_id, MachineState()).lost_at is not None
                restless.extend(each.id for each in containers if is_lost and each.stop and not each.is_finished)
                continue
            restless.extend(container.id for container in containers if self._is_restless(container, seen))
            await self._remove_orphans({key: seen[key] for key in seen.keys() - {each.id for each in containers}})
        return restless

    async def reconcile(self, key: ContainerId) -> datetime.datetime | None:
        """Move one container as far as the engine's answers take it, step by step."""
        container, deployment = await self._store.read(lambda tx: _load(tx, key))
        if container is None or deployment is None or container.placement is None or container.released_at:
            return None
        try:
            observed = await self._engine.observe(_ref(container))
        except EngineUnavailable:
            if not await self._is_left_alone(container):
                raise
            return None  # the pass that finds the machine back finds what is to be done there
        if container.status is ContainerStatus.CREATING and observed.phase is Phase.ABSENT:
            container = await self._with_host_address(container)
        while True:
            now = self._clock.now()
            decided = step(container, observed, now, self._terms_of(deployment), self._load_of(container))
            if decided.container != container:
                container = await self._commit(decided, now, gives_back=observed.phase is Phase.ABSENT)
            if decided.call is None:
                return decided.wake_at
            try:
                after = await self._act(decided.call, container, deployment)
            except EngineRejected as error:
                if decided.call not in (Call.CREATE, Call.START):
                    raise
                failed = fail(container, _reason(error), str(error), now, self._terms_of(deployment))
                await self._commit(failed, now, gives_back=decided.call is Call.CREATE)
                return None
            if decided.call is Call.CREATE and after.phase is Phase.ABSENT:
                waiting = progress(container, after.progress, self._clock.now())
                if waiting.container != container:
                    await self._commit(waiting, now)
                return now + RECHECK
            if decided.call is Call.REMOVE or after.phase == observed.phase:  # nobody waits for a removal: may be slow
                return now + RECHECK
            observed = after  # as fresh as another look would be

    async def _commit(self, decided: Step, now: datetime.datetime, *, gives_back: bool = False) -> Container:
        """Write a step; ``gives_back``: if it is the end, the engine holds nothing under this container's name."""

        def work(tx: Transaction) -> Container:
            for event in decided.events:
                tx.events.append(event)
            if decided.call is Call.START and self._engine.capabilities.has_images:
                note_digest(tx, decided.container)
            if gives_back and decided.events and decided.container.status is ContainerStatus.SHUTDOWN:
                _give_back(tx, decided.container)
            return tx.containers.update(replace(decided.container, updated_at=now))

        return await self._store.write(work)

    async def _act(self, call: Call, container: Container, deployment: Deployment) -> Observation:
        """Make the engine call; return what it led to."""
        ref = _ref(container)
        if call is Call.CREATE:
            run = await self._store.read(lambda tx: self._run(tx, container, deployment))
            return await self._engine.create(run)
        if call is Call.START:
            return await self._engine.start(ref)
        if call is Call.STOP:
            before = container.stop.cmd_before_shutdown if container.stop is not None else ""
            order = StopOrder(deployment.spec.cmd_before_shutdown if before is None else before)
            return await self._engine.stop(ref, order)
        await self._engine.remove(ref)
        return Observation(ref, Phase.ABSENT)

    def _run(self, tx: Transaction, container: Container, deployment: Deployment) -> ContainerRun:
        """Return the order for a container, from what was pinned when it was placed."""
        assert container.placement is not None
        assert container.uuid is not None
        if not container.image_reference:
            raise EngineRejected(Reason.IMAGE_PULL_FAILED, f"image {deployment.spec.image} is not in the catalogue")
        machine = tx.machines.get(container.placement.machine_id)
        devices = machine.devices if machine is not None else ()
        return ContainerRun(
            ref=_ref(container),
            uuid=container.uuid,
            account_id=container.account_id,
            image=ImageOrder(
                container.image_reference,
                is_always_pulled=deployment.spec.image_pull is ImagePull.ALWAYS,
                credential=self._credential_for(tx, container.account_id, container.image_reference),
                account_id=container.account_id,
            ),
            cmd=deployment.spec.cmd,
            env=environment(deployment, container, self._front),
            gpu_indices=container.placement.gpu_indices,
            devices=tuple(devices[index] for index in container.placement.gpu_indices) if devices else (),
            cpu_num=container.placement.cpu_num,
            memory_bytes=container.placement.memory_bytes,
            data_center=container.placement.data_center,
            takes_over=_taken_over(tx, container),
        )

    async def _with_host_address(self, container: Container) -> Container:
        """Learn by which address the container will reach this host, if its own kind has one."""
        assert container.placement is not None
        if self._front is None or container.host_address:
            return container
        machine_id = container.placement.machine_id
        address = await self._engine.host_address(machine_id, container.account_id)
        if not address:
            return container
        known = replace(container, host_address=address, updated_at=self._clock.now())
        return await self._store.write(lambda tx: tx.containers.update(known))

    def _load_of(self, container: Container) -> ContainerLoad | None:
        return None if self._traffic is None else self._traffic.load_of(container.uuid)

    def _terms_of(self, deployment: Deployment) -> Terms:
        service = deployment.spec.service
        drain = self._terms.drain_seconds if service.drain_seconds is None else service.drain_seconds
        is_job = deployment.spec.type is DeploymentType.JOB  # nobody waits for an answer of one
        is_pooling = deployment.spec.reuse_container and self._engine.capabilities.reuses_containers
        return replace(
            self._terms,
            drain_seconds=0.0 if is_job else drain,
            grace_seconds=0.0 if is_job else service.drain_grace_seconds,
            pool_seconds=self._terms.pool_seconds if is_pooling else 0.0,
        )

    async def _observe_all(
        self, by_machine: Mapping[MachineId, Sequence[Container]], known: Mapping[MachineId, MachineState]
    ) -> Sequence[_Look]:
        """Observe machines side by side; note what is wrong with them."""
        looks = await asyncio.gather(*(self._observe_machine(key, rows) for key, rows in by_machine.items()))
        if any(_is_trouble(look, known.get(look.machine_id, MachineState())) for look in looks):
            self.trouble.set()
        else:
            self.trouble.clear()
        changed = [look for look in looks if _is_news(look, known.get(look.machine_id, MachineState()))]
        for look in changed:
            if look.seen is None:
                _log.warning("machine %s cannot be observed: %s", look.machine_id, look.problem)
        if changed:
            now = self._clock.now()
            await self._store.write(lambda tx: _note(tx, changed, now))
        return looks

    async def _observe_machine(self, machine_id: MachineId, rows: Iterable[Container]) -> _Look:
        try:
            seen = {each.ref.container_id: each for each in await self._engine.observe_all(machine_id)}
        except EngineError as error:
            is_unreachable = isinstance(error, MachineUnreachable)
            kind = "unreachable" if is_unreachable else "engine_unavailable"
            return _Look(machine_id, problem=f"{kind}: {error}", is_unreachable=is_unreachable)
        return _Look(machine_id, seen, _returning(sum(_runs_on(each, seen) for each in rows)))

    async def _is_left_alone(self, container: Container) -> bool:
        """Tell whether a container's machine is lost; if it is to stop there, write its end, which nobody will see."""
        if not await self._store.read(lambda tx: _is_on_lost(tx, container)):
            return False
        if container.stop is not None and not container.is_finished:
            await self._give_up(container)
        return True

    async def _give_up(self, container: Container) -> None:
        """Write the end of a container on a lost machine, unless that answers by now."""
        now = self._clock.now()

        def work(tx: Transaction) -> None:
            if not _is_on_lost(tx, container):
                return
            decided = give_up(container, now)
            for event in decided.events:
                tx.events.append(event)
            tx.containers.update(replace(decided.container, updated_at=now))

        await self._store.write(work)

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
    """Return a container, and its deployment with the specification that the container was made from."""
    container = tx.containers.get(key)
    deployment = None if container is None else tx.deployments.get(container.deployment_id)
    if container is None or deployment is None:
        return container, deployment
    return container, replace(deployment, spec=spec_of(tx, container, deployment))


def _is_kept(tx: Transaction, key: ContainerId) -> bool:
    container = tx.containers.get(key)
    if container is None:
        return False
    return container.released_at is None or (
        container.uuid is not None and tx.containers.taker_of(container.uuid) is not None
    )


def _ref(container: Container) -> Ref:
    assert container.placement is not None
    return Ref(container.placement.machine_id, container.id, container.generation)


def _is_on_lost(tx: Transaction, container: Container) -> bool:
    """Tell whether a container's machine is lost and does not answer."""
    state = tx.machines.given_up().get(_ref(container).machine_id, MachineState())
    return state.lost_at is not None and not state.answers


def _runs_on(container: Container, seen: Mapping[ContainerId, Observation]) -> bool:
    """Tell whether a container that is over still runs."""
    observed = seen.get(container.id)
    return container.status is ContainerStatus.SHUTDOWN and observed is not None and observed.phase is Phase.RUNNING


def _returning(count: int) -> str:
    if not count:
        return ""
    return f"{RETURNING}: {count} {'container is' if count == 1 else 'containers are'} still being removed"


def _is_trouble(look: _Look, known: MachineState) -> bool:
    """Tell whether to look again soon; one that is lost has been given up, and may take its time to return."""
    return bool(look.problem) and (look.seen is not None or known.lost_at is None)


def _is_news(look: _Look, known: MachineState) -> bool:
    return look.problem != known.problem or look.is_unreachable != (known.unreachable_since is not None)


def _note(tx: Transaction, looks: Iterable[_Look], now: datetime.datetime) -> None:
    """Write what is wrong with machines.

    What runs there and is over is counted anew: while a machine did not answer, containers came to their end on it
    that the pass still knew as living, and in one transaction with this the machine begins to answer.
    """
    states = tx.machines.states()
    for look in looks:
        problem = look.problem
        if look.seen is not None:
            rows = (tx.containers.get(key) for key, each in look.seen.items() if each.phase is Phase.RUNNING)
            problem = _returning(sum(row is not None and _runs_on(row, look.seen) for row in rows))
        tx.machines.set_problem(look.machine_id, problem)
        known = states.get(look.machine_id, MachineState())
        if look.is_unreachable != (known.unreachable_since is not None):
            tx.machines.set_unreachable(look.machine_id, now if look.is_unreachable else None)


def _taken_over(tx: Transaction, container: Container) -> Ref | None:
    """Return the run whose files a container takes over."""
    if container.reused_from is None:
        return None
    old = tx.containers.by_uuid(container.reused_from)
    assert old is not None  # rows are never deleted
    return _ref(old)


def _give_back(tx: Transaction, ended: Container) -> None:
    """Pool again what a container was to take over but never ran on. If it is gone, the next look at it will tell."""
    if ended.reused_from is None or ended.started_at is not None:
        return
    old = tx.containers.by_uuid(ended.reused_from)
    assert old is not None  # rows are never deleted
    tx.containers.update(replace(old, is_pooled=True, released_at=None))


def _reason(error: EngineRejected) -> Reason:
    try:
        return Reason(error.reason)
    except ValueError:
        return Reason.ERROR
