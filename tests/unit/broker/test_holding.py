"""Two brokers of one registry: one serves a service at a time, and the other takes over when it is gone."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from muster.broker.holding import publisher_of, seat_of, url_of
from muster.errors import RegistryUnavailable
from muster.model.endpoint import ServiceKey
from muster.registry import connect
from muster.registry.memory import Memory, MemoryRegistry
from muster.registry.port import Beat, Claim, Registry
from tests.unit.broker.ground import KEY, OTHER, TOKEN, Ground, ground, make_set, until

FIRST, SECOND = "tls://10.0.0.7:7690", "unix:///run/a#b"
LEASE_SECONDS = 0.5


class Partitioned(MemoryRegistry):
    """One side of a network that parts, by turns."""

    is_away = False

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        self._check()
        return await super().beat(publisher, beat)

    async def beats(self) -> Mapping[str, Beat]:
        self._check()
        return await super().beats()

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        self._check()
        return await super().claims()

    def _check(self) -> None:
        if self.is_away:
            raise RegistryUnavailable("no answer")


async def let_in_at(here: Ground, seconds: float = 5.0) -> float:
    """Come to a broker again and again until it lets us in and grants something; returns the time of that."""
    deadline = time.monotonic() + seconds
    while True:
        async with await here.connect() as client:
            said = await client.hello(KEY, TOKEN)
            if said["type"] == "welcome":
                client.ask()
                await client.get("grant")
                return time.monotonic()
            assert said["reason"] == "standby"
            assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.fixture(params=["memory", "file"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return connect(f"file://{tmp_path}") if request.param == "file" else MemoryRegistry(Memory())


def test_the_other_broker_says_where_the_service_is(registry: Registry) -> None:
    async def main() -> None:
        async with (
            ground(registry, endpoints={KEY: make_set("a"), OTHER: make_set("b")}, url=FIRST) as first,
            ground(registry, url=SECOND) as second,
            first.client(KEY),
            second.client(OTHER),
        ):
            for here, key, url in ((second, KEY, FIRST), (first, OTHER, "unix:///run/a%23b")):
                async with await here.connect() as client:
                    said = await client.hello(key, TOKEN)
                    assert (said["reason"], said["url"]) == ("standby", url)
                    assert url in said["message"]

    asyncio.run(main())


def test_a_broker_that_dies_is_replaced_within_its_lease_and_a_look(registry: Registry) -> None:
    async def main() -> None:
        async with (
            ground(registry, endpoints={KEY: make_set("a")}, url=FIRST, lease_seconds=LEASE_SECONDS) as first,
            ground(registry, url=SECOND, lease_seconds=LEASE_SECONDS) as second,
            first.client(KEY) as client,
        ):
            await client.lease()
            await asyncio.sleep(LEASE_SECONDS)
            killed_at = time.monotonic()
            await first.kill()
            assert await client.farewell() == ""
            took = await let_in_at(second) - killed_at
            assert 0.5 * LEASE_SECONDS < took < 1.5 * LEASE_SECONDS + 0.3

    asyncio.run(main())


def test_a_broker_that_comes_back_at_its_address_does_not_wait_for_its_own_lease(registry: Registry) -> None:
    async def main() -> None:
        async with (
            ground(registry, endpoints={KEY: make_set("a")}, url=FIRST, lease_seconds=30.0) as first,
            first.client(KEY) as client,
        ):
            await client.lease()
            await first.kill()
            async with ground(registry, url=FIRST, lease_seconds=30.0) as again, again.client(KEY) as later:
                await later.lease()
            async with ground(registry, url=SECOND, lease_seconds=30.0) as other:
                await let_in_at(other, seconds=2.0)

    asyncio.run(main())


def test_a_broker_that_is_stopped_is_replaced_at_once(registry: Registry) -> None:
    async def main() -> None:
        async with (
            ground(registry, endpoints={KEY: make_set("a")}, url=FIRST, lease_seconds=5.0) as first,
            ground(registry, url=SECOND, lease_seconds=LEASE_SECONDS) as second,
            first.client(KEY) as client,
        ):
            await asyncio.sleep(LEASE_SECONDS)
            stopped_at = time.monotonic()
            await first.stop()
            assert await client.farewell() == "stopping"
            assert await let_in_at(second) - stopped_at < 1.0

    asyncio.run(main())


def test_a_holder_that_was_cut_off_serves_on_and_gives_way_when_the_registry_says_so() -> None:
    memory = Memory()
    mine = Partitioned(memory)

    async def main() -> None:
        async with (
            ground(
                mine, endpoints={KEY: make_set("a", concurrency=8)}, url=FIRST, lease_seconds=LEASE_SECONDS
            ) as first,
            ground(MemoryRegistry(memory), url=SECOND, lease_seconds=LEASE_SECONDS) as second,
            first.client(KEY) as client,
        ):
            mine.is_away = True
            await asyncio.sleep(2 * LEASE_SECONDS)
            client.beat()
            await client.lease()
            await let_in_at(second)
            await client.lease()
            mine.is_away = False
            assert await client.farewell() == "standby"
            assert first.services.statistics() == []

    asyncio.run(main())


def test_a_registry_that_was_away_for_everybody_or_comes_back_empty_sends_nobody_away() -> None:
    memory = Memory()
    mine = Partitioned(memory)

    async def main() -> None:
        async with (
            ground(mine, endpoints={KEY: make_set("a")}, url=FIRST, lease_seconds=LEASE_SECONDS) as here,
            here.client(KEY) as client,
        ):
            mine.is_away = True
            await asyncio.sleep(2 * LEASE_SECONDS)
            memory.beats.clear()
            memory.claims.clear()
            mine.is_away = False
            await until(lambda: seat_of(KEY) in memory.claims, "the claim is written anew")
            client.beat()
            await client.lease()

    asyncio.run(main())


def test_a_registry_that_was_set_back_leaves_no_two_holders() -> None:
    memory = Memory()

    async def main() -> None:
        async with (
            ground(MemoryRegistry(memory), endpoints={KEY: make_set("a", concurrency=8)}, url=FIRST) as first,
            ground(MemoryRegistry(memory), url=SECOND) as second,
            first.client(KEY) as client,
        ):
            del memory.claims[seat_of(KEY)]
            async with second.client(KEY):
                assert await client.farewell() == "standby"
                assert len(second.services.statistics()) == 1

    asyncio.run(main())


def test_claims_of_brokers_are_no_services_and_name_where_they_are() -> None:
    memory = Memory()
    registry = MemoryRegistry(memory)

    async def main() -> None:
        async with ground(registry, endpoints={KEY: make_set("a")}, url=FIRST) as here, here.client(KEY):
            assert await registry.keys() == [KEY]
            (claim,) = (await registry.claims()).values()
            assert url_of(claim) == FIRST
        assert memory.beats == {}, "who stops says so"

    asyncio.run(main())
    assert url_of(Claim("0f3c#server", 1)) == url_of(None) == ""
    assert publisher_of(FIRST, "1").partition("#")[0] == f"broker {FIRST}", "a watcher of nobody's takes it for its own"
