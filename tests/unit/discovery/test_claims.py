"""A publisher whose heartbeats are slow, and marks on sets that somebody has just taken over."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

import pytest

from muster.discovery.claims import LEASE_SECONDS, Claims
from muster.discovery.stale import mark_stale
from muster.discovery.watcher import Watcher
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId
from muster.registry.memory import Memory, MemoryRegistry
from muster.registry.port import Beat, Claim
from muster.testing.clock import FakeClock, VirtualLoop

KEY = ServiceKey("admin", "d1")
ENDPOINT = Endpoint("a", "http://127.0.0.1:1")


class SlowBeats(MemoryRegistry):
    """A registry that takes its time to answer heartbeats."""

    seconds = 0.0

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        before = await super().beat(publisher, beat)
        await asyncio.sleep(self.seconds)
        return before


class Seized(MemoryRegistry):
    """A registry in which somebody takes a key over, and publishes, whenever the claims have been read."""

    def __init__(self, memory: Memory, clock: FakeClock) -> None:
        super().__init__(memory)
        self._clock = clock

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        before = await super().claims()
        given = await self.claim([KEY], "test#other", over=["test#dead"], floor=0)
        await self.publish(KEY, EndpointSet(given[KEY].epoch, 1, (ENDPOINT,), self._clock.now()))
        return before


async def own(claims: Claims) -> bool:
    """Return whether the key is ours, claimed as a listing does."""
    await claims.claim([KEY])
    return claims.epoch_of(KEY) is not None


def test_a_lease_that_runs_out_while_a_heartbeat_is_under_way_is_noticed() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        registry = SlowBeats(Memory())
        claims = Claims(registry, FakeClock(loop), "test#1")
        assert await own(claims)
        registry.seconds = 0.3
        await claims.beat()
        await asyncio.sleep(0.1)
        claims.has_news.clear()
        beating = asyncio.create_task(claims.beat())
        await asyncio.sleep(0.2)
        assert claims.epoch_of(KEY) is None, "what changes now is left to others"
        await beating
        assert claims.has_news.is_set(), "so everything has to be listed again"
        assert await own(claims)

    loop.run_until_complete(scenario())
    loop.close()


def test_two_heartbeats_at_once_are_no_sign_of_a_registry_that_forgot_us() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        registry = SlowBeats(Memory())
        claims = Claims(registry, FakeClock(loop), "test#1")
        assert await own(claims)
        registry.seconds = 0.2
        first = asyncio.create_task(claims.beat())
        await asyncio.sleep(0.1)
        await asyncio.gather(first, claims.beat())
        assert claims.epoch_of(KEY) is not None

    loop.run_until_complete(scenario())
    loop.close()


class OneService:
    """A feed of one deployment that never changes."""

    async def services(self) -> Listing:
        return Listing([await self.service(DeploymentId(KEY.service))], Cursor(0))

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        return ServiceState(deployment_id, {KEY: (ENDPOINT,)}, {})

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        await asyncio.Event().wait()
        yield ChangeBatch(frozenset(), cursor)


def test_a_registry_too_slow_for_the_lease_is_told_once_and_published_into_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    loop = VirtualLoop()

    async def scenario() -> None:
        registry = SlowBeats(Memory())
        registry.seconds = 0.7
        watching = asyncio.create_task(Watcher(OneService(), registry, FakeClock(loop), publisher="test#1").run())
        await asyncio.sleep(20)
        assert await registry.get(KEY) is not None
        assert (await registry.beats())["test#1"].seconds == pytest.approx(4 * 0.7)
        assert [each.message for each in caplog.records] == [
            "the registry takes longer than 0.5 s for a heartbeat: nothing is published until longer ones are promised"
        ]
        registry.seconds = 0.0
        await asyncio.sleep(5)
        assert (await registry.beats())["test#1"].seconds == LEASE_SECONDS, "so that it is replaced soon again"
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


def test_one_long_pause_is_not_taken_for_a_slow_registry() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        registry = SlowBeats(Memory())
        claims = Claims(registry, FakeClock(loop), "test#1")
        for seconds in (0.0, 0.0, 60.0, 0.0):
            registry.seconds = seconds
            await claims.beat()
        assert (await registry.beats())["test#1"].seconds == LEASE_SECONDS

    loop.run_until_complete(scenario())
    loop.close()


def test_a_set_that_was_published_anew_meanwhile_is_not_marked_as_stale() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        memory, clock = Memory(), FakeClock(loop)
        registry = Seized(memory, clock)
        await registry.claim([KEY], "test#dead", over=(), floor=1)
        await registry.publish(KEY, EndpointSet(1, 1, (ENDPOINT,), clock.now()))
        claims = Claims(registry, clock, "test#1")
        await mark_stale(registry, claims, [KEY], since=clock.now(), now=clock.now())
        found = await registry.get(KEY)
        assert found is not None
        assert (found.epoch, found.stale_since) == (2, None)

    loop.run_until_complete(scenario())
    loop.close()


def test_a_publisher_that_came_since_our_last_heartbeat_is_not_taken_for_dead() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        registry = MemoryRegistry(Memory())
        ours, late = (Claims(registry, FakeClock(loop), f"test#{name}") for name in ("1", "2"))
        await ours.beat()
        assert await own(late)
        assert not await own(ours)
        assert (await registry.claims())[KEY].publisher == "test#2"

    loop.run_until_complete(scenario())
    loop.close()


def test_a_set_whose_publisher_has_just_come_back_is_not_marked_as_stale() -> None:
    """Nobody would mend it: the publisher knows of no change, and who marked it does not publish it."""
    loop = VirtualLoop()

    async def scenario() -> None:
        memory, clock = Memory(), FakeClock(loop)
        registry = MemoryRegistry(memory)
        returning, observer = Claims(registry, clock, "test#1"), Claims(registry, clock, "test#2")
        assert await own(returning)
        await returning.retire()
        await observer.look()
        assert observer.is_dead("test#1")
        assert await own(returning)
        await registry.publish(KEY, EndpointSet(returning.epoch_of(KEY) or 0, 1, (ENDPOINT,), clock.now()))
        await mark_stale(registry, observer, [KEY], since=clock.now(), now=clock.now())
        found = await registry.get(KEY)
        assert found is not None
        assert (found.revision, found.stale_since) == (1, None)

    loop.run_until_complete(scenario())
    loop.close()
