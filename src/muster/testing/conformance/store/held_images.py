"""What machines hold and are to hold, and what registries ask for it."""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses

from muster.model.account import Role
from muster.model.ids import ImageUuid, MachineId
from muster.model.image import HeldImage, Prewarm, PrewarmState
from muster.store.port import Changes, Transaction
from muster.testing.conformance.store.world import START, OpenStore, World, at, in_a_world

M1, M2 = MachineId("m1"), MachineId("m2")
IMAGE = ImageUuid("image-1")


class HeldImageConformance:
    """``HeldImages``, ``Prewarms`` and ``Credentials``."""

    def test_what_a_machine_holds_replaces_what_it_held(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            one, two = HeldImage("lab/asr:1", "sha256:1", 10), HeldImage("lab/asr:2", "sha256:2", 20)

            def work(tx: Transaction) -> None:
                tx.held_images.hold(M1, [one, two])
                tx.held_images.hold(M2, [one])
                tx.held_images.hold(M1, [two])

            await world.store.write(work)

            def look(tx: Transaction) -> None:
                assert tx.held_images.holders("lab/asr:1") == {M2}
                assert tx.held_images.holders("lab/asr:2") == {M1}
                assert tx.held_images.holders("lab/asr:3") == frozenset()

            await world.store.read(look)

        in_a_world(open_store, scenario)

    def test_a_digest_is_held_by_whatever_reference_and_an_empty_one_by_nobody(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            def work(tx: Transaction) -> None:
                tx.held_images.hold(M1, [HeldImage("lab/asr:1", "sha256:1"), HeldImage("lab/asr:new", "sha256:1")])
                tx.held_images.hold(M2, [HeldImage("mirror/asr:1", "sha256:1"), HeldImage("built:here")])

            await world.store.write(work)
            assert await world.store.read(lambda tx: tx.held_images.holders_of_digest("sha256:1")) == {M1, M2}
            assert await world.store.read(lambda tx: tx.held_images.holders_of_digest("")) == frozenset()

        in_a_world(open_store, scenario)

    def test_one_more_image_is_added_beside_the_others_or_in_place_of_itself(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            def work(tx: Transaction) -> None:
                tx.held_images.hold(M1, [HeldImage("lab/asr:1", "sha256:1")])
                tx.held_images.add(M1, HeldImage("lab/asr:2", "sha256:2"))
                tx.held_images.add(M1, HeldImage("lab/asr:1", "sha256:3"))

            await world.store.write(work)

            def look(tx: Transaction) -> None:
                assert tx.held_images.holders("lab/asr:1") == tx.held_images.holders("lab/asr:2") == {M1}
                assert tx.held_images.holders_of_digest("sha256:1") == frozenset()
                assert tx.held_images.holders_of_digest("sha256:3") == {M1}

            await world.store.read(look)

        in_a_world(open_store, scenario)

    def test_to_hold_the_same_again_calls_nobody(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            image = HeldImage("lab/asr:1", "sha256:1", 10)
            await world.store.write(lambda tx: tx.held_images.hold(M1, [image]))
            heard: list[Changes] = []
            world.store.on_commit(heard.append)
            await world.store.write(lambda tx: tx.held_images.hold(M1, [image]))
            await world.store.write(lambda tx: tx.held_images.add(M1, image))
            assert heard == []

        in_a_world(open_store, scenario)

    def test_a_prewarm_is_wanted_until_it_is_done_and_can_be_wanted_anew(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            account = world.account.id
            first = await world.store.write(lambda tx: tx.prewarms.want(account, IMAGE, M2, START))
            second = await world.store.write(lambda tx: tx.prewarms.want(account, IMAGE, M1, START))
            assert first == Prewarm(IMAGE, M2, account, PrewarmState.WANTED, START)
            assert await world.store.read(lambda tx: tx.prewarms.wanted()) == [second, first]
            done = dataclasses.replace(first, state=PrewarmState.DONE, message="there", updated_at=at(1))
            await world.store.write(lambda tx: tx.prewarms.update(done))
            assert await world.store.read(lambda tx: tx.prewarms.wanted()) == [second]
            assert await world.store.read(lambda tx: tx.prewarms.of(IMAGE)) == [second, done]
            assert await world.store.read(lambda tx: tx.prewarms.of(ImageUuid("image-2"))) == []
            again = await world.store.write(lambda tx: tx.prewarms.want(account, IMAGE, M2, at(2)))
            assert await world.store.read(lambda tx: tx.prewarms.wanted()) == [second, again]

        in_a_world(open_store, scenario)

    def test_a_forgotten_prewarm_stays_gone(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            wish = await world.store.write(lambda tx: tx.prewarms.want(world.account.id, IMAGE, M1, START))
            kept = ImageUuid("image-2")
            await world.store.write(lambda tx: tx.prewarms.want(world.account.id, kept, M1, START))
            await world.store.write(lambda tx: tx.prewarms.forget(IMAGE))
            await world.store.write(lambda tx: tx.prewarms.update(dataclasses.replace(wish, message="late")))
            assert [each.image_uuid for each in await world.store.read(lambda tx: tx.prewarms.wanted())] == [kept]

        in_a_world(open_store, scenario)

    def test_listeners_hear_of_a_wish_and_not_of_its_progress(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            heard: list[Changes] = []
            world.store.on_commit(heard.append)
            wish = await world.store.write(lambda tx: tx.prewarms.want(world.account.id, IMAGE, M1, START))
            await world.store.write(lambda tx: tx.prewarms.update(dataclasses.replace(wish, message="half")))
            assert [each.images for each in heard] == [frozenset({IMAGE}), frozenset()]

        in_a_world(open_store, scenario)

    def test_credentials_are_kept_as_they_came_for_each_account_and_registry(self, open_store: OpenStore) -> None:
        async def scenario(world: World) -> None:
            ann = world.account.id
            ben = (await world.store.write(lambda tx: tx.accounts.add("ben", Role.MEMBER, START))).id

            def work(tx: Transaction) -> None:
                tx.credentials.put(ann, "lab:5000", "sealed-1", START)
                tx.credentials.put(ann, "docker.io", "sealed-2", START)
                tx.credentials.put(ben, "lab:5000", "sealed-3", START)
                tx.credentials.put(ann, "lab:5000", "sealed-4", at(1))

            await world.store.write(work)

            def look(tx: Transaction) -> None:
                assert tx.credentials.get(ann, "lab:5000") == "sealed-4"
                assert tx.credentials.get(ben, "lab:5000") == "sealed-3"
                assert tx.credentials.get(ben, "docker.io") is None
                assert tx.credentials.registries(ann) == ["docker.io", "lab:5000"]

            await world.store.read(look)
            assert await world.store.write(lambda tx: tx.credentials.remove(ann, "lab:5000"))
            assert not await world.store.write(lambda tx: tx.credentials.remove(ann, "lab:5000"))
            assert await world.store.read(lambda tx: tx.credentials.registries(ann)) == ["docker.io"]
            assert await world.store.read(lambda tx: tx.credentials.registries(ben)) == ["lab:5000"]

        in_a_world(open_store, scenario)
