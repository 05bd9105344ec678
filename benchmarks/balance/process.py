"""A program of the benchmark's own, which is spoken to over its input and output, and ended by its pid."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PATIENCE_SECONDS = 30.0


class Helper:
    """A running module. What it complains about is in ``log``."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def hear(self) -> str:
        """Return its next line; raise with what it complained about if it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._log.stem} ended: {self._complaint()}")
        return line

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def finish(self, line: str, seconds: float) -> str:
        """Write a last line, and return all that it says until it ends by itself."""
        told, _ = self._process.communicate(line + "\n", timeout=seconds)
        if self._process.returncode:
            raise RuntimeError(f"{self._log.stem} failed: {self._complaint()}")
        return told

    def kill(self) -> None:
        """End it at once: its connections break, and it says nothing any more."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to stop, and make it."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _complaint(self) -> str:
        """Return the end of what it said; the last line of a traceback is the one that counts."""
        return "\n".join(self._log.read_text().splitlines()[-3:])


@contextlib.contextmanager
def helper(module: str, folder: Path, *arguments: str, package: str = "balance") -> Iterator[Helper]:
    """Run ``benchmarks.PACKAGE.MODULE`` for the length of the context."""
    log = folder / f"{module}.log"
    with log.open("ab") as complaints:
        process = subprocess.Popen(
            (sys.executable, "-m", f"benchmarks.{package}.{module}", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
    running = Helper(process, log)
    try:
        yield running
    finally:
        running.stop()
