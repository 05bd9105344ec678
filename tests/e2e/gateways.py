"""A gateway as a person starts it, two services behind it, and what it wrote, for the tests of a file."""

import asyncio
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.registry import connect
from tests.e2e.world import MUSTER, is_alive

T = TypeVar("T")
PATIENCE_SECONDS = 40.0
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "HOME")


def run(main: Coroutine[Any, Any, T], seconds: float = 200) -> T:
    """Run a test with a bound on its time."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await main

    return asyncio.run(bounded())


async def until(level: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first truthy answer."""
    deadline = time.monotonic() + seconds
    while not (found := level()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        await asyncio.sleep(0.02)
    return found


@dataclass(eq=False)
class Backend:
    """A service's server: it says who it is. Streams go on until ``ends``, slow answers wait for ``goes``."""

    name: str
    port: int = 0
    heads: list[str] = field(default_factory=list)
    streams: int = 0
    waiting: int = 0
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    goes: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                length = re.search(r"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                path = head.split(" ")[1]
                if "/stream" in path:
                    await self._stream(writer)
                    continue
                if "/slow" in path:
                    self.waiting += 1
                    await self.goes.wait()
                    self.waiting -= 1
                said: dict[str, Any] = {"name": self.name, "path": path, "body": body.decode()}
                if path.endswith("/chat/completions"):  # as much as an SDK looks at
                    message = {"role": "assistant", "content": f"I am {self.name}"}
                    said |= {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
                    said |= {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
                content = json.dumps(said).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
                await writer.drain()
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.streams += 1
        at = 0
        try:
            while not self.ends.is_set():
                data = b"data: %d\n\n" % at
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
                at += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self.ends.wait()
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            await writer.drain()
        finally:
            self.streams -= 1


@contextlib.asynccontextmanager
async def backends(*names: str) -> AsyncIterator[list[Backend]]:
    """Have a server for each name."""
    made, servers = [Backend(each) for each in names], []
    for each in made:
        server = await asyncio.start_server(each, "127.0.0.1", 0)
        each.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield made
    finally:
        for each in made:
            each.ends.set()
            each.goes.set()
        for server in servers:
            server.close()
        await asyncio.sleep(0.05)  # their connections end with the gateway's


async def publish(registry: str, name: str, *ports: int, alias: str = "", concurrency: int = 64) -> None:
    """Publish a service with replicas at these ports."""
    opened = connect(registry)
    endpoints = tuple(
        Endpoint(f"{name}-{at}", f"http://127.0.0.1:{port}", concurrency=concurrency) for at, port in enumerate(ports)
    )
    key = ServiceKey("admin", name)
    await opened.publish(key, EndpointSet(1, 1, endpoints, datetime.datetime.now(datetime.UTC)))
    if alias:
        await opened.link(ServiceKey("admin", alias), key)
    await opened.aclose()


class Gateway:
    """One gateway; ``said`` is what it wrote for people, ``lines`` its access log."""

    def __init__(self, folder: Path, *words: str, toml: str = "") -> None:
        self.registry = (folder / "registry").as_uri()
        self.config = folder / "gateway.toml"
        self.access_log = folder / "access.log"
        self._said = folder / "gateway.said"
        self.configure(toml)
        with self._said.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    MUSTER,
                    "gateway",
                    "--registry",
                    self.registry,
                    "--config",
                    str(self.config),
                    "--listen",
                    "127.0.0.1:0",
                    "--status",
                    "127.0.0.1:0",
                    "--processes",
                    "2",
                    *(() if "access_log" in toml else ("--access-log", str(self.access_log))),
                    *words,
                ],
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def configure(self, toml: str) -> None:
        self.config.write_text(toml)

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self.access_log.read_text() if self.access_log.exists() else ""
        return [json.loads(each) for each in text.splitlines()]

    async def ready(self) -> None:
        """Wait until it says where it serves."""
        await self.says("the gateway is ready at ")
        found = re.search(r"ready at (https?://\S+) .* metrics at (http://\S+)/metrics", self.said)
        assert found is not None
        self.url, self.status_url = found[1], found[2]

    async def says(self, words: str) -> None:
        """Wait until it has said something."""

        def has_said() -> bool:
            assert words in self.said or self.process.poll() is None, f"it ended: {self.said}"
            return words in self.said

        await until(has_said, f"{words!r} in what it says")

    @property
    def workers(self) -> list[psutil.Process]:
        return [each for each in psutil.Process(self.process.pid).children() if is_alive(each)]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        await until(lambda: self.process.poll() is not None, "the end of the gateway")
        return self.process.returncode

    def client(self, **fields: Any) -> httpx.AsyncClient:
        """Return a client of it, without a proxy between."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=PATIENCE_SECONDS, **fields)

    async def metrics(self) -> dict[str, float]:
        """Return what it tells Prometheus."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.status_url}/metrics")).text
        samples = [each.rpartition(" ") for each in text.splitlines() if not each.startswith("#")]
        return {name: float(value) for name, _, value in samples}


@contextlib.asynccontextmanager
async def gateway_in(folder: Path, *words: str, toml: str = "") -> AsyncIterator[Gateway]:
    """Have a gateway that is ready; in the end it is gone, and so are its workers."""
    gateway = Gateway(folder, *words, toml=toml)
    workers: list[psutil.Process] = []
    try:
        await gateway.ready()
        yield gateway
        if gateway.process.poll() is None:
            workers = gateway.workers
            gateway.send(signal.SIGTERM)
            gateway.send(signal.SIGTERM)
            assert await gateway.ended() == 0, gateway.said
    finally:
        if gateway.process.poll() is None:
            workers = gateway.workers
            gateway.process.kill()
            gateway.process.wait()
        await until(lambda: not any(map(is_alive, workers)), "the end of the workers")
