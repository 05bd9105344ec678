"""The broker inside of a gateway: where it lives, and what is left of those that were killed."""

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.gateway.config import GatewayConfig
from muster.processes.gateway_broker import own_broker


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a name so short that sockets may be in it, whatever the tests' own is called."""
    with tempfile.TemporaryDirectory(prefix="mg", dir="/tmp") as folder:
        yield Path(folder)


def test_what_killed_gateways_left_is_removed_and_what_is_used_or_young_stays(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
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
            async with own_broker(GatewayConfig(registry=tmp_path.as_uri())) as own:
                assert own.url.startswith(f"unix://{place}/muster-gateway-")
                assert own.token not in repr(own)

        asyncio.run(main())
    assert sorted(each.name for each in place.iterdir()) == ["muster-gateway-alive", "muster-gateway-young"]
