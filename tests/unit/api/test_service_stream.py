"""Streams about services over a real socket: a reader that goes leaves nothing behind, and none keeps a server up."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from muster.client.async_api import AsyncApi
from muster.errors import FeedError
from muster.model.endpoint import ServiceKey
from muster.testing.conformance.registry import make_set
from tests.compat.world import ADMIN, World
from tests.unit.api.served import Server, on_stage

CHANGES, WATCH = "/api/v1/muster/services/changes", "/api/v1/muster/endpoints/watch"
STREAMS = pytest.mark.parametrize(("path", "params"), [(CHANGES, {"after": 0}), (WATCH, {"service": "s"})])


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as opened:
        yield opened


@pytest.fixture
def world(server: Server, tmp_path: Path) -> Iterator[World]:
    World.furnish(tmp_path)
    with on_stage(server, tmp_path) as opened:
        opened.place(opened.create())
        opened.run(opened.registry.publish(ServiceKey("admin", "s"), make_set("a")))
        yield opened


def readers(world: World) -> int:
    """Return how many the server has to tell something to."""
    return len(world.app.state.context.feed._readers) + len(world.registry._memory.watchers)


@STREAMS
def test_a_reader_that_goes_leaves_nothing_behind(
    server: Server, world: World, path: str, params: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with aclosing(AsyncApi(server.url, ADMIN)) as api:
            async with aclosing(api.lines(path, **params)) as lines:
                await anext(lines)
                assert readers(world) == 1
            async with asyncio.timeout(5):
                while readers(world):  # noqa: ASYNC110 nobody tells when a server has noticed
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


@pytest.mark.slow
@STREAMS
def test_a_server_that_stops_ends_them(server: Server, world: World, path: str, params: dict[str, Any]) -> None:
    async def scenario() -> float:
        async with aclosing(AsyncApi(server.url, ADMIN)) as api, aclosing(api.lines(path, **params)) as lines:
            await anext(lines)
            begin = time.monotonic()
            stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
            with pytest.raises((FeedError, StopAsyncIteration)):
                await anext(lines)
            await stopping
            return time.monotonic() - begin

    assert asyncio.run(scenario()) < 10, "uvicorn's second of grace, and no waiting for the reader"
    assert readers(world) == 0
