"""What the tests of the etcd registry stand on: keys, handles that close, watches that end."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

from muster.errors import Fenced, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.etcd import EtcdRegistry, open_url
from muster.registry.etcd_client import EtcdClient
from muster.registry.etcd_url import parse

KEY = ServiceKey("admin", "0123456789")
OTHER = ServiceKey("admin", "9876543210")
NAME = ServiceKey("admin", "digits")
PATH = "/muster/set/admin/0123456789/6006"
SOON_SECONDS = 10.0
PASSWORD = "s3cret/&@:"
QUOTED = "s3cret%2F%26%40%3A"


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[EtcdRegistry]:
    registry = open_url(url)
    try:
        yield registry
    finally:
        await registry.aclose()


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(parse(url))
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def watched(registry: EtcdRegistry) -> AsyncIterator[AsyncIterator[EndpointSet]]:
    sets = registry.watch(KEY)
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
        left: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
        if left:  # gRPC's own, of a stream that was just cancelled
            _, left = await asyncio.wait(left, timeout=SOON_SECONDS)
        assert not left, f"left behind: {left}"

    asyncio.run(world(), debug=True)


async def published(registry: EtcdRegistry, endpoints: EndpointSet) -> None:
    """Publish as soon as the registry can be reached; an attempt that nobody answered may have been done."""
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            try:
                await registry.publish(KEY, endpoints)
            except RegistryUnavailable:
                await asyncio.sleep(0.05)
            except Fenced:
                assert await registry.get(KEY) == endpoints
                return
            else:
                return
