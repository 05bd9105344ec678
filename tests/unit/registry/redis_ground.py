"""What the tests of the Redis registry stand on: keys, handles that close, watches that end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

from muster.errors import RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.redis import RedisRegistry, open_url
from tests.servers.redis import RedisServer

KEY = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")
AT = "muster:set:admin/0123456789/6006"
ALIAS_AT = "muster:alias:admin/digits/6006"
SOON_SECONDS = 10.0
PASSWORD = "s3cret/&@:"
QUOTED = "s3cret%2F%26%40%3A"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisRegistry]:
    registry = open_url(url)
    try:
        yield registry
    finally:
        await registry.aclose()


@contextlib.asynccontextmanager
async def watched(registry: RedisRegistry, key: ServiceKey = KEY) -> AsyncIterator[AsyncIterator[EndpointSet]]:
    sets = registry.watch(key)
    try:
        yield sets
    finally:
        assert isinstance(sets, AsyncGenerator)
        await sets.aclose()


async def soon(sets: AsyncIterator[EndpointSet]) -> EndpointSet:
    async with asyncio.timeout(SOON_SECONDS):
        return await anext(sets)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def world() -> None:
        await scenario()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"

    asyncio.run(world())


async def until_published(registry: RedisRegistry, coming: EndpointSet) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            with contextlib.suppress(RegistryUnavailable):
                await registry.publish(KEY, coming)
                return
            await asyncio.sleep(0.05)


async def until_subscribed(server: RedisServer) -> None:
    """Wait until a watch hears of ``KEY`` by itself, not only because it looks from time to time."""
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            if server.cli("PUBSUB", "NUMSUB", AT).split() == [AT, "1"]:
                return
            await asyncio.sleep(0.02)
