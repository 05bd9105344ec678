"""All processes of a gateway wait in one queue: nobody is refused, and nobody runs more than it may."""

import asyncio
import datetime
import os
import random
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from muster.model.endpoint import EndpointSet, ServiceKey
from muster.processes.http import free_port
from muster.registry.file import FileRegistry
from tests.e2e.limited import LIMIT, Replica

MUSTER = str(Path(sys.executable).with_name("muster"))
REQUESTS, AT_ONCE = 400, 24


@pytest.mark.slow
def test_two_processes_of_a_gateway_have_one_queue(tmp_path: Path) -> None:
    async def scenario() -> None:
        replicas = [Replica(name, random.Random(name)) for name in ("a", "b")]
        for each in replicas:
            await each.start()
        registry = FileRegistry(tmp_path / "registry")
        now = datetime.datetime.now(datetime.UTC)
        endpoints = tuple(each.endpoint for each in replicas)
        await registry.publish(ServiceKey("admin", "asr"), EndpointSet(1, 1, endpoints, now))
        at, status = (f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(2))
        command = [MUSTER, "gateway", "--registry", (tmp_path / "registry").as_uri(), "--service", "asr"]
        command += ["--listen", at, "--status", status, "--processes", "2", "--access-log", "off"]
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        with (tmp_path / "gateway.log").open("wb") as log:
            gateway = await asyncio.to_thread(subprocess.Popen, command, stdout=log, stderr=log, env=environ)
        try:
            async with httpx.AsyncClient(timeout=30) as client:
                await _level(client, f"http://{status}/readyz", "2 of 2")
                await client.post(f"http://{at}/", content=b"opens the service in one of them")
                await _level(client, f"http://{status}/services", '"broker": "unix:')
                await _until_all_ask_it(f"http://{at}/", replicas)
                statuses = await asyncio.gather(*(_work(f"http://{at}/", REQUESTS // AT_ONCE) for _ in range(AT_ONCE)))
            assert {status for some in statuses for status in some} == {200}
            assert {each.most for each in replicas} == {LIMIT}
            assert sum(each.refused for each in replicas) < REQUESTS / 20
        finally:
            gateway.terminate()
            try:
                assert await asyncio.to_thread(gateway.wait, 15) == 0
            finally:
                gateway.kill()
            for each in replicas:
                await each.stop()

    asyncio.run(scenario())
    assert not list(tmp_path.glob("muster-gateway-*"))


async def _until_all_ask_it(url: str, replicas: list[Replica]) -> None:
    """Send requests to all processes until none asks by itself, as each does that has not found the broker yet."""
    async with asyncio.timeout(20):
        while True:
            for each in replicas:
                each.refused = 0
            await asyncio.gather(*(_work(url, 1) for _ in range(AT_ONCE)))
            if not any(each.refused for each in replicas):
                return


async def _work(url: str, count: int) -> list[int]:
    async with httpx.AsyncClient(timeout=30) as client:  # a connection each: the kernel spreads them over the processes
        return [(await client.post(url, content=b"x")).status_code for _ in range(count)]


async def _level(client: httpx.AsyncClient, url: str, text: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if text in (await client.get(url)).text:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
