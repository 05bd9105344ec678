"""Whoever takes over a set keeps in it who is too busy to answer, and takes in nobody of whom nothing is known."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from muster.discovery.probe import Target
from muster.discovery.watcher import Watcher
from muster.errors import RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.memory import MemoryRegistry
from tests.unit.discovery.poll_ground import Ground


class Flaky(MemoryRegistry):
    """Fails its next reads."""

    failures = 0

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        if self.failures:
            self.failures -= 1
            raise RegistryUnavailable("not now")
        return await super().get(key)


class OneHears(httpx.AsyncBaseTransport):
    """Reaches everything, but of the containers one only: the others accept and keep silent."""

    def __init__(self, inner: httpx.AsyncBaseTransport, heard: str) -> None:
        self._inner = inner
        self._heard = heard

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "/c/" in request.url.path and self._heard not in request.url.path:
            await asyncio.sleep(1000)
        return await self._inner.handle_async_request(request)


class Succession:
    """Watchers that follow one another, each with probes of its own."""

    def __init__(self) -> None:
        self.ground = Ground()
        self.registry = Flaky()
        self.sizes: list[int] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._count = 0

    def succeed(self) -> None:
        """End the watcher there is as ``kill -9`` does, and begin another one."""
        self.end()
        self.stand_by()

    def stand_by(self) -> None:
        """Begin another one."""
        self._count += 1
        feed = self.ground.new_feed()
        probes = self.ground.probes

        def take_over(key: ServiceKey, present: EndpointSet) -> None:
            probes.adopt(Target(each.id, key.port, each.url) for each in present.endpoints)

        def note(key: ServiceKey, published: EndpointSet, name: str) -> None:
            if key.port == 6006:
                self.sizes.append(len(published.endpoints))

        watcher = Watcher(
            feed,
            self.registry,
            self.ground.clock,
            publisher=f"api.test#{self._count}",
            on_publish=note,
            on_take_over=take_over,
        )
        self._tasks += [self.ground._tasks.pop(), self.ground.loop.create_task(watcher.run())]

    def end(self) -> None:
        """End the eldest."""
        tasks, self._tasks = self._tasks[:2], self._tasks[2:]

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.ground.do(end())

    def names(self, service: str) -> list[str]:
        found = self.ground.do(self.registry.get(ServiceKey("home", service)))
        assert found is not None
        return [each.id for each in found.endpoints]


@pytest.fixture
def succession() -> Iterator[Succession]:
    succession = Succession()
    yield succession
    while succession._tasks:
        succession.end()
    succession.ground.close()


def test_a_busy_container_stays_published_over_any_number_of_watchers(succession: Succession) -> None:
    world = succession.ground.world
    uuid = world.add_deployment("asr")
    busy, idle = sorted(world.run(uuid, 2))
    succession.succeed()
    succession.ground.advance(5)
    world.let_answer(busy, stalls=1000)
    for _ in range(3):
        succession.succeed()
        succession.ground.advance(20)
        assert succession.names(uuid) == [busy, idle]
    assert set(succession.sizes) == {2}, "it was never left out in between"


def test_a_standby_whom_a_container_never_answered_keeps_it_when_it_takes_over(succession: Succession) -> None:
    world, ground = succession.ground.world, succession.ground
    uuid = world.add_deployment("asr")
    (first,) = world.run(uuid)
    succession.succeed()
    ground.transport = OneHears(ground.transport, first)
    succession.stand_by()
    ground.advance(10)
    (second,) = world.run(uuid)
    ground.advance(10)
    assert set(succession.names(uuid)) == {first, second}
    succession.end()
    ground.advance(30)
    assert set(succession.names(uuid)) == {first, second}
    assert succession.sizes == [1, 2, 2], "one watcher published both, the other one keeps both"


def test_a_container_that_died_between_two_watchers_goes_after_a_few_failures(succession: Succession) -> None:
    world = succession.ground.world
    uuid = world.add_deployment("asr")
    dead, idle = world.run(uuid, 2)
    succession.succeed()
    succession.ground.advance(5)
    succession.end()
    world.set_ready(dead, False)
    succession.succeed()
    succession.ground.advance(6)
    assert set(succession.names(uuid)) == {dead, idle}, "one failure is not enough, though nobody answers here yet"
    succession.ground.advance(35)
    assert succession.names(uuid) == [idle]


def test_what_cannot_be_read_is_not_published_until_it_can(succession: Succession) -> None:
    world = succession.ground.world
    uuid = world.add_deployment("asr")
    busy, idle = sorted(world.run(uuid, 2))
    succession.succeed()
    succession.ground.advance(5)
    world.let_answer(busy, stalls=1000)
    succession.registry.failures = 4  # of two keys, when they are claimed and when they are claimed again
    succession.succeed()
    succession.ground.advance(30)
    assert succession.registry.failures == 0
    assert succession.names(uuid) == [busy, idle]
    assert set(succession.sizes) == {2}
    world.stop(busy)
    succession.ground.advance(7)
    assert succession.names(uuid) == [idle], "it publishes"
