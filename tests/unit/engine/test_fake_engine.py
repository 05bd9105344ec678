"""What a test can do to a fake world, and ask it, beyond the engine port."""

import asyncio
import datetime

import pytest

from muster.engine.port import ContainerRun, Observation, Phase, StopOrder
from muster.errors import EngineRejected, EngineUnavailable
from muster.model.container import Reason
from muster.testing.conformance.engine import FOREVER, HERE, launch, make_run
from muster.testing.fake_engine import FakeEngine, FakeWorld


class Hand:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime.datetime:
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        due = self.seconds + seconds
        while self.seconds < due:  # noqa: ASYNC110
            await asyncio.sleep(0)


def with_gpus(run: ContainerRun, *indices: int) -> ContainerRun:
    return ContainerRun(run.ref, run.uuid, run.account_id, run.image, run.cmd, run.env, indices)


def test_sleep_ends_by_the_clock_at_the_exact_time() -> None:
    async def scenario() -> None:
        clock = Hand()
        world = FakeWorld(clock)
        run = make_run("sleep 10; exit 4")
        await launch(FakeEngine(world), run)
        clock.seconds = 9.9
        assert world.running() == (run.ref.container_id,)
        clock.seconds = 25.0
        seen = world.look(run.ref.container_id)
        assert seen is not None
        assert (seen.phase, seen.exit_code) == (Phase.EXITED, 4)
        assert seen.finished_at == datetime.datetime(2026, 1, 1, 0, 0, 10, tzinfo=datetime.UTC)

    asyncio.run(scenario())


def test_a_double_claim_of_a_gpu_shows_until_a_holder_ends() -> None:
    async def scenario() -> None:
        world = FakeWorld(Hand())
        engine = FakeEngine(world)
        one, two = with_gpus(make_run(), 0, 1), with_gpus(make_run(), 1)
        await launch(engine, one)
        await launch(engine, two)
        assert world.gpu_holders()[HERE, 1] == [one.ref.container_id, two.ref.container_id]
        world.finish(one.ref.container_id, 1)
        assert world.gpu_holders() == {(HERE, 1): [two.ref.container_id]}

    asyncio.run(scenario())


def test_every_start_is_remembered_also_of_what_is_gone() -> None:
    async def scenario() -> None:
        world = FakeWorld(Hand())
        run = make_run()
        await launch(FakeEngine(world), run)
        world.vanish(run.ref.container_id)
        assert (await FakeEngine(world).observe(run.ref)) == Observation(run.ref, Phase.ABSENT)
        await launch(FakeEngine(world), run)
        assert [start.run for start in world.starts(run.ref.container_id)] == [run, run]

    asyncio.run(scenario())


def test_a_cut_machine_does_not_answer_and_runs_on() -> None:
    async def scenario() -> None:
        world = FakeWorld(Hand())
        engine = FakeEngine(world)
        run = make_run()
        await launch(engine, run)
        world.cut(HERE)
        with pytest.raises(EngineUnavailable):
            await engine.stop(run.ref, StopOrder())
        assert world.running(HERE) == (run.ref.container_id,)
        world.heal()
        assert (await engine.observe(run.ref)).phase is Phase.RUNNING

    asyncio.run(scenario())


def test_a_rejected_image_can_be_accepted_again() -> None:
    async def scenario() -> None:
        world = FakeWorld(Hand())
        engine = FakeEngine(world)
        run = make_run()
        world.reject_image("local")
        with pytest.raises(EngineRejected) as refusal:
            await engine.create(run)
        assert refusal.value.reason == Reason.IMAGE_PULL_FAILED
        world.accept_image("local")
        assert (await engine.create(run)).phase is Phase.CREATED

    asyncio.run(scenario())


def test_a_reboot_ends_what_ran_without_an_exit_code() -> None:
    async def scenario() -> None:
        world = FakeWorld(Hand())
        run = make_run(FOREVER)
        await launch(FakeEngine(world), run)
        world.reboot(HERE)
        seen = world.look(run.ref.container_id)
        assert seen is not None
        assert (seen.phase, seen.exit_code, seen.reason) == (Phase.EXITED, None, Reason.MACHINE_LOST)

    asyncio.run(scenario())
