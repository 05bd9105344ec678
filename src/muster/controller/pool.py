"""Disk pressure: while a host has too little free disk, what waits there for reuse is given up, oldest first.

A key is a host, by its address: machines of one host share its disk, and one key never runs twice at a time, so two of
them never give up two containers for one shortage. A look asks the engine how full the disk is and takes at most one
container out of the pool, the least recently stopped; the container loop destroys it. Until that is done the disk
cannot tell what it was good for, so nothing else is given up; only a removal that is stuck is no longer waited for.

All that is known is in the store (what left the pool and is not released yet is on its way), so a crash anywhere loses
nothing. Nothing wakes this loop but its passes: a disk tells nobody that it fills.
"""

import datetime
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from muster.clock import Clock
from muster.engine.port import Engine
from muster.model.container import Container
from muster.model.ids import MachineId
from muster.model.quantity import GIB
from muster.model.run import Disk
from muster.planner.lifecycle import leave_pool
from muster.store.port import Store, Transaction

RECHECK = datetime.timedelta(seconds=1)
"""How soon to look again while something is being destroyed."""
PATIENCE = datetime.timedelta(minutes=1)
"""How long a removal is waited for: one of many gigabytes takes seconds, so this one is stuck."""

_log = logging.getLogger(__name__)


class PoolReconciler:
    """Keeps ``keep_free_bytes`` of each host's disk free as far as giving up the pool can; see the module's text."""

    name = "pool"

    def __init__(self, store: Store, engine: Engine, clock: Clock, keep_free_bytes: int) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._keep_free_bytes = keep_free_bytes

    async def keys(self) -> Iterable[str]:
        """Return the hosts where something waits for reuse."""
        return await self._store.read(lambda tx: _by_host(tx, tx.containers.pooled()).keys())

    async def reconcile(self, key: str) -> datetime.datetime | None:
        """Give up one container of a host if it has to be."""
        machine_id = await self._store.read(lambda tx: _machine_of(tx, key))
        if machine_id is None:
            return None
        disk = await self._engine.disk(machine_id)
        if disk.free_bytes >= self._keep_free_bytes:
            return None
        now = self._clock.now()
        is_making_room = await self._store.write(lambda tx: self._make_room(tx, key, disk, now))
        return now + RECHECK if is_making_room else None

    def _make_room(self, tx: Transaction, host: str, disk: Disk, now: datetime.datetime) -> bool:
        """Give up the least recently stopped, unless one is on its way; tell whether any is."""
        there = _by_host(tx, tx.containers.on_machines()).get(host, [])
        if any(_is_leaving(each, now) for each in there):
            return True
        oldest = min((each for each in there if each.is_pooled), key=_stopped_at, default=None)
        if oldest is None:
            return False
        tx.containers.update(replace(leave_pool(oldest, now), updated_at=now))
        _log.info(
            "host %s has %.1f GB of free disk and is to keep %.1f: what container %s left is given up",
            host,
            disk.free_bytes / GIB,
            self._keep_free_bytes / GIB,
            oldest.uuid,
        )
        return True


def _machine_of(tx: Transaction, host: str) -> MachineId | None:
    """Return a machine of the host that holds something of the pool; ``None`` when the pool is empty there."""
    return min(map(_machine_id, _by_host(tx, tx.containers.pooled()).get(host, [])), default=None)


def _is_leaving(container: Container, now: datetime.datetime) -> bool:
    """Tell whether what is left of it is being destroyed, and has not been for too long."""
    discard_at = container.discard_at
    return discard_at is not None and not container.is_pooled and now - PATIENCE < discard_at <= now


def _stopped_at(container: Container) -> tuple[datetime.datetime, int]:
    assert container.stopped_at is not None
    return container.stopped_at, container.number


def _by_host(tx: Transaction, containers: Sequence[Container]) -> Mapping[str, Sequence[Container]]:
    addresses = {machine_id: _address(tx, machine_id) for machine_id in set(map(_machine_id, containers))}
    hosts: dict[str, list[Container]] = {}
    for container in containers:
        hosts.setdefault(addresses[_machine_id(container)], []).append(container)
    return hosts


def _address(tx: Transaction, machine_id: MachineId) -> str:
    machine = tx.machines.get(machine_id)
    assert machine is not None  # rows of machines are never deleted
    return machine.address


def _machine_id(container: Container) -> MachineId:
    assert container.placement is not None
    return container.placement.machine_id
