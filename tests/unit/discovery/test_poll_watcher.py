"""A watcher over a polled API: what stands in the registry while the API, the watcher or a container fails."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from muster.client.async_api import AsyncApi
from muster.clock import SystemClock
from muster.discovery.poll import PollFeed
from muster.discovery.probe import Probes
from muster.discovery.watcher import Watcher
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry import connect
from muster.registry.port import Registry
from muster.testing.scripted_api import ScriptedApi
from muster.testing.scripted_world import CONTAINER_LIST
from tests.unit.discovery.poll_ground import Ground


class Office:
    """Watchers with a feed each, in one virtual world; ``history`` is every set that a service had."""

    def __init__(self, ground: Ground, registry: Registry) -> None:
        self.ground = ground
        self.registry = registry
        self.history: list[EndpointSet] = []
        self._tasks: dict[str, list[asyncio.Task[Any]]] = {}

    def start(self, name: str) -> None:
        feed = self.ground.new_feed()
        probing = self.ground._tasks.pop()
        watcher = Watcher(feed, self.registry, self.ground.clock, publisher=f"http://api.test#{name}")
        self._tasks[name] = [probing, self.ground.loop.create_task(watcher.run())]

    def kill(self, name: str) -> None:
        async def end() -> None:
            for task in self._tasks[name]:
                task.cancel()
            await asyncio.wait(self._tasks[name])

        self.ground.do(end())

    def record(self, service: str) -> None:
        async def follow() -> None:
            async for found in self.registry.watch(ServiceKey("home", service)):
                self.history.append(found)

        self.ground._tasks.append(self.ground.loop.create_task(follow()))

    def get(self, service: str) -> EndpointSet:
        found = self.ground.do(self.registry.get(ServiceKey("home", service)))
        assert found is not None
        return found

    def names(self, service: str) -> list[str]:
        return [each.id for each in self.get(service).endpoints]


@pytest.fixture
def office() -> Iterator[Office]:
    ground = Ground()
    office = Office(ground, ground.do(_memory()))
    yield office
    for name in office._tasks:
        office.kill(name)
    ground.close()


async def _memory() -> Registry:
    return connect("memory:")


def test_a_set_is_marked_while_the_api_is_away_and_right_again_afterwards(office: Office) -> None:
    world = office.ground.world
    asr = world.add_deployment("asr")
    uuids = sorted(world.run(asr, 3))
    office.start("one")
    office.record(asr)
    office.ground.advance(20)
    assert office.names("asr") == uuids
    world.is_down = True
    office.ground.advance(60)
    assert office.names("asr") == uuids
    assert office.get("asr").stale_since is not None
    world.stop(uuids[0])
    world.is_down = False
    office.ground.advance(70)
    assert office.names("asr") == uuids[1:]
    assert office.get("asr").stale_since is None
    assert all(found.endpoints for found in office.history)


def test_one_lost_answer_marks_nothing(office: Office) -> None:
    world = office.ground.world
    asr = world.add_deployment("asr")
    world.run(asr, 2)
    office.start("one")
    office.ground.advance(20)
    office.record(asr)
    for _ in range(12):
        world.troubles.order("error")
        office.ground.advance(13)
    assert {found.stale_since for found in office.history} == {None}


def test_no_restart_of_a_watcher_takes_anybody_away(office: Office) -> None:
    world = office.ground.world
    asr = world.add_deployment("asr")
    uuids = sorted(world.run(asr, 5))
    world.let_answer(uuids[0], stalls=400.0)
    world.let_answer(uuids[1], 503, headers={"retry-after": "1"})
    office.start("one")
    office.ground.advance(20)
    office.record(asr)
    for life in ("two", "three"):
        office.kill("one" if life == "two" else "two")
        office.start(life)
        office.ground.advance(25)
    assert [[each.id for each in found.endpoints] for found in office.history] == [uuids] * len(office.history)
    assert len({found.epoch for found in office.history}) > 1


def test_two_watchers_of_an_account_cost_twice_as_much_and_one_takes_over(office: Office) -> None:
    world = office.ground.world
    asr = world.add_deployment("asr")
    uuids = sorted(world.run(asr, 2))
    office.start("one")
    office.start("two")
    office.ground.advance(30)
    world.calls.clear()
    office.ground.advance(60)
    assert world.calls[CONTAINER_LIST] <= 32
    office.kill("one")
    world.stop(uuids[0])
    office.ground.advance(8)
    assert office.names("asr") == uuids[1:]


@pytest.mark.slow
def test_a_watcher_follows_an_api_over_real_sockets_through_a_restart_of_it() -> None:
    with ScriptedApi() as api:
        asr = api.world.add_deployment("asr")
        uuids = api.world.run(asr, 3)

        async def main() -> None:
            registry, clock = connect("memory:"), SystemClock()
            client, probes = AsyncApi(api.url, api.world.token, timeout_seconds=1.0), Probes(clock)
            feed = PollFeed(client, clock, probes, account="home", interval_seconds=0.2)
            watcher = Watcher(feed, registry, clock, publisher=f"{api.url}#one")

            async def reached(*names: str, is_stale: bool = False) -> None:
                async with asyncio.timeout(20):
                    async for found in registry.watch(ServiceKey("home", asr)):
                        is_marked = found.stale_since is not None
                        if [each.id for each in found.endpoints] == sorted(names) and is_marked is is_stale:
                            return

            running = [asyncio.create_task(probes.run()), asyncio.create_task(watcher.run())]
            try:
                await reached(*uuids)
                api.world.stop(uuids[0])
                await reached(*uuids[1:])
                await asyncio.to_thread(api.stop)
                api.world.stop(uuids[1])
                await reached(*uuids[1:], is_stale=True)
                await asyncio.to_thread(api.start)
                await reached(uuids[2])
                api.world.troubles.order("stall", 2, seconds=5)
                new = api.world.reuse(uuids[0])
                await reached(uuids[2], new)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.wait(running)
                await client.aclose()
                await registry.aclose()

        asyncio.run(main())
