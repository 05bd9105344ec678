"""What every engine must do that reuses containers: the port's sentences on taking over, as tests.

Inherit beside ``EngineConformance``, whose fixtures this uses. What needs a shell is left out with ``runs_shell``.
"""
# ruff: noqa: D102 - the names of the tests are sentences

import dataclasses
from typing import Any

import pytest

from muster.engine.port import ContainerRun, Engine, Observation, Phase
from muster.errors import EngineRejected
from muster.model.container import Reason
from muster.model.ids import AccountId
from muster.testing.conformance.engine import AT_ONCE, FOREVER, launch, make_run, output_of, until


def taking_over(old: ContainerRun, cmd: str = FOREVER, **env: str) -> ContainerRun:
    """Return an order for a container that takes an ended one over."""
    return dataclasses.replace(make_run(cmd), env=env, takes_over=old.ref)


async def ended(engine: Engine, cmd: str = "echo first", **env: str) -> ContainerRun:
    """Run a command to its end; return its order."""
    run = dataclasses.replace(make_run(cmd), env=env)
    await launch(engine, run)
    await until(engine, run.ref, Phase.EXITED)
    return run


class ReuseConformance:
    """Inherit beside ``EngineConformance``."""

    runs_shell: bool

    def test_a_container_that_is_taken_over_is_the_new_ones_alone(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            old = await ended(engine)
            new = taking_over(old)
            created = await engine.create(new)
            assert (created.ref, created.phase) == (new.ref, Phase.CREATED)
            assert (created.started_at, created.finished_at, created.exit_code) == (None, None, None)
            assert await engine.observe(old.ref) == Observation(old.ref, Phase.ABSENT)
            assert [seen.ref for seen in await engine.observe_all(new.ref.machine_id)] == [new.ref]
            begun = await engine.start(new.ref)
            assert begun.phase is Phase.RUNNING

        play(scenario)

    def test_taking_over_again_changes_nothing(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            new = taking_over(await ended(engine))
            assert await engine.create(new) == await engine.create(new)
            begun = await engine.start(new.ref)
            assert await engine.create(new) == begun
            assert await engine.start(new.ref) == begun
            assert len(await engine.observe_all(new.ref.machine_id)) == 1

        play(scenario)

    def test_the_old_one_can_no_longer_be_touched(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            old = await ended(engine)
            new = taking_over(old)
            await launch(engine, new)
            await engine.remove(old.ref)
            assert (await engine.stop(old.ref, AT_ONCE)).phase is Phase.ABSENT
            with pytest.raises(EngineRejected):
                await engine.start(old.ref)
            assert (await engine.observe(new.ref)).phase is Phase.RUNNING

        play(scenario)

    def test_what_is_gone_cannot_be_taken_over(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            old = await ended(engine)
            await engine.remove(old.ref)
            new = taking_over(old)
            with pytest.raises(EngineRejected) as refusal:
                await engine.create(new)
            assert refusal.value.reason == Reason.REMOVED_EXTERNALLY
            assert (await engine.observe(new.ref)).phase is Phase.ABSENT

        play(scenario)

    def test_another_accounts_files_are_never_given(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            old = await ended(engine)
            before = await engine.observe(old.ref)
            with pytest.raises(EngineRejected):
                await engine.create(dataclasses.replace(taking_over(old), account_id=AccountId(2)))
            assert await engine.observe(old.ref) == before

        play(scenario)

    def test_one_that_was_stopped_before_it_started_can_be_taken_over(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            second = taking_over(await ended(engine))
            await engine.create(second)
            stopped = await engine.stop(second.ref, AT_ONCE)
            assert (stopped.phase, stopped.started_at, stopped.exit_code) == (Phase.EXITED, None, None)
            with pytest.raises(EngineRejected):
                await engine.start(second.ref)
            third = taking_over(second, "echo third")
            assert (await engine.create(third)).phase is Phase.CREATED
            await engine.start(third.ref)
            await until(engine, third.ref, Phase.EXITED)
            assert await output_of(engine, third.ref) == b"third\n"

        play(scenario)

    def test_each_run_has_its_own_end_and_output(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            old = await ended(engine, "echo first; exit 3")
            new = taking_over(old, "echo second; exit 4")
            await engine.create(new)
            assert await output_of(engine, new.ref, follow=False) == b""
            await engine.start(new.ref)
            seen = await until(engine, new.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (4, None)
            assert await output_of(engine, new.ref) == b"second\n"

        play(scenario)

    def test_files_stay_while_command_and_environment_are_new(self, play: Any) -> None:
        if not self.runs_shell:
            pytest.skip("this engine runs no shell")

        async def scenario(engine: Engine) -> None:
            old = await ended(engine, "echo $WORD > note; echo big > /root/autodl-tmp/note", WORD="old", GONE="yes")
            new = taking_over(
                old, "cat note /root/autodl-tmp/note; echo $WORD $GONE; cat /init/others/help", WORD="new"
            )
            await launch(engine, new)
            await until(engine, new.ref, Phase.EXITED)
            text = (await output_of(engine, new.ref)).decode()
            assert text.startswith("old\nbig\nnew\n")
            assert "export AutoDLService6006URL=http://" in text

        play(scenario)
