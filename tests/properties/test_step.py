"""A container's life against an engine that does anything an engine may do, and a user who stops it at any time."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.event import NewEvent
from muster.model.run import Observation, Phase, Ref
from muster.planner.lifecycle import Call, Step, Terms, begin_stop, step
from tests.unit.planner.worlds import MACHINE, at, container, stop

TERMS = Terms(drain_seconds=2, keep_stopped_seconds=100)
ORDER = list(ContainerStatus)


class Engine:
    """The object of one container, as far as calls and misfortune move it."""

    def __init__(self) -> None:
        self.seen = Observation(Ref(MACHINE, container(1, None).id), Phase.ABSENT)
        self.starts = 0

    def obey(self, call: Call, now: float) -> None:
        phase = self.seen.phase
        if call is Call.CREATE and phase is Phase.ABSENT:
            self.seen = replace(self.seen, phase=Phase.CREATED)
        elif call is Call.START and phase is Phase.CREATED:
            self.seen = replace(self.seen, phase=Phase.RUNNING, started_at=at(now))
            self.starts += 1
        elif call is Call.STOP and phase in (Phase.CREATED, Phase.RUNNING):
            code = 143 if phase is Phase.RUNNING else None
            self.seen = replace(self.seen, phase=Phase.EXITED, finished_at=at(now), exit_code=code)
        elif call is Call.REMOVE:
            self.seen = replace(self.seen, phase=Phase.ABSENT, started_at=None)

    def end(self, code: int, now: float) -> None:
        if self.seen.phase is Phase.RUNNING:
            self.seen = replace(self.seen, phase=Phase.EXITED, finished_at=at(now), exit_code=code)

    def vanish(self) -> None:
        if self.seen.phase is not Phase.ABSENT:
            self.seen = replace(self.seen, phase=Phase.ABSENT, started_at=None)


@given(
    st.lists(
        st.sampled_from(["look", "look", "look", "forget the commit", "forget the call", "stop", "end", "vanish"]),
        max_size=40,
    )
)
def test_every_history_is_legal_and_ends(moves: list[str]) -> None:
    row, engine, events, now = container(1, ContainerStatus.CREATING), Engine(), [ContainerStatus.CREATING], 0.0

    def look(row: Container) -> Step:
        return step(row, engine.seen, at(now), TERMS)

    def tell(happened: tuple[NewEvent, ...]) -> None:
        events.extend(event.status for event in happened)

    for move in moves:
        now += 0.5
        if move == "stop":
            row, happened = begin_stop(row, stop(Reason.STOPPED_BY_USER, now))
            tell(happened)
        elif move == "end":
            engine.end(1, now)
        elif move == "vanish":
            engine.vanish()
        elif move != "forget the commit":  # a crash before the commit is as if nobody had looked
            result = look(row)
            row = result.container
            tell(result.events)
            if result.call is not None and move != "forget the call":  # a crash between commit and call
                engine.obey(result.call, now)

    if row.stop is None:
        row, happened = begin_stop(row, stop(Reason.SCALED_IN, now))
        tell(happened)
    for _ in range(10):
        now += 60.0
        result = look(row)
        row = result.container
        tell(result.events)
        if result.call is not None:
            engine.obey(result.call, now)

    assert engine.starts <= 1
    assert events == sorted(set(events), key=ORDER.index)
    up = [word for word in events if word.rank <= ContainerStatus.RUNNING.rank]
    assert up == ORDER[: len(up)]
    assert events[-2:] == [ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN]
    assert row.released_at is not None
    assert engine.seen.phase is Phase.ABSENT
    assert look(row) == Step(row)
