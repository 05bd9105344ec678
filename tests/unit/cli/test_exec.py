"""``muster exec`` against a served API: with pipes, and with a real terminal that must be as it was before."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from muster.cli.exec import SHELL
from muster.cli.main import run
from muster.client import Client
from muster.testing.bodies import create_body
from muster.testing.exec_session import MemorySession
from tests.unit.cli.served import Served

MAIN = "from muster.cli.main import main; main()"
OWN_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {MAIN}"
SECONDS = 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def server(shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    monkeypatch.setenv("MUSTER_TOKEN", shared.account(tmp_path.name))
    return shared


@pytest.fixture
def deployment(server: Served) -> str:
    with Client(server.url, os.environ["MUSTER_TOKEN"]) as client:
        return client.create_deployment(create_body("digits", cmd="serve"))


@pytest.fixture
def container(server: Served, deployment: str) -> str:
    return server.place(deployment, suffix="abcdef0000")


def started(*args: str, program: str = MAIN, **streams: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program, "exec", *args], start_new_session=True, **streams)


def muster(*args: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    with started(*args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(stdin, SECONDS)
    return process.returncode, output, errors


def last(server: Served) -> MemorySession:
    return server.access.sessions[-1]


def until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Terminal:
    """A terminal that a person sits at; ``muster exec`` is its foreground process."""

    def __init__(self, *args: str) -> None:
        self._args = args
        self._master, self._slave = pty.openpty()
        self.resize(80, 24)
        self.seen = b""

    def __enter__(self) -> Self:
        here = self._slave
        self.process = started(*self._args, program=OWN_TERMINAL, stdin=here, stdout=here, stderr=here)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, wanted: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while wanted not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{wanted!r} not in {self.seen!r}"
            self.seen += os.read(self._master, 65536)

    def end(self) -> int:
        return self.process.wait(SECONDS)


@pytest.mark.parametrize(
    ("words", "command", "has_tty"),
    [
        (("{}", "--", "how", "-t", "--help"), ("how", "-t", "--help"), False),
        (("{}", "how", "-t", "--help"), ("how", "-t", "--help"), False),
        (("--", "{}", "how", "-t"), ("how", "-t"), False),
        (("-t", "{}", "how"), ("how",), True),
        (("{}", "-t", "--", "how", "a b", "--", "c"), ("how", "a b", "--", "c"), True),
        (("--home", "{home}", "{}", "--tty", "how", "--home", "x"), ("how", "--home", "x"), True),
        (("{}", "--home", "{home}", "--", "--odd"), ("--odd",), False),
    ],
)
def test_options_are_ours_up_to_the_command(
    server: Served, container: str, words: tuple[str, ...], command: tuple[str, ...], has_tty: bool
) -> None:
    assert run(["exec", *(word.format(container, home=server.home) for word in words)]) == 0
    assert (last(server).order.command, last(server).order.has_tty) == (command, has_tty)


def test_a_container_is_named_as_for_logs(server: Served, container: str, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (container, container[:14], "abcdef0000", "digits"):
        assert run(["exec", name, "--", "fail", "3"]) == 3
    assert run(["exec", "absent", "--", "fail", "3"]) == 1
    output, errors = capfd.readouterr()
    assert output == "out\n" * 4
    assert errors == "err\n" * 4 + "error: no container 'absent'\n"


def test_what_speaks_against_it_is_one_line(server: Served, deployment: str, capfd: pytest.CaptureFixture[str]) -> None:
    ended = server.place(deployment, suffix="abcdef0001", exit_code=3)
    assert run(["exec", ended, "--", "how"]) == 1
    assert capfd.readouterr().err == f"error: container {ended} has ended: exit code 3\n"
    server.place(deployment, suffix="abcdef0002")
    server.place(deployment, suffix="abcdef0003")
    assert run(["exec", "digits", "how"]) == 1
    assert "may mean 2 containers" in capfd.readouterr().err
    assert run(["exec", "abcdef0002", "-x", "how"]) == 2
    assert run(["exec", "abcdef0002", "break"]) == 1
    assert capfd.readouterr().err.endswith("error: the daemon went away\n")


@pytest.mark.slow
def test_streams_stay_apart_and_input_ends(server: Served, container: str) -> None:
    assert muster(container, "fail", "7") == (7, b"out\n", b"err\n")
    sent = bytes(range(256)) * 8000
    assert muster("-i", container, "--", "cat", stdin=sent) == (0, sent, b"")
    assert muster(container, "--", "cat", stdin=b"which nobody asked for") == (0, b"", b"")
    assert last(server).received_bytes == 0


@pytest.mark.slow
def test_without_a_command_input_goes_to_a_shell(server: Served, container: str) -> None:
    code, output, errors = muster(container, stdin=b"ls\n")
    assert (code, errors) == (0, b"")
    assert output.decode() == repr((SHELL, False, None))


@pytest.mark.slow
def test_a_terminal_for_both_sides_or_for_neither(container: str) -> None:
    code, output, errors = muster("-it", container, "how")
    assert (code, output) == (2, b"")
    assert b"standard input is no terminal" in errors


@pytest.mark.slow
def test_who_reads_no_further_ends_it(server: Served, container: str) -> None:
    with started(container, "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"y\ny\n"
        process.stdout.close()
        assert process.wait(SECONDS) == 1
    until(lambda: last(server).is_hung_up)


@pytest.mark.slow
def test_an_interrupt_hangs_up(server: Served, container: str) -> None:
    before = len(server.access.sessions)
    with started("-i", container, "cat", stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        until(lambda: len(server.access.sessions) > before)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
    until(lambda: last(server).is_hung_up)


@pytest.mark.slow
def test_a_hang_up_that_is_ignored_ends_nothing(server: Served, container: str) -> None:
    program = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {MAIN}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started("-i", container, "cat", program=program, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(b"two\n", SECONDS)[0] == b"two\n"
        assert process.returncode == 0


@pytest.mark.slow
def test_keys_go_there_raw_and_the_terminal_is_restored(server: Served, container: str) -> None:
    with Terminal("-it", container, "--", "cat") as here:
        until(lambda: here.is_raw)
        here.type(b"a\x03\x1a\x04b\r")
        here.until(b"a\x03\x1a\x04b\r")
        assert last(server).order.size == (80, 24)
        server.run(last(server).write_eof())
        assert here.end() == 0
        assert not here.is_raw


@pytest.mark.slow
def test_a_new_size_is_told_and_the_exit_code_comes_back(server: Served, container: str) -> None:
    async def three_sizes_then_fail(session: MemorySession) -> int:
        for _ in range(3):
            await session.say(f"{session.size}\r\n".encode())
            await session.resized.wait()
            session.resized.clear()
        return 9

    server.access.programs["sizes"] = three_sizes_then_fail
    with Terminal(container, "-i", "-t", "sizes") as here:
        here.until(b"(80, 24)")
        until(lambda: here.is_raw)
        here.resize(100, 30)
        here.until(b"(100, 30)")
        here.resize(132, 43)
        here.until(b"(132, 43)")
        here.resize(80, 25)
        assert here.end() == 9
        assert not here.is_raw


@pytest.mark.slow
def test_without_a_command_a_terminal_gets_a_shell(server: Served, container: str) -> None:
    with Terminal(container) as here:
        assert here.end() == 0
        assert (last(server).order.command, last(server).order.has_tty) == (SHELL, True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_restores_the_terminal_and_hangs_up(server: Served, container: str, number: signal.Signals) -> None:
    with Terminal("-it", container, "--", "cat") as here:
        until(lambda: here.is_raw)
        here.process.send_signal(number)
        assert here.end() == 128 + number
        assert not here.is_raw
    until(lambda: last(server).is_hung_up)


@pytest.mark.slow
def test_a_server_that_goes_away_restores_the_terminal_and_says_so(server: Served, container: str) -> None:
    with Terminal("-it", container, "--", "cat") as here:
        until(lambda: here.is_raw)
        server.hang_up()
        try:
            here.until(b"error: lost the connection to ")
            assert here.end() == 1
            assert not here.is_raw
        finally:
            server.come_back()
