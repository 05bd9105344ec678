"""Running containers → ready ones: the only writer of ``is_ready`` while a container runs.

A container becomes ready at its first passed probe and unready after ``unhealthy_after`` failures in a row; each
change is one row write and one event. While it is not ready it is probed often, because everybody waits for it, but
ever less often up to the check's own interval, because it may never come. How often a probe failed lives in memory: a
restart of the server forgets it and changes nothing, so readiness is as it was until probes say otherwise.

A container without a health check is ready as soon as it runs.

What a probe needs of the store is remembered between probes, or these reads would be nearly all that a platform at
rest does. ``forget`` drops it when a commit names the container, and each full pass drops all, so a probe may be told
by an old row for as long as a lost wake-up may go unnoticed; what it leads to is decided on the stored row.
"""

import datetime
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from muster.clock import Clock
from muster.controller.probe import Prober
from muster.model.container import Address, Container, ContainerStatus
from muster.model.deployment import HealthCheck
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId
from muster.store.port import Store, Transaction

EAGER_SECONDS = 0.1
"""First wait between probes of a container that everybody waits for."""
EAGER_GROWTH = 1.1
"""Each wait is a tenth longer than the one before, so readiness is seen at most a tenth later than it was there."""
_MOST_GROWTHS = 120  # 0.1 s x 1.1**120 is beyond the longest interval, an hour


@dataclass(frozen=True, slots=True)
class _Target:
    """What a probe needs to know of a container."""

    address: Address | None
    check: HealthCheck | None
    is_ready: bool


class ReadinessReconciler:
    """Probes containers; see the module's text."""

    name = "readiness"

    def __init__(self, store: Store, clock: Clock, prober: Prober) -> None:
        self._store = store
        self._clock = clock
        self._prober = prober
        self._failures: dict[ContainerId, int] = {}
        self._targets: dict[ContainerId, _Target | None] = {}  # None: being loaded
        self._due: dict[ContainerId, float] = {}

    def forget(self, key: ContainerId) -> None:
        """Load the container anew for its next probe."""
        self._targets.pop(key, None)

    async def keys(self) -> Iterable[ContainerId]:
        """Return running containers of which no probe is due later: a pass must not outrun their intervals."""
        self._targets.clear()
        containers = await self._store.read(lambda tx: tx.containers.on_machines())
        now = self._clock.monotonic()
        return [each.id for each in containers if _is_probed(each) and self._due.get(each.id, now) <= now]

    async def reconcile(self, key: ContainerId) -> datetime.datetime | None:
        """Probe one container; return when to probe it again."""
        target = await self._target(key)
        if target is None:
            self._failures.pop(key, None)
            self._due.pop(key, None)
            return None
        if target.check is None:
            await self._write(key, target, is_ready=True)
            self._due[key] = math.inf
            return None
        check = target.check
        passed = target.address is not None and await self._prober.probe(target.address, check)
        failures = self._failures[key] = 0 if passed else self._failures.get(key, 0) + 1
        if passed:
            await self._write(key, target, is_ready=True)
        elif failures >= check.unhealthy_after:
            await self._write(key, target, is_ready=False)
        seconds = check.interval_seconds
        if not passed and not target.is_ready:
            seconds = min(seconds, EAGER_SECONDS * EAGER_GROWTH ** min(failures - 1, _MOST_GROWTHS))
        self._due[key] = self._clock.monotonic() + seconds
        return self._clock.now() + datetime.timedelta(seconds=seconds)

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

    async def _write(self, key: ContainerId, target: _Target, *, is_ready: bool) -> None:
        if target.is_ready == is_ready:
            return
        now = self._clock.now()

        def work(tx: Transaction) -> None:
            current = tx.containers.get(key)
            if current is None or not _is_probed(current) or current.is_ready == is_ready:
                return
            assert current.uuid is not None
            assert current.status is not None
            tx.containers.update(replace(current, is_ready=is_ready, updated_at=now))
            tx.events.append(
                NewEvent(
                    account_id=current.account_id,
                    deployment_id=current.deployment_id,
                    container_id=current.id,
                    container_uuid=current.uuid,
                    kind=EventKind.READY if is_ready else EventKind.UNREADY,
                    status=current.status,
                    created_at=now,
                )
            )

        await self._store.write(work)


def _is_probed(container: Container) -> bool:
    return container.status is ContainerStatus.RUNNING and container.stop is None


def _load(tx: Transaction, key: ContainerId) -> _Target | None:
    container = tx.containers.get(key)
    if container is None or not _is_probed(container):
        return None
    deployment = tx.deployments.get(container.deployment_id)
    assert deployment is not None
    check = deployment.spec.service.health_check
    return _Target(None if check is None else container.addresses.get(check.port), check, container.is_ready)
