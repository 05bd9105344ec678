"""The image catalogue in SQL. A row without an account is the platform's, and everybody's to use.

Names are unique for each owner by a look before each write, since writes are serialised; a unique index would not see
two rows without an account as the same.
"""

import datetime
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from muster.errors import Conflict, NotFound
from muster.model.ids import AccountId, ContainerUuid, ImageUuid
from muster.model.image import Image, ImageStatus
from muster.store.port import Page, Window
from muster.store.sql.paging import page
from muster.store.sql.rows import image_from_row, image_to_row
from muster.store.sql.session import Session
from muster.store.sql.tables import images, prewarms

_BY_UUID = sa.select(images).where(images.c.uuid == sa.bindparam("key"))
_USABLE = _BY_UUID.where(sa.or_(images.c.account_id.is_(None), images.c.account_id == sa.bindparam("account")))
_NAMED = sa.select(images).where(images.c.name == sa.bindparam("wanted_name"))
_OWN_BY_NAME = _NAMED.where(images.c.account_id == sa.bindparam("account"))
_BASE_BY_NAME = _NAMED.where(images.c.account_id.is_(None))
_SAVING = sa.select(images).where(images.c.status == ImageStatus.SAVING.value).order_by(images.c.number)
_INSERT = sa.insert(images)
_UPDATE = sa.update(images).where(images.c.uuid == sa.bindparam("key"))
_DELETE = sa.delete(images).where(images.c.uuid == sa.bindparam("key"))
_DELETE_PREWARMS = sa.delete(prewarms).where(prewarms.c.image_uuid == sa.bindparam("key"))


class SqlImages:
    """The ``Images`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put_base(self, uuid: ImageUuid, name: str, reference: str, now: datetime.datetime) -> Image:
        """Write an image of the platform, new or changed; the same again writes nothing."""
        row = self._session.row(_BY_UUID, {"key": uuid})
        if row is not None and row.account_id is not None:
            raise Conflict(f"image {uuid!r} is an account's own")
        if row is None:
            return self._add(Image(uuid, 0, None, name, reference, created_at=now, updated_at=now))
        before = image_from_row(row)
        if (before.name, before.reference) == (name, reference):
            return before
        return self.update(replace(before, name=name, reference=reference, digest="", updated_at=now))

    def put_private(
        self,
        account_id: AccountId,
        uuid: ImageUuid,
        name: str,
        reference: str,
        now: datetime.datetime,
        *,
        source_container: ContainerUuid | None = None,
    ) -> Image:
        """Write a new private image, ``saving`` when it has a source."""
        status = ImageStatus.FINISHED if source_container is None else ImageStatus.SAVING
        return self._add(
            Image(
                uuid,
                0,
                account_id,
                name,
                reference,
                created_at=now,
                updated_at=now,
                status=status,
                source_container=source_container,
            )
        )

    def get(self, account_id: AccountId, uuid: ImageUuid) -> Image | None:
        """Return it if the account may use it."""
        row = self._session.row(_USABLE, {"key": uuid, "account": account_id})
        return None if row is None else image_from_row(row)

    def by_name(self, account_id: AccountId | None, name: str) -> Image | None:
        """Return the account's private image of that name, or with ``None`` the platform's."""
        if account_id is None:
            row = self._session.row(_BASE_BY_NAME, {"wanted_name": name})
        else:
            row = self._session.row(_OWN_BY_NAME, {"wanted_name": name, "account": account_id})
        return None if row is None else image_from_row(row)

    def update(self, image: Image) -> Image:
        """Write all but identity and owner."""
        self._refuse_taken_name(image)
        if self._session.change(_UPDATE, {"key": image.uuid, **image_to_row(image)}).rowcount != 1:
            raise NotFound("image", image.uuid)
        self._session.touched(image=image.uuid)
        return image

    def remove(self, uuid: ImageUuid) -> None:
        """Forget an image and its prewarms."""
        self._session.change(_DELETE_PREWARMS, {"key": uuid})
        self._session.change(_DELETE, {"key": uuid})

    def find(self, account_id: AccountId | None, window: Window) -> Page[Image]:
        """Return an account's private images, or with ``None`` those of the platform; newest first."""
        owned = images.c.account_id.is_(None) if account_id is None else images.c.account_id == account_id
        return page(
            self._session, table=images, where=[owned], order=images.c.number, window=window, read=image_from_row
        )

    def saving(self) -> Sequence[Image]:
        """Return all that are being saved, oldest first."""
        return [image_from_row(row) for row in self._session.rows(_SAVING)]

    def _add(self, image: Image) -> Image:
        self._refuse_taken_name(image)
        identity = {"uuid": image.uuid, "account_id": image.account_id, "created_at": image.created_at}
        number = self._session.insert(
            _INSERT,
            {**identity, **image_to_row(image)},
            violation=lambda: Conflict(f"there is already an image {image.uuid!r}"),
        )
        self._session.touched(image=image.uuid)
        return replace(image, number=number)

    def _refuse_taken_name(self, image: Image) -> None:
        other = self.by_name(image.account_id, image.name)
        if other is not None and other.uuid != image.uuid:
            raise Conflict(f"there is already an image called {image.name!r}: {other.uuid}")
