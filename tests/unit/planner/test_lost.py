"""Which machines are lost and which the brake holds, at the borders of its numbers."""

import datetime

import pytest

from muster.model.ids import MachineId
from muster.model.machine import MachineState
from muster.planner.lost import Verdict, judge

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
ANSWERS = MachineState()


def ids(*numbers: int) -> tuple[MachineId, ...]:
    return tuple(MachineId(str(number)) for number in numbers)


def gone(seconds_ago: float = 60.0, *, is_lost: bool = False) -> MachineState:
    since = NOW - datetime.timedelta(seconds=seconds_ago)
    return MachineState("unreachable: gone", since, NOW if is_lost else None)


def verdict_of(
    *states: MachineState, watched: float | dict[int, float] = 60.0, held: tuple[MachineId, ...] = ()
) -> Verdict:
    by_id = dict(zip(ids(*range(len(states))), states, strict=True))
    seconds = watched if isinstance(watched, dict) else dict.fromkeys(range(len(states)), watched)
    waiting = {key: seconds[int(key)] for key, state in by_id.items() if state.unreachable_since and not state.lost_at}
    return judge(by_id, list(by_id), waiting, lost_after_seconds=60.0, held=held)


def test_where_all_answer_there_is_nothing_to_do() -> None:
    assert verdict_of(ANSWERS, ANSWERS) == Verdict(machine_num=2)


def test_a_machine_is_lost_when_it_has_been_watched_long_enough_and_not_before() -> None:
    early = verdict_of(gone(), *[ANSWERS] * 9, watched=59.0)
    assert (early.lost, early.look_after_seconds) == ((), 1.0)
    assert verdict_of(gone(), *[ANSWERS] * 9).lost == ids(0)


def test_what_is_stored_does_not_count_as_seen() -> None:
    assert verdict_of(gone(86400), *[ANSWERS] * 9, watched=1.0).lost == ()


@pytest.mark.parametrize(("vanished", "all_"), [(1, 1), (1, 2), (3, 10), (6, 20)])
def test_up_to_three_of_ten_or_a_single_one_are_lost(vanished: int, all_: int) -> None:
    verdict = verdict_of(*[gone()] * vanished, *[ANSWERS] * (all_ - vanished))
    assert (len(verdict.lost), verdict.held) == (vanished, frozenset())


@pytest.mark.parametrize(("vanished", "all_"), [(2, 2), (2, 6), (4, 10), (10, 10)])
def test_the_brake_holds_more_than_that(vanished: int, all_: int) -> None:
    verdict = verdict_of(*[gone()] * vanished, *[ANSWERS] * (all_ - vanished))
    assert (verdict.lost, len(verdict.held), verdict.vanished_num) == ((), vanished, vanished)
    assert f"{vanished} of {all_} machines" in verdict.alarm


def test_only_what_vanished_within_a_minute_of_each_other_counts_together() -> None:
    within = verdict_of(gone(100), gone(120), gone(140), gone(160), *[ANSWERS] * 6)
    apart = verdict_of(gone(100), gone(120), gone(140), gone(161), *[ANSWERS] * 6)
    assert (len(within.held), len(within.lost)) == (4, 0)
    assert apart.lost == ids(0, 1, 2, 3)


def test_what_vanished_long_before_is_lost_beside_a_group_that_is_held() -> None:
    verdict = verdict_of(gone(60), gone(60), gone(60), gone(60), gone(500), *[ANSWERS] * 5)
    assert (verdict.lost, verdict.held) == (ids(4), frozenset(ids(0, 1, 2, 3)))


def test_those_that_are_lost_already_count_among_those_that_vanished() -> None:
    verdict = verdict_of(*[gone(is_lost=True)] * 2, *[gone()] * 2, *[ANSWERS] * 6)
    assert (verdict.lost, verdict.held) == ((), frozenset(ids(2, 3)))


def test_what_the_brake_lets_go_is_given_the_whole_time_again() -> None:
    verdict = verdict_of(*[gone()] * 3, *[ANSWERS] * 7, held=ids(0, 1, 2, 3))
    assert (verdict.lost, verdict.released) == ((), frozenset(ids(0, 1, 2)))


def test_a_lost_machine_is_back_when_its_engine_answers_also_while_it_is_cleared() -> None:
    still_down = MachineState("engine_unavailable: no", None, NOW)
    clearing = MachineState("returning: 1 container is still being removed", None, NOW)
    assert verdict_of(MachineState("", None, NOW), still_down, clearing).back == ids(0, 2)


def test_an_engine_that_is_down_on_a_host_that_answers_is_never_lost() -> None:
    down = MachineState("engine_unavailable: no daemon")
    assert verdict_of(down, down, ANSWERS) == Verdict(machine_num=3)


def test_a_machine_that_is_no_longer_on_offer_can_be_lost_too() -> None:
    (old,) = ids(7)
    verdict = judge({old: gone()}, [], {old: 60.0}, lost_after_seconds=60.0)
    assert verdict.lost == (old,)
