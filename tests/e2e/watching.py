"""``muster watch`` as a person starts it, for the tests of a file: what it said, and its end."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx

import muster
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry import connect
from tests.e2e.world import MUSTER

PATIENCE_SECONDS = 60.0


class Watching:
    """One process, and the file of what it wrote."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], said: Path) -> None:
        self._said = said
        with said.open("wb") as output:
            self._process = subprocess.Popen(
                [MUSTER, "watch", *words], env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def publisher(self) -> str:
        """Under which name it publishes."""
        match = re.search(r" as (\S+#\w+)$", self.said, re.MULTILINE)
        return "" if match is None else match[1]

    def until(self, words: str) -> str:
        """Wait until it has said something; returns the line."""

        def found() -> str | None:
            assert self._process.poll() is None, f"it ended with {self._process.returncode}: {self.said}"
            return next((line for line in self.said.splitlines() if words in line), None)

        return until(found, lambda: f"{words!r} in {self.said!r}")

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end; returns the exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait(PATIENCE_SECONDS)


class Watchers:
    """Starts them, and leaves none behind."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._started: list[Watching] = []

    def start(self, *words: str, **environ: str) -> Watching:
        said = self._folder / f"watch{len(self._started)}.log"
        self._started.append(Watching(words, {**self._environ, **environ}, said))
        return self._started[-1]

    def close(self) -> None:
        for each in self._started:
            with contextlib.suppress(ProcessLookupError):
                each.end(signal.SIGKILL)


@contextlib.contextmanager
def watchers_in(folder: Path, environ: Mapping[str, str]) -> Iterator[Watchers]:
    watchers = Watchers(folder, environ)
    try:
        yield watchers
    finally:
        watchers.close()


def until(level: Callable[[], str | None], what: str | Callable[[], str], seconds: float = PATIENCE_SECONDS) -> str:
    """Return the first truthy answer; ``what`` was waited for in vain."""
    deadline = time.monotonic() + seconds
    while not (answer := level()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)
    return answer


def seen(url: str, name: str) -> EndpointSet | None:
    """Return what a registry says of a service of the admin."""

    async def get() -> EndpointSet | None:
        registry = connect(url)
        try:
            return await registry.get(ServiceKey("admin", name))
        finally:
            await registry.aclose()

    return asyncio.run(get())


def ids(url: str, name: str) -> set[str]:
    found = seen(url, name)
    return set() if found is None else {each.id for each in found.endpoints}


def owner(url: str, uuid: str) -> str:
    """Return who publishes a deployment."""

    async def get() -> str:
        registry = connect(url)
        try:
            claim = (await registry.claims()).get(ServiceKey("admin", uuid))
            return "" if claim is None else claim.publisher
        finally:
            await registry.aclose()

    return asyncio.run(get())


def answers(url: str, name: str, path: str, count: int = 30) -> set[str]:
    """Ask a service so often, found in a registry; returns the different answers."""
    with (
        muster.connect(url) as connection,
        httpx.Client(
            transport=connection.service(name).transport(), base_url=f"http://{name}", timeout=PATIENCE_SECONDS
        ) as client,
    ):
        return {client.get(path).raise_for_status().text for _ in range(count)}
