"""Accounts and tokens in SQL. Only hashes come in; the primary key finds them."""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.errors import Conflict
from muster.model.account import Account, Quota, Role, Token
from muster.model.ids import AccountId
from muster.store.sql.rows import account_from_row, token_from_row
from muster.store.sql.session import Session
from muster.store.sql.tables import UtcTime, accounts, tokens

_INSERT = sa.insert(accounts)
_GET = sa.select(accounts).where(accounts.c.id == sa.bindparam("key"))
_BY_NAME = sa.select(accounts).where(accounts.c.name == sa.bindparam("key"))
_BY_TOKEN = (
    sa.select(accounts)
    .join(tokens)
    .where(
        tokens.c.hash == sa.bindparam("key"),
        sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > sa.bindparam("now", type_=UtcTime)),
    )
)
_ALL = sa.select(accounts).order_by(accounts.c.id)
_TOKEN_EXISTS = sa.select(tokens.c.hash).where(tokens.c.hash == sa.bindparam("key"))
_INSERT_TOKEN = sa.insert(tokens)
_TOKENS_OF = (
    sa.select(tokens).where(tokens.c.account_id == sa.bindparam("account")).order_by(tokens.c.created_at, tokens.c.hash)
)
_TOKEN_OF = _TOKENS_OF.where(sa.func.substr(tokens.c.hash, 1, 10) == sa.bindparam("key"))
_REVOKE = sa.delete(tokens).where(tokens.c.hash == sa.bindparam("key"))
_NOTE_USE = sa.update(tokens).where(tokens.c.hash == sa.bindparam("key"))
_SET_QUOTA = sa.update(accounts).where(accounts.c.id == sa.bindparam("key"))


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

    def by_token(self, token_hash: str, now: datetime.datetime) -> Account | None:
        """Return whose token has this hash, unless it has expired."""
        row = self._session.row(_BY_TOKEN, {"key": token_hash, "now": now})
        return None if row is None else account_from_row(row)

    def all(self) -> Sequence[Account]:
        """Return all accounts, oldest first."""
        return [account_from_row(row) for row in self._session.rows(_ALL)]

    def set_quota(self, account_id: AccountId, quota: Quota) -> None:
        """Write how much an account may want."""
        values = {"quota_gpu_num": quota.gpu_num, "quota_container_num": quota.container_num}
        self._session.change(_SET_QUOTA, {"key": account_id, **values})

    def add_token(
        self,
        account_id: AccountId,
        token_hash: str,
        prefix: str,
        now: datetime.datetime,
        *,
        name: str = "",
        expires_at: datetime.datetime | None = None,
    ) -> None:
        """Let a token act for an account; the same hash again changes nothing."""
        if self._session.row(_TOKEN_EXISTS, {"key": token_hash}) is None:
            self._session.change(
                _INSERT_TOKEN,
                {
                    "hash": token_hash,
                    "account_id": account_id,
                    "prefix": prefix,
                    "created_at": now,
                    "name": name,
                    "expires_at": expires_at,
                },
            )

    def tokens(self, account_id: AccountId) -> Sequence[Token]:
        """Return what is known of an account's tokens, oldest first."""
        return [token_from_row(row) for row in self._session.rows(_TOKENS_OF, {"account": account_id})]

    def revoke_token(self, account_id: AccountId, token_id: str) -> Token | None:
        """Forget a token of an account; returns what was known of it."""
        row = self._session.row(_TOKEN_OF, {"account": account_id, "key": token_id})
        if row is None:
            return None
        self._session.change(_REVOKE, {"key": row.hash})
        return token_from_row(row)

    def note_use(self, token_hash: str, now: datetime.datetime) -> None:
        """Write when a token was last used."""
        self._session.change(_NOTE_USE, {"key": token_hash, "last_used_at": now})
