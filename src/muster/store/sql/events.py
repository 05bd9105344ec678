"""The event log in SQL: ids ascend with commits because writes are serialised.

The horizon (how far the log was pruned) is global: a cursor before it may have missed something, so it expires.
``event_counts`` holds how many events of each kind a deployment has, changed with every append and prune, so that a
list of the newest page need not count all that it leaves out. A container has few events: those are counted when asked.
"""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.errors import CursorExpired
from muster.model.event import Cursor, Event, EventKind, NewEvent
from muster.model.ids import AccountId, DeploymentId
from muster.store.port import EventQuery, Page
from muster.store.sql.paging import page
from muster.store.sql.rows import event_from_row, event_to_row
from muster.store.sql.session import Session
from muster.store.sql.tables import event_counts, event_horizon, events

_INSERT = sa.insert(events)
_TAIL = (
    sa.select(events).where(events.c.id > sa.bindparam("cursor")).order_by(events.c.id).limit(sa.bindparam("at_most"))
)
_TAIL_OF = _TAIL.where(events.c.account_id == sa.bindparam("account"))
_NEWEST = sa.select(sa.func.max(events.c.id))
_HORIZON = sa.select(event_horizon.c.pruned_through)
_INSERT_HORIZON = sa.insert(event_horizon)
_MOVE_HORIZON = sa.update(event_horizon)
_OLDEST = sa.select(events.c.id, events.c.created_at).order_by(events.c.id).limit(sa.bindparam("at_most"))
_PRUNE = sa.delete(events).where(events.c.id <= sa.bindparam("through"))
_COUNTED = sa.and_(
    event_counts.c.account_id == sa.bindparam("account"),
    event_counts.c.deployment_id == sa.bindparam("deployment"),
    event_counts.c.kind == sa.bindparam("which"),
)
_COUNT = sa.update(event_counts).where(_COUNTED).values(total=event_counts.c.total + sa.bindparam("more"))
_BEGIN_COUNT = sa.insert(event_counts)
_END_COUNT = sa.delete(event_counts).where(_COUNTED, event_counts.c.total <= 0)
_KEYS = (events.c.account_id, events.c.deployment_id, events.c.kind)
_COUNTS_THROUGH = (
    sa.select(*_KEYS, sa.func.count().label("total")).where(events.c.id <= sa.bindparam("through")).group_by(*_KEYS)
)


class SqlEvents:
    """The ``Events`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(self, event: NewEvent) -> Event:
        """Add an event at the end."""
        values = event_to_row(event)
        number = self._session.insert(_INSERT, values)
        self._count(event.account_id, event.deployment_id, event.kind.value)
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
            total=None if query.container_uuid is not None else self._total(query),
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
        gone = [
            {"account": row.account_id, "deployment": row.deployment_id, "which": row.kind, "more": -row.total}
            for row in self._session.rows(_COUNTS_THROUGH, {"through": through})
        ]
        if gone:
            self._session.change(_COUNT, gone)
            self._session.change(_END_COUNT, gone)
        return self._session.change(_PRUNE, {"through": through}).rowcount

    def last_before(self, moment: datetime.datetime, at_most: int) -> Cursor:
        """Return the last of the oldest events up to which all are older than ``moment``."""
        last = 0
        for row in self._session.rows(_OLDEST, {"at_most": at_most}):
            if row.created_at >= moment:
                break
            last = row.id
        return Cursor(last)

    def _count(self, account_id: AccountId, deployment_id: DeploymentId, kind: str) -> None:
        key = {"account": account_id, "deployment": deployment_id, "which": kind}
        if self._session.change(_COUNT, {**key, "more": 1}).rowcount == 0:
            first = {"account_id": account_id, "deployment_id": deployment_id, "kind": kind, "total": 1}
            self._session.change(_BEGIN_COUNT, first)

    def _total(self, query: EventQuery) -> int:
        where = [event_counts.c.account_id == query.account_id]
        if query.deployment_id is not None:
            where.append(event_counts.c.deployment_id == query.deployment_id)
        where.append(event_counts.c.kind.in_(sorted(kind.value for kind in query.kinds)))
        return self._session.number(sa.select(sa.func.sum(event_counts.c.total)).where(*where))


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
