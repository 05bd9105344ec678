"""A drain as a table: what is known and when, what follows."""

from dataclasses import replace

import pytest

from muster.model.container import ContainerStatus, DrainStep
from muster.model.ids import ContainerUuid
from muster.model.routes import ContainerLoad
from muster.model.run import Observation, Phase, Ref
from muster.planner.drain import Drain, drain
from muster.planner.lifecycle import Call, Terms, begin_stop, step
from tests.unit.planner.worlds import MACHINE, at, container, stop

UUID = ContainerUuid("c")
DRAINING = replace(
    begin_stop(container(1, ContainerStatus.RUNNING, started_at=at(0), ready_at=at(1)), stop(seconds=100))[0]
)
TERMS = Terms(drain_seconds=30)


def load(in_flight: int, *, is_refusing: bool = True) -> ContainerLoad:
    return ContainerLoad(UUID, is_refusing=is_refusing, in_flight=in_flight)


def look(
    seconds: float, seen: ContainerLoad | None, *, row: object = DRAINING, grace: float = 0, longest: float = 30
) -> Drain:
    return drain(row, at(seconds), seen, grace_seconds=grace, drain_seconds=longest)  # type: ignore[arg-type]


def test_it_waits_until_the_ingress_says_that_it_refuses() -> None:
    assert look(101, load(0, is_refusing=False)) == Drain(DrainStep.NONE, wake_at=at(130))


def test_who_is_in_may_finish_and_the_end_of_the_last_is_the_end_of_the_drain() -> None:
    first = look(101, load(2))
    assert first == Drain(DrainStep.REFUSING, ("takes no new requests; 2 in flight",), at(130))
    refusing = replace(DRAINING, drain=first.step)
    assert look(110, load(1), row=refusing) == Drain(DrainStep.REFUSING, (), at(130))
    assert look(111, load(0), row=refusing) == Drain(DrainStep.DONE, ("nothing is in flight: stopping",))


def test_with_nothing_in_flight_both_steps_are_one_but_both_are_told() -> None:
    assert look(100, load(0)).said == ("takes no new requests; 0 in flight", "nothing is in flight: stopping")


def test_what_is_not_known_is_waited_for_to_the_end() -> None:
    assert look(129, None) == Drain(DrainStep.NONE, wake_at=at(130))
    done = look(130, None)
    assert done.step is DrainStep.DONE
    assert "not known" in done.said[0]


def test_a_report_that_stops_coming_does_not_end_a_drain_that_had_begun() -> None:
    assert look(105, None, row=replace(DRAINING, drain=DrainStep.REFUSING)).step is DrainStep.REFUSING


def test_at_the_end_of_the_time_it_says_how_many_were_left() -> None:
    assert look(130, load(3)).said == ("3 still in flight after 30 s: stopping all the same",)
    assert look(130, load(3, is_refusing=False)).said[0].startswith("the ingress did not refuse")


def test_during_the_grace_new_requests_are_taken() -> None:
    assert look(104, load(0), grace=5) == Drain(DrainStep.NONE, wake_at=at(105))
    assert look(104, load(0, is_refusing=True), grace=5).step is DrainStep.NONE
    assert look(105, load(0), grace=5).step is DrainStep.DONE
    assert look(134, load(1), grace=5).step is DrainStep.REFUSING
    assert look(135, load(1), grace=5).step is DrainStep.DONE


def test_what_was_never_ready_has_nobody_to_wait_for() -> None:
    assert look(100, None, row=replace(DRAINING, ready_at=None)) == Drain(DrainStep.DONE)


def test_what_was_never_ready_but_serves_somebody_all_the_same_is_waited_for() -> None:
    assert look(100, load(1), row=replace(DRAINING, ready_at=None)).step is DrainStep.REFUSING


def test_a_clock_that_was_set_back_does_not_hold_up_a_stop() -> None:
    assert look(-100_000, None).step is DrainStep.DONE


@pytest.mark.parametrize("seen", [None, load(5)])
def test_without_time_for_a_drain_nobody_is_waited_for_and_nothing_is_said(seen: ContainerLoad | None) -> None:
    assert look(100, seen, longest=0) == Drain(DrainStep.DONE)


def test_the_steps_are_committed_with_their_words_before_the_container_is_stopped() -> None:
    running = Observation(Ref(MACHINE, DRAINING.id), Phase.RUNNING)
    first = step(DRAINING, running, at(101), TERMS, load(1))
    assert (first.container.drain, first.call, first.wake_at) == (DrainStep.REFUSING, None, at(130))
    assert [(event.kind.value, event.message) for event in first.events] == [
        ("drain", "takes no new requests; 1 in flight")
    ]
    assert step(first.container, running, at(102), TERMS, load(1)).events == ()
    last = step(first.container, running, at(103), TERMS, load(0))
    assert (last.container.drain, last.call) == (DrainStep.DONE, Call.STOP)
    again = step(last.container, running, at(104), TERMS, None)
    assert (again.events, again.call) == ((), Call.STOP), "a crash after the commit: the stop is ordered again"
