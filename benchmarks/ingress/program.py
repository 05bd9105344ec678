"""A program that is measured: started, waited for until it accepts, asked what it used, and ended by its pid.

What it used is that of all its processes together: nginx is two.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from benchmarks.ingress.backend import HOST

PATIENCE_SECONDS = 30.0
"""Longest wait for anything: a benchmark that hangs ends with an error."""


class Program:
    """A running program. Its output is in ``log``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self._measured = psutil.Process(process.pid)

    def cpu_seconds(self) -> float:
        """Return the processor time that it used so far, its own and the kernel's for it."""
        every = [each.cpu_times() for each in self._family()]
        return sum(each.user + each.system for each in every)

    def first_cpu_seconds(self) -> float:
        """Return that of the process that was started alone, without its children's."""
        times = self._measured.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Return how much memory it has resident now."""
        return sum(each.memory_info().rss for each in self._family())

    def wait_accepting(self, port: int) -> None:
        """Return once it accepts connections on ``port``."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection((HOST, port)).close()
            except ConnectionRefusedError:
                self.check(until)
                time.sleep(0.01)
            else:
                return

    def check(self, until: float) -> None:
        """Raise with its output if it ended, or if it is late."""
        if self._process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{self._process.args!r} ended, or is late:\n{self._log.read_text()[-4000:]}")

    def stop(self) -> None:
        """Ask it to stop, and make it."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _family(self) -> list[psutil.Process]:
        return [self._measured, *self._measured.children(recursive=True)]


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Run a command for the length of the context; without ``env`` in this process's environment."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=env or os.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    program = Program(process, log)
    try:
        yield program
    finally:
        program.stop()
