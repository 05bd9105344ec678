"""The event log in SQL: ids ascend with commits because writes are serialised.

The horizon (how far the log was pruned) is global: a cursor before it may have missed something, so it expires.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from muster.errors import CursorExpired
from muster.model.event import Cursor, Event, EventKind, NewEvent
from muster.model.ids import AccountId
from muster.store.port import EventQuery, Page
from muster.store.sql.paging import page
from muster.store.sql.rows import event_from_row, event_to_row
from muster.store.sql.session import Session
from muster.store.sql.tables import event_horizon, events

_INSERT = sa.insert(events)
_TAIL = (
    sa.select(events).where(events.c.id > sa.bindparam("cursor")).order_by(events.c.id).limit(sa.bindparam("at_most"))
)
_TAIL_OF = _TAIL.where(events.c.account_id == sa.bindparam("account"))
_NEWEST = sa.select(sa.func.max(events.c.id))
_HORIZON = sa.select(event_horizon.c.pruned_through)
_INSERT_HORIZON = sa.insert(event_horizon)
_MOVE_HORIZON = sa.update(event_horizon)
_PRUNE = sa.delete(events).where(events.c.id <= sa.bindparam("through"))


class SqlEvents:
    """The ``Events`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(self, event: NewEvent) -> Event:
        """Add an event at the end."""
        values = event_to_row(event)
        number = self._session.insert(_INSERT, values)
        self._session.touched(event=True)
        return Event(
            id=number,
            account_id=event.account_id,
            deployment_id=event.deployment_id,
            container_id=event.container_id,
            container_uuid=event.container_uuid,
            kind=event.kind,
            status=event.status,
            created_at=event.created_at,
            reason=event.reason,
            message=event.message,
            exit_code=event.exit_code,
        )

    def find(self, query: EventQuery) -> Page[Event]:
        """Return what matches, newest first."""
        return page(
            self._session,
            table=events,
            where=matches(query),
            order=events.c.id,
            window=query.window,
            read=event_from_row,
        )

    def after(self, cursor: Cursor, *, account_id: AccountId | None = None, limit: int = 1000) -> Sequence[Event]:
        """Return events of every kind after ``cursor``, oldest first."""
        pruned_through = self._session.number(_HORIZON)
        if cursor < pruned_through:
            raise CursorExpired(f"events after {cursor} are pruned up to {pruned_through}: list again")
        values = {"cursor": cursor, "at_most": limit}
        if account_id is None:
            rows = self._session.rows(_TAIL, values)
        else:
            rows = self._session.rows(_TAIL_OF, {**values, "account": account_id})
        return [event_from_row(row) for row in rows]

    def last(self) -> Cursor:
        """Return the cursor after the newest event."""
        return Cursor(max(self._session.number(_NEWEST), self._session.number(_HORIZON)))

    def prune(self, through: Cursor) -> int:
        """Forget the events up to ``through``, itself included; returns how many."""
        through = min(through, self.last())
        pruned_through = self._session.number(_HORIZON)
        if through <= pruned_through:
            return 0
        if pruned_through == 0:
            self._session.change(_INSERT_HORIZON, {"id": 1, "pruned_through": through})
        else:
            self._session.change(_MOVE_HORIZON, {"pruned_through": through})
        return self._session.change(_PRUNE, {"through": through}).rowcount


def matches(query: EventQuery) -> list[sa.ColumnElement[bool]]:
    """Return a query's conditions; one kind is compared by ``=``, so that the index also gives the order."""
    conditions = [events.c.account_id == query.account_id]
    if query.deployment_id is not None:
        conditions.append(events.c.deployment_id == query.deployment_id)
    if query.container_uuid is not None:
        conditions.append(events.c.container_uuid == query.container_uuid)
    kinds = sorted(kind.value for kind in query.kinds)
    if len(kinds) == 1:
        conditions.append(events.c.kind == kinds[0])
    elif len(kinds) != len(EventKind):
        conditions.append(events.c.kind.in_(kinds))
    return conditions
