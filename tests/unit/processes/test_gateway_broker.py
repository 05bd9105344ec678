"""The broker inside of a gateway: where it lives, who may look into it, and what is left of those that were killed."""

import asyncio
import contextlib
import io
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.broker.address import read_address
from muster.cli.main import run
from muster.gateway.config import GatewayConfig
from muster.model.endpoint import ServiceKey
from muster.processes.gateway_broker import own_broker
from muster.registry.file import FileRegistry
from tests.unit.broker.client import Client
from tests.unit.broker.ground import make_set


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a name so short that sockets may be in it, for what comes after ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="mg", dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


def test_what_killed_gateways_left_is_removed_and_what_is_used_or_young_stays(place: Path, tmp_path: Path) -> None:
    long_ago = time.time() - 3600
    folders = {name: place / f"muster-gateway-{name}" for name in ("dead", "empty", "alive", "young")}
    for folder in folders.values():
        folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folders["dead"] / "broker"))
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(folders["alive"] / "broker"))
        alive.listen()
        for name in ("dead", "empty", "alive"):
            os.utime(folders[name], (long_ago, long_ago))

        async def main() -> None:
            async with own_broker(GatewayConfig(registry=tmp_path.as_uri())) as url:
                assert url.startswith(f"unix://{place}/muster-gateway-")

        asyncio.run(main())
    assert sorted(each.name for each in place.iterdir()) == ["muster-gateway-alive", "muster-gateway-young"]


@pytest.mark.usefixtures("place")
def test_who_runs_a_gateway_sees_who_waits_there_and_takes_them_out_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    key = ServiceKey("lab", "asr")

    async def main() -> None:
        registry = FileRegistry(tmp_path / "registry")
        await registry.publish(key, make_set("a", concurrency=1))
        await registry.aclose()
        config = GatewayConfig(registry=(tmp_path / "registry").as_uri(), account="lab")
        async with own_broker(config) as url:
            assert _modes(Path(url.removeprefix("unix://"))) == (0o700, 0o600), "as it asks for no token"
            async with await Client.connect(read_address(url)) as worker:
                assert (await worker.hello(key, ""))["type"] == "welcome"
                await worker.lease()
                waiting = worker.ask()
                shown = json.loads(await _said("queue", "show", "asr", "--broker", url, "-o", "json"))
                assert (shown["broker"], shown["waiting"]) == (url, 1)
                assert "1 request taken out" in await _said("queue", "cancel", "asr", "--broker", url, "--all")
                refused = await worker.find("refuse")
                assert (refused["id"], refused["reason"]) == (waiting, "cancelled")

    asyncio.run(main())


def _modes(path: Path) -> tuple[int, ...]:
    return tuple(stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path))


async def _said(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        assert await asyncio.to_thread(run, words) == 0, errors.getvalue()
    return output.getvalue()
