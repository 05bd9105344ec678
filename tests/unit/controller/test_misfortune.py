"""The loops against what goes on for long or comes back: crash loops, wrong clocks, runs that return from the dead."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from muster.controller.containers import RECHECK, ContainerReconciler
from muster.model.run import Ref
from muster.planner.lifecycle import Terms
from muster.testing.fake_engine import FakeEngine
from muster.testing.harness import TERMS, Harness, small_fleet


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


@pytest.mark.slow
def test_replicas_that_crash_together_are_retried_ever_more_slowly_however_many_they_are(tmp_path: Path) -> None:
    wide = replace(small_fleet()[0], gpu_num=26, cpu_num=26 * 16)
    with Harness(tmp_path, machines=[wide]) as harness:
        uuid = harness.create(replica_num=26, cmd="sleep 1; exit 3")
        harness.advance(30)
        assert len(harness.containers(uuid)) <= 5 * 26


def test_a_crash_loop_is_slowed_also_while_the_clock_is_set_back(harness: Harness) -> None:
    uuid = harness.create(cmd="sleep 1; exit 3")
    harness.advance(0.2)
    harness.set_wall_clock(-600)
    harness.advance(120)
    assert 4 <= len(harness.containers(uuid)) <= 8


def test_a_crash_loop_waits_for_no_death_of_a_clock_that_was_ahead(harness: Harness) -> None:
    harness.set_wall_clock(86_400)
    uuid = harness.create(cmd="sleep 1; exit 3")
    harness.advance(10)
    harness.set_wall_clock(0)
    before = len(harness.containers(uuid))
    harness.advance(60)
    assert before + 3 <= len(harness.containers(uuid)) <= before + 8


def test_a_drain_ends_also_when_the_clock_is_set_back_meanwhile(harness: Harness) -> None:
    uuid = harness.create()
    harness.settle()
    harness.scale(uuid, 0)
    harness.advance(0.5)
    harness.set_wall_clock(-86_400)
    harness.advance(40)
    assert harness.world.running() == ()


@pytest.mark.slow
@pytest.mark.parametrize("seconds_gone", [5, 700])
def test_a_run_that_returns_after_its_end_was_recorded_is_removed(harness: Harness, seconds_gone: float) -> None:
    uuid = harness.create()
    harness.settle()
    gone = harness.running(uuid)[0]
    run = harness.world.run_of(gone.id)
    assert run is not None
    harness.world.vanish(gone.id)
    harness.advance(seconds_gone)
    harness.scale(uuid, 0)
    engine = FakeEngine(harness.world)
    harness.do(engine.create(run))
    harness.do(engine.start(run.ref))
    harness.advance(40)
    assert gone.id not in harness.world.running()


@pytest.mark.slow
def test_what_is_kept_of_ended_containers_needs_no_look_until_it_is_due(harness: Harness) -> None:
    uuid = harness.create(replica_num=4)
    harness.settle()
    harness.scale(uuid, 0)
    harness.settle()
    reconciler = ContainerReconciler(harness._store, FakeEngine(harness.world), harness.clock, TERMS)
    assert list(harness.do(reconciler.keys())) == []
    harness.advance(TERMS.keep_stopped_seconds + 40)
    assert harness.world.object_count == 0


class SlowToRemove(FakeEngine):
    """An engine whose removals take effect some time after they were asked for."""

    async def remove(self, ref: Ref) -> None:
        del ref


def test_a_removal_that_takes_its_time_is_not_asked_for_again_without_a_pause(harness: Harness) -> None:
    uuid = harness.create()
    harness.settle()
    harness.scale(uuid, 0)
    harness.settle()
    reconciler = ContainerReconciler(
        harness._store, SlowToRemove(harness.world), harness.clock, Terms(keep_stopped_seconds=0)
    )
    again_at = harness.do(reconciler.reconcile(harness.containers(uuid)[0].id))
    assert again_at is not None
    assert again_at >= harness.clock.now() + RECHECK


def test_an_engine_that_answers_again_is_used_within_seconds(harness: Harness) -> None:
    harness.create(replica_num=3)
    harness.settle()
    placement = harness.running()[0].placement
    assert placement is not None
    harness.world.cut(placement.machine_id)
    harness.advance(31)
    assert set(harness.read(lambda tx: tx.machines.problems())) == {placement.machine_id}
    harness.world.heal()
    harness.advance(4)
    assert harness.read(lambda tx: tx.machines.problems()) == {}
