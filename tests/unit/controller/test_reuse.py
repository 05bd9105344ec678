"""Ended containers are taken over by new ones: whose, when, at most once, and without losing a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.ids import DeploymentId, is_container_uuid
from muster.testing.faults import CrashPoint
from muster.testing.harness import TERMS, Harness, small_fleet

POOL_SECONDS = TERMS.pool_seconds


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def one(harness: Harness, deployment: DeploymentId) -> Container:
    (container,) = harness.running(deployment)
    return container


def stop_one(harness: Harness, deployment: DeploymentId, **how: bool) -> Container:
    """Stop the only container for good; return it as it ended."""
    container = one(harness, deployment)
    harness.stop_container(container, decrease=True, **how)
    harness.settle()
    return again(harness, container)


def again(harness: Harness, container: Container) -> Container:
    found = harness.read(lambda tx: tx.containers.get(container.id))
    assert found is not None
    return found


def test_a_stopped_container_is_taken_over_with_its_files_under_a_new_uuid(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    old = one(harness, asr)
    files = harness.world.disk_of(old.id)
    ended = stop_one(harness, asr)
    assert (ended.is_pooled, ended.released_at) == (True, None)
    harness.scale(asr, 1)
    harness.settle()
    new = one(harness, asr)
    assert (new.reused_from, harness.world.disk_of(new.id)) == (old.uuid, files)
    assert new.uuid is not None
    assert old.uuid is not None
    assert new.uuid != old.uuid
    assert new.uuid.split("-")[:3] == old.uuid.split("-")[:3]
    assert is_container_uuid(new.uuid)
    assert again(harness, old).released_at is not None
    statuses = [event.status for event in harness.events(new)]
    assert statuses == list(ContainerStatus)[: ContainerStatus.RUNNING.rank + 1], "the same events as a fresh start"
    assert harness.events(new)[0].message == f"reuses {old.uuid} with its GPUs"


def test_a_second_reuse_replaces_the_last_part_of_the_uuid(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    uuids = [one(harness, asr).uuid]
    for _ in range(2):
        stop_one(harness, asr)
        harness.scale(asr, 1)
        harness.settle()
        uuids.append(one(harness, asr).uuid)
    assert [str(uuid).count("-") for uuid in uuids] == [2, 3, 3]
    assert len({tuple(str(uuid).split("-")[:3]) for uuid in uuids}) == 1


def test_no_cache_is_strict(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    assert not stop_one(harness, asr, no_cache=True).is_pooled
    harness.scale(asr, 1)
    harness.settle()
    assert one(harness, asr).reused_from is None


def test_scope_deployment_takes_only_its_own_and_scope_all_takes_any_of_the_account(harness: Harness) -> None:
    first = harness.create(name="first", reuse_container=True)
    harness.settle()
    left = stop_one(harness, first)
    own = harness.create(name="own", reuse_container=True, reuse_container_scope="deployment")
    harness.settle()
    assert one(harness, own).reused_from is None
    any_of_them = harness.create(name="any", reuse_container=True)
    harness.settle()
    assert one(harness, any_of_them).reused_from == left.uuid


def test_one_that_does_not_want_reuse_neither_takes_nor_leaves(harness: Harness) -> None:
    leaves = harness.create(name="leaves", reuse_container=True)
    plain = harness.create(name="plain")
    harness.settle()
    stop_one(harness, leaves)
    assert not stop_one(harness, plain).is_pooled
    harness.scale(plain, 1)
    harness.settle()
    assert one(harness, plain).reused_from is None


def test_two_that_want_the_same_one_get_it_once(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    left = stop_one(harness, asr)
    harness.scale(asr, 3)
    harness.settle()
    assert sorted(str(each.reused_from) for each in harness.running(asr)) == sorted([str(left.uuid), "None", "None"])


def test_after_its_time_it_is_destroyed(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    left = stop_one(harness, asr)
    harness.advance(POOL_SECONDS - 60)
    assert harness.world.disk_of(left.id) is not None
    harness.advance(120)
    assert harness.world.disk_of(left.id) is None
    harness.advance(60)
    gone = again(harness, left)
    assert (gone.is_pooled, gone.released_at is not None) == (False, True)


def test_what_fails_young_is_not_tried_again_and_what_failed_late_is(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    young = one(harness, asr)
    harness.world.finish(young.id, 1)
    harness.settle()
    assert one(harness, asr).reused_from is None
    old = one(harness, asr)
    harness.advance(1200)
    harness.world.finish(old.id, 1)
    harness.settle()
    assert one(harness, asr).reused_from == old.uuid


def test_a_pooled_one_that_vanishes_is_released_and_the_next_starts_fresh(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    left = stop_one(harness, asr)
    harness.world.are_hints_lost = True
    harness.world.vanish(left.id)
    harness.scale(asr, 1)
    harness.settle()
    assert one(harness, asr).reused_from is None
    (failed,) = [each for each in harness.containers(asr) if each.reused_from == left.uuid]
    assert failed.reason is Reason.REMOVED_EXTERNALLY
    assert again(harness, left).released_at is not None


def test_what_vanishes_with_its_taker_does_not_come_back_to_the_pool(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    left = stop_one(harness, asr)
    harness.scale(asr, 1)
    harness.settle()
    taken = again(harness, left)
    harness.world.vanish(one(harness, asr).id)
    harness.settle()
    assert one(harness, asr).reused_from is None
    assert again(harness, left) == taken


def test_what_cannot_be_taken_over_stays_in_the_pool_and_the_next_starts_fresh(tmp_path: Path) -> None:
    (machine, *_) = small_fleet()
    with Harness(tmp_path, machines=[machine]) as harness:
        asr = harness.create(reuse_container=True)
        harness.settle()
        left = stop_one(harness, asr)
        harness.world.are_take_overs_refused = True
        harness.scale(asr, 1)
        harness.settle()
        assert one(harness, asr).reused_from is None
        assert [each.reason for each in harness.containers(asr) if each.reused_from] == [Reason.START_FAILED]
        assert again(harness, left).is_pooled
        harness.world.are_take_overs_refused = False
        other = harness.create(name="other", reuse_container=True)
        harness.settle()
        assert one(harness, other).reused_from == left.uuid


def test_a_taker_that_is_stopped_before_its_engine_hears_of_it_gives_back(harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    left = stop_one(harness, asr)
    assert left.placement is not None
    harness.world.cut(left.placement.machine_id)
    harness.scale(asr, 1)
    harness.advance(1)
    (taker,) = [each for each in harness.containers(asr) if each.reused_from == left.uuid]
    harness.stop_container(taker, decrease=True)
    harness.world.heal()
    harness.settle()
    assert again(harness, taker).released_at is None or again(harness, taker).status is ContainerStatus.SHUTDOWN
    harness.scale(asr, 1)
    harness.settle()
    assert harness.world.disk_of(one(harness, asr).id) is not None
    assert one(harness, asr).reused_from in {left.uuid, taker.uuid}, "its files are in use again"


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("call", range(1, 14))
def test_a_crash_at_any_call_of_a_reuse_keeps_the_files(call: int, is_after: bool, harness: Harness) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    old = one(harness, asr)
    files = harness.world.disk_of(old.id)
    stop_one(harness, asr)
    harness.crash(CrashPoint(call, is_after))
    harness.scale(asr, 1)
    harness.settle()
    new = one(harness, asr)
    assert (new.reused_from, harness.world.disk_of(new.id)) == (old.uuid, files)


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("call", range(1, 10))
def test_a_crash_while_it_expires_destroys_nothing_that_somebody_takes(
    call: int, is_after: bool, harness: Harness
) -> None:
    asr = harness.create(reuse_container=True)
    harness.settle()
    old = one(harness, asr)
    files = harness.world.disk_of(old.id)
    stop_one(harness, asr)
    harness.advance(POOL_SECONDS - 1)
    harness.crash(CrashPoint(call, is_after))
    harness.scale(asr, 1)
    harness.advance(10)
    harness.settle()
    new = one(harness, asr)
    if new.reused_from is not None:
        assert harness.world.disk_of(new.id) == files
