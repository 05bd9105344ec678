"""Registry credentials in SQL: opaque text in, the same text out. What it means only the key outside can tell."""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.model.ids import AccountId
from muster.store.sql.session import Session
from muster.store.sql.tables import registry_credentials

_IS_ONE = sa.and_(
    registry_credentials.c.account_id == sa.bindparam("account"),
    registry_credentials.c.registry == sa.bindparam("host"),
)
_ONE = sa.select(registry_credentials).where(_IS_ONE)
_INSERT = sa.insert(registry_credentials)
_UPDATE = sa.update(registry_credentials).where(_IS_ONE)
_DELETE = sa.delete(registry_credentials).where(_IS_ONE)
_REGISTRIES = (
    sa.select(registry_credentials.c.registry)
    .where(registry_credentials.c.account_id == sa.bindparam("account"))
    .order_by(registry_credentials.c.registry)
)


class SqlCredentials:
    """The ``Credentials`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, account_id: AccountId, registry: str, sealed: str, now: datetime.datetime) -> None:
        """Write it, new or changed."""
        key, values = {"account": account_id, "host": registry}, {"sealed": sealed, "updated_at": now}
        if self._session.row(_ONE, key) is None:
            self._session.change(_INSERT, {"account_id": account_id, "registry": registry, **values})
        else:
            self._session.change(_UPDATE, {**key, **values})

    def get(self, account_id: AccountId, registry: str) -> str | None:
        """Return it as it was written."""
        row = self._session.row(_ONE, {"account": account_id, "host": registry})
        return None if row is None else row.sealed

    def registries(self, account_id: AccountId) -> Sequence[str]:
        """Return the registries that an account has credentials for, by name."""
        return [row.registry for row in self._session.rows(_REGISTRIES, {"account": account_id})]

    def remove(self, account_id: AccountId, registry: str) -> bool:
        """Forget it; tell whether there was one."""
        return self._session.change(_DELETE, {"account": account_id, "host": registry}).rowcount > 0
