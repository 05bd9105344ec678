"""Edits, seen from outside: what serves at every instant, what becomes of good and bad versions, and of a crash."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.model.container import Container, Reason
from muster.model.deployment import RolloutState
from muster.model.ids import DeploymentId, ImageUuid
from muster.model.machine import Drain
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness, fleet

COMPLETE, FAILED, PROGRESSING = RolloutState.COMPLETE, RolloutState.FAILED, RolloutState.PROGRESSING
QUICK = {"ready_within_seconds": 20}
INSTANT = 0.1


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


@pytest.fixture
def small(tmp_path: Path) -> Callable[[int], Harness]:
    """So many machines with one GPU each."""
    return lambda machine_num: Harness(tmp_path, machines=fleet(machine_num))


def serving(harness: Harness, uuid: DeploymentId) -> list[Container]:
    return [each for each in harness.running(uuid) if each.is_ready]


def versions(harness: Harness, uuid: DeploymentId) -> set[str]:
    return {each.version for each in serving(harness, uuid)}


def watch(harness: Harness, uuid: DeploymentId, seconds: float, instant: float = INSTANT) -> int:
    """Let time pass; return the least number of containers that served at any instant."""
    harness.check()
    least = len(serving(harness, uuid))
    for _ in range(round(seconds / instant)):
        harness.advance(instant)
        least = min(least, len(serving(harness, uuid)))
    return least


def commands(harness: Harness) -> set[str]:
    runs = (harness.world.run_of(each) for each in harness.world.running())
    return {run.cmd for run in runs if run is not None}


def reasons(harness: Harness, uuid: DeploymentId, version: str) -> set[Reason | None]:
    return {each.reason for each in harness.containers(uuid) if each.version == version and each.is_finished}


# Good versions.


def test_a_good_version_takes_over_and_as_many_serve_at_every_instant(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    assert harness.deployment(uuid).stable_version == "v1"
    assert harness.edit(uuid, cmd="serve better") == "v2"
    assert watch(harness, uuid, 20) == 3
    harness.settle()
    assert versions(harness, uuid) == {"v2"}
    assert commands(harness) == {"serve better"}
    assert harness.deployment(uuid).rollout is COMPLETE
    assert reasons(harness, uuid, "v1") == {Reason.REPLACED}


def test_on_two_gpus_one_replica_is_replaced_without_a_gap(small: Callable[[int], Harness]) -> None:
    with small(2) as harness:
        uuid = harness.create()
        harness.settle()
        harness.edit(uuid, cmd="serve better")
        assert watch(harness, uuid, 15) == 1
        assert versions(harness, uuid) == {"v2"}


def test_on_one_gpu_the_old_one_is_drained_first(small: Callable[[int], Harness]) -> None:
    with small(1) as harness:
        uuid = harness.create()
        harness.settle()
        harness.edit(uuid, cmd="serve better")
        assert watch(harness, uuid, 20) == 0
        harness.settle()
        assert versions(harness, uuid) == {"v2"}
        assert harness.deployment(uuid).rollout is COMPLETE


def test_where_no_more_fits_one_is_missing_at_a_time(small: Callable[[int], Harness]) -> None:
    with small(4) as harness:
        uuid = harness.create(replica_num=4)
        harness.settle()
        harness.edit(uuid, cmd="serve better")
        assert watch(harness, uuid, 40) == 3
        harness.settle()
        assert versions(harness, uuid) == {"v2"}


def test_a_deployment_that_never_had_all_it_wants_is_rolled_out_all_the_same(small: Callable[[int], Harness]) -> None:
    with small(2) as harness:
        uuid = harness.create(replica_num=4, service=QUICK)
        harness.settle()
        harness.edit(uuid, cmd="serve better")
        assert watch(harness, uuid, 30) == 1
        harness.settle()
        assert len(serving(harness, uuid)) == 2
        assert versions(harness, uuid) == {"v2"}
        assert harness.deployment(uuid).rollout is COMPLETE


def test_an_image_that_takes_longer_than_getting_ready_may_is_waited_for(harness: Harness) -> None:
    uuid = harness.create(replica_num=2, service=QUICK)
    harness.settle()
    _add_image(harness, "huge", "huge:1")
    harness.world.pull_seconds["huge:1"] = 200
    harness.edit(uuid, image_uuid="huge")
    harness.advance(190)
    assert harness.deployment(uuid).rollout is PROGRESSING
    assert len(serving(harness, uuid)) == 2
    harness.settle()
    assert versions(harness, uuid) == {"v2"}


def test_what_still_matches_stays_and_what_does_not_is_replaced(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    before = {each.id for each in serving(harness, uuid)}
    harness.edit(uuid, gpu_name_set=["RTX 4090", "RTX 3090"])
    harness.settle()
    assert {each.id for each in serving(harness, uuid)} == before
    assert harness.deployment(uuid).rollout is COMPLETE
    harness.edit(uuid, gpu_name_set=["RTX 4090"])
    harness.settle()
    assert {each.placement.gpu_name for each in serving(harness, uuid) if each.placement} == {"RTX 4090"}
    moved = {each.id for each in serving(harness, uuid)}
    harness.edit(uuid, version="again")
    harness.settle()
    assert not moved & {each.id for each in serving(harness, uuid)}


# Bad versions.


def test_an_image_that_cannot_be_fetched_leaves_the_good_version_serving_and_says_why(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    before = {each.id for each in serving(harness, uuid)}
    _add_image(harness, "bad", "bad:1")
    harness.world.reject_image("bad:1")
    harness.edit(uuid, image_uuid="bad")
    assert watch(harness, uuid, 15) == 3
    harness.settle()
    assert {each.id for each in serving(harness, uuid)} == before
    failed = harness.deployment(uuid)
    assert failed.rollout is FAILED
    assert "v2 died young 3 times" in failed.failure
    assert "image_pull_failed" in failed.failure
    assert "no such image" in failed.failure


def test_a_command_that_crashes_leaves_the_good_version_serving(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.edit(uuid, cmd="sleep 1; exit 3")
    assert watch(harness, uuid, 20) == 3
    harness.settle()
    assert versions(harness, uuid) == {"v1"}
    assert "exit code 3" in harness.deployment(uuid).failure


def test_a_version_that_never_becomes_ready_is_ended_and_the_good_one_kept(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.edit(uuid, cmd="deaf", service=QUICK)
    assert watch(harness, uuid, 30) == 3
    harness.settle()
    assert versions(harness, uuid) == {"v1"}
    assert "not ready within 20 s" in harness.deployment(uuid).failure
    assert reasons(harness, uuid, "v2") == {Reason.ROLLED_BACK}


def test_a_bad_version_on_one_gpu_gives_it_back(small: Callable[[int], Harness]) -> None:
    with small(1) as harness:
        uuid = harness.create()
        harness.settle()
        harness.edit(uuid, cmd="deaf", service=QUICK)
        harness.settle()
        assert versions(harness, uuid) == {"v1"}
        assert harness.deployment(uuid).rollout is FAILED


def test_a_version_that_fits_nowhere_ends_nothing_and_is_given_up(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    before = {each.id for each in serving(harness, uuid)}
    harness.edit(uuid, gpu_name_set=["A100"], service=QUICK)
    harness.settle()
    assert {each.id for each in serving(harness, uuid)} == before
    assert "no machine was found" in harness.deployment(uuid).failure


def test_without_a_good_version_a_command_is_tried_out_in_peace(harness: Harness) -> None:
    """The debugging story: it dies at once, is edited to sleep, looked into, and edited back."""
    uuid = harness.create(cmd="exit 1")
    harness.advance(60)
    harness.edit(uuid, cmd="deaf and asleep", service=QUICK)
    harness.advance(0.5)
    (asleep,) = harness.running(uuid)
    harness.advance(120)
    assert [each.id for each in harness.running(uuid)] == [asleep.id]
    harness.edit(uuid, cmd="serve")
    harness.settle()
    assert versions(harness, uuid) == {"v3"}
    assert harness.deployment(uuid).rollout is COMPLETE


def test_a_failed_version_can_be_tried_again_or_be_edited(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    _add_image(harness, "late", "late:1")
    harness.world.reject_image("late:1")
    harness.edit(uuid, image_uuid="late")
    harness.settle()
    harness.world.accept_image("late:1")
    harness.resume(uuid)
    assert watch(harness, uuid, 20) == 2
    harness.settle()
    assert (versions(harness, uuid), harness.deployment(uuid).failure) == ({"v2"}, "")


# Pause, resume, undo, numbers, ends.


def test_a_paused_rollout_stays_where_it_is_until_it_goes_on(harness: Harness) -> None:
    uuid = harness.create(replica_num=4)
    harness.settle()
    harness.edit(uuid, cmd="serve better")
    while "v2" not in versions(harness, uuid):
        harness.advance(INSTANT)
    harness.pause(uuid)
    harness.settle()
    assert versions(harness, uuid) == {"v1", "v2"}
    held = {each.id for each in serving(harness, uuid)}
    harness.advance(700)
    assert {each.id for each in serving(harness, uuid)} == held
    harness.resume(uuid)
    assert watch(harness, uuid, 20) == 4
    harness.settle()
    assert versions(harness, uuid) == {"v2"}


def test_undo_in_between_and_afterwards_goes_back_and_as_many_serve(harness: Harness) -> None:
    uuid = harness.create(replica_num=4)
    harness.settle()
    harness.edit(uuid, cmd="serve better")
    while "v2" not in versions(harness, uuid):
        harness.advance(INSTANT)
    harness.undo(uuid)
    assert watch(harness, uuid, 20) == 4
    harness.settle()
    assert (versions(harness, uuid), commands(harness)) == ({"v1"}, {"serve"})
    harness.edit(uuid, cmd="serve best")
    harness.settle()
    harness.undo(uuid, "v1")
    assert watch(harness, uuid, 20) == 4
    harness.settle()
    assert (versions(harness, uuid), commands(harness)) == ({"v1"}, {"serve"})


def test_an_edit_back_keeps_the_containers_that_still_run_it(harness: Harness) -> None:
    uuid = harness.create(replica_num=4)
    harness.settle()
    harness.edit(uuid, cmd="serve better")
    while "v2" not in versions(harness, uuid):
        harness.advance(INSTANT)
    old = {each.id for each in serving(harness, uuid) if each.version == "v1"}
    harness.edit(uuid, cmd="serve")
    harness.settle()
    assert old <= {each.id for each in serving(harness, uuid)}
    assert commands(harness) == {"serve"}
    assert harness.deployment(uuid).rollout is COMPLETE


def test_none_wanted_in_between_and_back_comes_up_with_the_new_version(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.edit(uuid, cmd="serve better")
    harness.advance(1)
    harness.scale(uuid, 0)
    harness.settle()
    assert harness.world.running() == ()
    harness.scale(uuid, 3)
    harness.settle()
    assert versions(harness, uuid) == {"v2"}
    assert harness.deployment(uuid).rollout is COMPLETE


def test_scaling_in_between_comes_to_the_new_number_of_the_new_version(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    for replica_num in (6, 2):
        harness.edit(uuid, cmd=f"serve {replica_num}")
        harness.advance(0.3)
        harness.scale(uuid, replica_num)
        harness.settle()
        assert len(serving(harness, uuid)) == replica_num
        assert len(versions(harness, uuid)) == 1


@pytest.mark.parametrize("end", ["stop", "delete"])
def test_a_deployment_that_ends_in_between_leaves_nothing(harness: Harness, end: str) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.edit(uuid, cmd="serve better")
    harness.advance(0.3)
    getattr(harness, end)(uuid)
    harness.settle()
    assert harness.world.running() == ()


@pytest.mark.parametrize("decrease", [False, True])
def test_one_that_a_user_stops_in_between_is_made_anew_unless_the_number_goes_with_it(
    harness: Harness, decrease: bool
) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.edit(uuid, cmd="serve better")
    harness.advance(0.3)
    harness.stop_container(harness.running(uuid)[0], decrease=decrease)
    harness.settle()
    assert len(serving(harness, uuid)) == 3 - decrease
    assert versions(harness, uuid) == {"v2"}


# Machines.


@pytest.mark.parametrize("drain", [Drain.GENTLE, Drain.NOW])
def test_a_host_that_is_drained_during_a_rollout_is_empty_in_the_end(
    small: Callable[[int], Harness], drain: Drain
) -> None:
    with small(5) as harness:
        uuid = harness.create(replica_num=3)
        harness.settle()
        leaving = serving(harness, uuid)[0].placement
        assert leaving is not None
        harness.edit(uuid, cmd="serve better")
        harness.keep_free(leaving.machine_id, drain=drain)
        assert watch(harness, uuid, 25) == (3 if drain is Drain.GENTLE else 2)
        harness.settle()
        assert versions(harness, uuid) == {"v2"}
        assert harness.world.running(leaving.machine_id) == ()


def test_a_machine_that_is_lost_during_a_rollout_holds_nobody_up(small: Callable[[int], Harness]) -> None:
    with small(6) as harness:
        uuid = harness.create(replica_num=3)
        harness.settle()
        lost = serving(harness, uuid)[0].placement
        assert lost is not None
        harness.world.isolate(lost.machine_id)
        harness.edit(uuid, cmd="serve better")
        harness.advance(120)
        harness.settle()
        harness.heal(lost.machine_id)
        harness.settle()
        assert len(serving(harness, uuid)) == 3
        assert versions(harness, uuid) == {"v2"}


# Crashes.


@pytest.mark.slow
@pytest.mark.parametrize("cmd", ["serve better", "deaf"])
def test_a_crash_at_any_call_of_a_rollout_changes_nothing_about_its_outcome(tmp_path: Path, cmd: str) -> None:
    outcomes = []
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        folder.mkdir()
        with Harness(folder, machines=fleet(3)) as harness:
            uuid = harness.create(replica_num=2)
            harness.settle()
            crashes = harness.crashes
            harness.edit(uuid, cmd=cmd, service=QUICK)
            harness.crash(CrashPoint(call, is_after=call % 2 == 0))
            least = watch(harness, uuid, 15, instant=0.25)
            harness.settle()
            outcomes.append((least, versions(harness, uuid), harness.deployment(uuid).rollout))
            if harness.crashes == crashes:
                break
    assert len(outcomes) > 20
    assert all(each == (2, *outcomes[0][1:]) for each in outcomes)
    assert outcomes[0][1:] == (({"v2"}, COMPLETE) if cmd != "deaf" else ({"v1"}, FAILED))


def _add_image(harness: Harness, uuid: str, reference: str) -> None:
    harness.write(lambda tx: tx.images.put_base(ImageUuid(uuid), uuid, reference, harness.clock.now()))
