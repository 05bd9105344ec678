"""A Muster of the demo's own: `muster up` in a folder of its own on a free port, and nothing left of it afterwards."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from examples.digits.target import Target
from muster.client import Client
from muster.home import PROFILE, read_profile
from muster.processes.locks import holder_of
from muster.processes.server import LOCK
from muster.testing.belonging import processes_of

FLEET = "2x4xRTX 4090@lab-a,1x2xRTX 3090@lab-b"
START_SECONDS = 60.0
_POLL_SECONDS = 0.02

_ENVIRON = {
    **os.environ,
    "MUSTER_INGRESS_PORTS": "24800-24999",
    "MUSTER_SSH_PORTS": "29900-29999",
    "MUSTER_INGRESS_STATUS_PORT": "0",
    "MUSTER_BROKER_PORT": "0",
}
"""Addresses at the end of the default ranges: a Muster of the user's own begins at the other."""


class Sandbox:
    """Runs `muster up` as a user would; leaves no process and no port, also after Ctrl-C."""

    def __init__(self, engine: Target) -> None:
        self._engine = engine
        self._installation = ""
        self.home = Path(tempfile.mkdtemp(prefix="muster-demo-"))
        self.registry_url = f"file://{self.home / 'registry'}"
        self._ports: set[int] = set()
        self._up: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers."""
        self._up = self._start("up", "--port", "0", "--engine", self._engine.engine, "--fake-gpus", FLEET)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await asyncio.to_thread(self._answers):
                    if self._up.poll() is not None:
                        raise SystemExit(f"muster up ended:\n{(self.home / 'up.log').read_text()}")
                    await asyncio.sleep(_POLL_SECONDS)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the supervisor, the server and whatever still runs."""
        await self._end()

    def client(self) -> Client:
        """Return a client of the API with the admin's token."""
        profile = read_profile(self.home / PROFILE)
        assert profile is not None
        return Client(profile.url, profile.token)

    def trust(self) -> ssl.SSLContext:
        """Return what trusts the addresses of this Muster's containers."""
        return ssl.create_default_context(cafile=str(self.home / "tls" / "ca.pem"))

    def server_pid(self) -> int:
        """Return the process id of the server; raises when none runs."""
        holder = holder_of(self.home / LOCK)
        if holder is None:
            raise RuntimeError("no server runs")
        return holder.pid

    def leftovers(self) -> list[str]:
        """Return the processes that still have to do with this home, and the ports of it that still answer."""
        found = [f"port {port}" for port in sorted(self._ports) if _is_open(port)]
        found += [f"process {process.pid}" for process in processes_of(self.home)]
        return found + self._engine.leftovers(self._installation)

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Type a `muster` command, away from the terminal, so that Ctrl-C reaches the demo alone."""
        muster = str(Path(sys.executable).with_name("muster"))
        with (self.home / "up.log").open("ab") as log:
            command = [muster, *words, "--home", str(self.home)]
            return subprocess.Popen(command, env=_ENVIRON, stdout=log, stderr=log, start_new_session=True)

    def _answers(self) -> bool:
        if not (self.home / PROFILE).exists():
            return False
        with self.client() as client:
            return client.is_ready()

    def _remember_ports(self) -> None:
        """Note every port that this home listens on now, to ask for them when all is over."""
        for process in processes_of(self.home):
            with contextlib.suppress(psutil.Error):
                connections = process.net_connections(kind="tcp")
                self._ports |= {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}

    async def _end(self) -> None:
        self._remember_ports()
        if (self.home / "installation").exists():
            self._installation = (self.home / "installation").read_text().strip()
        if self._up is not None and self._up.poll() is None:
            self._up.send_signal(signal.SIGINT)
        await asyncio.to_thread(self._start("down", "--purge").wait)
        if self._up is not None:
            await asyncio.to_thread(self._up.wait)
        if not self.leftovers():
            shutil.rmtree(self.home, ignore_errors=True)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
