"""The loops together over a fake engine: what a user sees of each promise."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.model.container import ContainerStatus, Reason
from muster.model.endpoint import ServiceKey
from muster.model.event import Cursor, EventKind
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def published(harness: Harness, service: str) -> list[str]:
    found = harness.do(harness.registry.get(ServiceKey("admin", service)))
    return [] if found is None else [endpoint.id for endpoint in found.endpoints]


def test_a_replica_set_comes_up_ready_and_is_published_under_its_name(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    running = harness.running(uuid)
    assert len(running) == 3
    assert all(each.is_ready for each in running)
    assert published(harness, "asr") == published(harness, uuid) == sorted(str(each.uuid) for each in running)


def test_a_container_that_dies_is_replaced_and_its_end_is_told(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    victim = harness.running(uuid)[0]
    harness.world.finish(victim.id, 137)
    harness.settle()
    assert len(harness.running(uuid)) == 2
    assert victim.id not in {each.id for each in harness.running(uuid)}
    last = harness.events(victim)[-1]
    assert (last.status, last.reason, last.exit_code) == (ContainerStatus.SHUTDOWN, Reason.ERROR, 137)
    assert str(victim.uuid) not in published(harness, uuid)


def test_scaling_starts_and_stops_exactly_the_difference(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    first = {each.id for each in harness.running(uuid)}
    harness.scale(uuid, 5)
    harness.settle()
    assert first < {each.id for each in harness.running(uuid)}
    harness.scale(uuid, 2)
    harness.settle()
    assert {each.id for each in harness.running(uuid)} == first


def test_stopping_one_container_replaces_it_unless_the_number_is_decreased_with_it(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.stop_container(harness.running(uuid)[0])
    harness.settle()
    assert len(harness.running(uuid)) == 3
    harness.stop_container(harness.running(uuid)[0], decrease=True)
    harness.settle()
    assert len(harness.running(uuid)) == 2


def test_a_stopping_container_leaves_the_set_before_it_is_ended(harness: Harness) -> None:
    uuid = harness.create(replica_num=1)
    harness.settle()
    container = harness.running(uuid)[0]
    harness.scale(uuid, 0)
    harness.advance(1)
    assert published(harness, uuid) == []
    assert container.id in harness.world.running()
    harness.settle()
    assert container.id not in harness.world.running()


def test_nothing_is_left_of_a_deleted_deployment_once_its_remains_are_due(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.delete(uuid)
    harness.settle()
    assert harness.world.running() == ()
    harness.advance(700)
    assert harness.world.object_count == 0
    assert all(each.released_at for each in harness.containers(uuid))


def test_what_does_not_fit_waits_with_an_explanation_and_starts_when_there_is_room(harness: Harness) -> None:
    big = harness.create(replica_num=2, gpu_num=4)
    harness.settle()
    late = harness.create(name="late", gpu_num=4)
    harness.settle()
    waiting = harness.containers(late)[0]
    assert waiting.status is None
    explanation = harness.explain(waiting.id)
    assert explanation is not None
    assert "no machine fits" in explanation.sentence()
    harness.scale(big, 1)
    harness.settle()
    assert len(harness.running(late)) == 1


def test_a_command_that_dies_at_once_is_retried_ever_more_slowly(harness: Harness) -> None:
    uuid = harness.create(cmd="exit 3")
    harness.advance(120)
    started = [each.created_at for each in harness.containers(uuid)]
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(started)]
    assert 5 <= len(started) <= 8
    assert gaps == sorted(gaps)
    harness.check()


def test_an_image_that_the_engine_refuses_is_told_as_such(harness: Harness) -> None:
    harness.world.reject_image("local")
    uuid = harness.create()
    harness.advance(5)
    ended = harness.containers(uuid)[0]
    assert (ended.status, ended.reason) == (ContainerStatus.SHUTDOWN, Reason.IMAGE_PULL_FAILED)
    harness.world.accept_image("local")
    harness.settle()


def test_a_machine_that_does_not_answer_delays_its_own_containers_only(harness: Harness) -> None:
    uuid = harness.create(replica_num=8)
    harness.settle()
    cut = harness.running(uuid)[0].placement
    assert cut is not None
    harness.world.cut(cut.machine_id)
    harness.scale(uuid, 4)
    harness.advance(60)
    harness.check()
    harness.world.heal()
    harness.settle()
    assert len(harness.running(uuid)) == 4


def test_lost_hints_and_lost_objects_are_found_by_the_full_pass(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    harness.world.are_hints_lost = True
    victim = harness.running(uuid)[0]
    harness.world.vanish(victim.id)
    harness.advance(40)
    ended = next(each for each in harness.containers(uuid) if each.id == victim.id)
    assert ended.reason is Reason.REMOVED_EXTERNALLY
    harness.settle()
    assert len(harness.running(uuid)) == 2


def test_a_killed_control_plane_comes_back_to_the_same_containers(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    before = {each.id for each in harness.running(uuid)}
    events = len(harness.events())
    harness.crash()
    harness.settle()
    assert harness.crashes == 1
    assert {each.id for each in harness.running(uuid)} == before
    assert len(harness.events()) == events


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("call", range(1, 40))
def test_a_crash_at_any_call_is_repaired(harness: Harness, call: int, is_after: bool) -> None:
    harness.crash(CrashPoint(call, is_after))
    uuid = harness.create(replica_num=2)
    harness.settle()
    harness.stop_container(harness.running(uuid)[0])
    harness.settle()
    assert harness.crashes == 1
    assert len(harness.running(uuid)) == 2


def test_readiness_changes_are_events_of_their_own_kind(harness: Harness) -> None:
    harness.create()
    harness.settle()
    kinds = {event.kind for event in harness.events()}
    assert kinds == {EventKind.STATUS}
    everything = harness.read(lambda tx: tx.events.after(Cursor(0)))
    assert EventKind.READY in {event.kind for event in everything}
