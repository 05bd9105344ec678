"""Machines in SQL. A declaration that says the same again writes nothing, so that a restart wakes nobody."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from muster.model.ids import MachineId
from muster.model.machine import Drain, Machine, MachineState
from muster.store.sql.rows import machine_from_row, machine_state_from_row, machine_to_row
from muster.store.sql.session import Session
from muster.store.sql.tables import machines

_GET = sa.select(machines).where(machines.c.id == sa.bindparam("key"))
_INSERT = sa.insert(machines)
_UPDATE = sa.update(machines).where(machines.c.id == sa.bindparam("key"))
_RETIRE = (
    sa.update(machines)
    .where(machines.c.is_retired.is_(False), machines.c.id.not_in(sa.bindparam("kept", expanding=True)))
    .values(is_retired=True)
)
_SET_PROBLEM = (
    sa.update(machines)
    .where(machines.c.id == sa.bindparam("key"), machines.c.problem != sa.bindparam("said"))
    .values(problem=sa.bindparam("said"))
)
_PROBLEMS = sa.select(machines.c.id, machines.c.problem).where(machines.c.problem != "")
_ALL = sa.select(machines)
_GIVEN_UP = sa.union(
    sa.select(machines).where(machines.c.lost_at.is_not(None)),
    sa.select(machines).where(machines.c.drain.in_([Drain.GENTLE.value, Drain.NOW.value])),
)
_OFFERED = sa.select(machines).where(machines.c.is_retired.is_(False)).order_by(machines.c.id)


class SqlMachines:
    """The ``Machines`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, machine: Machine) -> None:
        """Write a machine, new or changed; a retired one is offered again."""
        row = self._session.row(_GET, {"key": machine.id})
        values = {**machine_to_row(machine), "is_retired": False}
        if row is None:
            self._session.change(_INSERT, {"id": machine.id, **values})
        elif row.is_retired or machine_from_row(row) != machine:
            self._session.change(_UPDATE, {"key": machine.id, **values})

    def retire_all_but(self, machine_ids: frozenset[MachineId]) -> None:
        """Offer only these machines from now on."""
        self._session.change(_RETIRE, {"kept": sorted(machine_ids)})

    def get(self, machine_id: MachineId) -> Machine | None:
        """Return it, retired or not."""
        row = self._session.row(_GET, {"key": machine_id})
        return None if row is None else machine_from_row(row)

    def offered(self) -> Sequence[Machine]:
        """Return all that are not retired, by id."""
        return [machine_from_row(row) for row in self._session.rows(_OFFERED)]

    def set_problem(self, machine_id: MachineId, problem: str) -> None:
        """Note why a machine's engine cannot be used; empty: it can."""
        if self._session.change(_SET_PROBLEM, {"key": machine_id, "said": problem}).rowcount:
            self._session.touched(machine=True)

    def states(self) -> Mapping[MachineId, MachineState]:
        """Return what is thought of all machines."""
        return {row.id: machine_state_from_row(row) for row in self._session.rows(_ALL)}

    def given_up(self) -> Mapping[MachineId, MachineState]:
        """Return the states of the machines that are lost or are to be drained."""
        return {row.id: machine_state_from_row(row) for row in self._session.rows(_GIVEN_UP)}

    def set_unreachable(self, machine_id: MachineId, since: datetime.datetime | None) -> None:
        """Note since when a host does not answer."""
        self._set(machine_id, unreachable_since=since)

    def set_lost(self, machine_id: MachineId, at: datetime.datetime | None) -> None:
        """Note since when the containers of a machine are replaced."""
        self._set(machine_id, lost_at=at)

    def set_placing(self, machine_id: MachineId, *, is_cordoned: bool, drain: Drain) -> None:
        """Write what the operator wants of a machine."""
        self._set(machine_id, is_cordoned=is_cordoned, drain=drain.value)

    def _set(self, machine_id: MachineId, **values: Any) -> None:
        row = self._session.row(_GET, {"key": machine_id})
        if row is not None and any(getattr(row, name) != value for name, value in values.items()):
            self._session.change(_UPDATE, {"key": machine_id, **values})
            self._session.touched(machine=True)

    def problems(self) -> Mapping[MachineId, str]:
        """Return the machines whose engines cannot be used, and why."""
        return {row.id: row.problem for row in self._session.rows(_PROBLEMS)}
