"""Accounts and tokens in SQL. Only hashes come in; the primary key finds them."""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.errors import Conflict
from muster.model.account import Account, Role
from muster.model.ids import AccountId
from muster.store.sql.rows import account_from_row
from muster.store.sql.session import Session
from muster.store.sql.tables import accounts, tokens

_INSERT = sa.insert(accounts)
_GET = sa.select(accounts).where(accounts.c.id == sa.bindparam("key"))
_BY_NAME = sa.select(accounts).where(accounts.c.name == sa.bindparam("key"))
_BY_TOKEN = sa.select(accounts).join(tokens).where(tokens.c.hash == sa.bindparam("key"))
_ALL = sa.select(accounts).order_by(accounts.c.id)
_TOKEN_EXISTS = sa.select(tokens.c.hash).where(tokens.c.hash == sa.bindparam("key"))
_INSERT_TOKEN = sa.insert(tokens)


class SqlAccounts:
    """The ``Accounts`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, name: str, role: Role, now: datetime.datetime) -> Account:
        """Write an account."""
        number = self._session.insert(
            _INSERT,
            {"name": name, "role": role.value, "created_at": now},
            violation=lambda: Conflict(f"there is already an account {name!r}"),
        )
        return Account(id=AccountId(number), name=name, role=role, created_at=now)

    def get(self, account_id: AccountId) -> Account | None:
        """Return the account."""
        row = self._session.row(_GET, {"key": account_id})
        return None if row is None else account_from_row(row)

    def by_name(self, name: str) -> Account | None:
        """Return the account of that name."""
        row = self._session.row(_BY_NAME, {"key": name})
        return None if row is None else account_from_row(row)

    def by_token(self, token_hash: str) -> Account | None:
        """Return whose token has this hash."""
        row = self._session.row(_BY_TOKEN, {"key": token_hash})
        return None if row is None else account_from_row(row)

    def all(self) -> Sequence[Account]:
        """Return all accounts, oldest first."""
        return [account_from_row(row) for row in self._session.rows(_ALL)]

    def add_token(self, account_id: AccountId, token_hash: str, prefix: str, now: datetime.datetime) -> None:
        """Let a token act for an account; the same hash again changes nothing."""
        if self._session.row(_TOKEN_EXISTS, {"key": token_hash}) is None:
            self._session.change(
                _INSERT_TOKEN, {"hash": token_hash, "account_id": account_id, "prefix": prefix, "created_at": now}
            )
