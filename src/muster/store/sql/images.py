"""The image catalogue in SQL. A row without an account is the platform's, and everybody's to use."""

import datetime

import sqlalchemy as sa

from muster.errors import Conflict
from muster.model.ids import AccountId, ImageUuid
from muster.model.image import Image
from muster.store.port import Page, Window
from muster.store.sql.paging import page
from muster.store.sql.rows import image_from_row
from muster.store.sql.session import Session
from muster.store.sql.tables import images

_BY_UUID = sa.select(images).where(images.c.uuid == sa.bindparam("key"))
_USABLE = _BY_UUID.where(sa.or_(images.c.account_id.is_(None), images.c.account_id == sa.bindparam("account")))
_INSERT = sa.insert(images)
_UPDATE = sa.update(images).where(images.c.uuid == sa.bindparam("key"))


class SqlImages:
    """The ``Images`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put_base(self, uuid: ImageUuid, name: str, reference: str, now: datetime.datetime) -> Image:
        """Write an image of the platform, new or changed; the same again writes nothing."""
        row = self._session.row(_BY_UUID, {"key": uuid})
        if row is None:
            values = {"uuid": uuid, "name": name, "reference": reference, "created_at": now, "updated_at": now}
            self._session.change(_INSERT, values)
        elif row.account_id is not None:
            raise Conflict(f"image {uuid!r} is an account's own")
        elif (row.name, row.reference) != (name, reference):
            self._session.change(_UPDATE, {"key": uuid, "name": name, "reference": reference, "updated_at": now})
        else:
            return image_from_row(row)
        written = self._session.row(_BY_UUID, {"key": uuid})
        assert written is not None  # this transaction has just written it
        return image_from_row(written)

    def get(self, account_id: AccountId, uuid: ImageUuid) -> Image | None:
        """Return it if the account may use it."""
        row = self._session.row(_USABLE, {"key": uuid, "account": account_id})
        return None if row is None else image_from_row(row)

    def find(self, account_id: AccountId | None, window: Window) -> Page[Image]:
        """Return an account's private images, or with ``None`` those of the platform; newest first."""
        owned = images.c.account_id.is_(None) if account_id is None else images.c.account_id == account_id
        return page(
            self._session, table=images, where=[owned], order=images.c.number, window=window, read=image_from_row
        )
