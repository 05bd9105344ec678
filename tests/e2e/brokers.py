"""``muster broker`` as a person starts it: its line, its end, and a client that comes again until it is served."""

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.broker.address import Address, read_address
from muster.model.endpoint import ServiceKey
from tests.e2e.world import MUSTER
from tests.unit.broker.client import Client

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    """One process that serves."""

    process: "subprocess.Popen[str]"
    line: str
    said: Path

    @property
    def address(self) -> Address:
        return read_address(self.line.partition("serves at ")[2].partition(" ")[0].rstrip(","))

    def kill(self) -> float:
        """Kill it with -9; returns when."""
        os.kill(self.process.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        self.process.wait(PATIENCE_SECONDS)
        return killed_at

    def end(self) -> int:
        """Ask it to stop; returns its exit code."""
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)


class Brokers:
    """Starts them with one home, and leaves none behind."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._started: list[Running] = []
        self.home = home or folder / "home"
        self.environ = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ} | {
            "HOME": str(folder),
            "MUSTER_HOME": str(self.home),
        }

    def start(self, *words: str) -> Running:
        """Start one and wait until it serves."""
        said = self._folder / f"broker{len(self._started)}.log"
        with said.open("wb") as log:
            process = subprocess.Popen(
                [MUSTER, "broker", "--listen", "tls://127.0.0.1:0", *words],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        running = Running(process, process.stdout.readline(), said)
        self._started.append(running)
        assert "serves at" in running.line, said.read_text()
        return running

    def trust(self) -> ssl.SSLContext:
        """Return what trusts their certificates, and nobody else's."""
        return ssl.create_default_context(cafile=self.home / "tls" / "ca.pem")

    def close(self) -> None:
        for each in self._started:
            if each.process.poll() is None:
                each.kill()
            if each.process.stdout is not None:
                each.process.stdout.close()


@contextlib.contextmanager
def brokers_in(folder: Path, *, home: Path | None = None) -> Iterator[Brokers]:
    brokers = Brokers(folder, home)
    try:
        yield brokers
    finally:
        brokers.close()


async def granted_at(
    addresses: Sequence[Address], tls: ssl.SSLContext, key: ServiceKey, token: str, seconds: float = PATIENCE_SECONDS
) -> tuple[float, Address]:
    """Come to brokers in turn until one grants something; returns when, and which."""
    deadline = time.monotonic() + seconds
    while True:
        for address in addresses:
            with contextlib.suppress(ConnectionRefusedError):
                async with await Client.connect(address, tls) as client:
                    said = await client.hello(key, token)
                    if said["type"] == "welcome":
                        await client.lease()
                        return time.monotonic(), address
                    assert said["reason"] == "standby", said
            assert time.monotonic() < deadline, f"nobody serves {key}"
        await asyncio.sleep(0.02)
