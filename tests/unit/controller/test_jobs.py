"""Jobs and Containers, seen from outside: how many run, how many come to their end, and when it is over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.model.container import Container, Reason
from muster.model.deployment import DeploymentStatus
from muster.model.ids import DeploymentId
from muster.model.machine import Drain
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness, fleet

STOPPED = DeploymentStatus.STOPPED


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


def job(harness: Harness, replica_num: int, parallelism: int, cmd: str = "sleep 5", **more: Any) -> DeploymentId:
    return harness.create(deployment_type="Job", replica_num=replica_num, parallelism_num=parallelism, cmd=cmd, **more)


def single(harness: Harness, cmd: str = "sleep 5") -> DeploymentId:
    return harness.create(deployment_type="Container", replica_num=1, cmd=cmd)


def completed(harness: Harness, uuid: DeploymentId) -> list[Container]:
    return [each for each in harness.containers(uuid) if each.is_completed]


def is_over(harness: Harness, uuid: DeploymentId) -> bool:
    return harness.deployment(uuid).status is STOPPED and not harness.running(uuid)


def test_as_many_run_at_a_time_as_may_until_all_have_come_to_their_end(harness: Harness) -> None:
    uuid = job(harness, 5, 2)
    most = 0
    while not is_over(harness, uuid):
        harness.advance(0.5)
        harness.check()
        most = max(most, len(harness.running(uuid)))
    assert most == 2
    assert len(completed(harness, uuid)) == len(harness.containers(uuid)) == 5
    harness.settle()
    assert harness.deployment(uuid).stopped_at is not None


def test_a_command_that_fails_counts_and_is_not_tried_again(harness: Harness) -> None:
    uuid = job(harness, 4, 2, "sleep 1; exit 3")
    harness.advance(10)
    assert is_over(harness, uuid)
    assert [each.exit_code for each in completed(harness, uuid)] == [3] * 4


def test_one_that_is_stopped_or_dies_from_outside_is_made_anew(harness: Harness) -> None:
    uuid = job(harness, 3, 3, "sleep 20")
    harness.advance(2)
    first, second, _ = harness.running(uuid)
    harness.stop_container(first)
    harness.world.finish(second.id, 137, reason=Reason.KILLED_EXTERNALLY)
    harness.settle()
    assert is_over(harness, uuid)
    assert len(completed(harness, uuid)) == 3
    assert len(harness.containers(uuid)) == 5


def test_an_image_that_cannot_be_fetched_is_tried_ever_more_slowly_and_counts_for_nothing(harness: Harness) -> None:
    harness.world.reject_image("local")
    uuid = job(harness, 2, 2)
    harness.advance(120)
    assert 6 <= len(harness.containers(uuid)) <= 20
    assert not completed(harness, uuid)
    harness.world.accept_image("local")
    harness.settle()
    assert is_over(harness, uuid)
    assert len(completed(harness, uuid)) == 2


def test_where_few_fit_a_job_goes_on_with_those(tmp_path: Path) -> None:
    with Harness(tmp_path, machines=fleet(2)) as harness:
        uuid = job(harness, 5, 5)
        harness.advance(2)
        assert len(harness.running(uuid)) == 2
        harness.settle()
        assert is_over(harness, uuid)
        assert len(completed(harness, uuid)) == 5


def test_a_job_that_is_edited_goes_on_with_the_new_version_and_throws_no_work_away(harness: Harness) -> None:
    uuid = job(harness, 4, 2, "sleep 10")
    harness.advance(2)
    first = {each.id for each in harness.running(uuid)}
    harness.edit(uuid, cmd="sleep 11")
    harness.settle()
    ended = completed(harness, uuid)
    assert first <= {each.id for each in ended}
    assert sorted(each.version for each in ended) == ["v1", "v1", "v2", "v2"]


def test_more_or_fewer_at_a_time_take_effect_at_once(harness: Harness) -> None:
    uuid = job(harness, 9, 2, "sleep 60")
    harness.advance(1)
    harness.edit(uuid, parallelism_num=4)
    harness.advance(1)
    assert len(harness.running(uuid)) == 4
    harness.edit(uuid, parallelism_num=1)
    harness.advance(1)
    assert len(harness.running(uuid)) == 1


@pytest.mark.parametrize("end", ["stop", "delete"])
def test_a_job_that_is_ended_leaves_nothing(harness: Harness, end: str) -> None:
    uuid = job(harness, 4, 2, "sleep 60")
    harness.advance(2)
    getattr(harness, end)(uuid)
    harness.settle()
    assert harness.world.running() == ()
    assert not completed(harness, uuid)


def test_a_container_ends_once_and_is_over(harness: Harness) -> None:
    for cmd in ("sleep 2", "sleep 2; exit 4"):
        uuid = single(harness, cmd)
        harness.settle()
        assert is_over(harness, uuid)
        assert len(harness.containers(uuid)) == 1


def test_a_container_that_a_user_stops_is_over(harness: Harness) -> None:
    uuid = single(harness, "serve")
    harness.settle()
    harness.stop_container(harness.running(uuid)[0])
    harness.settle()
    assert is_over(harness, uuid)
    assert len(harness.containers(uuid)) == 1


def test_a_container_whose_host_is_emptied_goes_elsewhere(harness: Harness) -> None:
    uuid = single(harness, "serve")
    harness.settle()
    placement = harness.running(uuid)[0].placement
    assert placement is not None
    harness.keep_free(placement.machine_id, drain=Drain.GENTLE)
    harness.advance(60)
    assert harness.world.running(placement.machine_id)
    harness.keep_free(placement.machine_id, drain=Drain.NOW)
    harness.settle()
    assert len(harness.running(uuid)) == 1
    assert not harness.world.running(placement.machine_id)


@pytest.mark.parametrize("is_back_in_time", [True, False])
def test_what_a_lost_machine_ran_counts_once(tmp_path: Path, is_back_in_time: bool) -> None:
    with Harness(tmp_path, machines=fleet(5)) as harness:
        uuid = job(harness, 2, 2, "sleep 300")
        harness.advance(2)
        placement = harness.running(uuid)[0].placement
        assert placement is not None
        harness.world.isolate(placement.machine_id)
        harness.advance(20 if is_back_in_time else 150)
        harness.heal(placement.machine_id)
        harness.settle()
        assert is_over(harness, uuid)
        assert len(completed(harness, uuid)) == 2
        assert len(harness.world.started_ids) == (2 if is_back_in_time else 3)


@pytest.mark.slow
def test_a_crash_at_any_call_of_a_job_changes_nothing_about_its_end(tmp_path: Path) -> None:
    for call in range(1, 1000):
        folder = tmp_path / str(call)
        folder.mkdir()
        with Harness(folder) as harness:
            crashes = harness.crashes
            harness.crash(CrashPoint(call, is_after=call % 2 == 0))
            uuid = job(harness, 3, 2, "sleep 1; exit 3")
            harness.settle()
            assert is_over(harness, uuid)
            assert len(completed(harness, uuid)) == len(harness.world.started_ids) == 3
            if harness.crashes == crashes:
                break
    assert call > 20
