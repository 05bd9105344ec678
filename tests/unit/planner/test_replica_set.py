import itertools
from collections.abc import Callable, Sequence

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import Deployment, DeploymentStatus
from muster.model.ids import ContainerId
from muster.planner.plan import Plan, Situation
from muster.planner.replica_set import plan_replica_set
from tests.unit.planner.worlds import at, container, dead, deployment, stop

RUNNING, STARTING, SHUTTING_DOWN = ContainerStatus.RUNNING, ContainerStatus.STARTING, ContainerStatus.SHUTTING_DOWN


def ids() -> Callable[[], ContainerId]:
    numbers = itertools.count(100)
    return lambda: ContainerId(f"{next(numbers):016x}")


def plan(wanted: Deployment, containers: Sequence[Container], seconds: float = 60) -> Plan:
    return plan_replica_set(Situation(wanted, tuple(containers), at(seconds)), new_id=ids())


def stopped(result: Plan) -> list[int]:
    return [int(each.container_id, 16) for each in result.stop]


def test_an_empty_deployment_starts_all_its_replicas() -> None:
    result = plan(deployment(3), [])
    assert len(set(result.start)) == 3
    assert not result.stop


def test_at_rest_the_plan_is_empty() -> None:
    result = plan(deployment(3), [container(n, RUNNING) for n in range(3)])
    assert result.is_empty
    assert result.wake_at is None


def test_a_container_that_was_asked_to_stop_is_replaced_at_once_when_it_was_not_scaled_in() -> None:
    stopping = container(1, SHUTTING_DOWN, stop=stop(Reason.STOPPED_BY_USER))
    assert len(plan(deployment(2), [stopping, container(2, RUNNING)]).start) == 1


def test_scale_in_stops_unplaced_then_starting_then_running_and_the_youngest_of_each_first() -> None:
    world = [
        container(1, RUNNING, born=1),
        container(2, RUNNING, born=2),
        container(3, STARTING, born=3),
        container(4, STARTING, born=4),
        container(5, None, born=5),
        container(6, None, born=6),
    ]
    assert stopped(plan(deployment(0), world)) == [6, 5, 4, 3, 2, 1]
    assert stopped(plan(deployment(2), world)) == [6, 5, 4, 3]


def test_a_running_container_that_started_last_goes_before_one_that_was_made_last() -> None:
    made_first_started_last = container(1, RUNNING, born=1, started_at=at(50))
    made_last = container(2, RUNNING, born=2, started_at=at(10))
    assert stopped(plan(deployment(1), [made_first_started_last, made_last])) == [1]


def test_a_stopped_or_deleted_deployment_wants_nothing() -> None:
    world = [container(1, RUNNING), container(2, None)]
    for gone in (deployment(2, status=DeploymentStatus.STOPPED), deployment(2, deleted_at=at(1))):
        result = plan(gone, world)
        assert {each.reason for each in result.stop} == {Reason.DEPLOYMENT_STOPPED}
        assert stopped(result) == [2, 1]


def test_a_young_death_delays_the_next_start_by_a_second() -> None:
    world = [dead(1, born=0, died=5)]
    early = plan(deployment(1), world, 5.5)
    assert early.is_empty
    assert early.wake_at == at(6)
    assert "die young" in early.report.sentence
    assert len(plan(deployment(1), world, 6).start) == 1


def test_each_failed_retry_doubles_the_delay_up_to_five_minutes() -> None:
    world: list[Container] = []
    delays: list[float] = []
    born = 0.0
    for number in range(12):
        died = born + 1
        world.append(dead(number, born=born, died=died))
        wake_at = plan(deployment(1), world, died).wake_at
        assert wake_at is not None
        delays.append((wake_at - at(died)).total_seconds())
        born = died + delays[-1]
    assert delays[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert delays[9:] == [300, 300, 300]


def test_replicas_that_die_together_are_one_sign_of_trouble() -> None:
    world = [dead(n, born=0, died=5 + n / 10) for n in range(8)]
    assert plan(deployment(8), world, 5.7).wake_at == at(6.7)


def test_ten_minutes_of_running_begin_the_count_anew() -> None:
    crashes = [dead(n, born=10 * n, died=10 * n + 1) for n in range(5)]
    healthy = container(9, RUNNING, born=100)
    world = [*crashes, healthy, dead(10, born=710, died=711)]
    assert plan(deployment(2), world, 711).wake_at == at(712)


def test_an_edit_begins_the_count_anew() -> None:
    crashes = [dead(n, born=10 * n, died=10 * n + 1) for n in range(5)]
    edited = deployment(1, edited_at=at(50))
    assert len(plan(edited, crashes, 50).start) == 1


def test_a_death_after_ten_minutes_or_by_intent_delays_nothing() -> None:
    old = dead(1, born=0, died=601)
    assert len(plan(deployment(1), [old], 601).start) == 1
    intended = dead(2, born=0, died=3, reason=Reason.SCALED_IN)
    assert len(plan(deployment(1), [intended], 3).start) == 1
