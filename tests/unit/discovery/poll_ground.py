"""A scripted account, the feed that polls it, and who reads the feed, all in virtual time."""

import asyncio
import random
from collections.abc import Awaitable, Collection, Coroutine, Iterable
from typing import Any, TypeVar

import httpx

from muster.client.async_api import AsyncApi
from muster.discovery.poll import PollFeed
from muster.discovery.probe import Probes
from muster.errors import FeedError
from muster.model.endpoint import ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ServiceState
from muster.model.ids import DeploymentId
from muster.testing.clock import FakeClock, VirtualLoop
from muster.testing.scripted_api import ScriptedTransport
from muster.testing.scripted_world import CONTAINER_LIST, DEPLOYMENT_LIST, EVENT_LIST, ScriptedWorld

T = TypeVar("T")
API = (CONTAINER_LIST, DEPLOYMENT_LIST, EVENT_LIST)


class Ground:
    """``watch`` makes a reader that keeps ``view`` as a watcher would; ``errors`` are what it was told instead."""

    def __init__(self, seed: int = 0) -> None:
        self.loop = VirtualLoop()
        self.clock = FakeClock(self.loop)
        self.world = ScriptedWorld(seed=seed, monotonic=self.loop.time)
        self.transport: httpx.AsyncBaseTransport = ScriptedTransport(self.world)
        self.seed = seed
        self.view: dict[DeploymentId, ServiceState] = {}
        self.errors: list[FeedError] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.feed = self.new_feed()

    def new_feed(
        self, deployments: Collection[str] = (), transport: httpx.AsyncBaseTransport | None = None
    ) -> PollFeed:
        """Begin another life of the feed, with its probes running."""
        api = AsyncApi("http://api.test", self.world.token, transport=transport or self.transport)
        self.probes = Probes(self.clock, self.transport, rng=random.Random(self.seed))
        self.feed = PollFeed(
            api,
            self.clock,
            self.probes,
            account="home",
            deployments=deployments,
            rng=random.Random(self.seed),
        )
        self._tasks.append(self.loop.create_task(self.probes.run()))
        return self.feed

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def advance(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))
        for task in self._tasks:
            if task.done():
                task.result()

    def watch(self) -> None:
        self._tasks.append(self.loop.create_task(self._watch()))

    async def _watch(self) -> None:
        while True:
            try:
                listing = await self.feed.services()
                self.view = {state.deployment_id: state for state in listing.services}
                await self._follow(listing.cursor)
            except FeedError as error:
                self.errors.append(error)
                await asyncio.sleep(1)

    async def _follow(self, cursor: Cursor) -> None:
        async for batch in self.feed.changes(cursor):
            await asyncio.gather(*(self._refresh(each) for each in batch.deployments))

    async def _refresh(self, deployment_id: DeploymentId) -> None:
        state = await self.feed.service(deployment_id)
        if state is not None:
            self.view[deployment_id] = state

    def names(self, deployment: str, port: int = 6006) -> list[str]:
        """Return who is published for a deployment."""
        state = self.view.get(DeploymentId(deployment))
        return [] if state is None else [each.id for each in state.endpoints[ServiceKey("home", deployment, port)]]

    def withheld(self, deployment: str, port: int = 6006) -> dict[str, str]:
        found = self.view[DeploymentId(deployment)].withheld[ServiceKey("home", deployment, port)]
        return {each.id: each.reason for each in found}

    def alias(self, deployment: str, name: str) -> str | None:
        target = self.view[DeploymentId(deployment)].aliases[ServiceKey("home", name)]
        return None if target is None else target.service

    def calls(self, *paths: str) -> int:
        return sum(self.world.calls[path] for path in paths or API)

    def close(self) -> None:
        async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.do(end(self._tasks))
        self.loop.close()


async def outcome(call: Awaitable[T]) -> T | FeedError:
    """Return what a call returns or why it failed."""
    try:
        return await call
    except FeedError as error:
        return error
