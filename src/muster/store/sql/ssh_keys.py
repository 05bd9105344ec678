"""Public SSH keys in SQL."""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.errors import Conflict
from muster.model.ids import AccountId
from muster.model.ssh_key import SshKey
from muster.store.sql.session import Session
from muster.store.sql.tables import ssh_keys

_INSERT = sa.insert(ssh_keys)
_OF = sa.select(ssh_keys).where(ssh_keys.c.account_id == sa.bindparam("account"))
_ALL_OF = _OF.order_by(ssh_keys.c.created_at, ssh_keys.c.fingerprint)
_DELETE = sa.delete(ssh_keys).where(
    ssh_keys.c.account_id == sa.bindparam("account"), ssh_keys.c.fingerprint == sa.bindparam("print")
)


class SqlSshKeys:
    """The ``SshKeys`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, account_id: AccountId, name: str, key: str, fingerprint: str, now: datetime.datetime) -> SshKey:
        """Write a key. Raises ``Conflict`` when the account has it."""
        self._session.change(
            _INSERT,
            {"account_id": account_id, "fingerprint": fingerprint, "name": name, "key": key, "created_at": now},
            violation=lambda: Conflict(f"the key {fingerprint} is there already"),
        )
        self._session.touched(account=account_id)
        return SshKey(account_id, fingerprint, name, key, now)

    def all_of(self, account_id: AccountId) -> Sequence[SshKey]:
        """Return an account's keys, oldest first."""
        return [
            SshKey(AccountId(row.account_id), row.fingerprint, row.name, row.key, row.created_at)
            for row in self._session.rows(_ALL_OF, {"account": account_id})
        ]

    def remove(self, account_id: AccountId, fingerprint: str) -> bool:
        """Forget a key; tell whether there was one."""
        is_gone = self._session.change(_DELETE, {"account": account_id, "print": fingerprint}).rowcount > 0
        if is_gone:
            self._session.touched(account=account_id)
        return is_gone
