"""Blacklists in SQL. Entries that have expired lie about until their account or an expiry writes over them."""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.model.blacklist import BlacklistEntry
from muster.model.ids import AccountId, MachineId
from muster.store.sql.rows import blacklist_entry_from_row
from muster.store.sql.session import Session
from muster.store.sql.tables import UtcTime, blacklist

_IN_FORCE = (
    sa.select(blacklist)
    .where(blacklist.c.expires_at > sa.bindparam("now", type_=UtcTime))
    .order_by(blacklist.c.account_id, blacklist.c.machine_id)
)
_OF = _IN_FORCE.where(blacklist.c.account_id == sa.bindparam("account"))
_GET = sa.select(blacklist).where(
    blacklist.c.account_id == sa.bindparam("account"), blacklist.c.machine_id == sa.bindparam("machine")
)
_DELETE = sa.delete(blacklist).where(
    blacklist.c.account_id == sa.bindparam("account"), blacklist.c.machine_id == sa.bindparam("machine")
)
_INSERT = sa.insert(blacklist)


class SqlBlacklist:
    """The ``Blacklist`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, entry: BlacklistEntry) -> None:
        """Write it, new or anew; one that was still in force keeps its beginning."""
        key = {"account": entry.account_id, "machine": entry.machine_id}
        known = self._session.row(_GET, key)
        is_in_force = known is not None and known.expires_at > entry.updated_at
        if known is not None:
            self._session.change(_DELETE, key)
        self._session.change(
            _INSERT,
            {
                "account_id": entry.account_id,
                "machine_id": entry.machine_id,
                "data_center": entry.data_center,
                "comment": entry.comment,
                "created_at": known.created_at if known is not None and is_in_force else entry.created_at,
                "updated_at": entry.updated_at,
                "expires_at": entry.expires_at,
            },
        )
        self._session.touched(machine=True)

    def of(self, account_id: AccountId, now: datetime.datetime) -> Sequence[BlacklistEntry]:
        """Return the entries of an account that are in force, by machine."""
        rows = self._session.rows(_OF, {"account": account_id, "now": now})
        return [blacklist_entry_from_row(row) for row in rows]

    def in_force(self, now: datetime.datetime) -> Sequence[BlacklistEntry]:
        """Return the entries of everybody that are in force."""
        return [blacklist_entry_from_row(row) for row in self._session.rows(_IN_FORCE, {"now": now})]

    def remove(self, account_id: AccountId, machine_id: MachineId) -> bool:
        """Forget an entry; tell whether there was one."""
        done = self._session.change(_DELETE, {"account": account_id, "machine": machine_id})
        self._session.touched(machine=True)
        return done.rowcount > 0
