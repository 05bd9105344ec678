"""Which services a broker serves: one queue for all names of a service, names that move, sets that change."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from muster.broker import messages
from muster.broker import services as module
from muster.broker.messages import Hello
from muster.broker.server import Broker
from muster.broker.services import Services
from muster.clock import SystemClock
from muster.errors import RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.memory import Memory, MemoryRegistry
from tests.unit.broker.client import Client
from tests.unit.broker.ground import KEY, LOOPBACK, NAME, OTHER, TOKEN, Ground, Tokens, ground, make_set, until

Scenario = Callable[[Ground], Coroutine[Any, Any, None]]


class Troubled(MemoryRegistry):
    """A registry that may be away."""

    is_away = False

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        if self.is_away:
            raise RegistryUnavailable("no answer")
        return await super().target(key)


def run(scenario: Scenario, **options: Any) -> None:
    async def main() -> None:
        async with ground(**options) as here:
            await scenario(here)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"

    asyncio.run(main())


def test_who_asks_by_name_and_who_asks_by_uuid_wait_in_one_queue() -> None:
    async def scenario(here: Ground) -> None:
        async with here.client(KEY) as by_uuid, here.client(NAME) as by_name:
            held = await by_uuid.lease()
            number = by_name.ask()
            await until(lambda: here.statistics().waiting == 1, "the second waits")
            by_uuid.report(held)
            assert (await by_name.get("grant"))["id"] == number
            assert len(here.services.statistics()) == 1

    registry = MemoryRegistry(Memory())

    async def prepare() -> None:
        await registry.publish(KEY, make_set("a"))
        await registry.link(NAME, KEY)

    asyncio.run(prepare())
    run(scenario, registry=registry)


def test_who_came_by_a_name_that_moved_is_sent_for_the_other_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESOLVE_SECONDS", 0.05)

    async def scenario(here: Ground) -> None:
        async with here.client(KEY) as by_uuid, here.client(NAME) as by_name:
            await by_name.lease()
            await here.registry.publish(OTHER, make_set("z"))
            await here.registry.link(NAME, OTHER)
            assert await by_name.farewell() == "moved"
            await by_uuid.lease()
            assert here.statistics(KEY).in_flight == 1, "the one that was sent away holds nothing"
            async with here.client(NAME) as again:
                again.ask()
                assert (await again.get("grant"))["replica"] == "z"

    run(scenario)


def test_who_came_by_a_name_that_is_forgotten_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESOLVE_SECONDS", 0.02)

    async def scenario(here: Ground) -> None:
        async with here.client(NAME) as client:
            await here.registry.unlink(NAME)
            await asyncio.sleep(0.2)
            await client.lease()

    run(scenario)


def test_a_set_that_is_published_later_serves_who_waits() -> None:
    async def scenario(here: Ground) -> None:
        async with here.client() as client:
            number = client.ask()
            await until(lambda: here.statistics().waiting == 1, "it waits")
            await here.registry.publish(KEY, make_set("a", revision=2))
            assert (await client.get("grant"))["id"] == number

    run(scenario, endpoints={KEY: make_set()})


def test_a_service_that_nobody_visits_is_closed_and_opens_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESOLVE_SECONDS", 0.02)
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.2)

    async def scenario(here: Ground) -> None:
        async with here.client() as client:
            await client.lease()
            await asyncio.sleep(0.4)
            assert len(here.services.statistics()) == 1
        await until(lambda: not here.services.statistics(), "it is closed")
        async with here.client() as client:
            await client.lease()

    run(scenario)


def test_a_registry_that_is_away_is_no_unknown_service(caplog: pytest.LogCaptureFixture) -> None:
    registry = Troubled(Memory())
    caplog.set_level(logging.CRITICAL)

    async def scenario(here: Ground) -> None:
        async with here.client() as client:
            registry.is_away = True
            async with await here.connect() as late:
                said = await late.hello(OTHER, TOKEN)
                assert said["reason"] == "unavailable"
                assert "memory://test" in said["message"]
            async with here.client() as second:
                await second.lease()
            await client.lease()
            registry.is_away = False
            async with await here.connect() as late:
                assert (await late.hello(OTHER, TOKEN))["reason"] == "unknown_service"

    run(scenario, registry=registry, endpoints={KEY: make_set("a", "b")})


def test_who_comes_before_the_broker_has_begun_is_served_when_it_has() -> None:
    async def main() -> None:
        registry = MemoryRegistry(Memory())
        await registry.publish(KEY, make_set("a"))
        services = Services(registry, SystemClock(), where="here", broker="1", settle_seconds=0.0)
        broker = Broker(services, Tokens())
        async with await Client.connect(await broker.listen(LOOPBACK)) as client:
            client.say(messages.hello(Hello(KEY, TOKEN)))
            await until(lambda: any(each.hello for each in broker.connections), "it has said hello")
            running = asyncio.create_task(broker.run())
            await client.get("welcome")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_many_who_come_at_once_ask_the_registry_a_few_times() -> None:
    class Counting(MemoryRegistry):
        asked = 0

        async def target(self, key: ServiceKey) -> ServiceKey | None:
            self.asked += 1
            await asyncio.sleep(0.01)
            return await super().target(key)

    registry = Counting(Memory())

    async def scenario(here: Ground) -> None:
        clients = [await here.connect() for _ in range(200)]
        for client in clients:
            client.say(messages.hello(Hello(KEY, TOKEN)))
        for client in clients:
            await client.get("welcome")
        assert registry.asked <= module.OPENING_AT_ONCE
        assert len(here.services.statistics()) == 1
        for client in clients:
            await client.close()

    run(scenario, registry=registry, endpoints={KEY: make_set("a")})


def test_a_set_that_breaks_the_balancer_leaves_the_last_one_in_use(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(here: Ground) -> None:
        async with here.client() as client:
            await client.lease()
            bad = make_set("b", revision=2)
            await here.registry.publish(
                KEY,
                EndpointSet(1, 2, (*bad.endpoints, None), bad.published_at),  # type: ignore[arg-type]
            )
            await until(lambda: "cannot be used" in caplog.text, "it is told")
            await here.registry.publish(KEY, make_set("b", revision=3))
            client.ask()
            assert (await client.find("grant"))["replica"] == "b"

    run(scenario, endpoints={KEY: make_set("a")})
