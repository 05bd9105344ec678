"""What machines hold, in SQL. The same again writes nothing, so that looking often wakes nobody."""

from collections.abc import Iterable

import sqlalchemy as sa

from muster.model.ids import MachineId
from muster.model.image import HeldImage
from muster.store.sql.rows import AnyRow, Values
from muster.store.sql.session import Session
from muster.store.sql.tables import held_images

_ON_MACHINE = sa.select(held_images).where(held_images.c.machine_id == sa.bindparam("machine"))
_ONE = _ON_MACHINE.where(held_images.c.reference == sa.bindparam("name"))
_INSERT = sa.insert(held_images)
_DELETE = sa.delete(held_images).where(
    held_images.c.machine_id == sa.bindparam("machine"), held_images.c.reference == sa.bindparam("name")
)
_HOLDERS = sa.select(held_images.c.machine_id).where(held_images.c.reference == sa.bindparam("name"))
_HOLDERS_OF_DIGEST = sa.select(held_images.c.machine_id).where(held_images.c.digest == sa.bindparam("digest"))


class SqlHeldImages:
    """The ``HeldImages`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def hold(self, machine_id: MachineId, images: Iterable[HeldImage]) -> None:
        """Write what a machine holds in place of what it held."""
        before = {_from_row(row) for row in self._session.rows(_ON_MACHINE, {"machine": machine_id})}
        after = {image.reference: image for image in images}
        gone, new = before - set(after.values()), set(after.values()) - before
        if gone:
            self._session.change(_DELETE, [{"machine": machine_id, "name": each.reference} for each in gone])
        if new:
            self._session.change(_INSERT, [_to_row(machine_id, each) for each in new])

    def add(self, machine_id: MachineId, image: HeldImage) -> None:
        """Write one image that a machine holds, beside the others."""
        row = self._session.row(_ONE, {"machine": machine_id, "name": image.reference})
        if row is not None and row.digest == image.digest:
            return
        if row is not None:
            self._session.change(_DELETE, {"machine": machine_id, "name": image.reference})
        self._session.change(_INSERT, _to_row(machine_id, image))

    def holders(self, reference: str) -> frozenset[MachineId]:
        """Return the machines that hold a reference."""
        return frozenset(row.machine_id for row in self._session.rows(_HOLDERS, {"name": reference}))

    def holders_of_digest(self, digest: str) -> frozenset[MachineId]:
        """Return the machines that hold a digest; nobody holds an empty one."""
        if not digest:
            return frozenset()
        return frozenset(row.machine_id for row in self._session.rows(_HOLDERS_OF_DIGEST, {"digest": digest}))


def _from_row(row: AnyRow) -> HeldImage:
    return HeldImage(reference=row.reference, digest=row.digest, size_bytes=row.size_bytes)


def _to_row(machine_id: MachineId, image: HeldImage) -> Values:
    return {
        "machine_id": machine_id,
        "reference": image.reference,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
    }
