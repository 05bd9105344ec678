"""What every engine must do that lets somebody into running containers: commands and connections; ``files`` has files.

Subclass ``AccessConformance`` beside ``EngineConformance``, of which the fixtures are. What the engine cannot do
(``has_exec``, ``has_sftp``, ``can_dial``) is asked to be refused, and nothing else. Containers need a POSIX shell, and
``serve`` the command that answers ``hello`` to whoever connects to a port of the container's own loopback.
"""
# ruff: noqa: D102, S311 - tests wait for levels; the names of the tests are sentences

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from muster.engine.port import ContainerRun, Engine, ExecSession, Phase
from muster.errors import EngineRejected
from muster.model.ids import AccountId
from muster.model.run import ExecOrder
from muster.testing.conformance.engine import (
    AT_ONCE,
    DEADLINE_SECONDS,
    HERE,
    is_alive,
    launch,
    make_run,
    of_generation,
    until,
    until_file,
)  # fmt: skip

LASTING = "while :; do sleep 1; done"


async def told_by(session: ExecSession) -> tuple[bytes, bytes, int]:
    """Return all that a command says, on both streams, and its exit code."""
    written = {1: bytearray(), 2: bytearray()}
    async with asyncio.timeout(DEADLINE_SECONDS):
        async for channel, chunk in session.output():
            written[channel] += chunk
        return bytes(written[1]), bytes(written[2]), await session.exit_code()


async def until_seen(chunks: AsyncIterator[tuple[int, bytes]], wanted: bytes) -> bytes:
    """Read output until something stands in it."""
    seen = b""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while wanted not in seen:
            seen += (await anext(chunks))[1]
    return seen


@asynccontextmanager
async def executed(engine: Engine, run: ContainerRun, *command: str, **how: Any) -> AsyncIterator[ExecSession]:
    """Run a command beside a container's own, for the block."""
    session = await engine.execute(run.ref, ExecOrder(command, **how))
    try:
        yield session
    finally:
        await session.aclose()


def needs(can: bool, what: str) -> None:
    """Leave a test out where an engine cannot do what it is about."""
    if not can:
        pytest.skip(f"this engine has no {what}")


class AccessConformance:
    """Inherit beside ``EngineConformance``."""

    shares_pids: bool
    inside: Callable[[Path], str]

    def serve(self, port: int) -> str:
        """Return a command that answers ``hello`` to whoever connects to this port of 127.0.0.1."""
        return f"exec nc -ll -p {port} -e echo hello"

    # What cannot be reached.

    def test_what_does_not_run_cannot_be_reached(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            absent, waits, ended = make_run(), make_run(), make_run("exit 0")
            await engine.create(waits)
            await launch(engine, ended)
            await until(engine, ended.ref, Phase.EXITED)
            for run in (absent, waits, ended):
                for call in (
                    engine.execute(run.ref, ExecOrder(("true",))), engine.sftp(run.ref),
                    engine.dial(run.ref, "127.0.0.1", 6006),
                ):  # fmt: skip
                    with pytest.raises(EngineRejected):
                        await call

        play(scenario)

    def test_another_generation_cannot_be_reached(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            run = make_run(generation=2)
            await launch(engine, run)
            for generation in (1, 3):
                ref = of_generation(run, generation)
                for call in (
                    engine.execute(ref, ExecOrder(("true",))), engine.sftp(ref), engine.dial(ref, "127.0.0.1", 6006),
                ):  # fmt: skip
                    with pytest.raises(EngineRejected):
                        await call

        play(scenario)

    def test_the_address_of_the_host_stays(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            address = await engine.host_address(HERE, AccountId(1))
            assert await engine.host_address(HERE, AccountId(1)) == address

        play(scenario)

    # Commands.

    def test_a_command_has_its_streams_apart_and_an_exit_code(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(LASTING)
            await launch(engine, run)
            async with executed(engine, run, "sh", "-c", "echo out; echo err >&2; exit 7") as session:
                assert await told_by(session) == (b"out\n", b"err\n", 7)
            async with executed(engine, run, "sh", "-c", "kill -TERM $$") as session:
                assert (await told_by(session))[2] == 143
            async with executed(engine, run, "no-such-program") as session:
                _, said, code = await told_by(session)
                assert code in {126, 127}
                assert b"no-such-program" in said

        play(scenario)

    def test_a_command_reads_to_the_end_of_its_input(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(LASTING)
            await launch(engine, run)
            async with executed(engine, run, "cat") as session:
                data = random.Random(5).randbytes(3_000_000)

                async def give() -> None:
                    for begin in range(0, len(data), 50_000):
                        await session.write(data[begin : begin + 50_000])
                    await session.write_eof()

                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(give())
                    told = tasks.create_task(told_by(session))
            out, _, code = told.result()
            assert (hashlib.sha256(out).digest(), code) == (hashlib.sha256(data).digest(), 0)

        play(scenario)

    def test_input_that_nobody_reads_is_dropped(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(LASTING)
            await launch(engine, run)
            async with executed(engine, run, "true") as session:
                assert (await told_by(session))[2] == 0
                async with asyncio.timeout(DEADLINE_SECONDS):
                    for _ in range(20):
                        await session.write(bytes(100_000))

        play(scenario)

    def test_a_command_has_the_environment_of_the_run(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(f"pwd; {LASTING}", WORD="two words")
            begun = await launch(engine, run)
            async with executed(engine, run, "sh", "-c", 'echo "$WORD"; env; pwd') as session:
                text = (await told_by(session))[0].decode()
            assert text.startswith("two words\n")
            address = begun.addresses[6006]
            assert f"AutoDLServiceURL=http://{address.host}:{address.port}\n" in text
            logs = engine.logs(run.ref, follow=True)
            assert (await anext(logs)).decode().strip() == text.splitlines()[-1]

        play(scenario)

    def test_a_terminal_has_a_size_that_changes(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(LASTING)
            await launch(engine, run)
            script = "trap 'stty size' WINCH; stty size; while :; do read -r line && exit 3; done"
            async with executed(engine, run, "sh", "-c", script, has_tty=True, size=(101, 31)) as session:
                chunks = session.output()
                await until_seen(chunks, b"31 101")
                await session.resize(140, 45)
                await session.write(b"\n")
                async with asyncio.timeout(DEADLINE_SECONDS):
                    rest = b"".join([chunk async for _, chunk in chunks])
                    assert b"45 140" in rest or rest.strip() == b""  # a shell may take a key before the signal
                    assert await session.exit_code() == 3

        play(scenario)

    def test_ctrl_c_ends_what_runs_in_a_terminal(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(LASTING)
            await launch(engine, run)
            script = "echo begun; exec sleep 1000"
            async with executed(engine, run, "sh", "-c", script, has_tty=True, size=(80, 24)) as session:
                chunks = session.output()
                await until_seen(chunks, b"begun")
                await session.write(b"\x03")
                async with asyncio.timeout(DEADLINE_SECONDS):
                    async for _ in chunks:
                        pass
                    assert await session.exit_code() == 130

        play(scenario)

    @pytest.mark.parametrize("has_tty", [False, True])
    def test_who_goes_away_hangs_up(self, play: Any, tmp_path: Path, has_tty: bool) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run(LASTING)
            await launch(engine, run)
            note = tmp_path / "note"
            # a shell that says "Hangup" of its child where nobody reads any more dies of that instead
            trap = f"exec 2>/dev/null; trap 'echo hung up > {self.inside(note)}; exit' HUP"
            script = f"{trap}; echo begun; while :; do sleep 0.02; done"
            session = await engine.execute(run.ref, ExecOrder(("sh", "-c", script), has_tty=has_tty))
            await until_seen(session.output(), b"begun")
            await session.aclose()
            assert await until_file(note) == "hung up"

        play(scenario)

    def test_a_command_ends_with_the_container(self, play: Any, tmp_path: Path) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.has_exec, "exec")
            run = make_run("while :; do sleep 0.02; done")
            await launch(engine, run)
            note = tmp_path / "pid"
            script = f"trap '' HUP TERM; (setsid sh -c 'echo $$ > {self.inside(note)}; sleep 1000' &); sleep 1000"
            async with executed(engine, run, "sh", "-c", script) as session:
                pid = int(await until_file(note))
                await engine.stop(run.ref, AT_ONCE)
                await until(engine, run.ref, Phase.EXITED)
                assert (await told_by(session))[2] == 137
                if self.shares_pids:
                    assert not is_alive(pid)

        play(scenario)

    # Connections.

    def test_what_listens_inside_is_reached(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.can_dial, "connections")
            run = make_run(self.serve(6006))
            await launch(engine, run)
            for host in ("127.0.0.1", "localhost"):
                session = await self._dialled(engine, run, host)
                await session.write_eof()
                assert await told_by(session) == (b"hello\n", b"", 0)
                await session.aclose()

        play(scenario)

    async def _dialled(self, engine: Engine, run: ContainerRun, host: str) -> ExecSession:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    return await engine.dial(run.ref, host, 6006)
                except EngineRejected:
                    await asyncio.sleep(0.02)  # it does not listen yet

    def test_where_nothing_listens_is_told(self, play: Any) -> None:
        async def scenario(engine: Engine) -> None:
            needs(engine.capabilities.can_dial, "connections")
            run = make_run(LASTING)
            await launch(engine, run)
            for host, port, words in (
                ("127.0.0.1", 1, "refused"),
                ("localhost", 6008, "refused"),
                ("example.com", 80, "numeric"),
                ("127.0.0.1", 70_000, "does not exist"),
            ):
                with pytest.raises(EngineRejected) as refusal:
                    await engine.dial(run.ref, host, port)
                assert words in str(refusal.value)

        play(scenario)
