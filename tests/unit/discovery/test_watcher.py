"""Discovery against registries that fail in part, and against what happened while it was away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from muster.discovery.watcher import LISTINGS_PER_LINKING, RELIST_SECONDS, Watcher
from muster.errors import FeedError, RegistryUnavailable
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId
from muster.registry import connect
from muster.registry.port import Beat, Claim, Registry
from muster.testing.clock import FakeClock, VirtualLoop
from muster.testing.harness import Harness


class PartlyBroken:
    """A registry in which some keys cannot be used, or everything fails once after it took effect."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.broken: set[str] = set()
        self.answers_kept = 0
        self.answers_lost = 0

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        self._check(key)
        await self._registry.publish(key, endpoints)
        self._lose_answer()

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:
        self._check(alias)
        await self._registry.link(alias, target)
        self._lose_answer()

    async def unlink(self, alias: ServiceKey) -> None:
        await self._registry.unlink(alias)
        self._lose_answer()

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        self._check(key)
        return await self._registry.get(key)

    async def target(self, key: ServiceKey) -> ServiceKey | None:
        self._check(key)
        return await self._registry.target(key)

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        return self._registry.watch(key)

    async def keys(self) -> Sequence[ServiceKey]:
        return await self._registry.keys()

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:
        return await self._registry.beat(publisher, beat)

    async def beats(self) -> Mapping[str, Beat]:
        return await self._registry.beats()

    async def retire(self, publisher: str) -> None:
        await self._registry.retire(publisher)

    async def claim(
        self, keys: Collection[ServiceKey], publisher: str, *, over: Collection[str], floor: int
    ) -> Mapping[ServiceKey, Claim]:
        return await self._registry.claim(keys, publisher, over=over, floor=floor)

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        return await self._registry.claims()

    async def aclose(self) -> None:
        await self._registry.aclose()

    def _check(self, key: ServiceKey) -> None:
        if key.service in self.broken:
            raise RegistryUnavailable(f"{key}: foreign data")

    def _lose_answer(self) -> None:
        if self.answers_kept:
            self.answers_kept -= 1
        elif self.answers_lost:
            self.answers_lost -= 1
            raise RegistryUnavailable("the connection broke")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path) as harness:
        yield harness


@pytest.fixture
def registry(harness: Harness) -> PartlyBroken:
    """Put a registry that can be broken under the harness; its next life uses it."""
    registry = PartlyBroken(harness.registry)
    harness.registry = registry
    harness.crash()
    return registry


def names(harness: Harness, service: str) -> list[str] | None:
    found = harness.do(harness.registry.get(ServiceKey("admin", service)))
    return None if found is None else [endpoint.id for endpoint in found.endpoints]


def test_a_key_that_cannot_be_written_holds_up_no_other(harness: Harness, registry: PartlyBroken) -> None:
    first = harness.create(name="first")
    second = harness.create(name="second")
    registry.broken = {min(first, second)}
    harness.advance(5)
    assert names(harness, max(first, second))
    third = harness.create(name="third")
    harness.advance(1)
    assert names(harness, third)
    harness.crash()
    harness.scale(third, 0)
    harness.advance(1)
    assert names(harness, third) == []
    registry.broken = set()
    harness.settle()
    assert names(harness, min(first, second))


def test_an_answer_of_the_registry_that_is_lost_is_made_good(harness: Harness, registry: PartlyBroken) -> None:
    uuid = harness.create()
    registry.answers_lost = 3
    harness.advance(10)
    assert names(harness, uuid)
    assert names(harness, "asr")
    harness.settle(seconds=5)


def test_a_name_is_taken_away_when_its_deployment_ended_unseen(harness: Harness) -> None:
    uuid = harness.create(replica_num=0)
    harness.settle()
    assert names(harness, "asr") == []
    harness._life.end()
    harness.delete(uuid)
    harness.advance(5)
    assert names(harness, "asr") is None
    assert names(harness, uuid) == []


def test_a_name_moves_to_the_next_oldest_deployment_when_its_own_ended_unseen(harness: Harness) -> None:
    oldest = harness.create()
    harness.settle()
    next_oldest = harness.create()
    harness.settle()
    harness._life.end()
    harness.delete(oldest)
    harness.settle()
    assert names(harness, "asr") == names(harness, next_oldest) != []
    assert names(harness, oldest) == []


class SilentFeed:
    """A feed on which a deployment ends right after the first listings (one to claim, one to publish), in silence."""

    def __init__(self) -> None:
        self._listings = 0
        self._key = ServiceKey("admin", "7c41f09ae2")
        self._alias = ServiceKey("admin", "asr")

    async def services(self) -> Listing:
        self._listings += 1
        states = [ServiceState(GONE, {self._key: ()}, {self._alias: self._key})] if self._listings <= 2 else []
        return Listing(states, Cursor(0))

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        return ServiceState(deployment_id, {self._key: ()}, {self._alias: None})

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        await asyncio.Event().wait()
        yield ChangeBatch(frozenset(), cursor)


GONE = DeploymentId("7c41f09ae2")
ENDPOINT = Endpoint("a", "http://127.0.0.1:1")


def test_an_end_between_the_listing_and_the_first_change_shows_within_seconds() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets = connect("memory://silent-feed")
        watching = asyncio.create_task(Watcher(SilentFeed(), sets, FakeClock(loop), publisher="test#1").run())
        await asyncio.sleep(0.3)
        assert await sets.get(ServiceKey("admin", "asr")) is not None
        await asyncio.sleep(2)
        assert await sets.get(ServiceKey("admin", "asr")) is None
        watching.cancel()
        await asyncio.wait((watching,))
        await sets.aclose()

    loop.run_until_complete(scenario())
    loop.close()


class ScriptedFeed:
    """A feed of one deployment that is seen in one state after another, a change between each two."""

    def __init__(
        self,
        *states: tuple[Endpoint, ...],
        ca_pem: Callable[[], str | None] = lambda: None,
        aliases: Mapping[ServiceKey, ServiceKey | None] = MappingProxyType({}),
    ) -> None:
        self._states = states
        self._aliases = aliases
        self.listings = 0
        self._ca_pem = ca_pem
        self._now = 0

    async def services(self) -> Listing:
        self.listings += 1
        return Listing([await self.service(GONE)], Cursor(0))

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        endpoints = {ServiceKey("admin", deployment_id): self._states[self._now]}
        return ServiceState(deployment_id, endpoints, self._aliases, ca_pem=self._ca_pem())

    async def changes(self, cursor: Cursor) -> AsyncIterator[ChangeBatch]:
        while self._now + 1 < len(self._states):
            self._now += 1
            yield ChangeBatch(frozenset({GONE}), cursor)
        await asyncio.Event().wait()


def test_every_set_names_the_authority_and_another_one_is_published_at_the_next_listing() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets = connect("memory://authority")
        ca_pem: list[str | None] = ["first"]
        feed = ScriptedFeed((ENDPOINT,), ca_pem=lambda: ca_pem[0])
        watcher = Watcher(feed, sets, FakeClock(loop), publisher="test#1")
        watching = asyncio.create_task(watcher.run())
        fences = []
        for wanted in ("first", "second", None):
            ca_pem[0] = wanted
            await asyncio.sleep(2 * RELIST_SECONDS)
            found = await sets.get(ServiceKey("admin", GONE))
            assert found is not None
            assert (found.endpoints, found.ca_pem) == ((ENDPOINT,), wanted)
            fences.append(found.revision)
        assert fences == [1, 2, 3], "a listing that finds nothing new publishes nothing"
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


def test_what_cannot_be_published_for_long_is_tried_more_and_more_seldom() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets = PartlyBroken(connect("memory://foreign-name"))
        sets.broken = {"asr"}
        feed = ScriptedFeed((ENDPOINT,), aliases={ServiceKey("admin", "asr"): ServiceKey("admin", GONE)})
        watching = asyncio.create_task(Watcher(feed, sets, FakeClock(loop), publisher="test#1").run())
        await asyncio.sleep(600)
        assert await sets.get(ServiceKey("admin", GONE)) is not None
        assert feed.listings < 40, "a listing is a call of somebody's API; every 30 s it would have been 20"
        sets.broken = set()
        await asyncio.sleep(RELIST_SECONDS + 2)
        assert await sets.get(ServiceKey("admin", "asr")) is not None
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


def test_every_set_says_where_the_broker_is() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets = connect("memory://told-broker")
        feed, url = ScriptedFeed((ENDPOINT,)), "tls://a.lab:7690,tls://b.lab:7690"
        watcher = Watcher(feed, sets, FakeClock(loop), publisher="test#1", broker_url=url)
        watching = asyncio.create_task(watcher.run())
        await asyncio.sleep(2)
        found = await sets.get(ServiceKey("admin", GONE))
        assert found is not None
        assert found.broker_url == url
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


def test_a_name_that_the_registry_lost_alone_is_linked_again_within_minutes() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets = connect("memory://lost-name")
        alias, key = ServiceKey("admin", "asr"), ServiceKey("admin", GONE)
        feed = ScriptedFeed((ENDPOINT,), aliases={alias: key})
        watching = asyncio.create_task(Watcher(feed, sets, FakeClock(loop), publisher="test#1").run())
        await asyncio.sleep(2)
        assert await sets.get(alias) is not None
        await sets.unlink(alias)
        await asyncio.sleep(LISTINGS_PER_LINKING * (RELIST_SECONDS + 2))
        assert await sets.get(alias) is not None
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


def test_a_set_that_was_published_though_the_answer_was_lost_is_corrected() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets = PartlyBroken(connect("memory://lost-answer"))
        feed = ScriptedFeed((), (ENDPOINT,), ())
        sets.answers_kept, sets.answers_lost = 1, 1  # lost is that of the set with an endpoint
        watching = asyncio.create_task(Watcher(feed, sets, FakeClock(loop), publisher="test#1").run())
        await asyncio.sleep(10)
        found = await sets.get(ServiceKey("admin", GONE))
        assert found is not None
        assert found.endpoints == ()
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


class TellingFeed(ScriptedFeed):
    """A feed that lists one deployment, and of every other one says what ``tell`` makes of it."""

    def __init__(self, tell: Callable[[DeploymentId], ServiceState]) -> None:
        super().__init__((ENDPOINT,))
        self._tell = tell
        self.asked: list[DeploymentId] = []

    async def service(self, deployment_id: DeploymentId) -> ServiceState:
        if deployment_id == GONE:
            return await super().service(deployment_id)
        self.asked.append(deployment_id)
        await asyncio.sleep(0.1)
        return self._tell(deployment_id)


async def leave(sets: Registry, clock: FakeClock, *keys: ServiceKey) -> None:
    """Store what a publisher has left behind that is dead."""
    await sets.claim(keys, "test#dead", over=(), floor=1)
    for key in keys:
        await sets.publish(key, EndpointSet(1, 1, (ENDPOINT,), clock.now()))


def test_of_what_was_left_behind_each_deployment_is_asked_for_twice_and_all_at_once() -> None:
    loop = VirtualLoop()

    async def scenario() -> None:
        sets, clock = connect("memory://left-behind"), FakeClock(loop)
        keys = [ServiceKey("admin", f"old{number}", port) for number in range(30) for port in (6006, 6008)]
        await leave(sets, clock, *keys)
        feed = TellingFeed(lambda each: ServiceState(each, {}, {}))
        watching = asyncio.create_task(Watcher(feed, sets, clock, publisher="test#1").run())
        await asyncio.sleep(1)
        found = [await sets.get(key) for key in keys]
        assert all(each is not None and each.endpoints == () for each in found)
        assert len(feed.asked) == 2 * 30, "before it was claimed, and after"
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()


def test_one_deployment_that_the_api_will_not_tell_of_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    loop = VirtualLoop()

    def refuse(deployment_id: DeploymentId) -> ServiceState:
        raise FeedError(f"no word of {deployment_id}", "BadRequest")

    async def scenario() -> None:
        sets, clock = connect("memory://refused"), FakeClock(loop)
        old = ServiceKey("admin", "old")
        await leave(sets, clock, old)
        watching = asyncio.create_task(Watcher(TellingFeed(refuse), sets, clock, publisher="test#1").run())
        await asyncio.sleep(2 * RELIST_SECONDS)
        for key in (old, ServiceKey("admin", GONE)):
            found = await sets.get(key)
            assert found is not None
            assert (found.endpoints, found.stale_since) == ((ENDPOINT,), None), key
        assert "nobody knows whether old has ended" in caplog.text
        watching.cancel()
        await asyncio.wait((watching,))

    loop.run_until_complete(scenario())
    loop.close()
