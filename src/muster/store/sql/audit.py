"""The audit log in SQL."""

import datetime

import sqlalchemy as sa

from muster.model.audit import AuditEntry, NewAuditEntry
from muster.model.ids import AccountId
from muster.store.port import Page, Window
from muster.store.sql.paging import page
from muster.store.sql.rows import audit_entry_from_row, audit_entry_to_row
from muster.store.sql.session import Session
from muster.store.sql.tables import audit

_INSERT = sa.insert(audit)
_OLDEST = sa.select(audit.c.id, audit.c.created_at).order_by(audit.c.id).limit(sa.bindparam("at_most"))
_PRUNE = sa.delete(audit).where(audit.c.id <= sa.bindparam("through"))


class SqlAudit:
    """The ``Audit`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(self, entry: NewAuditEntry) -> None:
        """Add an entry at the end."""
        self._session.change(_INSERT, audit_entry_to_row(entry))

    def find(self, account_id: AccountId | None, window: Window, *, target: str | None = None) -> Page[AuditEntry]:
        """Return the entries about an account's things, or about everybody's; newest first."""
        where = [] if account_id is None else [audit.c.account_id == account_id]
        if target is not None:
            where.append(audit.c.target == target)
        return page(self._session, table=audit, where=where, order=audit.c.id, window=window, read=audit_entry_from_row)

    def prune(self, before: datetime.datetime, at_most: int) -> int:
        """Forget the oldest entries that are older; returns how many."""
        last = 0
        for row in self._session.rows(_OLDEST, {"at_most": at_most}):
            if row.created_at >= before:
                break
            last = row.id
        return self._session.change(_PRUNE, {"through": last}).rowcount if last else 0
