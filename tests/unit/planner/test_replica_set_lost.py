"""Containers of a ReplicaSet whose machine is lost: substitutes at once, and no end before one has a machine."""

from muster.model.container import ContainerStatus, Reason
from tests.unit.planner.worlds import container, deployment, edited, planned, ready, stops

CREATING = ContainerStatus.CREATING
MACHINE_LOST, SCALED_IN = Reason.MACHINE_LOST, Reason.SCALED_IN


def test_substitutes_are_started_at_once_and_the_lost_ones_are_kept() -> None:
    plan = planned(deployment(3), [ready(1), ready(2), ready(3)], lost=[2, 3])
    assert (len(plan.start), stops(plan)) == (2, [])
    assert "2 on lost machines" in plan.report.sentence


def test_while_substitutes_have_no_machine_nothing_moves() -> None:
    world = [ready(1), ready(2), container(10, None)]
    assert planned(deployment(2), world, lost=[2]).is_empty


def test_a_lost_one_is_ended_for_each_substitute_that_has_a_machine() -> None:
    world = [ready(1), ready(2), ready(3), container(10, CREATING), container(11, None)]
    assert stops(planned(deployment(3), world, lost=[2, 3])) == [(2, MACHINE_LOST)]
    both = [*world[:4], container(11, CREATING)]
    assert stops(planned(deployment(3), both, lost=[2, 3])) == [(2, MACHINE_LOST), (3, MACHINE_LOST)]


def test_a_lost_one_that_returns_in_time_stays_and_its_substitute_goes() -> None:
    world = [ready(1), ready(2), container(10, None)]
    assert stops(planned(deployment(2), world)) == [(10, SCALED_IN)]


def test_scale_in_while_one_is_lost_ends_the_lost_one() -> None:
    assert stops(planned(deployment(1), [ready(1), ready(2)], lost=[2])) == [(2, MACHINE_LOST)]
    assert len(planned(deployment(0), [ready(1), ready(2)], lost=[2]).stop) == 2


def test_a_stopped_deployment_ends_lost_ones_too() -> None:
    gone = deployment(2, deleted_at=deployment().created_at)
    assert len(planned(gone, [ready(1), ready(2)], lost=[1, 2]).stop) == 2


def test_in_a_rollout_a_lost_old_one_is_replaced_by_a_new_one() -> None:
    world = [ready(1), ready(2), ready(3)]
    plan = planned(edited(3), world, lost=[3])
    assert (len(plan.start), stops(plan)) == (2, [])
    placed = [*world, container(20, CREATING, version="v2"), container(21, None, version="v2")]
    assert stops(planned(edited(3), placed, lost=[3])) == [(3, MACHINE_LOST)]


def test_what_goes_at_once_is_no_substitute_of_a_lost_one() -> None:
    """Else both would go, and the one that may come back with them, before anything has a machine."""
    world = [ready(1), container(2, CREATING)]
    plan = planned(edited(1), world, lost=[1])
    assert [number for number, _ in stops(plan)] == [2]


def test_a_lost_one_counts_as_ready_for_nobody() -> None:
    world = [ready(1), ready(2), ready(20, "v2")]
    assert stops(planned(edited(2), world, lost=[1])) == [(1, MACHINE_LOST)]


def test_a_version_that_lost_one_is_good_only_when_it_is_replaced() -> None:
    world = [ready(1), ready(2), ready(3)]
    assert not planned(deployment(2), world, lost=[3], outdated={}).is_good
    assert planned(deployment(2), world[:2]).is_good
