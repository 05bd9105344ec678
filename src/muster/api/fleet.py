"""What a caller is shown of machines: what they offer, what is thought of them, and how often things failed there.

Everything in one transaction, so that a row never tells of two moments. Failures are the caller's own, so that nobody
learns how others fare; an admin sees everybody's, since it is the hosts that he mends.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.api import machine_schemas as rows
from muster.api.convert import wire_time
from muster.model.account import Caller
from muster.model.container import ContainerStatus, Reason
from muster.model.ids import MachineId
from muster.model.machine import Drain, Machine, MachineState
from muster.scheduler.suspects import Suspect, suspects
from muster.store.port import Transaction

FAILURE_WINDOW = datetime.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known beside a machine's declaration."""

    state: MachineState
    claimed: frozenset[int]
    left: int | None
    failures: Mapping[Reason, int]
    suspect: Suspect | None
    blacklisted_until: datetime.datetime | None


def machine_rows(
    tx: Transaction, caller: Caller, now: datetime.datetime, zone: datetime.tzinfo
) -> Sequence[rows.MachineRow]:
    """Show all machines on offer."""
    offered, states, claims = tx.machines.offered(), tx.machines.states(), tx.containers.claims()
    failures = tx.containers.failures(now - FAILURE_WINDOW, None if caller.is_admin else caller.id)
    found = suspects(offered, failures)
    banned = {entry.machine_id: entry.expires_at for entry in tx.blacklist.of(caller.id, now)}
    left = _left(tx)
    shown = []
    for machine in offered:
        state = states.get(machine.id, MachineState())
        is_emptied = state.lost_at is not None or state.drain is not Drain.NONE
        seen = _Seen(
            state=state,
            claimed=claims.get(machine.id, frozenset()),
            left=left.get(machine.id, 0) if is_emptied else None,
            failures=failures.get(machine.id, {}),
            suspect=found.get(machine.id),
            blacklisted_until=banned.get(machine.id),
        )
        shown.append(_row(machine, seen, zone))
    return shown


def _left(tx: Transaction) -> Mapping[MachineId, int]:
    """Count what is not over yet on the machines that are to be empty; usually there are none, and nothing is read."""
    left = dict.fromkeys(tx.machines.given_up(), 0)
    if left:
        for container in tx.containers.on_machines():
            assert container.placement is not None
            if container.placement.machine_id in left and container.status is not ContainerStatus.SHUTDOWN:
                left[container.placement.machine_id] += 1
    return left


def _row(machine: Machine, seen: _Seen, zone: datetime.tzinfo) -> rows.MachineRow:
    state, suspect = seen.state, seen.suspect
    return rows.MachineRow(
        machine_id=machine.id,
        data_center=machine.data_center,
        gpu_name=machine.gpu_name,
        gpu_num=machine.gpu_num,
        cpu_num=machine.cpu_num,
        memory_size=machine.memory_bytes,
        cuda_v=machine.cuda,
        price=machine.price_milliyuan,
        chip_corp=machine.chip_corp,
        cpu_arch=machine.cpu_arch,
        claimed_gpus=sorted(seen.claimed),
        state=_word(state, seen.left),
        problem=state.problem,
        unreachable_since=_time(state.unreachable_since, zone),
        lost_at=_time(state.lost_at, zone),
        is_cordoned=state.is_cordoned,
        drain=state.drain.value,
        containers_left=seen.left,
        failures={reason.value: count for reason, count in sorted(seen.failures.items())},
        suspect=None
        if suspect is None
        else rows.SuspectRow(
            failure_num=suspect.failure_num,
            expected_num=round(suspect.expected_num, 2),
            reason=suspect.reason.value,
            reason_num=suspect.reason_num,
            sentence=suspect.sentence(),
        ),
        blacklisted_until=_time(seen.blacklisted_until, zone),
    )


def _word(state: MachineState, left: int | None) -> str:
    """Return the first word that applies: what is broken before what is wanted."""
    if state.lost_at is not None:
        return "lost"
    if state.unreachable_since is not None:
        return "unreachable"
    if state.problem:
        return "unavailable"
    if state.drain is not Drain.NONE:
        return "draining" if left else "drained"
    return "cordoned" if state.is_cordoned else "usable"


def _time(moment: datetime.datetime | None, zone: datetime.tzinfo) -> str | None:
    return None if moment is None else wire_time(moment, zone)
