"""Images that belong to everybody."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses

from muster.model.ids import ImageUuid
from muster.store.port import Window
from muster.testing.conformance.store.world import START, OpenStore, World, at, in_a_world


class ImageConformance:
    """``Images``."""

    def test_a_base_image_is_everybodys_and_keeps_its_number_when_it_changes(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            uuid = ImageUuid("base-image-1")
            first = await world.store.write(lambda tx: tx.images.put_base(uuid, "local", "local", START))
            await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-2"), "b", "b:1", at(1)))
            again = await world.store.write(lambda tx: tx.images.put_base(uuid, "local", "local:2", at(2)))
            assert again == dataclasses.replace(first, reference="local:2", updated_at=at(2))
            assert again.account_id is None
            assert await world.store.read(lambda tx: tx.images.get(world.account.id, uuid)) == again
            assert await world.store.read(lambda tx: tx.images.get(world.account.id, ImageUuid("image-9"))) is None
            page = await world.store.read(lambda tx: tx.images.find(None, Window(0, 1)))
            assert ([image.uuid for image in page.items], page.total) == (["base-image-2"], 2)
            assert (await world.store.read(lambda tx: tx.images.find(world.account.id, Window()))).total == 0

        in_a_world(open_store, scenario)
