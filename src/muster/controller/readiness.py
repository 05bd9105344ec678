"""Running containers → ready ones: the only writer of ``is_ready`` while a container runs.

A container becomes ready at its first passed probe and unready after ``unhealthy_after`` failures in a row; each
change is one row write and one event. Until it is ready it is probed often, because everybody waits for it; later at
the check's own interval. How often a probe failed lives in memory: a restart of the server forgets it and changes
nothing, so readiness is as it was until probes say otherwise.

A container without a health check is ready as soon as it runs.
"""

import datetime
from collections.abc import Iterable
from dataclasses import replace

from muster.clock import Clock
from muster.controller.probe import Prober
from muster.model.container import Container, ContainerStatus
from muster.model.deployment import HealthCheck
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId
from muster.store.port import Store, Transaction

EAGER_SECONDS = 0.1
"""Longest wait between probes of a container that has never been ready; a probe of a closed port costs microseconds."""


class ReadinessReconciler:
    """Probes containers; see the module's text."""

    name = "readiness"

    def __init__(self, store: Store, clock: Clock, prober: Prober) -> None:
        self._store = store
        self._clock = clock
        self._prober = prober
        self._failures: dict[ContainerId, int] = {}

    async def keys(self) -> Iterable[ContainerId]:
        """Return running containers."""
        containers = await self._store.read(lambda tx: tx.containers.on_machines())
        return [container.id for container in containers if _is_probed(container)]

    async def reconcile(self, key: ContainerId) -> datetime.datetime | None:
        """Probe one container; return when to probe it again."""
        container, check = await self._store.read(lambda tx: _load(tx, key))
        if container is None or not _is_probed(container):
            self._failures.pop(key, None)
            return None
        if check is None:
            await self._write(container, is_ready=True)
            return None
        address = container.addresses.get(check.port)
        passed = address is not None and await self._prober.probe(address, check)
        self._failures[key] = 0 if passed else self._failures.get(key, 0) + 1
        if passed:
            await self._write(container, is_ready=True)
        elif self._failures[key] >= check.unhealthy_after:
            await self._write(container, is_ready=False)
        is_waited_for = not passed and not container.is_ready
        interval = min(EAGER_SECONDS, check.interval_seconds) if is_waited_for else check.interval_seconds
        return self._clock.now() + datetime.timedelta(seconds=interval)

    async def _write(self, container: Container, *, is_ready: bool) -> None:
        if container.is_ready == is_ready:
            return
        now = self._clock.now()

        def work(tx: Transaction) -> None:
            current = tx.containers.get(container.id)
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


def _load(tx: Transaction, key: ContainerId) -> tuple[Container | None, HealthCheck | None]:
    container = tx.containers.get(key)
    if container is None:
        return None, None
    deployment = tx.deployments.get(container.deployment_id)
    assert deployment is not None
    return container, deployment.spec.service.health_check
