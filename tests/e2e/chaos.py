"""What the chaos test of discovery is made of: a script that lives at random, watchers that are killed, a sampler.

All moments are of this process's monotonic clock. What disturbed whom, and when, is written down, so that what the
sampler saw can be held against what could be asked for at that moment.
"""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from muster.errors import RegistryError
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry import connect
from muster.testing.scripted_api import ScriptedApi

LOOK_SECONDS = 0.1
MUSTER = Path(sys.executable).with_name("muster")


@dataclass
class Span:
    """A time in which something could not be relied upon; open as long as it has no end."""

    begun: float
    ended: float = float("inf")

    def touches(self, begin: float, end: float) -> bool:
        return self.begun < end and self.ended > begin


class Diary:
    """What was out of order, by subject."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = {}

    def begin(self, subject: str) -> None:
        self.spans.setdefault(subject, []).append(Span(time.monotonic()))

    def end(self, subject: str) -> None:
        self.spans[subject][-1].ended = time.monotonic()

    def was_well(self, subject: str, begin: float, end: float) -> bool:
        """Whether nothing was out of order with a subject from one moment to another."""
        return not any(span.touches(begin, end) for span in self.spans.get(subject, ()))


class Life:
    """The random life of a scripted account; every deployment always keeps somebody who serves."""

    def __init__(self, api: ScriptedApi, rng: random.Random, names: Sequence[str], kept: int = 2) -> None:
        self._world = api.world
        self._rng = rng
        self._kept = kept
        self._coming: list[tuple[float, str]] = []
        self.ready_at: dict[str, float] = {}
        self.died_at: dict[str, float] = {}
        self.uuids = [self._world.add_deployment(name) for name in names]
        self._stopped: list[str] = []
        self.count = 0
        for uuid in self.uuids:
            for _ in range(kept + 1):
                self._start(uuid, wait_seconds=0)

    def act(self) -> None:
        """Let one thing happen."""
        self.count += 1
        self.let_come()
        uuid = self._rng.choice(self.uuids)
        serving = self._world.serving(uuid)
        is_full = len(serving) > self._kept + 6
        match self._rng.randrange(4):
            case 0 | 1 if not is_full:
                self._start(uuid, wait_seconds=self._rng.random() * 1.5)
            case 2 if self._stopped and not is_full:
                old = self._stopped.pop(self._rng.randrange(len(self._stopped)))
                self.ready_at[self._world.reuse(old, uuid)] = time.monotonic()
            case _ if len(serving) > self._kept:
                self._stop(self._rng.choice(serving))
            case _:
                self._start(uuid, wait_seconds=0)

    def let_come(self) -> None:
        """Let those serve whose time has come."""
        now = time.monotonic()
        for at, uuid in [each for each in self._coming if each[0] <= now]:
            self._coming.remove((at, uuid))
            if uuid in self._world.running():
                self.ready_at[uuid] = time.monotonic()
                self._world.set_ready(uuid)

    def _start(self, deployment: str, *, wait_seconds: float) -> None:
        (uuid,) = self._world.run(deployment, is_ready=False)
        self._coming.append((time.monotonic() + wait_seconds, uuid))
        self.let_come()

    def _stop(self, uuid: str) -> None:
        self._world.stop(uuid)
        self.died_at[uuid] = time.monotonic()
        self._stopped.append(uuid)


class WatcherProcess:
    """One ``muster watch``, as often as it is started."""

    def __init__(self, name: str, command: Sequence[str], log: Path, diary: Diary) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._diary = diary
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        diary.begin(name)

    def start(self) -> None:
        assert self._process is None
        with self._log.open("ab") as log:
            environment = {**os.environ, "MUSTER_TOKEN": "t0ken"}
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
        self._diary.end(self.name)

    def stop(self) -> None:
        """Stop it as the system does with whatever is paused."""
        if self._process is not None and not self._is_stopped:
            self._diary.begin(self.name)
            os.kill(self._process.pid, signal.SIGSTOP)
            self._is_stopped = True

    def go_on(self) -> None:
        if self._process is not None and self._is_stopped:
            os.kill(self._process.pid, signal.SIGCONT)
            self._is_stopped = False
            self._diary.end(self.name)

    def kill(self) -> None:
        if self._process is not None:
            if not self._is_stopped:
                self._diary.begin(self.name)
            self._is_stopped = False
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def runs(self) -> bool:
        return self._process is not None and not self._is_stopped

    def revive(self) -> None:
        """Let it run, whatever was done to it."""
        self.go_on()
        if self._process is None:
            self.start()


@dataclass
class Sample:
    """One look at one key; ``found`` is ``None`` while the registry says nothing."""

    at: float
    key: ServiceKey
    found: EndpointSet | None


@dataclass
class Sampler:
    """Looks at every key ten times a second, in a thread of its own."""

    url: str
    keys: Sequence[ServiceKey]
    samples: list[Sample] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._look()), name="sampler")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        assert self._thread is not None
        self._thread.join()

    def now(self) -> dict[ServiceKey, EndpointSet | None]:
        """Return the last look at each key."""
        return {sample.key: sample.found for sample in self.samples[-len(self.keys) :]}

    async def _look(self) -> None:
        registry = connect(self.url)
        while not self._is_over.is_set():
            began = time.monotonic()
            round_: list[Sample] = []
            for key in self.keys:
                found = None
                with contextlib.suppress(RegistryError, TimeoutError):
                    async with asyncio.timeout(0.5):
                        found = await registry.get(key)
                round_.append(Sample(time.monotonic(), key, found))
            self.samples += round_
            await asyncio.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - began)))
        await registry.aclose()


def until(holds: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait for something; returns how long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began
