"""What every engine must do: the sentences of ``muster.engine.port``, as tests.

Subclass ``EngineConformance`` in a test module and give it a fixture ``open_engine``: a function that makes a client
of one and the same engine each time it is called with the same installation name. Dropping one client and making
another is what a crash of the control plane looks like.

Commands are shell; ``runs_shell = False`` says that the engine only understands ``echo``, ``sleep``, ``exit`` and
``trap '' TERM`` (see ``FakeEngine``), and leaves out what needs real processes. All containers are made from the image
``local``. Commands share a folder with the test: ``inside`` says by which path they see it. ``shares_pids = False``
says that their process numbers mean nothing to the test, because each container has a table of its own.
"""
# ruff: noqa: ASYNC110, ASYNC240, D102 - tests wait for levels; the names of the tests are sentences

import asyncio
import datetime
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from muster.engine.port import ContainerRun, Engine, Observation, Phase, Ref, StopOrder
from muster.errors import EngineRejected
from muster.model.container import Address
from muster.model.deployment import PORTS
from muster.model.ids import AccountId, ContainerId, ContainerUuid, MachineId
from muster.model.image import ImageOrder

OpenEngine = Callable[[str], Engine]

HERE, THERE = MachineId("aaaaaaaaaa"), MachineId("bbbbbbbbbb")
OURS, THEIRS = "ours", "theirs"
FOREVER = "sleep infinity"
DEADLINE_SECONDS = 20.0
SOON_SECONDS = 4.0
"""For a hint: less than the five seconds after which an engine may look at everything by itself."""
AT_ONCE = StopOrder(before_seconds=0.5, term_seconds=0.3)


def make_run(cmd: str = FOREVER, *, generation: int = 1, machine_id: MachineId = HERE, **env: str) -> ContainerRun:
    """Return an order for a new container."""
    ref = Ref(machine_id, ContainerId(secrets.token_hex(8)), generation)
    uuid = ContainerUuid(f"0123456789-{machine_id}-{secrets.token_hex(5)}")
    return ContainerRun(ref, uuid, AccountId(1), ImageOrder("local"), cmd, env)


def of_generation(run: ContainerRun, generation: int) -> Ref:
    """Return the ref of another run of the same container."""
    return Ref(run.ref.machine_id, run.ref.container_id, generation)


async def until(engine: Engine, ref: Ref, phase: Phase) -> Observation:
    """Wait until the container is in this phase."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (seen := await engine.observe(ref)).phase is not phase:
            await asyncio.sleep(0.005)
    return seen


async def until_file(path: Path) -> str:
    """Wait until somebody wrote a line into a file, return it."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (path.exists() and path.read_text().endswith("\n")):
            await asyncio.sleep(0.005)
    return path.read_text().strip()


async def launch(engine: Engine, run: ContainerRun) -> Observation:
    """Create and start."""
    await engine.create(run)
    return await engine.start(run.ref)


async def output_of(engine: Engine, ref: Ref, *, tail: int | None = None, follow: bool = True) -> bytes:
    """Return everything that a reader of the logs gets."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return b"".join([chunk async for chunk in engine.logs(ref, tail=tail, follow=follow)])


async def until_output(engine: Engine, ref: Ref) -> None:
    """Wait until the command has written something: then its first statements have been executed."""
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(cast("Any", engine.logs(ref, follow=True))) as chunks:
        async for _ in chunks:
            return


def is_alive(pid: int) -> bool:
    """Tell whether a process of this pid exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class EngineConformance:
    """Inherit, and provide the fixture ``open_engine``."""

    runs_shell = True
    shares_pids = True

    def inside(self, path: Path) -> str:
        """Return how a command sees a file in the test's own folder."""
        return str(path)

    @pytest.fixture
    def play(self, open_engine: OpenEngine) -> Callable[[Callable[[Engine], Coroutine[Any, Any, None]]], None]:
        """Run a scenario with one client."""

        def play(scenario: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
            async def main() -> None:
                async with self._client(open_engine) as engine:
                    await scenario(engine)

            asyncio.run(main())

        return play

    @asynccontextmanager
    async def _client(self, open_engine: OpenEngine, installation: str = OURS) -> AsyncIterator[Engine]:
        engine = open_engine(installation)
        try:
            yield engine
        finally:
            for machine_id in (HERE, THERE):
                for seen in await engine.observe_all(machine_id):
                    await engine.remove(seen.ref)
            await engine.aclose()

    def _needs_shell(self) -> None:
        if not self.runs_shell:
            pytest.skip("this engine runs no shell")

    # Life.

    def test_create_does_not_start(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            created = await engine.create(run)
            assert created.phase is Phase.CREATED
            assert created.started_at is None
            assert (await engine.observe(run.ref)) == created

        play(scenario)

    def test_addresses_are_known_from_creation_or_start_on_and_stay(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            created = await engine.create(run)
            begun = await engine.start(run.ref)
            assert set(begun.addresses) == set(PORTS)
            assert all(isinstance(address, Address) for address in begun.addresses.values())
            assert created.addresses == ({} if engine.capabilities.gives_addresses_at_start else begun.addresses)
            assert (await engine.observe(run.ref)).addresses == begun.addresses

        play(scenario)

    def test_containers_that_share_ports_get_different_ones(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            if not engine.capabilities.shares_host_ports:
                pytest.skip("every container has its own ports")
            created = await asyncio.gather(*(engine.create(make_run()) for _ in range(20)))
            ports = [address.port for seen in created for address in seen.addresses.values()]
            assert len(set(ports)) == len(ports) == 40

        play(scenario)

    def test_the_end_of_the_command_is_the_end_of_the_container(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("sleep 0.05; exit 3")
            begun = await launch(engine, run)
            assert begun.started_at is not None
            seen = await until(engine, run.ref, Phase.EXITED)
            assert (seen.exit_code, seen.reason) == (3, None)
            assert seen.started_at == begun.started_at
            assert seen.finished_at is not None
            assert seen.finished_at - seen.started_at >= datetime.timedelta(seconds=0.04)

        play(scenario)

    def test_a_command_that_succeeds_exits_with_0(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("echo done")
            await launch(engine, run)
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 0

        play(scenario)

    def test_daemons_of_the_command_die_with_it(self, play: Any, tmp_path: Path) -> None:
        self._needs_shell()

        async def scenario(engine: Engine) -> None:
            pid_file = tmp_path / "pid"
            note = self.inside(pid_file)
            run = make_run(f"(setsid env -i sleep 1000 & echo $! > {note}); (setsid sh -c 'sleep 1000 &'); exit 4")
            await launch(engine, run)
            seen = await until(engine, run.ref, Phase.EXITED)
            assert seen.exit_code == 4
            pid = int(await until_file(pid_file))
            assert not self.shares_pids or not is_alive(pid)

        play(scenario)

    def test_the_environment_is_what_was_ordered_and_the_ports(
        self, play: Any, monkeypatch: Any, tmp_path: Path
    ) -> None:
        self._needs_shell()
        monkeypatch.setenv("MUSTER_TOKEN", "server-secret")
        monkeypatch.setenv("MUSTER_ADMIN_TOKEN", "server-secret")
        monkeypatch.setenv("SOMETHING_ELSE", "server-secret")

        async def scenario(engine: Engine) -> None:
            may_end = tmp_path / "may-end"
            cmd = f"env; until [ -e {self.inside(may_end)} ]; do sleep 0.01; done"
            run = make_run(cmd, WORD="two words", QUOTED="'\"$HOME\\", LINES="one\ntwo")
            await engine.create(run)
            addresses = (await engine.start(run.ref)).addresses  # one that has ended may have none
            may_end.touch()
            text = (await output_of(engine, run.ref)).decode()
            assert "server-secret" not in text
            assert "WORD=two words\n" in text
            assert "QUOTED='\"$HOME\\\n" in text
            assert "LINES=one\ntwo\n" in text
            address = addresses[6006]
            assert f"AutoDLServiceURL=http://{address.host}:{address.port}\n" in text
            assert f"AutoDLService6008URL=http://{address.host}:{addresses[6008].port}\n" in text
            if engine.capabilities.shares_host_ports:
                assert f"MUSTER_PORT_6006={address.port}\n" in text
                assert f"MUSTER_PORT_6008={addresses[6008].port}\n" in text

        play(scenario)

    def test_the_environment_shows_in_no_observation(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run(PASSWORD="a-secret-value")  # noqa: S106
            assert "a-secret-value" not in repr(run)
            assert "a-secret-value" not in repr(await launch(engine, run))
            assert "a-secret-value" not in repr(await engine.observe_all(HERE))

        play(scenario)

    # Idempotence.

    def test_create_of_an_existing_object_returns_it_as_it_is(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            created = await engine.create(run)
            assert await engine.create(run) == created
            begun = await engine.start(run.ref)
            assert await engine.create(run) == begun
            assert len(await engine.observe_all(HERE)) == 1

        play(scenario)

    def test_a_second_start_changes_nothing(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("echo begun; sleep infinity")
            begun = await launch(engine, run)
            again = await engine.start(run.ref)
            assert (again.phase, again.started_at) == (Phase.RUNNING, begun.started_at)
            await until_output(engine, run.ref)
            await engine.stop(run.ref, AT_ONCE)
            await until(engine, run.ref, Phase.EXITED)
            assert await output_of(engine, run.ref) == b"begun\n"

        play(scenario)

    def test_an_ended_run_is_never_run_again(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("echo once; exit 7")
            await launch(engine, run)
            ended = await until(engine, run.ref, Phase.EXITED)
            assert await engine.start(run.ref) == ended
            assert await engine.observe(run.ref) == ended
            assert await output_of(engine, run.ref) == b"once\n"

        play(scenario)

    def test_start_of_an_absent_object_is_refused(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            with pytest.raises(EngineRejected):
                await engine.start(make_run().ref)

        play(scenario)

    def test_absence_is_an_observation(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            ref = make_run().ref
            assert await engine.observe(ref) == Observation(ref, Phase.ABSENT)
            assert (await engine.stop(ref, AT_ONCE)).phase is Phase.ABSENT
            assert await output_of(engine, ref) == b""
            assert not await engine.observe_all(HERE)

        play(scenario)

    def test_remove_of_an_absent_object_succeeds(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            await engine.remove(run.ref)
            await engine.create(run)
            await engine.remove(run.ref)
            await engine.remove(run.ref)
            assert (await engine.observe(run.ref)).phase is Phase.ABSENT

        play(scenario)

    def test_remove_ends_a_run_that_is_still_there(self, play: Any, tmp_path: Path) -> None:
        async def scenario(engine: Engine) -> None:
            pid_file = tmp_path / "pid"
            note = self.inside(pid_file)
            run = make_run(f"trap '' TERM; echo $$ > {note}; sleep infinity" if self.runs_shell else FOREVER)
            await launch(engine, run)
            pid = int(await until_file(pid_file)) if self.runs_shell else 0
            await engine.remove(run.ref)
            assert (await engine.observe(run.ref)).phase is Phase.ABSENT
            assert not await engine.observe_all(HERE)
            assert not (self.runs_shell and self.shares_pids) or not is_alive(pid)

        play(scenario)

    # Stop.

    def test_stop_ends_the_run_with_term(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            await launch(engine, run)
            await engine.stop(run.ref, StopOrder(term_seconds=DEADLINE_SECONDS))
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 143

        play(scenario)

    def test_what_ignores_term_is_killed_in_time(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("trap '' TERM; echo set; sleep infinity")
            await launch(engine, run)
            await until_output(engine, run.ref)
            await engine.stop(run.ref, AT_ONCE)
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 137

        play(scenario)

    def test_a_second_stop_does_not_begin_anew(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("trap '' TERM; echo set; sleep infinity")
            await launch(engine, run)
            await until_output(engine, run.ref)
            await engine.stop(run.ref, AT_ONCE)
            await engine.stop(run.ref, StopOrder(term_seconds=1000))
            ended = await until(engine, run.ref, Phase.EXITED)
            assert await engine.stop(run.ref, AT_ONCE) == ended

        play(scenario)

    def test_the_command_before_shutdown_runs_first_in_the_container(self, play: Any, tmp_path: Path) -> None:
        self._needs_shell()

        async def scenario(engine: Engine) -> None:
            note = tmp_path / "note"
            path = self.inside(note)
            run = make_run(f"trap 'echo term >> {path}; exit 5' TERM; echo set; while :; do sleep 0.01; done", WORD="w")
            await launch(engine, run)
            await until_output(engine, run.ref)
            await engine.stop(run.ref, StopOrder(cmd_before_shutdown=f"echo before $WORD >> {path}"))
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 5
            assert note.read_text() == "before w\nterm\n"

        play(scenario)

    def test_a_command_before_shutdown_that_hangs_is_cut_off(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            await launch(engine, run)
            await engine.stop(run.ref, StopOrder("sleep 1000", before_seconds=0.1))
            assert (await until(engine, run.ref, Phase.EXITED)).exit_code == 143

        play(scenario)

    def test_what_was_stopped_before_it_ran_is_never_started(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("echo never")
            await engine.create(run)
            stopped = await engine.stop(run.ref, AT_ONCE)
            assert (stopped.phase, stopped.started_at, stopped.exit_code) == (Phase.EXITED, None, None)
            with pytest.raises(EngineRejected):
                await engine.start(run.ref)
            assert await output_of(engine, run.ref) == b""
            assert await engine.observe(run.ref) == stopped

        play(scenario)

    # Addressing.

    def test_orders_for_an_older_generation_are_refused(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run(generation=2)
            begun = await launch(engine, run)
            old = of_generation(run, 1)
            older_run = ContainerRun(old, run.uuid, run.account_id, run.image, run.cmd)
            for call in (
                engine.create(older_run), engine.start(old), engine.stop(old, AT_ONCE), engine.remove(old),
            ):  # fmt: skip
                with pytest.raises(EngineRejected) as refusal:
                    await call
                assert refusal.value.reason == "stale_generation"
            assert await engine.observe(run.ref) == begun

        play(scenario)

    def test_an_older_generation_is_absence_to_a_newer_one(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run()
            await engine.create(run)
            assert (await engine.observe(of_generation(run, 2))).phase is Phase.ABSENT
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [run.ref]

        play(scenario)

    def test_observe_all_tells_of_one_machine(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            here, there = make_run(), make_run(machine_id=THERE)
            await engine.create(here)
            await engine.create(there)
            assert [seen.ref for seen in await engine.observe_all(HERE)] == [here.ref]
            assert [seen.ref for seen in await engine.observe_all(THERE)] == [there.ref]

        play(scenario)

    def test_another_installation_is_invisible_and_never_touched(self, open_engine: OpenEngine) -> None:
        async def scenario() -> None:
            async with self._client(open_engine) as ours, self._client(open_engine, THEIRS) as theirs:
                run = make_run()
                await launch(ours, run)
                assert not await theirs.observe_all(HERE)
                assert (await theirs.observe(run.ref)).phase is Phase.ABSENT
                await theirs.remove(run.ref)
                assert (await theirs.stop(run.ref, AT_ONCE)).phase is Phase.ABSENT
                assert (await ours.observe(run.ref)).phase is Phase.RUNNING

        asyncio.run(scenario())

    # The control plane comes and goes.

    def test_containers_and_observations_outlive_the_client(self, open_engine: OpenEngine) -> None:
        ended, runs_on, waits = make_run("exit 9"), make_run(), make_run("echo later")

        async def first() -> list[Observation]:
            engine = open_engine(OURS)
            for run in (ended, runs_on):
                await launch(engine, run)
            await engine.create(waits)
            await until(engine, ended.ref, Phase.EXITED)
            seen = [await engine.observe(run.ref) for run in (ended, runs_on, waits)]
            await engine.aclose()
            return seen

        async def second() -> list[Observation]:
            async with self._client(open_engine) as engine:
                seen = [await engine.observe(run.ref) for run in (ended, runs_on, waits)]
                await engine.start(runs_on.ref)
                await engine.stop(runs_on.ref, StopOrder(term_seconds=DEADLINE_SECONDS))
                assert (await until(engine, runs_on.ref, Phase.EXITED)).exit_code == 143
                await engine.start(waits.ref)
                assert (await until(engine, waits.ref, Phase.EXITED)).exit_code == 0
                return seen

        before = asyncio.run(first())
        assert asyncio.run(second()) == before
        assert [seen.phase for seen in before] == [Phase.EXITED, Phase.RUNNING, Phase.CREATED]

    # Hints.

    def test_watch_hints_at_an_end_soon(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("sleep 0.2")
            async with aclosing(cast("Any", engine.watch())) as hints:
                await launch(engine, run)
                async with asyncio.timeout(SOON_SECONDS):
                    async for hint in hints:
                        if hint == run.ref.container_id and (await engine.observe(run.ref)).phase is Phase.EXITED:
                            break

        play(scenario)

    def test_a_new_client_hints_at_the_end_of_what_it_found(self, open_engine: OpenEngine) -> None:
        async def scenario() -> None:
            old = open_engine(OURS)
            run = make_run()
            await launch(old, run)
            await old.aclose()
            async with self._client(open_engine) as engine, aclosing(cast("Any", engine.watch())) as hints:
                await engine.observe_all(HERE)
                async with asyncio.timeout(SOON_SECONDS):
                    await engine.stop(run.ref, AT_ONCE)
                    async for hint in hints:
                        if hint == run.ref.container_id and (await engine.observe(run.ref)).phase is Phase.EXITED:
                            break

        asyncio.run(scenario())

    def test_closing_ends_the_watch(self, open_engine: OpenEngine) -> None:
        async def scenario() -> None:
            engine = open_engine(OURS)

            async def watch() -> None:
                async for _ in engine.watch():
                    pass

            async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(watch())
                await asyncio.sleep(0)
                await engine.aclose()
                await watcher

        asyncio.run(scenario())

    # Logs.

    def test_logs_are_in_order_and_kept_after_the_end(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("echo a; echo b; echo c; exit 1")
            await launch(engine, run)
            await until(engine, run.ref, Phase.EXITED)
            assert await output_of(engine, run.ref, follow=False) == b"a\nb\nc\n"
            assert await output_of(engine, run.ref, tail=2, follow=False) == b"b\nc\n"
            assert await output_of(engine, run.ref, tail=9, follow=False) == b"a\nb\nc\n"
            assert await output_of(engine, run.ref, tail=0, follow=False) == b""

        play(scenario)

    def test_following_logs_ends_with_the_run(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run("echo a; echo b; sleep 0.2; exit 1")
            await engine.create(run)
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(output_of(engine, run.ref))
                await engine.start(run.ref)
            assert reader.result() == b"a\nb\n"
            assert (await engine.observe(run.ref)).phase is Phase.EXITED

        play(scenario)
