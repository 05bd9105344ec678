"""The catalogue: images of everybody and of one account, their names, and what becomes of them."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses

import pytest

from muster.errors import Conflict, NotFound
from muster.model.account import Role
from muster.model.deployment import DeploymentStatus
from muster.model.ids import ContainerUuid, ImageUuid, MachineId
from muster.model.image import Image, ImageStatus
from muster.store.port import Changes, Transaction, Window
from muster.testing.conformance.store.world import START, OpenStore, World, at, ids, in_a_world

OWN = ImageUuid("image-1")


async def put(world: World, uuid: ImageUuid = OWN, name: str = "asr", reference: str = "lab/asr:1") -> Image:
    """Write a private image of the world's account."""
    return await world.store.write(lambda tx: tx.images.put_private(world.account.id, uuid, name, reference, START))


class ImageConformance:
    """``Images``, and ``Deployments.using``."""

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

    def test_a_private_image_is_its_accounts_alone(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            image = await put(world)
            other = await world.store.write(lambda tx: tx.accounts.add("ben", Role.MEMBER, START))
            assert (image.account_id, image.status, image.digest) == (world.account.id, ImageStatus.FINISHED, "")

            def look(tx: Transaction) -> None:
                assert tx.images.get(world.account.id, OWN) == image
                assert tx.images.get(other.id, OWN) is None
                assert tx.images.by_name(world.account.id, "asr") == image
                assert tx.images.by_name(other.id, "asr") is None
                assert tx.images.by_name(None, "asr") is None
                assert tx.images.find(world.account.id, Window()).items == [image]
                assert tx.images.find(other.id, Window()).total == tx.images.find(None, Window()).total == 0

            await world.store.read(look)

        in_a_world(open_store, scenario)

    def test_a_name_is_an_owners_once(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            image = await put(world)
            with pytest.raises(Conflict, match=r"already an image called 'asr': image-1"):
                await put(world, ImageUuid("image-2"))
            second = await put(world, ImageUuid("image-2"), "ocr")
            with pytest.raises(Conflict, match="'asr'"):
                await world.store.write(lambda tx: tx.images.update(dataclasses.replace(second, name="asr")))
            base = ImageUuid("base-image-1")
            await world.store.write(lambda tx: tx.images.put_base(base, "asr", "asr:0", START))
            with pytest.raises(Conflict, match="'asr'"):
                await world.store.write(lambda tx: tx.images.put_base(ImageUuid("base-image-2"), "asr", "x", START))
            other = await world.store.write(lambda tx: tx.accounts.add("ben", Role.MEMBER, START))
            await world.store.write(lambda tx: tx.images.put_private(other.id, ImageUuid("image-3"), "asr", "x", START))
            assert await world.store.read(lambda tx: tx.images.by_name(world.account.id, "asr")) == image
            found = await world.store.read(lambda tx: tx.images.by_name(None, "asr"))
            assert found is not None
            assert found.uuid == base

        in_a_world(open_store, scenario)

    def test_an_update_writes_all_but_identity_and_owner(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            image = await put(world)
            changed = dataclasses.replace(
                image,
                name="asr2",
                reference="lab/asr:2",
                updated_at=at(5),
                digest="sha256:1",
                status=ImageStatus.FAILED,
                message="no space",
                source_container=ContainerUuid("c"),
            )
            assert await world.store.write(lambda tx: tx.images.update(changed)) == changed
            assert await world.store.read(lambda tx: tx.images.get(world.account.id, OWN)) == changed
            await world.store.write(lambda tx: tx.images.remove(OWN))
            with pytest.raises(NotFound, match="image-1"):
                await world.store.write(lambda tx: tx.images.update(changed))

        in_a_world(open_store, scenario)

    def test_an_image_with_a_source_is_being_saved_until_it_is_not(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            source = ContainerUuid("d-m-c")

            def save(tx: Transaction, uuid: str, name: str) -> Image:
                return tx.images.put_private(
                    world.account.id, ImageUuid(uuid), name, name, START, source_container=source
                )

            await put(world, ImageUuid("image-0"), "plain")
            first = await world.store.write(lambda tx: save(tx, "image-2", "a"))
            second = await world.store.write(lambda tx: save(tx, "image-1", "b"))
            assert (first.status, first.source_container) == (ImageStatus.SAVING, source)
            assert await world.store.read(lambda tx: tx.images.saving()) == [first, second]
            done = dataclasses.replace(first, status=ImageStatus.FINISHED)
            await world.store.write(lambda tx: tx.images.update(done))
            assert await world.store.read(lambda tx: tx.images.saving()) == [second]

        in_a_world(open_store, scenario)

    def test_a_removed_image_takes_its_prewarms_along(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            kept = ImageUuid("image-2")
            await put(world)
            await put(world, kept, "ocr")

            def want(tx: Transaction) -> None:
                for uuid in (OWN, kept):
                    tx.prewarms.want(world.account.id, uuid, MachineId("m1"), START)

            await world.store.write(want)
            await world.store.write(lambda tx: tx.images.remove(OWN))
            assert await world.store.read(lambda tx: tx.images.get(world.account.id, OWN)) is None
            assert [each.image_uuid for each in await world.store.read(lambda tx: tx.prewarms.wanted())] == [kept]
            await put(world)

        in_a_world(open_store, scenario)

    def test_listeners_hear_of_a_changed_image(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            heard: list[Changes] = []
            world.store.on_commit(heard.append)
            image = await put(world)
            await world.store.write(lambda tx: tx.images.update(dataclasses.replace(image, digest="sha256:1")))
            assert heard == [Changes(images=frozenset({OWN}))] * 2

        in_a_world(open_store, scenario)

    def test_what_uses_an_image_are_the_running_deployments_that_name_it(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            first = await world.deployment("d2", image=OWN)
            second = await world.deployment("d1", image=OWN)
            stopped = await world.deployment("d3", image=OWN)
            deleted = await world.deployment("d4", image=OWN)
            await world.deployment("d5", image=ImageUuid("image-2"))

            def end(tx: Transaction) -> None:
                tx.deployments.update(dataclasses.replace(stopped, status=DeploymentStatus.STOPPED))
                tx.deployments.update(dataclasses.replace(deleted, deleted_at=at(1)))

            await world.store.write(end)
            assert ids(await world.store.read(lambda tx: tx.deployments.using(OWN))) == [first.id, second.id]
            assert await world.store.read(lambda tx: tx.deployments.using(ImageUuid("image-9"))) == []

        in_a_world(open_store, scenario)
