"""The broker inside of a gateway: where it lives, and what is left of those that were killed."""

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from muster.gateway.config import GatewayConfig
from muster.processes.gateway_broker import own_broker


def test_what_killed_gateways_left_is_removed_and_what_is_used_or_young_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    long_ago = time.time() - 3600
    folders = {name: tmp_path / f"muster-gateway-{name}" for name in ("dead", "empty", "alive", "young")}
    for folder in folders.values():
        folder.mkdir()
    listeners = {name: socket.socket(socket.AF_UNIX) for name in ("dead", "alive")}
    for name, listener in listeners.items():
        listener.bind(str(folders[name] / "broker"))
    listeners["alive"].listen()
    listeners["dead"].close()
    for name in ("dead", "empty", "alive"):
        os.utime(folders[name], (long_ago, long_ago))

    async def main() -> None:
        config = GatewayConfig(registry=(tmp_path.parent / "registry").as_uri())
        async with own_broker(config) as own:
            assert own.url.startswith(f"unix://{tmp_path}/muster-gateway-")
            assert own.token not in repr(own)

    asyncio.run(main())
    listeners["alive"].close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["muster-gateway-alive", "muster-gateway-young"]
