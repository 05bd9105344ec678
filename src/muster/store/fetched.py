"""Write what a fetch brought to light, in the caller's transaction: who holds the image, and what its name meant."""

from dataclasses import replace

from muster.model.container import Container
from muster.model.ids import AccountId, ImageUuid, MachineId
from muster.model.image import HeldImage
from muster.store.port import Transaction


def note_fetched(
    tx: Transaction, account_id: AccountId, image_uuid: ImageUuid, machine_id: MachineId, held: HeldImage
) -> None:
    """Note that a machine holds an image, and its digest in the catalogue unless the name was bound anew meanwhile."""
    tx.held_images.add(machine_id, held)
    image = tx.images.get(account_id, image_uuid)
    if image is not None and held.digest and image.reference == held.reference and image.digest != held.digest:
        tx.images.update(replace(image, digest=held.digest))


def note_digest(tx: Transaction, container: Container) -> None:
    """Note what a container's image turned out to be, once its engine made the container from it.

    A container that took over another's files was made from no image, and what it came from may be long outdated.
    """
    if container.placement is None or container.image is None or not container.image_reference:
        return
    if container.reused_from is not None:
        return
    held = HeldImage(container.image_reference, container.image_digest)
    note_fetched(tx, container.account_id, container.image, container.placement.machine_id, held)
