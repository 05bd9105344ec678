"""What a Job and a Container need."""

from dataclasses import replace

import pytest

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import Deployment, DeploymentStatus, DeploymentType
from muster.planner.job import plan_job
from muster.planner.plan import Plan
from tests.unit.planner.worlds import at, container, dead, deployment, new_ids, situation, stop, stops

CREATING, STARTING, RUNNING = ContainerStatus.CREATING, ContainerStatus.STARTING, ContainerStatus.RUNNING
SHUTTING_DOWN, SHUTDOWN = ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN


def job(
    replica_num: int, parallelism: int, *, kind: DeploymentType = DeploymentType.JOB, **changes: object
) -> Deployment:
    made = deployment(replica_num, **changes)
    return replace(made, spec=replace(made.spec, type=kind, parallelism_num=parallelism))


def plan(wanted: Deployment, containers: list[Container], seconds: float = 60, **more: object) -> Plan:
    known = {"completed": sum(each.is_completed for each in containers), "outdated": {}, **more}
    return plan_job(situation(wanted, containers, seconds, **known), new_id=new_ids())  # type: ignore[arg-type]


def done(number: int, *, died: float = 50, reason: Reason = Reason.COMPLETED) -> Container:
    return dead(number, born=10, died=died, reason=reason)


def never_started(number: int, *, died: float) -> Container:
    return dead(number, born=died - 1, died=died, reason=Reason.IMAGE_PULL_FAILED, started_at=None)


def test_as_many_run_at_a_time_as_may() -> None:
    assert len(plan(job(5, 2), []).start) == 2
    assert plan(job(5, 2), [container(1, RUNNING), container(2, None)]).is_empty


def test_what_comes_to_its_end_is_followed_by_the_next_at_once() -> None:
    assert len(plan(job(5, 2), [done(1), container(2, RUNNING)]).start) == 1


def test_never_more_run_than_are_still_to_be_completed() -> None:
    world = [done(1), done(2), done(3), container(4, RUNNING)]
    assert plan(job(4, 3), world).is_empty
    assert len(plan(job(5, 3), world).start) == 1


@pytest.mark.parametrize("reason", [Reason.COMPLETED, Reason.ERROR, Reason.OOM_KILLED])
def test_what_ended_by_itself_counts_whatever_its_exit_code(reason: Reason) -> None:
    assert plan(job(1, 1), [done(1, reason=reason)]).is_over


@pytest.mark.parametrize("reason", [Reason.MACHINE_LOST, Reason.ENGINE_RESTARTED, Reason.KILLED_EXTERNALLY])
def test_what_went_with_its_machine_or_engine_is_made_anew(reason: Reason) -> None:
    result = plan(job(1, 1), [done(1, reason=reason, died=20)], 620)
    assert (len(result.start), result.is_over) == (1, False)


def test_what_was_stopped_or_never_started_is_made_anew() -> None:
    stopped = container(1, SHUTDOWN, stop=stop(Reason.STOPPED_BY_USER), reason=Reason.STOPPED_BY_USER, stopped_at=at(9))
    assert len(plan(job(2, 2), [stopped]).start) == 2
    assert len(plan(job(1, 1), [never_started(1, died=20)], 60).start) == 1


def test_one_that_is_being_stopped_is_replaced_at_once() -> None:
    stopping = container(1, SHUTTING_DOWN, stop=stop(Reason.STOPPED_BY_USER))
    assert len(plan(job(2, 2), [stopping, container(2, RUNNING)]).start) == 1


def test_when_all_have_completed_the_deployment_is_over_and_then_nothing_is_left() -> None:
    world = [done(1), done(2)]
    over = plan(job(2, 1), world)
    assert over.is_over
    assert not over.start
    assert plan(job(2, 1, status=DeploymentStatus.STOPPED), world).is_empty


def test_a_job_of_none_is_over_at_once() -> None:
    assert plan(job(0, 1), []).is_over


def test_what_still_lives_when_a_job_is_over_or_stopped_is_ended() -> None:
    world = [done(1), container(2, RUNNING), container(3, None)]
    result = plan(job(1, 3, status=DeploymentStatus.STOPPED), world)
    assert stops(result) == [(3, Reason.DEPLOYMENT_STOPPED), (2, Reason.DEPLOYMENT_STOPPED)]
    assert stops(plan(job(1, 3, deleted_at=at(1)), [container(2, RUNNING)], lost=[2])) == [
        (2, Reason.DEPLOYMENT_STOPPED)
    ]


def test_fewer_wanted_end_those_that_have_done_least() -> None:
    world = [container(1, RUNNING, born=1), container(2, RUNNING, born=2), container(3, STARTING, born=3)]
    assert stops(plan(job(9, 1), world)) == [(3, Reason.SCALED_IN), (2, Reason.SCALED_IN)]
    assert stops(plan(job(2, 3), [done(9), *world[:2]])) == [(2, Reason.SCALED_IN)]


def test_more_wanted_start_the_difference() -> None:
    assert len(plan(job(9, 4), [done(9), container(1, RUNNING)]).start) == 3


# Containers.


def test_a_container_is_over_when_it_has_ended() -> None:
    single = job(1, 1, kind=DeploymentType.CONTAINER)
    assert len(plan(single, []).start) == 1
    assert plan(single, [done(1, reason=Reason.ERROR)]).is_over


@pytest.mark.parametrize("status", [SHUTTING_DOWN, SHUTDOWN])
def test_a_container_that_a_user_stops_is_over(status: ContainerStatus) -> None:
    stopped = container(1, status, stop=stop(Reason.STOPPED_BY_USER))
    result = plan(job(1, 1, kind=DeploymentType.CONTAINER), [stopped])
    assert result.is_over
    assert not result.start


@pytest.mark.parametrize("reason", [Reason.HOST_DRAINED, Reason.MACHINE_LOST, Reason.REPLACED])
def test_a_container_that_the_platform_stops_is_made_anew(reason: Reason) -> None:
    stopped = container(1, SHUTDOWN, stop=stop(reason))
    assert len(plan(job(1, 1, kind=DeploymentType.CONTAINER), [stopped]).start) == 1


# Starts that lead nowhere.


def test_starts_that_lead_nowhere_are_ever_slower() -> None:
    world = [never_started(1, died=20), never_started(2, died=30), never_started(3, died=40)]
    result = plan(job(3, 1), world, 40)
    assert not result.start
    assert result.wake_at == result.report.backoff_until == at(44)
    assert len(plan(job(3, 1), world, 44).start) == 1


def test_a_command_that_fails_has_done_its_part_and_delays_nothing() -> None:
    world = [done(n, died=58 + n / 10, reason=Reason.ERROR) for n in range(3)]
    assert len(plan(job(9, 2), world, 59).start) == 2


def test_an_end_of_its_own_begins_the_count_anew() -> None:
    world = [never_started(n, died=20 + n) for n in range(5)]
    assert len(plan(job(3, 1), [*world, done(9, died=30)], 30.1).start) == 1
    later = [*world, done(9, died=30), never_started(10, died=31)]
    assert plan(job(3, 1), later, 31).wake_at == at(32)


def test_an_end_of_a_clock_that_was_ahead_hides_no_failures_of_now() -> None:
    world = [done(1, died=9000), never_started(2, died=57), never_started(3, died=60)]
    assert plan(job(3, 1), world, 60).wake_at == at(62)


# Drained and lost machines, edits.


def test_what_a_host_drains_now_is_made_anew_elsewhere() -> None:
    leaving, other = container(1, RUNNING), container(2, RUNNING)
    result = plan(job(3, 2), [leaving, other], outdated={leaving.id: Reason.HOST_DRAINED})
    assert (stops(result), len(result.start)) == ([(1, Reason.HOST_DRAINED)], 1)


def test_what_waits_for_a_machine_is_made_of_the_new_version() -> None:
    waiting, working = container(1, None), container(2, RUNNING)
    result = plan(job(3, 2), [waiting, working], outdated={waiting.id: Reason.REPLACED})
    assert (stops(result), len(result.start)) == ([(1, Reason.REPLACED)], 1)


def test_a_lost_one_is_ended_once_its_substitute_has_a_machine() -> None:
    world = [container(1, RUNNING), container(2, RUNNING)]
    assert len(plan(job(2, 2), world, lost=[2]).start) == 1
    assert plan(job(2, 2), [*world, container(3, None)], lost=[2]).is_empty
    assert stops(plan(job(2, 2), [*world, container(3, CREATING)], lost=[2])) == [(2, Reason.MACHINE_LOST)]
    assert stops(plan(job(2, 2), [*world, container(3, None)])) == [(3, Reason.SCALED_IN)]


def test_what_is_replaced_itself_is_no_substitute_of_a_lost_one() -> None:
    leaving, gone = container(1, RUNNING), container(2, RUNNING)
    result = plan(job(1, 1), [leaving, gone], lost=[2], outdated={leaving.id: Reason.HOST_DRAINED})
    assert stops(result) == [(1, Reason.HOST_DRAINED)]


def test_a_report_says_how_many_have_completed() -> None:
    assert "1 completed" in plan(job(3, 1), [done(1), container(2, RUNNING)]).report.sentence
