"""Whatever a ReplicaSet's past looks like, its plan leads to exactly what is wanted, and then to rest."""

import itertools
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from muster.model.container import Container, ContainerStatus, Reason, StopRequest
from muster.model.deployment import DeploymentStatus
from muster.model.ids import ContainerId
from muster.planner.backoff import LONGEST_DELAY
from muster.planner.lifecycle import begin_stop
from muster.planner.plan import Plan, Situation
from muster.planner.replica_set import plan_replica_set
from tests.unit.planner.worlds import at, container, deployment, stop

SECONDS = st.floats(0, 3600, allow_nan=False)


@st.composite
def containers(draw: st.DrawFn, number: int) -> Container:
    status = draw(st.sampled_from([None, *ContainerStatus]))
    born = draw(SECONDS)
    made = container(number, status, born=born)
    if status in (ContainerStatus.SHUTTING_DOWN, None) and draw(st.booleans()):
        made = replace(made, stop=stop(draw(st.sampled_from([Reason.SCALED_IN, Reason.STOPPED_BY_USER])), born))
    if status is ContainerStatus.SHUTTING_DOWN and made.stop is None:
        made = replace(made, stop=stop(seconds=born))
    if status is ContainerStatus.SHUTDOWN:
        reason = draw(st.sampled_from([Reason.ERROR, Reason.COMPLETED, Reason.SCALED_IN, Reason.MACHINE_LOST]))
        made = replace(made, stopped_at=at(born + draw(SECONDS)), reason=reason)
    return made


@st.composite
def worlds(draw: st.DrawFn) -> list[Container]:
    return [draw(containers(number)) for number in range(draw(st.integers(0, 12)))]


def plan(wanted: int, world: list[Container], seconds: float, *, is_running: bool = True) -> Plan:
    numbers = itertools.count(1000)
    status = DeploymentStatus.RUNNING if is_running else DeploymentStatus.STOPPED
    return plan_replica_set(
        Situation(deployment(wanted, status=status), tuple(world), at(seconds)),
        new_id=lambda: ContainerId(f"{next(numbers):016x}"),
    )


def apply(world: list[Container], result: Plan, seconds: float) -> list[Container]:
    stops = {each.container_id: each.reason for each in result.stop}
    left = [
        begin_stop(each, StopRequest(stops[each.id], at(seconds)))[0] if each.id in stops else each for each in world
    ]
    return [*left, *(container(int(each, 16), None, born=seconds) for each in result.start)]


@given(worlds(), st.integers(0, 8), SECONDS, st.booleans())
def test_a_plan_never_overshoots_and_leads_to_rest(
    world: list[Container], wanted: int, seconds: float, is_running: bool
) -> None:
    result = plan(wanted, world, seconds, is_running=is_running)
    after = apply(world, result, seconds)
    goal = wanted if is_running else 0
    live = sum(each.is_live for each in after)
    assert live <= max(goal, 0)
    assert live == goal or result.report.backoff_until is not None
    assert plan(wanted, after, seconds, is_running=is_running).is_empty


@given(worlds(), st.integers(0, 8), SECONDS)
def test_a_plan_starts_or_stops_but_never_both_and_stops_only_what_lives(
    world: list[Container], wanted: int, seconds: float
) -> None:
    result = plan(wanted, world, seconds)
    assert not (result.start and result.stop)
    live = {each.id for each in world if each.is_live}
    stopped = [each.container_id for each in result.stop]
    assert set(stopped) <= live
    assert len(set(stopped)) == len(stopped)


@given(worlds(), st.integers(1, 8), SECONDS)
def test_no_backoff_is_longer_than_its_bound_after_the_last_death(
    world: list[Container], wanted: int, seconds: float
) -> None:
    until = plan(wanted, world, seconds).report.backoff_until
    if until is not None:
        last_death = max(each.stopped_at for each in world if each.stopped_at is not None)
        assert at(seconds) < until <= last_death + LONGEST_DELAY


@given(worlds(), st.integers(0, 8), SECONDS, st.randoms())
def test_the_order_in_which_history_is_told_does_not_matter(
    world: list[Container], wanted: int, seconds: float, random: Random
) -> None:
    shuffled = list(world)
    random.shuffle(shuffled)
    first, second = plan(wanted, world, seconds), plan(wanted, shuffled, seconds)
    assert first.report == second.report
    assert set(first.stop) == set(second.stop)
    assert len(first.start) == len(second.start)
