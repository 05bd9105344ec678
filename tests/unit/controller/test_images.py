"""The loops about images over a fake engine: saved, prewarmed, and seen where they are."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.model.container import Container
from muster.model.ids import ImageUuid, MachineId
from muster.model.image import Image, ImageOrder, ImageStatus, Prewarm
from muster.model.reference import saved_reference
from muster.store.fetched import note_digest
from muster.store.port import Transaction
from muster.testing.fake_engine import FakeEngine
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness

A, B, C = (MachineId(letter * 10) for letter in "abc")
UUID = ImageUuid("image-5d0c77e1ab")
REFERENCE = "registry.lab:5000/team/asr:2"


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def write(harness: Harness, work: Callable[[Transaction], Any]) -> Any:
    return harness.do(harness._store.write(work))


def add(harness: Harness, reference: str = REFERENCE) -> None:
    now = harness.clock.now()
    write(harness, lambda tx: tx.images.put_private(harness._account, UUID, "asr", reference, now))


def want(harness: Harness, *machines: MachineId) -> None:
    def work(tx: Transaction) -> None:
        for machine_id in machines:
            tx.prewarms.want(harness._account, UUID, machine_id, harness.clock.now())

    write(harness, work)


def save(harness: Harness, container: Container) -> str:
    reference = saved_reference(harness._account, UUID)

    def work(tx: Transaction) -> None:
        now, source = harness.clock.now(), container.uuid
        tx.images.put_private(harness._account, UUID, "saved", reference, now, source_container=source)

    write(harness, work)
    return reference


def image(harness: Harness) -> Image:
    found = harness.read(lambda tx: tx.images.get(harness._account, UUID))
    assert found is not None
    return found


def prewarms(harness: Harness) -> dict[MachineId, tuple[str, str]]:
    found: list[Prewarm] = harness.read(lambda tx: list(tx.prewarms.of(UUID)))
    return {each.machine_id: (each.state.value, each.message) for each in found}


def holders(harness: Harness, reference: str = REFERENCE) -> frozenset[MachineId]:
    return harness.read(lambda tx: tx.held_images.holders(reference))


def test_a_prewarm_fetches_the_image_once_on_each_machine_and_tells_how_far_it_is(harness: Harness) -> None:
    harness.world.pull_seconds[REFERENCE] = 20
    add(harness)
    want(harness, A, B)
    harness.advance(5)
    assert prewarms(harness) == dict.fromkeys((A, B), ("wanted", f"fetching {REFERENCE}"))
    assert holders(harness) == frozenset()
    harness.advance(20)
    assert prewarms(harness) == dict.fromkeys((A, B), ("done", ""))
    assert holders(harness) == {A, B}
    assert harness.world.pulls == {(A, REFERENCE): 1, (B, REFERENCE): 1}
    digest = image(harness).digest
    assert harness.read(lambda tx: tx.held_images.holders_of_digest(digest)) == {A, B}


def test_a_prewarm_that_the_registry_refuses_fails_saying_why_and_can_be_wanted_anew(harness: Harness) -> None:
    harness.world.reject_image(REFERENCE, "denied")
    add(harness)
    want(harness, A)
    harness.advance(5)
    assert prewarms(harness) == {A: ("failed", f"{REFERENCE}: denied")}
    harness.world.accept_image(REFERENCE)
    want(harness, A)
    harness.advance(5)
    assert prewarms(harness) == {A: ("done", "")}


def test_what_a_machine_has_is_good_enough_where_the_registry_does_not_help(harness: Harness) -> None:
    add(harness)
    want(harness, A)
    harness.advance(5)
    harness.world.reject_image(REFERENCE, "no such image")
    want(harness, A, B)
    harness.advance(5)
    refusal = f"{REFERENCE}: no such image"
    assert prewarms(harness) == {A: ("done", f"kept what is there: {refusal}"), B: ("failed", refusal)}


def test_a_machine_that_cannot_be_reached_holds_up_no_other_and_has_its_turn_later(harness: Harness) -> None:
    harness.world.cut(A)
    add(harness)
    want(harness, A, B)
    harness.advance(5)
    assert prewarms(harness)[B] == ("done", "")
    state, message = prewarms(harness)[A]
    assert state == "wanted"
    assert message
    harness.world.heal()
    harness.advance(20)
    assert prewarms(harness)[A] == ("done", "")


def test_a_machine_that_is_no_longer_offered_is_not_asked(harness: Harness) -> None:
    write(harness, lambda tx: tx.machines.retire_all_but(frozenset({B, C})))
    add(harness)
    want(harness, A)
    harness.advance(5)
    assert prewarms(harness) == {A: ("failed", f"machine {A} is no longer offered")}


def test_a_name_that_is_bound_anew_during_a_prewarm_gets_no_answer_meant_for_the_old_one(harness: Harness) -> None:
    harness.world.pull_seconds[REFERENCE] = 20
    add(harness)
    want(harness, A)
    harness.advance(5)

    def rebind(tx: Transaction) -> None:
        current = tx.images.get(harness._account, UUID)
        assert current is not None
        tx.images.update(replace(current, reference="registry.lab:5000/team/asr:3", digest=""))
        tx.prewarms.forget(UUID)

    write(harness, rebind)
    harness.advance(30)
    assert prewarms(harness) == {}
    assert image(harness).digest == ""


def test_prewarms_go_on_after_a_crash_at_any_call(harness: Harness) -> None:
    harness.world.pull_seconds[REFERENCE] = 3
    add(harness)
    for number in range(1, 12):
        harness.crash(CrashPoint(number, is_after=number % 2 == 0))
        harness.world.forget_image(REFERENCE)
        want(harness, A, B)
        harness.advance(60)
        assert prewarms(harness) == dict.fromkeys((A, B), ("done", ""))
    assert harness.crashes >= 5


def test_a_container_is_saved_as_an_image_that_its_machine_holds(harness: Harness) -> None:
    deployment = harness.create()
    harness.settle()
    (container,) = harness.running(deployment)
    assert container.placement is not None
    reference = save(harness, container)
    assert image(harness).status is ImageStatus.SAVING
    harness.advance(5)
    assert (image(harness).status, image(harness).message) == (ImageStatus.FINISHED, "")
    assert holders(harness, reference) == {container.placement.machine_id}


def test_a_container_that_has_ended_is_saved_while_its_files_are_there_and_not_after(harness: Harness) -> None:
    deployment = harness.create()
    harness.settle()
    (container,) = harness.running(deployment)
    harness.delete(deployment)
    harness.settle()
    save(harness, container)
    harness.advance(5)
    assert image(harness).status is ImageStatus.FINISHED
    write(harness, lambda tx: tx.images.remove(UUID))
    harness.advance(1200)
    assert harness.world.look(container.id) is None
    save(harness, container)
    harness.advance(5)
    assert (image(harness).status, image(harness).message) == (
        ImageStatus.FAILED,
        f"container {container.uuid} is gone, and its files with it",
    )


def test_a_container_that_was_used_again_is_not_saved_and_it_is_said_who_has_its_files(harness: Harness) -> None:
    deployment = harness.create(reuse_container=True)
    harness.settle()
    (container,) = harness.running(deployment)
    harness.stop_container(container, decrease=True)
    harness.settle()
    harness.scale(deployment, 1)
    harness.settle()
    (taker,) = harness.running(deployment)
    assert taker.reused_from == container.uuid
    save(harness, container)
    harness.advance(5)
    assert (image(harness).status, image(harness).message) == (
        ImageStatus.FAILED,
        f"container {container.uuid} was used again: its files are those of {taker.uuid} now",
    )


def test_a_container_that_somebody_removed_cannot_be_saved(harness: Harness) -> None:
    deployment = harness.create()
    harness.settle()
    (container,) = harness.running(deployment)
    harness.world.are_hints_lost = True
    harness.world.vanish(container.id)
    save(harness, container)
    harness.advance(1)
    assert image(harness).status is ImageStatus.FAILED
    assert container.id in image(harness).message


def test_a_save_is_finished_after_a_crash_at_any_call(harness: Harness) -> None:
    deployment = harness.create()
    harness.settle()
    (container,) = harness.running(deployment)
    for number in range(1, 8):
        save(harness, container)
        harness.crash(CrashPoint(number, is_after=number % 2 == 0))
        harness.advance(60)
        assert image(harness).status is ImageStatus.FINISHED
        write(harness, lambda tx: tx.images.remove(UUID))


def test_an_image_that_is_removed_while_it_is_saved_stays_gone(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = harness.create()
    harness.settle()
    (container,) = harness.running(deployment)
    assert container.placement is not None
    harness.world.cut(container.placement.machine_id)
    save(harness, container)
    harness.advance(2)
    assert image(harness).status is ImageStatus.SAVING
    write(harness, lambda tx: tx.images.remove(UUID))
    harness.world.heal()
    harness.advance(60)
    assert harness.read(lambda tx: tx.images.get(harness._account, UUID)) is None


def test_what_machines_hold_is_seen_by_each_full_pass(harness: Harness) -> None:
    engine = FakeEngine(harness.world)
    harness.do(engine.prepare(C, ImageOrder("fetched/by-somebody:1")))
    harness.advance(31)
    assert holders(harness, "fetched/by-somebody:1") == {C}
    harness.world.cut(C)
    harness.world.forget_image("fetched/by-somebody:1")
    harness.advance(31)
    assert holders(harness, "fetched/by-somebody:1") == {C}, "what was last seen stays"
    harness.world.heal()
    harness.advance(31)
    assert holders(harness, "fetched/by-somebody:1") == frozenset()


def test_a_container_notes_what_its_image_is_unless_the_name_was_bound_anew(harness: Harness) -> None:
    deployment = harness.create()
    harness.settle()
    (container,) = harness.running(deployment)
    assert container.placement is not None
    add(harness)
    made = replace(container, image=UUID, image_reference=REFERENCE, image_digest="sha256:2")
    write(harness, lambda tx: note_digest(tx, made))
    assert image(harness).digest == "sha256:2"
    assert holders(harness) == {container.placement.machine_id}
    reused = replace(made, image_digest="sha256:1", reused_from=container.uuid)
    write(harness, lambda tx: note_digest(tx, reused))
    assert image(harness).digest == "sha256:2"
    older = replace(made, image_reference="registry.lab:5000/team/asr:1", image_digest="sha256:1")
    write(harness, lambda tx: note_digest(tx, older))
    assert image(harness).digest == "sha256:2"
    assert harness.read(lambda tx: tx.held_images.holders_of_digest("sha256:1")) == {container.placement.machine_id}
