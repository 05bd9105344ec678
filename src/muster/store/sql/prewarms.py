"""Prewarms in SQL: at most one for an image and a machine, whoever asked last."""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.model.ids import AccountId, ImageUuid, MachineId
from muster.model.image import Prewarm, PrewarmState
from muster.store.sql.rows import AnyRow
from muster.store.sql.session import Session
from muster.store.sql.tables import prewarms

_OF_IMAGE = sa.select(prewarms).where(prewarms.c.image_uuid == sa.bindparam("image")).order_by(prewarms.c.machine_id)
_WANTED = (
    sa.select(prewarms)
    .where(prewarms.c.state == PrewarmState.WANTED.value)
    .order_by(prewarms.c.image_uuid, prewarms.c.machine_id)
)
_IS_ONE = sa.and_(prewarms.c.image_uuid == sa.bindparam("image"), prewarms.c.machine_id == sa.bindparam("machine"))
_ONE = sa.select(prewarms).where(_IS_ONE)
_INSERT = sa.insert(prewarms)
_UPDATE = sa.update(prewarms).where(_IS_ONE)
_FORGET = sa.delete(prewarms).where(prewarms.c.image_uuid == sa.bindparam("image"))


class SqlPrewarms:
    """The ``Prewarms`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def want(self, account_id: AccountId, image: ImageUuid, machine_id: MachineId, now: datetime.datetime) -> Prewarm:
        """Write the wish anew, also when it was fulfilled before."""
        key = {"image": image, "machine": machine_id}
        values = {"account_id": account_id, "state": PrewarmState.WANTED.value, "message": "", "updated_at": now}
        if self._session.row(_ONE, key) is None:
            self._session.change(_INSERT, {"image_uuid": image, "machine_id": machine_id, **values})
        else:
            self._session.change(_UPDATE, {**key, **values})
        self._session.touched(image=image)
        return Prewarm(image, machine_id, account_id, PrewarmState.WANTED, now)

    def update(self, prewarm: Prewarm) -> None:
        """Write state and message; one that is gone stays gone. Nobody is woken: its only writer is who answers it."""
        self._session.change(
            _UPDATE,
            {
                "image": prewarm.image_uuid,
                "machine": prewarm.machine_id,
                "state": prewarm.state.value,
                "message": prewarm.message,
                "updated_at": prewarm.updated_at,
            },
        )

    def of(self, image: ImageUuid) -> Sequence[Prewarm]:
        """Return the prewarms of an image, by machine."""
        return [_from_row(row) for row in self._session.rows(_OF_IMAGE, {"image": image})]

    def wanted(self) -> Sequence[Prewarm]:
        """Return all that are still wanted, by image and machine."""
        return [_from_row(row) for row in self._session.rows(_WANTED)]

    def forget(self, image: ImageUuid) -> None:
        """Forget the prewarms of an image."""
        self._session.change(_FORGET, {"image": image})


def _from_row(row: AnyRow) -> Prewarm:
    return Prewarm(
        image_uuid=row.image_uuid,
        machine_id=row.machine_id,
        account_id=row.account_id,
        state=PrewarmState(row.state),
        updated_at=row.updated_at,
        message=row.message,
    )
