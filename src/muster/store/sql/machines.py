"""Machines in SQL. A declaration that says the same again writes nothing, so that a restart wakes nobody."""

from collections.abc import Sequence

import sqlalchemy as sa

from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.store.sql.rows import machine_from_row, machine_to_row
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
