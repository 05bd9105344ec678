"""Running containers → ready ones: the only writer of ``is_ready`` while a container runs.

A container becomes ready at its first passed probe and unready after ``unhealthy_after`` failures in a row; each
change is one row write and one event. While it is not ready it is probed often, because everybody waits for it, but
ever less often up to the check's own interval, because it may never come. How often a probe failed lives in memory: a
restart of the server forgets it and changes nothing, so readiness is as it was until probes say otherwise.

A container without a health check is ready as soon as it runs.

Busy is not dead: while the ingress has a request in flight there, a probe that is merely slow says nothing; one that is
refused still does. And a port that is open is not alive: where only the port is probed, a container that has answered
nobody for ``stalled_after_seconds`` (and four times as long as it ever took to answer) although somebody waits is
unready until it answers or nobody waits. A health check with a path that passes is proof enough of the contrary.

On a lost machine nothing is probed and nothing is ready: its substitutes are on their way, and whoever still reaches it
by another network would split its users. What returns is probed again.

What a probe needs of the store is remembered between probes, or these reads would be nearly all that a platform at
rest does. ``forget`` drops it when a commit names the container, and each full pass drops all, so a probe may be told
by an old row for as long as a lost wake-up may go unnoticed; what it leads to is decided on the stored row.
"""

import datetime
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from muster.clock import Clock
from muster.controller.probe import Prober, Verdict
from muster.controller.traffic import Traffic
from muster.model.container import Address, Container, ContainerStatus
from muster.model.deployment import HealthCheck
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId, ContainerUuid, MachineId
from muster.model.routes import ContainerLoad
from muster.store.port import Store, Transaction

EAGER_SECONDS = 0.1
"""First wait between probes of a container that everybody waits for."""
EAGER_GROWTH = 1.1
"""Each wait is a tenth longer than the one before, so readiness is seen at most a tenth later than it was there."""
STALL_FACTOR = 4
"""How much longer than ever before an answer may take until its container is taken for stalled."""
_MOST_GROWTHS = 120  # 0.1 s x 1.1**120 is beyond the longest interval, an hour


@dataclass(frozen=True, slots=True)
class _Target:
    """What a probe needs to know of a container."""

    uuid: ContainerUuid | None
    address: Address | None
    check: HealthCheck | None
    is_ready: bool
    is_lost: bool


class ReadinessReconciler:
    """Probes containers; see the module's text."""

    name = "readiness"

    def __init__(self, store: Store, clock: Clock, prober: Prober, traffic: Traffic | None = None) -> None:
        self._store = store
        self._clock = clock
        self._prober = prober
        self._traffic = traffic
        self._failures: dict[ContainerId, int] = {}
        self._targets: dict[ContainerId, _Target | None] = {}  # None: being loaded
        self._due: dict[ContainerId, float] = {}

    def forget(self, key: ContainerId) -> None:
        """Load the container anew for its next probe."""
        self._targets.pop(key, None)

    async def keys(self) -> Iterable[ContainerId]:
        """Return running containers of which no probe is due later: a pass must not outrun their intervals.

        Those on a lost machine are due at once, whatever they were told.
        """
        self._targets.clear()
        containers, given_up = await self._store.read(lambda tx: (tx.containers.on_machines(), tx.machines.given_up()))
        lost = {machine_id for machine_id, state in given_up.items() if state.lost_at is not None}
        now = self._clock.monotonic()
        return [
            each.id
            for each in containers
            if _is_probed(each) and (self._due.get(each.id, now) <= now or _machine_of(each) in lost)
        ]

    async def reconcile(self, key: ContainerId) -> datetime.datetime | None:
        """Probe one container; return when to probe it again."""
        target = await self._target(key)
        if target is None:
            self._failures.pop(key, None)
            self._due.pop(key, None)
            return None
        if target.is_lost:
            await self._write(key, target, is_ready=False)
            self._due.pop(key, None)  # the first pass that finds the machine back probes again
            return None
        if target.check is None:
            await self._write(key, target, is_ready=True)
            self._due[key] = math.inf
            return None
        check = target.check
        verdict = Verdict.FAILED if target.address is None else await self._prober.probe(target.address, check)
        load = None if self._traffic is None else self._traffic.load_of(target.uuid)
        stall = "" if load is None or verdict is not Verdict.PASSED else _stall(check, load)
        passed = verdict is Verdict.PASSED and not stall
        failures = self._failures[key] = self._count(key, verdict, load, target)
        if passed:
            await self._write(key, target, is_ready=True)
        elif stall:
            await self._write(key, target, is_ready=False, message=stall)
        elif failures >= check.unhealthy_after:
            how = "took too long" if verdict is Verdict.SLOW else "failed"
            message = f"the probe of port {check.port} {how}; {failures} in a row did not pass"
            await self._write(key, target, is_ready=False, message=message)
        seconds = check.interval_seconds
        if not passed and not target.is_ready:
            seconds = min(seconds, EAGER_SECONDS * EAGER_GROWTH ** min(max(failures - 1, 0), _MOST_GROWTHS))
        self._due[key] = self._clock.monotonic() + seconds
        return self._clock.now() + datetime.timedelta(seconds=seconds)

    def _count(self, key: ContainerId, verdict: Verdict, load: ContainerLoad | None, target: _Target) -> int:
        """Return how many probes in a row did not pass, this one included."""
        before = self._failures.get(key, 0)
        if verdict is Verdict.PASSED:
            return 0
        is_busy = load is not None and load.in_flight > 0 and target.is_ready
        return before if is_busy and verdict is Verdict.SLOW else before + 1

    async def _target(self, key: ContainerId) -> _Target | None:
        """Return what is remembered, or else stored; ``None`` for what is not probed."""
        target = self._targets.get(key)
        if target is not None:
            return target
        self._targets[key] = None
        target = await self._store.read(lambda tx: _load(tx, key))
        if target is None:
            self._targets.pop(key, None)
        elif key in self._targets:  # else it was forgotten since: what was read may be from before that
            self._targets[key] = target
        return target

    async def _write(self, key: ContainerId, target: _Target, *, is_ready: bool, message: str = "") -> None:
        if target.is_ready == is_ready:
            return
        now = self._clock.now()

        def work(tx: Transaction) -> None:
            current = tx.containers.get(key)
            if current is None or not _is_probed(current) or current.is_ready == is_ready:
                return
            if is_ready and _is_lost(tx, current):
                return
            assert current.uuid is not None
            assert current.status is not None
            tx.containers.update(
                replace(current, is_ready=is_ready, ready_at=now if is_ready else current.ready_at, updated_at=now)
            )
            tx.events.append(
                NewEvent(
                    account_id=current.account_id,
                    deployment_id=current.deployment_id,
                    container_id=current.id,
                    container_uuid=current.uuid,
                    kind=EventKind.READY if is_ready else EventKind.UNREADY,
                    status=current.status,
                    created_at=now,
                    message=message,
                )
            )

        await self._store.write(work)


def _stall(check: HealthCheck, load: ContainerLoad) -> str:
    """Say that a container whose port is open answers nobody; empty: it does, or nobody waits for it."""
    if check.path is not None or not load.in_flight:
        return ""
    if load.quiet_seconds < max(check.stalled_after_seconds, STALL_FACTOR * load.longest_seconds):
        return ""
    return (
        f"its port is open, but it has answered nobody for {load.quiet_seconds:.0f} s,"
        f" while {load.in_flight} {'waits' if load.in_flight == 1 else 'wait'}"
    )


def _is_probed(container: Container) -> bool:
    return container.status is ContainerStatus.RUNNING and container.stop is None


def _load(tx: Transaction, key: ContainerId) -> _Target | None:
    container = tx.containers.get(key)
    if container is None or not _is_probed(container):
        return None
    deployment = tx.deployments.get(container.deployment_id)
    assert deployment is not None
    check = deployment.spec.service.health_check
    address = None if check is None else container.addresses.get(check.port)
    return _Target(container.uuid, address, check, container.is_ready, _is_lost(tx, container))


def _is_lost(tx: Transaction, container: Container) -> bool:
    state = tx.machines.given_up().get(_machine_of(container))
    return state is not None and state.lost_at is not None


def _machine_of(container: Container) -> MachineId:
    assert container.placement is not None
    return container.placement.machine_id
