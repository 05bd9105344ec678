"""The brokers of a run: ``muster broker`` as people start it, with TLS and one token, killed and started again.

Killed means SIGKILL of a process that does nothing else, one at a time, and whoever serves: of two it is the one that
the clients ask. A killed one is started ``START_SECONDS`` later at the same address, with what it knew gone. Nobody
tells the clients; their sets name the same addresses all the time.
"""

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from benchmarks.balance.replica import HOST
from benchmarks.balance.sdk_load import SERVICE
from benchmarks.ingress.program import Program, running
from muster import registry
from muster.broker.holding import seat_of, url_of
from muster.model.endpoint import ServiceKey

START_SECONDS = 0.5
TOKEN = "of-the-benchmark"
_MUSTER = Path(sys.executable).with_name("muster")
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR")


class Brokers:
    """Those of one registry; a context in which they run."""

    def __init__(self, folder: Path, registry_url: str, ports: Sequence[int]) -> None:
        self._folder = folder
        self._registry = registry_url
        self._ports = ports
        self._running: list[tuple[subprocess.Popen[bytes], Program]] = []
        self._used_seconds = 0.0

    @property
    def urls(self) -> str:
        """Where they are, as a set says it."""
        return ",".join(f"tls://{HOST}:{port}" for port in self._ports)

    @property
    def ca_pem(self) -> str:
        """Who signed what they show."""
        return (self._folder / "home" / "tls" / "ca.pem").read_text()

    def cpu_seconds(self) -> float:
        """Return the processor time of all that ran so far, but for what one used since it was last looked at."""
        return self._used_seconds + sum(program.cpu_seconds() for _, program in self._running)

    def __enter__(self) -> Self:
        self._folder.mkdir()
        (self._folder / "token").write_text(TOKEN)
        try:
            for port in self._ports:
                self._running.append(self._start(port))
                self._running[-1][1].wait_accepting(port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for _, program in self._running:
            program.stop()

    def restart(self, index: int) -> None:
        """Kill one, and return when its successor accepts connections."""
        process, program = self._running[index]
        self._used_seconds += program.cpu_seconds()
        process.kill()
        process.wait()
        time.sleep(START_SECONDS)
        self._running[index] = self._start(self._ports[index])
        self._running[index][1].wait_accepting(self._ports[index])

    def serving(self) -> int:
        """Return which of them serves, by what the registry says."""
        url = asyncio.run(self._served_at())
        return next((index for index, port in enumerate(self._ports) if url.endswith(f":{port}")), 0)

    async def _served_at(self) -> str:
        opened = registry.connect(self._registry)
        try:
            return url_of((await opened.claims()).get(seat_of(ServiceKey("admin", SERVICE))))
        finally:
            await opened.aclose()

    def _start(self, port: int) -> tuple[subprocess.Popen[bytes], Program]:
        log = self._folder / f"{port}.log"
        command = [str(_MUSTER), "broker", "--registry", self._registry, "--listen", f"tls://{HOST}:{port}"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--token-file", str(self._folder / "token"), "--home", str(self._folder / "home")],
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return process, Program(process, log)


@contextlib.contextmanager
def redis(folder: Path, port: int) -> Iterator[str]:
    """Run a registry that two brokers can share as hosts would; gives its URL."""
    folder.mkdir()
    where = ("--port", str(port), "--bind", HOST, "--dir", str(folder))
    with running(("redis-server", *where, "--save", "", "--appendonly", "no"), folder / "redis.log") as program:
        program.wait_accepting(port)
        yield f"redis://{HOST}:{port}"


def moments(every_seconds: float | None, seconds: float) -> list[float]:
    """Return when brokers are killed, from the trace's start."""
    if every_seconds is None:
        return []
    return list(itertools.takewhile(lambda at: at < seconds, itertools.count(every_seconds / 2, every_seconds)))


def disturb(plan: Sequence[float], start: float, brokers: Brokers | None) -> list[float]:
    """Kill whoever serves at the moments of the plan; return when that was, from ``start``."""
    if brokers is None:
        return []
    killed = []
    for moment in plan:
        time.sleep(max(0.0, start + moment - time.monotonic()))
        index = brokers.serving()
        killed.append(time.monotonic() - start)
        brokers.restart(index)
    return killed
