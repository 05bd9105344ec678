"""Commands beside a container's own, on a real daemon: streams, terminal, exit code, and who goes away."""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from muster.engine.docker.exec import DockerExec, open_exec
from muster.errors import EngineRejected, EngineUnavailable
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH, BUSYBOX, OwnDaemon

pytestmark = pytest.mark.docker

Open = Callable[..., Awaitable[DockerExec]]
Scenario = Callable[[Open], Awaitable[None]]

NAME = "subject"


@pytest.fixture(params=[BUSYBOX, BASH])
def daemon(docker_daemon: Daemon, request: pytest.FixtureRequest) -> Daemon:
    docker_daemon.docker("run", "--detach", "--init", "--name", NAME, request.param, "sleep", "1000")
    return docker_daemon


def play(daemon: Daemon, scenario: Scenario) -> None:
    async def main() -> None:
        async with aiodocker.Docker(daemon.url) as docker:
            opened: list[DockerExec] = []

            async def start(*command: str, container: str = NAME, has_tty: bool = False, **options: Any) -> DockerExec:
                opened.append(await open_exec(docker, container, command, has_tty=has_tty, **options))
                return opened[-1]

            try:
                await scenario(start)
            finally:
                for session in opened:
                    await session.aclose()

    asyncio.run(main())


async def gather(session: DockerExec) -> tuple[bytes, bytes]:
    """Return everything that a command writes: standard output, standard error."""
    written = {1: bytearray(), 2: bytearray()}
    async for stream, chunk in session.output():
        written[stream] += chunk
    return bytes(written[1]), bytes(written[2])


async def until_seen(chunks: Any, wanted: bytes) -> bytes:
    """Read a terminal's output until something stands in it."""
    seen = b""
    async with asyncio.timeout(20):
        while wanted not in seen:
            seen += (await anext(chunks))[1]
    return seen


async def until_running(daemon: Daemon, *commands: str) -> None:
    """Wait until the container runs these commands and its own two, and nothing else."""
    wanted = sorted([*commands, "/sbin/docker-init -- sleep 1000", "sleep 1000"])
    deadline = time.monotonic() + 20
    while True:
        found = await asyncio.to_thread(daemon.docker, "top", NAME, "-o", "pid,args")
        running = sorted(line.split(maxsplit=1)[1].strip() for line in found.splitlines()[1:])
        if running == wanted:
            return
        assert time.monotonic() < deadline, running
        await asyncio.sleep(0.05)


def test_output_errors_environment_and_exit_code_arrive(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "echo out; echo $WORD >&2; exit 7", env={"WORD": "a b=c"})
        assert await gather(session) == (b"out\n", b"a b=c\n")
        assert await session.exit_code() == 7
        assert await session.exit_code() == 7

    play(daemon, scenario)


def test_input_ends_while_output_goes_on(daemon: Daemon) -> None:
    sent = random.Random(7).randbytes(5_000_000)

    async def give(session: DockerExec) -> None:
        for begin in range(0, len(sent), 100_000):
            await session.write(sent[begin : begin + 100_000])
        await session.write_eof()

    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "tee /tmp/sent; md5sum < /tmp/sent >&2")
        giving = asyncio.create_task(give(session))
        echo, told = await gather(session)
        await giving
        assert echo == sent
        assert told.split()[0].decode() == hashlib.md5(sent).hexdigest()
        assert await session.exit_code() == 0

    play(daemon, scenario)


def test_input_that_nobody_reads_holds_nothing_up(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "echo ready; exec sleep 0.3")
        giving = asyncio.create_task(session.write(bytes(5_000_000)))
        assert await gather(session) == (b"ready\n", b"")
        assert await session.exit_code() == 0
        await session.aclose()
        await giving
        await session.write(b"too late")
        await session.write_eof()

    play(daemon, scenario)


def test_a_terminal_has_the_size_that_it_is_given(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", has_tty=True, size=(100, 30))
        output = session.output()
        await session.write(b"stty size; tty\n")
        assert b"/dev/pts/" in await until_seen(output, b"/dev/pts/")
        await session.resize(140, 45)
        await session.write(b"stty size\n")
        assert b"30 100" not in await until_seen(output, b"45 140")
        await session.write(b"exit 9\n")
        async for stream, _ in output:
            assert stream == 1
        assert await session.exit_code() == 9
        await session.resize(80, 24)

    play(daemon, scenario)


def test_the_end_of_input_of_a_terminal_is_a_key_and_output_goes_on(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "cat; sleep 0.2; echo after", has_tty=True, size=(80, 24))
        await session.write(b"line\n")
        await session.write_eof()
        written, _ = await gather(session)
        assert written.endswith(b"after\r\n")
        assert await session.exit_code() == 0

    play(daemon, scenario)


def test_a_terminal_keeps_no_key_back(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "stty raw -echo; echo ready; dd bs=1 count=1 | od -c", has_tty=True)
        output = session.output()
        await until_seen(output, b"ready")
        await session.write(b"\x10")  # Ctrl-P, with which Docker would wait for Ctrl-Q
        await until_seen(output, b"020")

    play(daemon, scenario)


def test_a_command_that_is_not_there_is_told_as_an_error(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        for command, code, words in (
            (("no-such-command",), {126, 127}, b"not found"),
            (("/etc",), {126}, b"denied"),
            (("sh", "-c", "no-such-command"), {127}, b"not found"),
        ):
            session = await start(*command)
            output, errors = await gather(session)
            assert (output, await session.exit_code() in code) == (b"", True)
            assert words in errors

    play(daemon, scenario)


def test_the_end_of_the_container_is_the_end_of_what_runs_beside(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "echo up; exec sleep 1000")
        output = session.output()
        assert await anext(output) == (1, b"up\n")
        await asyncio.to_thread(daemon.docker, "kill", NAME)
        assert [each async for each in output] == []
        assert await session.exit_code() == 137
        with pytest.raises(EngineRejected, match="is not running"):
            await start("true")
        await asyncio.to_thread(daemon.docker, "rm", NAME)
        with pytest.raises(EngineRejected, match="No such container"):
            await start("true")

    play(daemon, scenario)


@pytest.mark.parametrize("has_tty", [False, True])
def test_who_goes_away_hangs_up(daemon: Daemon, has_tty: bool) -> None:
    async def scenario(start: Open) -> None:
        unmoved = "(trap '' HUP; touch /tmp/unmoved; exec sleep 2000 > /dev/null 2>&1) &"  # as nohup does
        command = f"{unmoved} sleep 3000 & until [ -e /tmp/unmoved ]; do true; done; echo up; sleep 4000"
        session = await start("sh", "-c", command, has_tty=has_tty)
        other = await start("sleep", "5000", has_tty=has_tty)
        await until_seen(session.output(), b"up")
        await session.aclose()
        await until_running(daemon, "sleep 2000", "sleep 5000")
        await other.aclose()
        await until_running(daemon, "sleep 2000")

    play(daemon, scenario)


def test_a_shell_that_waits_for_keys_goes_with_its_terminal(daemon: Daemon) -> None:
    async def scenario(start: Open) -> None:
        session = await start("sh", has_tty=True)
        await session.write(b"echo up; sleep 2000\n")
        await until_seen(session.output(), b"\nup")
        await session.aclose()
        await until_running(daemon)

    play(daemon, scenario)


def test_a_daemon_that_dies_ends_the_stream_with_an_error(own_daemon: OwnDaemon) -> None:
    daemon = own_daemon(live_restore=True)
    daemon.docker("run", "--detach", "--init", "--name", NAME, BUSYBOX, "sleep", "1000")

    async def scenario(start: Open) -> None:
        session = await start("sh", "-c", "echo up; exec sleep 1000")
        output = session.output()
        assert await anext(output) == (1, b"up\n")
        await asyncio.to_thread(daemon.kill)
        assert [each async for each in output] == []
        with pytest.raises(EngineUnavailable):
            await session.exit_code()
        with pytest.raises(EngineUnavailable):
            await start("true")

    play(daemon, scenario)


def test_nobody_at_the_socket_is_unavailable(tmp_path: Path) -> None:
    async def main() -> None:
        async with aiodocker.Docker(f"unix://{tmp_path}/nobody.sock") as docker:
            with pytest.raises(EngineUnavailable):
                await open_exec(docker, NAME, ["true"], has_tty=False)

    asyncio.run(main())
