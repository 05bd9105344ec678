"""How a ReplicaSet goes from one version to the next, and what is thought of the next one."""

from dataclasses import replace

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import RolloutState, ServiceSpec
from muster.planner.lifecycle import begin_stop
from tests.unit.planner.worlds import (
    at,
    container,
    dead,
    deployment,
    edited,
    planned,
    ready,
    replaced_by_target,
    stop,
    stops,
)

CREATING, RUNNING, SHUTTING_DOWN = ContainerStatus.CREATING, ContainerStatus.RUNNING, ContainerStatus.SHUTTING_DOWN
REPLACED, ROLLED_BACK, SCALED_IN, HOST_DRAINED = (
    Reason.REPLACED,
    Reason.ROLLED_BACK,
    Reason.SCALED_IN,
    Reason.HOST_DRAINED,
)


def new(number: int, status: ContainerStatus | None, *, born: float = 101.0, **changes: object) -> Container:
    return container(number, status, born=born, version="v2", **changes)


def new_ready(number: int, *, born: float = 101.0) -> Container:
    return ready(number, "v2", born=born)


def new_dead(number: int, *, born: float, died: float, reason: Reason = Reason.ERROR) -> Container:
    return dead(number, born=born, died=died, reason=reason, version="v2")


def drained(number: int, *, seconds: float = 105.0, reason: Reason = REPLACED) -> Container:
    """An old one that was ready when it was ended."""
    ended = ready(number, stop=stop(reason, seconds), is_ready=False)
    return container(number, ContainerStatus.SHUTDOWN, stop=ended.stop, ready_at=at(0), stopped_at=at(seconds + 1))


# Beside the old ones.


def test_a_version_of_which_nothing_is_ready_yet_is_tried_with_one_container() -> None:
    plan = planned(edited(8), [ready(n) for n in range(8)])
    assert (len(plan.start), stops(plan)) == (1, [])


def test_while_the_first_new_one_is_on_its_way_nothing_moves() -> None:
    plan = planned(edited(8), [*(ready(n) for n in range(8)), new(20, CREATING)])
    assert plan.is_empty
    assert not plan.wants_room


def test_an_old_one_goes_for_each_that_is_ready_too_much_the_youngest_first() -> None:
    old = [ready(1, born=1), ready(2, born=3), ready(3, born=2)]
    assert stops(planned(edited(3), [*old, new_ready(20)])) == [(2, REPLACED)]


def test_what_was_ready_only_for_a_moment_proves_nothing_and_ends_nobody() -> None:
    world = [*(ready(n) for n in range(8)), new_ready(20, born=101)]
    early = planned(edited(8), world, 110.9)
    assert early.is_empty
    assert early.wake_at == at(111)
    assert len(planned(edited(8), world, 111).stop) == 1


def test_once_a_version_is_proven_others_of_it_count_as_soon_as_they_are_ready() -> None:
    world = [*(ready(n) for n in range(7)), new_ready(20), new_ready(21, born=115)]
    assert len(planned(edited(8), world).stop) == 1


def test_readiness_of_a_clock_that_was_ahead_is_not_waited_for() -> None:
    assert stops(planned(edited(1), [ready(1), new_ready(20, born=9000)])) == [(1, REPLACED)]
    unknown = replace(new_ready(20), ready_at=None)
    assert stops(planned(edited(1), [ready(1), unknown])) == [(1, REPLACED)]


def test_a_version_that_is_proven_takes_a_quarter_at_a_time() -> None:
    plan = planned(edited(8), [*(ready(n) for n in range(8)), new_ready(20)])
    assert len(plan.stop) == 1
    assert len(plan.start) == 2


def test_old_ones_that_serve_nobody_go_at_once_and_their_places_are_filled() -> None:
    old = [ready(1), container(2, RUNNING), container(3, CREATING), container(4, None)]
    plan = planned(edited(4), old)
    assert set(stops(plan)) == {(2, REPLACED), (3, REPLACED), (4, REPLACED)}
    assert len(plan.start) == 4


def test_new_ones_that_are_too_many_go_before_old_ones_that_are_ready() -> None:
    """What is scaled in no longer counts as ready: nobody goes on the strength of it."""
    unready, young = new(20, RUNNING, born=101), new_ready(21, born=103)
    plan = planned(edited(1), [ready(1), unready, young])
    assert stops(plan) == [(20, SCALED_IN), (1, REPLACED)]


def test_scale_in_takes_what_runs_but_is_not_ready_before_what_is() -> None:
    assert stops(planned(deployment(1), [container(1, RUNNING, born=1), ready(2, born=2)])) == [(1, SCALED_IN)]


def test_an_old_one_that_dies_in_between_is_replaced_by_a_new_one() -> None:
    world = [ready(1), dead(2, born=0, died=104), ready(3), new(20, CREATING)]
    plan = planned(edited(3), world)
    assert (len(plan.start), stops(plan)) == (1, [])


def test_scaling_out_in_between_starts_new_ones_only() -> None:
    world = [ready(1), ready(2), new_ready(20)]
    assert len(planned(edited(6), world).start) == 4


def test_scaling_in_in_between_takes_old_ones_first() -> None:
    world = [*(ready(n, born=n) for n in range(3)), new_ready(20)]
    plan = planned(edited(2), world)
    assert stops(plan) == [(2, REPLACED), (1, REPLACED)]


def test_none_wanted_in_between_ends_all_and_back_again_starts_the_new_version_only() -> None:
    world = [ready(1), ready(2), new_ready(20), new(21, None)]
    assert {number for number, _ in stops(planned(edited(0), world))} == {1, 2, 20, 21}
    again = planned(edited(3), [])
    assert len(again.start) == 3


def test_a_deployment_that_stops_in_between_ends_all() -> None:
    plan = planned(edited(2, deleted_at=at(105)), [ready(1), ready(2), new(20, CREATING)])
    assert {each.reason for each in plan.stop} == {Reason.DEPLOYMENT_STOPPED}
    assert len(plan.stop) == 3


# Where nothing more fits.


def test_room_is_asked_for_only_where_nothing_else_moves() -> None:
    full = [ready(1), ready(2), new(20, None)]
    assert planned(edited(2), full).wants_room
    stopping = container(9, SHUTTING_DOWN, stop=stop())
    assert not planned(edited(2), [*full, stopping]).wants_room
    assert not planned(edited(3), [*full, new(21, CREATING)]).wants_room


def test_the_one_whose_end_makes_room_is_drained() -> None:
    full = [ready(1, born=1), ready(2, born=2), new(20, None)]
    assert stops(planned(edited(2), full, room=full[0].id)) == [(1, REPLACED)]


def test_the_next_is_drained_only_after_a_new_one_became_ready() -> None:
    waiting = [ready(2), ready(3), drained(1), new(20, None)]
    assert not planned(edited(3), waiting, room=waiting[0].id).stop
    replaced = [ready(2), ready(3), drained(1), new_ready(20), new(21, None)]
    assert not planned(edited(3), replaced, 110, room=replaced[0].id).stop
    assert stops(planned(edited(3), replaced, room=replaced[0].id)) == [(2, REPLACED)]


def test_a_deployment_that_never_had_all_it_wants_is_rolled_out_all_the_same() -> None:
    world = [ready(1), ready(2), new(20, None), new(21, None)]
    assert stops(planned(edited(4), world, room=world[0].id)) == [(1, REPLACED)]


def test_one_that_lost_ready_ones_in_between_goes_on_with_the_places_that_are_left() -> None:
    world = [ready(4), *(drained(n) for n in (1, 2, 3)), new_ready(20), new(21, None)]
    world += [container(n, ContainerStatus.SHUTDOWN, born=101, version="v2", ready_at=at(102)) for n in (30, 31)]
    assert stops(planned(edited(4), world, room=world[0].id)) == [(4, REPLACED)]


def test_a_rollout_that_failed_goes_back_also_where_few_places_are_left() -> None:
    failed = edited(4, failure="it never became ready")
    world = [drained(1), drained(2), new_ready(20), container(30, None, born=110), container(31, None, born=110)]
    assert stops(planned(failed, world, room=world[2].id)) == [(20, ROLLED_BACK)]


def test_what_a_pause_has_made_good_is_not_waited_for_when_more_are_wanted_than_fit() -> None:
    substitute = ready(30, born=107)
    world = [drained(1), new_dead(20, born=101, died=107), substitute, new(21, None), new(22, None)]
    assert stops(planned(edited(2), world, room=substitute.id)) == [(30, REPLACED)]
    gone = container(30, ContainerStatus.SHUTDOWN, born=107, ready_at=at(107), stop=stop(REPLACED, 110))
    one_is_missing = [drained(1), gone, ready(2), new(21, None), new(22, None)]
    assert not planned(edited(3), one_is_missing, room=one_is_missing[2].id).stop
    made_good = [drained(1), gone, ready(2), new_ready(21), new(22, None)]
    assert stops(planned(edited(3), made_good, room=made_good[2].id)) == [(2, REPLACED)]


def test_an_old_one_that_became_ready_again_in_a_pause_has_made_nothing_good() -> None:
    again = ready(2, ready_at=at(107))
    assert not planned(edited(3), [drained(1), ready(3), again, new(20, None)], room=again.id).stop


def test_nothing_of_a_drained_host_is_ended_for_room_below_the_wanted_number() -> None:
    leaving, other = ready(1), container(2, None)
    plan = planned(deployment(2), [leaving, other], outdated={leaving.id: HOST_DRAINED}, room=leaving.id)
    assert not plan.stop


# Drained hosts.


def test_what_a_host_drains_is_replaced_first_and_goes_then() -> None:
    leaving = ready(1)
    outdated = {leaving.id: HOST_DRAINED}
    first = planned(deployment(2), [leaving, ready(2)], outdated=outdated)
    assert (len(first.start), stops(first)) == (1, [])
    then = planned(deployment(2), [leaving, ready(2), ready(3)], outdated=outdated)
    assert (len(then.start), stops(then)) == (0, [(1, HOST_DRAINED)])


def test_what_a_host_drains_now_goes_at_once() -> None:
    leaving = ready(1)
    plan = planned(
        deployment(2), [leaving, ready(2)], outdated={leaving.id: HOST_DRAINED}, at_once=frozenset({leaving.id})
    )
    assert (len(plan.start), stops(plan)) == (1, [(1, HOST_DRAINED)])


def test_a_host_that_is_drained_during_a_rollout_is_part_of_it() -> None:
    leaving = new_ready(20)
    world = [ready(1), leaving]
    plan = planned(edited(2), world, outdated={**replaced_by_target(edited(2), world), leaving.id: HOST_DRAINED})
    assert (len(plan.start), stops(plan)) == (1, [])


# Good.


def test_a_version_is_good_once_all_are_of_it_and_ready() -> None:
    assert planned(edited(2), [new_ready(20), new_ready(21)]).is_good
    assert planned(deployment(2), [ready(1), ready(2)]).is_good


def test_a_version_is_not_good_while_one_is_missing_not_ready_or_of_another() -> None:
    assert not planned(edited(2), [new_ready(20)]).is_good
    assert not planned(edited(2), [new_ready(20), new(21, RUNNING)]).is_good
    assert not planned(edited(2), [new_ready(20), new_ready(21), ready(1)]).is_good
    assert not planned(edited(2), [new_ready(20), new_ready(21), ready(1)], lost=[1], outdated={}).is_good
    assert not planned(edited(0), []).is_good


def test_a_version_that_something_could_take_the_place_of_is_good_only_when_it_is_proven() -> None:
    early = planned(edited(1), [new_ready(20)], 110.9)
    assert (early.is_good, early.wake_at) == (False, at(111))
    assert planned(edited(1), [new_ready(20)], 111).is_good
    assert planned(edited(1, stable_version=None), [new_ready(20)], 101).is_good


def test_good_is_told_once() -> None:
    assert planned(edited(2, stable_version="v2"), [new_ready(20), new_ready(21)]).is_empty


def test_a_version_that_found_fewer_machines_than_wanted_is_good_after_the_same_time() -> None:
    world = [new_ready(20), new(21, None)]
    early = planned(edited(2), world, 700.9)
    assert (early.is_good, early.failure, early.wake_at) == (False, "", at(701))
    assert planned(edited(2), world, 701).is_good
    assert not planned(edited(2), [*world, ready(1)], 701).is_good


# Failed.


def test_three_young_deaths_are_a_failure_and_the_last_one_says_why() -> None:
    deaths = [new_dead(20 + n, born=101 + 10 * n, died=105 + 10 * n) for n in range(3)]
    assert not planned(edited(2), [ready(1), ready(2), *deaths[:2]], 130).failure
    failure = planned(edited(2), [ready(1), ready(2), *deaths], 130).failure
    assert "v2 died young 3 times" in failure
    assert f"{deaths[2].uuid}: error" in failure


def test_what_dies_together_counts_once() -> None:
    deaths = [new_dead(20 + n, born=101, died=105 + n / 10) for n in range(4)]
    assert not planned(edited(4), [*(ready(n) for n in range(4)), *deaths], 130).failure


def test_what_went_with_its_machine_is_no_fault_of_the_version() -> None:
    deaths = [new_dead(20 + n, born=101 + 10 * n, died=105 + 10 * n, reason=Reason.MACHINE_LOST) for n in range(4)]
    assert not planned(edited(2), [ready(1), ready(2), *deaths], 150).failure


def test_deaths_of_another_version_and_of_before_the_edit_do_not_count() -> None:
    others = [dead(20 + n, born=101 + 10 * n, died=105 + 10 * n) for n in range(3)]
    before = [new_dead(30 + n, born=10 * n, died=10 * n + 5) for n in range(3)]
    assert not planned(edited(2), [ready(1), ready(2), *others, *before], 150).failure


def test_one_that_runs_but_is_not_ready_in_time_is_a_failure() -> None:
    world = [ready(1), new(20, RUNNING, born=101)]
    assert planned(edited(1), world, 700.9).wake_at == at(701)
    failure = planned(edited(1), world, 701).failure
    assert failure == f"container {world[1].uuid} of v2 runs, but was not ready within 600 s"


def test_the_time_is_what_the_deployment_allows_and_begins_anew_when_a_rollout_goes_on() -> None:
    wanted = edited(1)
    quick = edited(1, spec=replace(deployment(1).spec, service=ServiceSpec(ready_within_seconds=30)))
    world = [ready(1), new(20, RUNNING, born=101)]
    assert planned(quick, world, 131).failure
    assert not planned(edited(1, seconds=650), world, 1249).failure
    assert not planned(wanted, world, 131).failure


def test_how_long_an_image_is_fetched_is_not_held_against_a_version() -> None:
    world = [ready(1), ready(2), new(20, CREATING, born=101)]
    plan = planned(edited(2), world, 3701)
    assert plan.is_empty
    assert plan.wake_at is None
    assert not planned(edited(2), [*world, new(21, None, born=101)], 3701).failure


def test_one_that_was_ready_once_has_met_its_time() -> None:
    assert not planned(edited(1), [ready(1), new(20, RUNNING, ready_at=at(110))], 5000).failure


def test_a_version_that_finds_no_machine_in_time_is_a_failure() -> None:
    world = [ready(1), new(20, None, born=101)]
    assert planned(edited(1), world, 701).failure == "no machine was found for a container of v2 within 600 s"


def test_a_version_that_has_found_machines_is_not_blamed_for_want_of_more() -> None:
    world = [ready(1), new(20, None, born=101), new_ready(21)]
    assert not planned(edited(2), world, 5000).failure


def test_without_a_last_good_one_nothing_is_given_up() -> None:
    deaths = [new_dead(20 + n, born=101 + 10 * n, died=105 + 10 * n) for n in range(5)]
    plan = planned(edited(1, stable_version=None), [*deaths, new(30, RUNNING, born=150)], 5000)
    assert not plan.failure
    assert plan.is_empty


def test_what_is_given_up_starts_and_stops_nothing_in_the_same_look() -> None:
    plan = planned(edited(2), [ready(1), new(20, RUNNING, born=101)], 701)
    assert plan.failure
    assert not plan.start
    assert not plan.stop


def test_after_a_failure_the_last_good_version_takes_its_places_back() -> None:
    failed = edited(3, failure="it never became ready")
    assert failed.rollout is RolloutState.FAILED
    world = [ready(1), new_ready(20), new_ready(21), new(22, RUNNING)]
    plan = planned(failed, world)
    assert stops(plan) == [(22, ROLLED_BACK)]
    assert len(plan.start) == 1
    assert not planned(failed, [ready(n) for n in range(3)], 9999).failure


# Pause, resume, undo.


def test_a_pause_leaves_all_as_they_are_also_the_one_beside_the_others() -> None:
    paused = edited(2, is_paused=True)
    plan = planned(paused, [ready(1), ready(2), new_ready(20)], 5000)
    assert plan.is_empty
    assert plan.wake_at is None


def test_a_pause_does_not_hold_more_than_that() -> None:
    paused = edited(1, is_paused=True)
    assert stops(planned(paused, [ready(1), ready(2, born=1), new(20, RUNNING)])) == [(20, SCALED_IN)]
    assert len(planned(edited(0, is_paused=True), [ready(1), new_ready(20)]).stop) == 2
    assert stops(planned(deployment(1, is_paused=True), [ready(1), ready(2, born=1)])) == [(2, SCALED_IN)]


def test_while_paused_what_ends_is_made_anew_of_the_last_good_version() -> None:
    paused = edited(3, is_paused=True)
    assert paused.target_version == "v1"
    assert len(planned(paused, [ready(1), new_ready(20)]).start) == 1


def test_no_version_is_judged_while_paused() -> None:
    deaths = [new_dead(20 + n, born=101 + 10 * n, died=105 + 10 * n) for n in range(3)]
    plan = planned(edited(2, is_paused=True), [ready(1), ready(2), *deaths], 5000)
    assert not plan.failure
    assert not planned(edited(1, is_paused=True), [new_ready(20)]).is_good


def test_undo_takes_the_same_way_back() -> None:
    undone = edited(3, version="v1", seconds=200)
    world = [ready(1), new_ready(20), new_ready(21), new(22, CREATING)]
    plan = planned(undone, world, 201)
    assert stops(plan) == [(22, REPLACED)]
    assert len(plan.start) == 1
    assert undone.rollout is RolloutState.COMPLETE


def test_starts_wait_while_the_new_version_dies_young_and_stops_do_not() -> None:
    world = [ready(1), container(2, RUNNING), new_dead(20, born=101, died=109.5)]
    plan = planned(edited(2), world, 110)
    assert stops(plan) == [(2, REPLACED)]
    assert not plan.start
    assert plan.wake_at == at(110.5)


def test_deaths_of_the_old_version_do_not_slow_the_new_one() -> None:
    assert len(planned(edited(1), [dead(1, born=101, died=109.9)], 110).start) == 1


def test_what_was_asked_to_stop_by_a_user_in_between_is_made_of_the_new_version() -> None:
    stopping, _ = begin_stop(ready(2), stop(Reason.STOPPED_BY_USER, 105))
    plan = planned(edited(2), [ready(1), stopping])
    assert (len(plan.start), stops(plan)) == (2, [])


def test_the_time_in_which_nobody_looked_is_not_held_against_a_version() -> None:
    world = [ready(1), new(20, RUNNING, born=101)]
    assert planned(edited(1), world, 900).failure
    waiting = planned(edited(1), world, 900, watched_since=at(890))
    assert (waiting.failure, waiting.wake_at) == ("", at(890 + 600))
    assert planned(edited(1), world, 1490, watched_since=at(890)).failure
    assert planned(edited(1), world, 900, watched_since=at(5000)).failure, "the clock was set back since"
