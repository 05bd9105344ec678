"""Machines that do not answer → lost ones, and lost ones that answer again → found. One key: the brake sees them all.

The container loop notes which hosts do not answer; this one writes ``lost_at``, by which the deployments loop plans
substitutes, and takes it back, by which what still runs is adopted. What is lost is decided by ``planner.lost``; here
is the watch that it is decided by: for how long this very process has seen a machine not answer.

Where the brake holds, whoever has something on a machine that is held is told by an ``ALARM`` event of the container,
once for each time that the machine vanished: the log itself remembers, so a restart does not say it again.
"""

import datetime
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from muster.clock import Clock
from muster.model.container import Container
from muster.model.event import EventKind, NewEvent
from muster.model.ids import MachineId
from muster.model.machine import MachineState
from muster.planner.lost import Verdict, judge
from muster.store.port import EventQuery, Store, Transaction, Window

ALL: Final = "all"
HAIR = datetime.timedelta(milliseconds=10)
"""How much later than necessary to look: rounded down, the wait would end before its time, again and again."""

_log = logging.getLogger(__name__)


class MachineReconciler:
    """Decides which machines are lost; see the module's text."""

    name = "machine"

    def __init__(self, store: Store, clock: Clock, *, lost_after_seconds: float) -> None:
        self._store = store
        self._clock = clock
        self._lost_after_seconds = lost_after_seconds
        self._watched_from: dict[MachineId, float] = {}
        self._held: frozenset[MachineId] = frozenset()

    async def keys(self) -> Iterable[str]:
        """Return the only key."""
        return (ALL,)

    async def reconcile(self, key: str) -> datetime.datetime | None:
        """Write what is lost, what is back, and the alarm."""
        assert key == ALL
        states, offered = await self._store.read(
            lambda tx: (tx.machines.states(), [machine.id for machine in tx.machines.offered()])
        )
        watched = self._watched_seconds(states)
        verdict = judge(states, offered, watched, lost_after_seconds=self._lost_after_seconds, held=self._held)
        if verdict.lost or verdict.back or verdict.held - self._held:
            now = self._clock.now()
            await self._store.write(lambda tx: _commit(tx, verdict, now))
            _tell(verdict, self._held)
        self._held = verdict.held
        self._watched_from.update(dict.fromkeys(verdict.released, self._clock.monotonic()))
        seconds = self._lost_after_seconds if verdict.released else verdict.look_after_seconds
        return None if seconds is None else self._clock.now() + datetime.timedelta(seconds=seconds) + HAIR

    def _watched_seconds(self, states: Mapping[MachineId, MachineState]) -> Mapping[MachineId, float]:
        """Return for how long this process has seen machines not answer, from the first look at which they did not."""
        now = self._clock.monotonic()
        unreachable = {key for key, state in states.items() if state.unreachable_since and not state.lost_at}
        self._watched_from = {key: self._watched_from.get(key, now) for key in unreachable}
        return {key: now - since for key, since in self._watched_from.items()}


def _commit(tx: Transaction, verdict: Verdict, now: datetime.datetime) -> None:
    states = tx.machines.states()
    for machine_id in verdict.lost:
        if states[machine_id].unreachable_since is not None and states[machine_id].lost_at is None:
            tx.machines.set_lost(machine_id, now)
    for machine_id in verdict.back:
        if states[machine_id].answers:
            tx.machines.set_lost(machine_id, None)
    if verdict.held:
        for container in _live_on(tx, verdict.held):
            since = states[_machine_of(container)].unreachable_since
            if since is not None and not _was_told(tx, container, since):
                tx.events.append(_alarm(container, verdict.alarm, now))


def _live_on(tx: Transaction, machine_ids: Collection[MachineId]) -> Iterable[Container]:
    return [each for each in tx.containers.on_machines() if each.is_live and _machine_of(each) in machine_ids]


def _machine_of(container: Container) -> MachineId:
    assert container.placement is not None
    return container.placement.machine_id


def _was_told(tx: Transaction, container: Container, since: datetime.datetime) -> bool:
    query = EventQuery(
        container.account_id,
        deployment_id=container.deployment_id,
        container_uuid=container.uuid,
        kinds=frozenset({EventKind.ALARM}),
        window=Window(0, 1),
    )
    return any(event.created_at >= since for event in tx.events.find(query).items)


def _alarm(container: Container, message: str, now: datetime.datetime) -> NewEvent:
    assert container.uuid is not None
    assert container.status is not None
    return NewEvent(
        account_id=container.account_id,
        deployment_id=container.deployment_id,
        container_id=container.id,
        container_uuid=container.uuid,
        kind=EventKind.ALARM,
        status=container.status,
        created_at=now,
        message=message,
    )


def _tell(verdict: Verdict, held_before: frozenset[MachineId]) -> None:
    for machine_id in verdict.lost:
        _log.warning("machine %s is lost: its containers are being replaced", machine_id)
    for machine_id in verdict.back:
        _log.warning("machine %s is back: what runs there is adopted", machine_id)
    if verdict.held - held_before:
        _log.error("%s", verdict.alarm)
