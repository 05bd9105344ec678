"""A real server for benchmarks: `python -m muster.processes.server` in a home of its own, and nothing left afterwards.

Three things can be known about one moment, all on this machine's wall clock: when it was decided (``created_at`` of
the event, with microseconds, read from the database file without writing to it), when it was told (the arrival of its
line on the event stream, so after the commit), and when the engine says that a run ended (``stopped_at`` of the row,
written down by the shim). The API itself shows whole seconds, as AutoDL does.
"""

import asyncio
import contextlib
import datetime
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from muster.config import Settings
from muster.engine.local import LocalEngine
from muster.model.image import LOCAL_IMAGE
from muster.processes.engines import CONTAINERS
from muster.testing.bodies import create_body

TOKEN = "mst_benchmark"
FLEET = "1x64xRTX 4090@bench"
PATIENCE_SECONDS = 30.0
"""Longest wait for anything: a benchmark that hangs ends with an error."""
_STOP_SECONDS = 15.0


class Server:
    """The server of one home; the home lives as long as the context, the process from ``start`` to ``stop``.

    ``docker_host``: the daemon whose containers it runs, which the caller empties; without one they are processes.
    """

    def __init__(self, *, fleet: str = FLEET, docker_host: str | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="muster-bench-"))
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._settings = Settings(
            home=self.home,
            port=port,
            engine="docker" if docker_host else "local",
            docker_host=docker_host,
            keep_free_gb=0,
            rate_limit=0,
            fake_gpus=fleet,
            admin_token=SecretStr(TOKEN),
            log_level="warning",
        )
        self._is_local = docker_host is None
        self.registry_url = self._settings.registry_url
        self.database = self.home / "muster.db"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
            if self._is_local:
                asyncio.run(self._purge())
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def start(self) -> None:
        """Start the process and return at once."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
        with (self.home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "muster.processes.server"),
                env={**inherited, **self._settings.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return with the first 200 of ``/readyz``.

        The server listens before it prepares anything, so once a connection is taken the answer is only waited for.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        with httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.ConnectError:
                    assert self._process is not None
                    if self._process.poll() is not None:
                        raise RuntimeError(f"the server ended:\n{(self.home / 'server.log').read_text()}") from None
                if time.monotonic() > until:
                    raise TimeoutError(f"the server does not answer:\n{(self.home / 'server.log').read_text()}")
                time.sleep(0.002)

    def stop(self) -> None:
        """Ask the process to stop, and make it; containers go on."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        """The process, while it is started."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> httpx.AsyncClient:
        """Return a client that acts for the admin."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": TOKEN}, trust_env=False, timeout=PATIENCE_SECONDS
        )

    def decided_at(self) -> dict[int, float]:
        """Return ``created_at`` of every event, by event id."""
        return dict(self._select("SELECT id, created_at FROM events"))

    def ended_at(self) -> dict[str, float]:
        """Return when the engine says that each container's run ended, by container uuid."""
        return dict(self._select("SELECT uuid, stopped_at FROM containers WHERE stopped_at IS NOT NULL"))

    def ids(self) -> dict[str, str]:
        """Return what the engine calls each container, by container uuid."""
        with contextlib.closing(self._connect()) as connection:
            return dict(connection.execute("SELECT uuid, id FROM containers WHERE uuid IS NOT NULL"))

    def _select(self, statement: str) -> list[tuple[Any, float]]:
        with contextlib.closing(self._connect()) as connection:
            return [(key, _timestamp(moment)) for key, moment in connection.execute(statement)]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)

    async def _purge(self) -> None:
        engine = LocalEngine(self.home / CONTAINERS)
        try:
            await engine.purge()
        finally:
            await engine.aclose()


@dataclass(frozen=True, slots=True)
class Seen:
    """One event as it arrived. ``word`` is the status, or ``ready`` and ``unready``."""

    id: int
    word: str
    deployment: str
    container: str
    at: float


class Stream:
    """The event stream as an observer: every event with the moment of its arrival."""

    def __init__(self) -> None:
        self.events: list[Seen] = []
        self._arrival = asyncio.Condition()

    async def until(
        self, matches: Callable[[Seen], bool], count: int = 1, *, seconds: float = PATIENCE_SECONDS
    ) -> list[Seen]:
        """Return the matching events once there are ``count`` of them."""
        found: list[Seen] = []

        def are_there() -> bool:
            found[:] = filter(matches, self.events)
            return len(found) >= count

        async with asyncio.timeout(seconds), self._arrival:
            await self._arrival.wait_for(are_there)
        return found

    async def follow(self, lines: AsyncIterator[str]) -> None:
        """Note every line, for ever."""
        async for line in lines:
            at = time.time()
            if line.strip():
                wire = json.loads(line)
                word = wire["status"] if wire["kind"] == "status" else wire["kind"]
                seen = Seen(wire["id"], word, wire["deployment_uuid"], wire["deployment_container_uuid"], at)
                async with self._arrival:
                    self.events.append(seen)
                    self._arrival.notify_all()


@contextlib.asynccontextmanager
async def following(client: httpx.AsyncClient) -> AsyncIterator[Stream]:
    """Follow the events of the server while the context lasts."""
    stream = Stream()
    async with client.stream("GET", "/api/v1/muster/events", params={"after": 0}) as response:
        task = asyncio.create_task(stream.follow(response.aiter_lines()))
        try:
            yield stream
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def call(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any]) -> Any:
    """Call the AutoDL half of the API and return ``data``."""
    response = await client.request(method, f"/api/v1/dev/deployment{path}", json=body)
    envelope = response.json()
    if envelope.get("code") != "Success":
        raise RuntimeError(f"{method} {path}: {envelope}")
    return envelope["data"]


async def scale(client: httpx.AsyncClient, uuid: str, replica_num: int) -> None:
    """Want another number of replicas."""
    await call(client, "PUT", "/replica_num", {"deployment_uuid": uuid, "replica_num": replica_num})


async def add_image(client: httpx.AsyncClient, name: str, reference: str) -> str:
    """Give an image a name; return the uuid by which deployments name it."""
    response = await client.post("/api/v1/muster/images", json={"name": name, "reference": reference})
    return str(response.raise_for_status().json()["image"]["image_uuid"])


async def create(
    client: httpx.AsyncClient,
    name: str,
    replica_num: int,
    cmd: str = "sleep infinity",
    *,
    image: str = LOCAL_IMAGE,
    **more: Any,
) -> str:
    """Create a ReplicaSet that is ready as soon as it runs and is stopped without a drain; return its uuid."""
    service = {"health_check": None, "drain_seconds": 0}
    template = {"image_uuid": image}
    body = create_body(name, replica_num=replica_num, cmd=cmd, template=template, **{"service": service, **more})
    return str((await call(client, "POST", "", body))["deployment_uuid"])


def _timestamp(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).replace(tzinfo=datetime.UTC).timestamp()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
