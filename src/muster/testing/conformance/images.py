"""What every engine must do that has images: the port's sentences on them, as tests.

Inherit beside ``EngineConformance``, whose fixtures this uses. The image ``local`` is there; ``IMPOSSIBLE`` must be one
that the engine cannot have. What needs a shell is left out with ``runs_shell``.
"""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses
import secrets
from typing import Any

import pytest

from muster.engine.port import ContainerRun, Engine, Phase
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.ids import AccountId, ImageUuid
from muster.model.image import ImageOrder
from muster.model.reference import canonical, saved_reference
from muster.testing.conformance.engine import (
    AT_ONCE,
    FOREVER,
    HERE,
    launch,
    make_run,
    of_generation,
    output_of,
    until,
)

LOCAL = ImageOrder("local:latest")
IMPOSSIBLE = "Not/Possible:1"
OWNER, OTHER = AccountId(1), AccountId(2)


def a_name() -> str:
    """Return a reference for an image that is saved of one of the owner's containers."""
    return saved_reference(OWNER, ImageUuid(f"image-{secrets.token_hex(5)}"))


def made_of(reference: str, cmd: str = FOREVER, account_id: AccountId = OWNER) -> ContainerRun:
    """Return an order for a container of a saved image."""
    order = ImageOrder(reference, account_id=account_id)
    return dataclasses.replace(make_run(cmd), image=order, account_id=account_id)


async def listed(engine: Engine) -> set[str]:
    """Return what a machine holds."""
    return {canonical(held.reference) for held in await engine.images(HERE)}


async def assert_not_to_be_had(engine: Engine, run: ContainerRun) -> None:
    """See that the image of an order is refused, whoever asks for it, and that nothing is half made."""
    with pytest.raises(EngineRejected) as of_prepare:
        await engine.prepare(HERE, run.image)
    with pytest.raises(EngineRejected) as of_create:
        await engine.create(run)
    assert of_prepare.value.reason == of_create.value.reason == Reason.IMAGE_PULL_FAILED
    assert (await engine.observe(run.ref)).phase is Phase.ABSENT


class ImageConformance:
    """Inherit beside ``EngineConformance``."""

    runs_shell: bool

    def test_an_image_that_is_there_is_held_and_listed(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            progress = await engine.prepare(HERE, LOCAL)
            assert progress.held is not None
            assert canonical(progress.held.reference) == LOCAL.reference
            assert progress.held.size_bytes > 0
            assert await engine.prepare(HERE, LOCAL) == progress
            assert progress.held in await engine.images(HERE)

        play(scenario)

    def test_an_image_that_cannot_be_had_is_refused(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = dataclasses.replace(make_run(), image=ImageOrder(IMPOSSIBLE))
            await assert_not_to_be_had(engine, run)
            assert IMPOSSIBLE not in {held.reference for held in await engine.images(HERE)}

        play(scenario)

    def test_a_container_is_made_of_what_was_saved_of_another(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            old, reference = make_run("echo mine > /root/note"), a_name()
            await launch(engine, old)
            await until(engine, old.ref, Phase.EXITED)
            saved = await engine.save(old.ref, reference)
            assert (saved.reference, saved.digest) == (reference, "")
            assert reference in await listed(engine)
            await engine.remove(old.ref)
            new = made_of(reference, "cat /root/note")
            await launch(engine, new)
            if self.runs_shell:
                assert await output_of(engine, new.ref) == b"mine\n"

        play(scenario)

    def test_saving_leaves_a_container_as_it_is(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            await engine.create(run)
            await engine.save(run.ref, a_name())
            begun = await engine.start(run.ref)
            await engine.save(run.ref, a_name())
            assert await engine.observe(run.ref) == begun
            await engine.stop(run.ref, AT_ONCE)
            ended = await until(engine, run.ref, Phase.EXITED)
            await engine.save(run.ref, a_name())
            assert await engine.observe(run.ref) == ended

        play(scenario)

    def test_saving_again_changes_nothing(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run, reference = make_run(), a_name()
            await launch(engine, run)
            saved = await engine.save(run.ref, reference)
            assert await engine.save(run.ref, reference) == saved
            await engine.remove(run.ref)
            assert await engine.save(run.ref, reference) == saved

        play(scenario)

    def test_of_what_is_absent_nothing_is_saved(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run, reference = make_run(), a_name()
            await engine.create(run)
            for ref in (make_run().ref, of_generation(run, 2)):
                with pytest.raises(EngineRejected) as refusal:
                    await engine.save(ref, reference)
                assert refusal.value.reason == Reason.REMOVED_EXTERNALLY
            assert reference not in await listed(engine)

        play(scenario)

    def test_a_saved_image_is_for_its_account_only_and_not_to_be_fetched(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run, reference = make_run(), a_name()
            await launch(engine, run)
            await assert_not_to_be_had(engine, made_of(reference))
            await engine.save(run.ref, reference)
            await assert_not_to_be_had(engine, made_of(reference, account_id=OTHER))
            assert (await engine.create(made_of(reference))).phase is Phase.CREATED

        play(scenario)
