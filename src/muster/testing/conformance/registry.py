"""What every registry must do: the sentences of ``muster.registry.port``, as tests.

Subclass ``RegistryConformance`` in a test module and give it a fixture ``open_registry``: a function that opens the
same, at first empty, registry each time it is called, so that a test can publish by one handle and watch by another.
A registry that keeps its values outside the process also gets a fixture ``put_foreign(key)``, which writes something
under a key that no publisher wrote; ``has_foreign_data = False`` says that there is no such thing.
"""
# ruff: noqa: D102 - the names of the tests are sentences

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import pytest

from muster.errors import Fenced, RegistryUnavailable
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey, Withheld
from muster.registry.port import Beat, Claim, Registry

OpenRegistry = Callable[[], Registry]
PutForeign = Callable[[ServiceKey], None]

KEY = ServiceKey("admin", "0123456789")
OTHER = ServiceKey("admin", "9876543210")
NAME = ServiceKey("admin", "digits")
DEADLINE_SECONDS = 20.0
QUIET_SECONDS = 0.3
"""How long a watch is observed to yield nothing: several times what any registry takes to deliver a change."""

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def make_set(*ids: str, epoch: int = 1, revision: int = 1) -> EndpointSet:
    """Return a set with one endpoint per id."""
    endpoints = tuple(Endpoint(id=each, url=f"http://127.0.0.1:9/{each}") for each in ids)
    return EndpointSet(epoch, revision, endpoints, published_at=NOW)


FULL = EndpointSet(
    epoch=3,
    revision=4,
    endpoints=(
        Endpoint(
            id="0123456789-aaaaaaaaaa-bbbbbbbbbb",
            url="https://gpu.example:20001",
            protocol=PortProtocol.TCP,
            data_center="西北B区",
            gpu_name="RTX 4090",
            gpu_num=2,
            concurrency=3,
            budgets=MappingProxyType({"vram_mb": 24000}),
            started_at=NOW,
        ),
    ),
    published_at=NOW,
    stale_since=NOW,
    ca_pem="-----BEGIN CERTIFICATE-----\n",
    broker_url="http://127.0.0.1:7690",
    withheld=(Withheld("0123456789-aaaaaaaaaa-cccccccccc", "not_ready"),),
)


class RegistryConformance:
    """Inherit, and provide the fixture ``open_registry``."""

    has_foreign_data = True

    def test_a_set_comes_back_as_it_was_published(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, FULL)
            assert await registry.get(KEY) == FULL

        _run(open_registry, scenario)

    def test_a_missing_key_is_unknown_not_empty(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            assert await registry.get(KEY) is None
            await registry.publish(KEY, make_set())
            found = await registry.get(KEY)
            assert found is not None
            assert found.endpoints == ()

        _run(open_registry, scenario)

    @pytest.mark.parametrize(("epoch", "revision"), [(2, 5), (2, 4), (1, 99)])
    def test_a_set_that_is_not_newer_is_fenced_and_changes_nothing(
        self, open_registry: OpenRegistry, epoch: int, revision: int
    ) -> None:
        async def scenario(registry: Registry) -> None:
            present = make_set("a", epoch=2, revision=5)
            await registry.publish(KEY, present)
            with pytest.raises(Fenced):
                await registry.publish(KEY, make_set("b", epoch=epoch, revision=revision))
            assert await registry.get(KEY) == present

        _run(open_registry, scenario)

    @pytest.mark.parametrize(("epoch", "revision"), [(2, 6), (3, 0)])
    def test_a_newer_set_replaces_the_old_one_whole(
        self, open_registry: OpenRegistry, epoch: int, revision: int
    ) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a", "b", epoch=2, revision=5))
            newer = make_set("c", epoch=epoch, revision=revision)
            await registry.publish(KEY, newer)
            assert await registry.get(KEY) == newer

        _run(open_registry, scenario)

    def test_fences_of_different_keys_have_nothing_to_do_with_each_other(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a", epoch=9))
            await registry.publish(OTHER, make_set("b", epoch=1))
            await registry.publish(ServiceKey(KEY.account, KEY.service, 6008), make_set("c", epoch=1))
            assert await registry.get(OTHER) == make_set("b", epoch=1)

        _run(open_registry, scenario)

    def test_of_many_publishers_with_one_fence_exactly_one_wins(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            others = [open_registry() for _ in range(8)]
            sets = [make_set(f"from-{number}") for number in range(len(others))]
            outcomes = await asyncio.gather(
                *(other.publish(KEY, each) for other, each in zip(others, sets, strict=True)), return_exceptions=True
            )
            winners = [each for each, outcome in zip(sets, outcomes, strict=True) if outcome is None]
            assert len(winners) == 1
            assert all(isinstance(outcome, Fenced) for outcome in outcomes if outcome is not None)
            assert await registry.get(KEY) == winners[0]
            for other in others:
                await other.aclose()

        _run(open_registry, scenario)

    def test_a_key_tells_which_key_holds_its_set(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.link(NAME, KEY)
            assert await registry.target(NAME) is None, "what it stands for has no set"
            assert await registry.target(KEY) is None
            await registry.publish(KEY, make_set("a"))
            await registry.publish(OTHER, make_set())
            assert await registry.target(NAME) == KEY
            assert await registry.target(KEY) == KEY
            await registry.link(NAME, OTHER)
            assert await registry.target(NAME) == OTHER, "an empty set is one, too"
            await registry.unlink(NAME)
            assert await registry.target(NAME) is None
            await registry.link(NAME, KEY)
            await registry.publish(NAME, make_set("b"))
            assert await registry.target(NAME) == NAME, "its own set goes before an alias"

        _run(open_registry, scenario)

    def test_claims_of_keys_without_a_set_are_no_keys_and_end_nothing(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            seat = ServiceKey("admin", "#broker/0123456789", 6006)
            await registry.publish(KEY, make_set("a"))
            given = await registry.claim([seat], "broker tls://10.0.0.7:7690#1", over=[], floor=5)
            assert given[seat] == Claim("broker tls://10.0.0.7:7690#1", 5)
            assert (await registry.claims())[seat] == given[seat]
            assert await registry.keys() == [KEY]
            assert await registry.target(seat) is None

        _run(open_registry, scenario)

    def test_an_alias_stands_for_its_target(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a"))
            await registry.link(NAME, KEY)
            await registry.link(NAME, KEY)
            assert await registry.get(NAME) == make_set("a")
            await registry.unlink(NAME)
            await registry.unlink(NAME)
            assert await registry.get(NAME) is None
            assert await registry.get(KEY) == make_set("a")

        _run(open_registry, scenario)

    def test_an_alias_may_be_made_before_its_target(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.link(NAME, KEY)
            assert await registry.get(NAME) is None
            await registry.publish(KEY, make_set("a"))
            assert await registry.get(NAME) == make_set("a")

        _run(open_registry, scenario)

    def test_a_set_of_its_own_goes_before_an_alias_of_the_same_name(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("own"))
            await registry.publish(OTHER, make_set("other"))
            await registry.link(KEY, OTHER)
            assert await registry.get(KEY) == make_set("own")

        _run(open_registry, scenario)

    def test_publishing_does_not_follow_an_alias(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a", epoch=9))
            await registry.link(NAME, KEY)
            await registry.publish(NAME, make_set("b", epoch=1))
            assert await registry.get(KEY) == make_set("a", epoch=9)
            assert await registry.get(NAME) == make_set("b", epoch=1)

        _run(open_registry, scenario)

    def test_an_alias_of_an_alias_is_not_followed(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a"))
            await registry.link(NAME, KEY)
            await registry.link(OTHER, NAME)
            assert await registry.get(OTHER) is None

        _run(open_registry, scenario)

    def test_keys_are_those_that_hold_a_set_in_order(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            assert list(await registry.keys()) == []
            second_port = ServiceKey(KEY.account, KEY.service, 6008)
            strange = ServiceKey("团队 a", "../名字/..%2F@x", 6006)
            for key in (strange, OTHER, second_port, KEY):
                await registry.publish(key, make_set("a"))
            await registry.link(NAME, KEY)
            assert list(await registry.keys()) == [KEY, second_port, OTHER, strange]
            assert await registry.get(strange) == make_set("a")

        _run(open_registry, scenario)

    def test_a_watch_yields_what_is_there_then_what_comes(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a", revision=1))
            async with _watching(open_registry(), KEY, closes=True) as watch:
                assert await watch() == make_set("a", revision=1)
                await registry.publish(KEY, make_set("b", revision=2))
                assert await watch() == make_set("b", revision=2)
                await registry.publish(KEY, make_set(revision=3))
                assert await watch() == make_set(revision=3)

        _run(open_registry, scenario)

    def test_a_watch_of_a_missing_key_waits_for_the_first_set(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            async with _watching(open_registry(), KEY, closes=True) as watch:
                await watch.yields_nothing()
                await registry.publish(KEY, make_set("a"))
                assert await watch() == make_set("a")

        _run(open_registry, scenario)

    def test_a_slow_watcher_gets_the_newest_set_and_no_older_one_after_it(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a", revision=1))
            async with _watching(open_registry(), KEY, closes=True) as watch:
                revisions = [(await watch()).revision]
                for revision in range(2, 30):
                    await registry.publish(KEY, make_set("a", revision=revision))
                while revisions[-1] != 29:
                    revisions.append((await watch()).revision)
                assert revisions == sorted(set(revisions))
                await watch.yields_nothing()

        _run(open_registry, scenario)

    def test_every_watcher_sees_every_key_it_watches(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            keys = [ServiceKey("admin", f"service{number}") for number in range(20)]
            for key in keys:
                await registry.publish(key, make_set("before", revision=1))

            async def follow(key: ServiceKey) -> None:
                async with _watching(registry, key) as watch:
                    while (await watch()).revision < 2:
                        pass

            async with asyncio.TaskGroup() as group:
                for key in keys:
                    group.create_task(follow(key))
                for key in keys:
                    await registry.publish(key, make_set("after", revision=2))

        _run(open_registry, scenario)

    def test_a_watch_follows_an_alias_to_its_target_and_to_another(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("old", epoch=9, revision=9))
            await registry.publish(OTHER, make_set("new", epoch=1, revision=1))
            async with _watching(open_registry(), NAME, closes=True) as watch:
                await watch.yields_nothing()
                await registry.link(NAME, KEY)
                assert (await watch()).endpoints[0].id == "old"
                await registry.publish(KEY, make_set("old2", epoch=9, revision=10))
                assert (await watch()).endpoints[0].id == "old2"
                await registry.link(NAME, OTHER)
                assert (await watch()).endpoints[0].id == "new"
                await registry.publish(KEY, make_set("old3", epoch=9, revision=11))
                await registry.publish(OTHER, make_set("new2", epoch=1, revision=2))
                assert (await watch()).endpoints[0].id == "new2"

        _run(open_registry, scenario)

    def test_a_watch_stays_with_the_last_target_of_an_alias_that_is_forgotten(
        self, open_registry: OpenRegistry
    ) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a"))
            await registry.link(NAME, KEY)
            async with _watching(open_registry(), NAME, closes=True) as watch:
                await watch()
                await registry.publish(KEY, make_set(revision=2))
                await registry.unlink(NAME)  # so soon that not every watch has looked between the two
                assert await watch() == make_set(revision=2)
                assert await registry.get(NAME) is None, "who comes now is told nothing"
                await registry.publish(KEY, make_set("b", revision=3))
                assert await watch() == make_set("b", revision=3)
                await registry.publish(OTHER, make_set("c"))
                await registry.link(NAME, OTHER)
                assert await watch() == make_set("c")
                await registry.publish(KEY, make_set(revision=4))
                await watch.yields_nothing()

        _run(open_registry, scenario)

    def test_what_was_published_stays_when_the_publisher_lets_go(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            publisher = open_registry()
            await publisher.publish(KEY, make_set("a"))
            await publisher.aclose()
            assert await registry.get(KEY) == make_set("a")

        _run(open_registry, scenario)

    def test_foreign_data_is_neither_returned_nor_overwritten(
        self, open_registry: OpenRegistry, request: pytest.FixtureRequest
    ) -> None:
        if not self.has_foreign_data:
            return
        put_foreign: PutForeign = request.getfixturevalue("put_foreign")

        async def scenario(registry: Registry) -> None:
            put_foreign(KEY)
            with pytest.raises(RegistryUnavailable, match="foreign"):
                await registry.get(KEY)
            with pytest.raises(RegistryUnavailable, match="foreign"):
                await registry.publish(KEY, make_set("a"))
            with pytest.raises(RegistryUnavailable, match="foreign"):
                await registry.get(KEY)
            async with _watching(registry, KEY) as watch:
                await watch.yields_nothing()

        _run(open_registry, scenario)

    def test_a_heartbeat_tells_those_before_it(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            assert dict(await registry.beat("lab#a", Beat(1, 0.6))) == {}
            assert dict(await registry.beat("实验室#b", Beat(1, 3.0))) == {"lab#a": Beat(1, 0.6)}
            assert dict(await registry.beat("lab#a", Beat(2, 0.6))) == {"lab#a": Beat(1, 0.6), "实验室#b": Beat(1, 3.0)}
            await registry.retire("实验室#b")
            await registry.retire("实验室#b")
            assert dict(await registry.beats()) == {"lab#a": Beat(2, 0.6)}

        _run(open_registry, scenario)

    def test_a_key_is_claimed_once_and_taken_over_from_the_dead_only(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            first = await registry.claim([KEY, NAME], "a#1", over=(), floor=100)
            assert dict(first) == {KEY: Claim("a#1", 100), NAME: Claim("a#1", 100)}
            second = await registry.claim([KEY, OTHER], "b#2", over=["c#3"], floor=50)
            assert dict(second) == {KEY: Claim("a#1", 100), OTHER: Claim("b#2", 50)}
            third = await registry.claim([KEY, OTHER], "c#3", over=["a#1"], floor=70)
            assert dict(third) == {KEY: Claim("c#3", 101), OTHER: Claim("b#2", 50)}
            own = await registry.claim([KEY], "c#3", over=(), floor=70)
            assert dict(own) == {KEY: Claim("c#3", 102)}, "one's own is renewed under a new epoch"
            assert dict(await registry.claims()) == {
                KEY: Claim("c#3", 102),
                NAME: Claim("a#1", 100),
                OTHER: Claim("b#2", 50),
            }
            assert list(await registry.keys()) == [], "a claim is no set"

        _run(open_registry, scenario)

    def test_a_claim_comes_with_an_epoch_above_that_of_the_stored_set(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            await registry.publish(KEY, make_set("a", epoch=1_800_000_000_000, revision=7))
            given = await registry.claim([KEY], "a#1", over=(), floor=5)
            assert given[KEY].epoch == 1_800_000_000_001
            await registry.publish(KEY, make_set("b", epoch=given[KEY].epoch))

        _run(open_registry, scenario)

    def test_of_many_that_claim_one_key_exactly_one_gets_it(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            others = [open_registry() for _ in range(8)]
            answers = await asyncio.gather(
                *(other.claim([KEY, OTHER], f"lab#{number}", over=(), floor=10) for number, other in enumerate(others))
            )
            claims = await registry.claims()
            assert all(dict(answer) == dict(claims) for answer in answers)
            for other in others:
                await other.aclose()

        _run(open_registry, scenario)

    def test_a_thousand_keys_are_claimed_in_one_call(self, open_registry: OpenRegistry) -> None:
        async def scenario(registry: Registry) -> None:
            keys = [ServiceKey("admin", f"{number:010x}") for number in range(1000)]
            given = await registry.claim(keys, "a#1", over=(), floor=10)
            assert set(given.values()) == {Claim("a#1", 10)}
            assert dict(await registry.claims()) == dict(given) == dict.fromkeys(keys, Claim("a#1", 10))

        _run(open_registry, scenario)

    def test_a_key_with_foreign_data_cannot_be_claimed(
        self, open_registry: OpenRegistry, request: pytest.FixtureRequest
    ) -> None:
        if not self.has_foreign_data:
            return
        put_foreign: PutForeign = request.getfixturevalue("put_foreign")

        async def scenario(registry: Registry) -> None:
            put_foreign(KEY)
            given = await registry.claim([KEY, OTHER], "a#1", over=(), floor=10)
            assert dict(given) == {OTHER: Claim("a#1", 10)}

        _run(open_registry, scenario)


class Watch:
    """The next sets of a watch, each with a deadline."""

    def __init__(self, sets: AsyncIterator[EndpointSet]) -> None:
        self._sets = sets
        self._next: asyncio.Task[EndpointSet] | None = None

    async def __call__(self) -> EndpointSet:
        task = self._pending()
        await asyncio.wait([task], timeout=DEADLINE_SECONDS)
        assert task.done(), "the watch yielded nothing in time"
        self._next = None
        return task.result()

    async def yields_nothing(self) -> None:
        """Assert that it stays quiet for a while."""
        task = self._pending()
        await asyncio.wait([task], timeout=QUIET_SECONDS)
        assert not task.done(), f"the watch yielded {task.result()}"

    async def stop(self) -> None:
        """Cancel it."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])

    def _pending(self) -> asyncio.Task[EndpointSet]:
        if self._next is None:
            self._next = asyncio.ensure_future(_one(self._sets))
        return self._next


async def _one(sets: AsyncIterator[EndpointSet]) -> EndpointSet:
    return await anext(sets)


@asynccontextmanager
async def _watching(registry: Registry, key: ServiceKey, *, closes: bool = False) -> AsyncIterator[Watch]:
    watch = Watch(registry.watch(key))
    try:
        yield watch
    finally:
        await watch.stop()
        if closes:
            await registry.aclose()


def _run(open_registry: OpenRegistry, scenario: Callable[[Registry], Coroutine[Any, Any, None]]) -> None:
    async def world() -> None:
        registry = open_registry()
        try:
            await scenario(registry)
        finally:
            await registry.aclose()
        left: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
        if left:  # a driver's own task may need a moment to see that its call was cancelled
            _, left = await asyncio.wait(left, timeout=DEADLINE_SECONDS)
        assert not left, f"left behind: {left}"

    asyncio.run(world())
