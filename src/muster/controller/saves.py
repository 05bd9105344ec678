"""Images that are to be saved from containers → images, or why not.

A key is an image. That it is to be saved was committed before this loop hears of it (status ``saving``) and stays until
the outcome is committed; saving again under the same reference changes nothing, so a crash anywhere is repaired by
doing it again. What removes the image from the catalogue meanwhile wins.
"""

import datetime
import logging
from collections.abc import Iterable
from dataclasses import replace

from muster.clock import Clock
from muster.engine.port import Engine
from muster.errors import EngineRejected
from muster.model.ids import ImageUuid
from muster.model.image import HeldImage, Image, ImageStatus
from muster.model.run import Ref
from muster.store.port import Store, Transaction
from muster.store.remains import why_gone

_log = logging.getLogger(__name__)


class SaveReconciler:
    """Saves images; see the module's text."""

    name = "save"

    def __init__(self, store: Store, engine: Engine, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock

    async def keys(self) -> Iterable[ImageUuid]:
        """Return the images that are to be saved."""
        return [image.uuid for image in await self._store.read(lambda tx: tx.images.saving())]

    async def reconcile(self, key: ImageUuid) -> datetime.datetime | None:
        """Save one image."""
        image, source, obstacle = await self._store.read(lambda tx: _load(tx, key))
        if image is None:
            return None
        if source is None:
            await self._fail(key, obstacle)
            return None
        try:
            held = await self._engine.save(source, image.reference)
        except EngineRejected as error:
            await self._fail(key, str(error))
            return None
        now = self._clock.now()
        saved = HeldImage(image.reference, held.digest, held.size_bytes)

        def work(tx: Transaction) -> None:
            tx.held_images.add(source.machine_id, saved)
            _finish(tx, key, now, status=ImageStatus.FINISHED, digest=saved.digest)

        await self._store.write(work)
        return None

    async def _fail(self, key: ImageUuid, message: str) -> None:
        now = self._clock.now()
        await self._store.write(lambda tx: _finish(tx, key, now, status=ImageStatus.FAILED, message=message))


def _load(tx: Transaction, key: ImageUuid) -> tuple[Image | None, Ref | None, str]:
    """Return the image if it is still to be saved, and the engine object with the files, or why there is none."""
    image = _saving(tx, key)
    if image is None or image.source_container is None:
        return image, None, "it is of no container"
    container = tx.containers.by_uuid(image.source_container)
    if container is None or container.placement is None or container.released_at is not None:
        return image, None, why_gone(tx, image.source_container)
    return image, Ref(container.placement.machine_id, container.id, container.generation), ""


def _saving(tx: Transaction, key: ImageUuid) -> Image | None:
    return next((image for image in tx.images.saving() if image.uuid == key), None)


def _finish(
    tx: Transaction, key: ImageUuid, now: datetime.datetime, *, status: ImageStatus, digest: str = "", message: str = ""
) -> None:
    image = _saving(tx, key)
    if image is None:
        _log.warning("image %s was removed while it was being saved", key)
        return
    tx.images.update(replace(image, status=status, digest=digest, message=message, updated_at=now))
