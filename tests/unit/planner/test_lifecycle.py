from dataclasses import replace

import pytest

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.run import Observation, Phase, Ref
from muster.planner.lifecycle import Call, Step, Terms, begin_stop, fail, give_up, step
from tests.unit.planner.worlds import MACHINE, at, container, stop

TERMS = Terms(drain_seconds=2, keep_stopped_seconds=100)
S = ContainerStatus


def seen(phase: Phase, **more: object) -> Observation:
    observation = Observation(Ref(MACHINE, container(1, None).id), phase)
    return replace(observation, **more)  # type: ignore[arg-type]


def words(result: Step) -> list[str]:
    return [event.status.value for event in result.events]


def test_a_container_passes_every_state_in_order_one_event_each() -> None:
    row = container(1, S.CREATING)
    said: list[str] = []
    for phase, call in ((Phase.ABSENT, Call.CREATE), (Phase.CREATED, Call.START), (Phase.RUNNING, None)):
        result = step(row, seen(phase, started_at=at(1)), at(1), TERMS)
        assert result.call == call
        row, said = result.container, said + words(result)
    assert said == ["created", "starting", "oss_merged", "running"]
    assert row.started_at == at(1)
    assert step(row, seen(Phase.RUNNING), at(2), TERMS) == Step(row)


def test_a_command_that_was_over_before_anybody_looked_still_gets_all_its_events() -> None:
    ended = seen(Phase.EXITED, started_at=at(1), finished_at=at(1.1), exit_code=0)
    result = step(container(1, S.STARTING), ended, at(2), TERMS)
    assert words(result) == ["oss_merged", "running", "shutting_down", "shutdown"]
    assert result.container.reason is Reason.COMPLETED
    assert result.container.stopped_at == at(1.1)


@pytest.mark.parametrize(
    ("code", "reason", "hint"), [(1, "error", ""), (127, "error", "not found"), (0, "completed", "")]
)
def test_the_exit_code_gives_the_reason_and_a_likely_cause(code: int, reason: str, hint: str) -> None:
    row = container(1, S.RUNNING)
    result = step(row, seen(Phase.EXITED, started_at=at(0), exit_code=code), at(5), TERMS)
    assert result.container.reason == reason
    assert hint in result.container.message
    assert result.events[-1].exit_code == code


def test_an_object_that_vanished_ends_the_container() -> None:
    result = step(container(1, S.RUNNING), seen(Phase.ABSENT), at(5), TERMS)
    assert words(result) == ["shutting_down", "shutdown"]
    assert result.container.reason is Reason.REMOVED_EXTERNALLY


def test_a_stop_request_writes_intent_status_and_event_together() -> None:
    row, events = begin_stop(container(1, S.RUNNING, is_ready=True), stop(seconds=3))
    assert (row.status, row.is_ready, row.reason) == (S.SHUTTING_DOWN, False, Reason.SCALED_IN)
    assert [event.status for event in events] == [S.SHUTTING_DOWN]


def test_a_second_stop_request_changes_nothing() -> None:
    row, _ = begin_stop(container(1, S.RUNNING), stop(seconds=3))
    assert begin_stop(row, stop(Reason.STOPPED_BY_USER, 4)) == (row, ())


def test_an_unplaced_container_is_given_up_without_events() -> None:
    row, events = begin_stop(container(1, None), stop(seconds=3))
    assert row.is_finished
    assert events == ()


def test_a_container_whose_load_nobody_knows_is_stopped_only_after_the_drain() -> None:
    row, _ = begin_stop(container(1, S.RUNNING, ready_at=at(1)), stop(seconds=10))
    early = step(row, seen(Phase.RUNNING), at(11), TERMS)
    assert (early.call, early.wake_at) == (None, at(12))
    assert step(row, seen(Phase.RUNNING), at(12), TERMS).call is Call.STOP


def test_what_never_ran_is_stopped_without_a_drain() -> None:
    row, _ = begin_stop(container(1, S.CREATED), stop(seconds=10))
    assert step(row, seen(Phase.CREATED), at(10), TERMS).call is Call.STOP


@pytest.mark.parametrize("status", [S.CREATING, S.CREATED, S.STARTING, S.RUNNING])
def test_a_stop_at_any_state_ends_in_shutdown_with_the_asked_reason(status: ContainerStatus) -> None:
    row, first = begin_stop(container(1, status), stop(Reason.STOPPED_BY_USER))
    for phase in (Phase.ABSENT, Phase.EXITED):
        result = step(row, seen(phase), at(9), TERMS)
        assert [event.status for event in (*first, *result.events)] == [S.SHUTTING_DOWN, S.SHUTDOWN]
        assert result.container.reason is Reason.STOPPED_BY_USER


def test_a_stopped_container_is_kept_for_a_time_and_then_destroyed() -> None:
    row = container(1, S.SHUTDOWN, stopped_at=at(10))
    assert step(row, seen(Phase.EXITED), at(50), TERMS).wake_at == at(110)
    assert step(row, seen(Phase.EXITED), at(110), TERMS).call is Call.REMOVE
    released = step(row, seen(Phase.ABSENT), at(111), TERMS).container
    assert released.released_at == at(111)
    assert step(released, seen(Phase.ABSENT), at(999), TERMS) == Step(released)


def test_a_rejected_container_skips_forward_to_its_end() -> None:
    result = fail(container(1, S.CREATING), Reason.IMAGE_PULL_FAILED, "no such image", at(3), TERMS)
    assert words(result) == ["shutting_down", "shutdown"]
    assert result.events[-1].reason is Reason.IMAGE_PULL_FAILED
    assert result.events[-1].message == "no such image"


def rows() -> list[Container]:
    placed = [container(1, status) for status in S]
    return placed + [begin_stop(row, stop())[0] for row in placed]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.status}-{row.wanted}")
@pytest.mark.parametrize("phase", list(Phase))
def test_no_step_ever_goes_back_or_repeats_an_event(row: Container, phase: Phase) -> None:
    result = step(row, seen(phase, started_at=at(1)), at(5), TERMS)
    assert row.status is not None
    assert result.container.status is not None
    ranks = [row.status.rank, *(event.status.rank for event in result.events)]
    assert ranks == sorted(set(ranks))
    assert result.container.status.rank == ranks[-1]


@pytest.mark.parametrize("status", [S.CREATING, S.STARTING, S.RUNNING, S.SHUTTING_DOWN])
def test_what_is_given_up_on_a_lost_machine_ends_unseen_and_is_destroyed_if_it_returns(status: S) -> None:
    stopped = container(1, status, stop=stop(Reason.MACHINE_LOST), is_ready=True)
    result = give_up(stopped, at(9))
    ended = result.container
    assert (ended.status, ended.reason, ended.stopped_at) == (S.SHUTDOWN, Reason.MACHINE_LOST, at(9))
    assert not ended.is_ready
    assert not ended.is_completed
    assert words(result)[-1] == "shutdown"
    assert step(ended, seen(Phase.RUNNING), at(10), TERMS).call is Call.REMOVE
    assert step(ended, seen(Phase.ABSENT), at(10), TERMS).container.released_at == at(10)
