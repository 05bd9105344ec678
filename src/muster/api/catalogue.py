"""The writes of the API about images: what a name stands for, what is to be saved, and what machines are to hold.

Like ``wanted``: each function runs inside one store transaction and writes only what is wanted. Fetching and saving is
the work of the controllers. A name that is bound anew changes nothing that runs, and fetches nothing either: whoever
binds is told where the old one is held and decides.
"""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace

from muster.errors import Conflict, Forbidden, InvalidSpec, NotFound
from muster.model import reference as references
from muster.model.account import Account
from muster.model.container import Container, ContainerStatus
from muster.model.ids import ImageUuid, MachineId, is_image_uuid
from muster.model.image import LOCAL_IMAGE, Image, ImageStatus, Prewarm
from muster.store.port import Transaction
from muster.store.remains import why_gone

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Binding:
    """A name of the catalogue with its new meaning, and the one that it had before, if it had one."""

    image: Image
    before: Image | None
    outdated_on: frozenset[MachineId]


def usable(tx: Transaction, owner: Account, uuid: ImageUuid) -> Image:
    """Return an image that containers can be made from. Raises ``NotFound``, or ``Conflict`` where that is not so."""
    image = tx.images.get(owner.id, uuid)
    if image is None:
        raise NotFound("image", uuid)
    if image.status is ImageStatus.SAVING:
        raise Conflict(f"镜像 {image.name} 正在保存，尚不可用 (it is being saved)")
    if image.status is ImageStatus.FAILED:
        raise Conflict(f"镜像 {image.name} 保存失败，不可用 (saving it failed: {image.message})")
    return image


def bind(
    tx: Transaction,
    caller: Account,
    name: str,
    reference: str,
    *,
    new_uuid: ImageUuid,
    is_base: bool,
    now: datetime.datetime,
) -> Binding:
    """Let a name stand for a reference, new or anew."""
    if is_base and not caller.is_admin:
        raise Forbidden("only admins may add base images")
    _check_name(name)
    wanted = references.canonical(reference)
    if references.is_saved(wanted):
        raise InvalidSpec("reference", f"{wanted!r} is an image that was saved here; name it as the catalogue does")
    before = tx.images.by_name(None if is_base else caller.id, name)
    if before is None:
        if is_base:
            return Binding(tx.images.put_base(new_uuid, name, wanted, now), None, frozenset())
        return Binding(tx.images.put_private(caller.id, new_uuid, name, wanted, now), None, frozenset())
    if before.status is ImageStatus.SAVING:
        raise Conflict(f"image {name!r} is being saved")
    outdated_on = tx.held_images.holders_of_digest(before.digest) or tx.held_images.holders(before.reference)
    if before.reference == wanted:  # the same words may stand for something newer at the registry
        return Binding(before, before, outdated_on)
    tx.prewarms.forget(before.uuid)
    changed = replace(
        before,
        reference=wanted,
        digest="",
        status=ImageStatus.FINISHED,
        message="",
        source_container=None,
        updated_at=now,
    )
    return Binding(tx.images.update(changed), before, outdated_on - tx.held_images.holders(wanted))


def remove(tx: Transaction, caller: Account, uuid: ImageUuid) -> Image:
    """Take an image off the catalogue, unless a running deployment would need it for its next container."""
    image = tx.images.get(caller.id, uuid)
    if image is None:
        raise NotFound("image", uuid)
    if image.account_id is None and not caller.is_admin:
        raise Forbidden("only admins may remove base images")
    if image.uuid == LOCAL_IMAGE:
        raise Conflict("this image is the host itself")
    users = tx.deployments.using(uuid)
    if users:
        shown = ", ".join(f"{each.spec.name} ({each.id})" for each in users[:_SHOWN])
        more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
        raise Conflict(f"image {image.name!r} is used by running deployments: {shown}{more}")
    tx.images.remove(uuid)
    return image


def save(
    tx: Transaction, caller: Account, container: Container, name: str, *, new_uuid: ImageUuid, now: datetime.datetime
) -> Image:
    """Want an image of a container's files; one of that name whose saving failed makes room."""
    _check_name(name)
    if container.released_at is not None and container.uuid is not None:
        raise Conflict(why_gone(tx, container.uuid))
    if container.status in (None, ContainerStatus.CREATING):
        raise Conflict(f"container {container.uuid} is not made yet: it has no files")
    other = tx.images.by_name(caller.id, name)
    if other is not None and other.status is ImageStatus.FAILED:
        tx.images.remove(other.uuid)
    return tx.images.put_private(
        caller.id,
        new_uuid,
        name,
        references.saved_reference(caller.id, new_uuid),
        now,
        source_container=container.uuid,
    )


def want_prewarm(
    tx: Transaction,
    caller: Account,
    uuid: ImageUuid,
    *,
    machine_ids: Sequence[str],
    data_centers: Sequence[str],
    now: datetime.datetime,
) -> Sequence[Prewarm]:
    """Want machines to hold an image; none named means all on offer."""
    image = usable(tx, caller, uuid)
    if references.is_saved(image.reference):
        where = ", ".join(sorted(tx.held_images.holders(image.reference))) or "none"
        raise Conflict(f"image {image.name!r} was saved from a container; it is on that one's machine only ({where})")
    machines = tx.machines.offered()
    _check_known("machine_ids", machine_ids, {machine.id for machine in machines})
    _check_known("data_centers", data_centers, {machine.data_center for machine in machines})
    is_for_all = not (machine_ids or data_centers)
    return [
        tx.prewarms.want(caller.id, uuid, machine.id, now)
        for machine in machines
        if is_for_all or machine.id in machine_ids or machine.data_center in data_centers
    ]


def _check_name(name: str) -> None:
    if is_image_uuid(name):
        raise InvalidSpec("name", f"{name!r} would be taken for a uuid")


def _check_known(field: str, named: Sequence[str], known: set[MachineId] | set[str]) -> None:
    strange = sorted(set(named) - known)
    if strange:
        raise InvalidSpec(field, f"nothing on offer is called {', '.join(map(repr, strange))}")
