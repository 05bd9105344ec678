"""What the Redis registry promises beyond the port: its layout, its URL, and what it does when Redis fails."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.errors import InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.port import Claim
from muster.registry.redis import RedisRegistry, open_url
from muster.registry.redis_url import parse
from muster.testing.conformance.registry import FULL, make_set
from tests.servers import throwaway_tls
from tests.servers.redis import RedisServer

KEY = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")
AT = "muster:set:admin/0123456789/6006"
SOON_SECONDS = 10.0
PASSWORD = "s3cret/&@:"
QUOTED = "s3cret%2F%26%40%3A"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


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


class TestUrl:
    def test_everything_may_be_said(self) -> None:
        found = parse(f"redis://muster:{QUOTED}@[::1]:7000/3?prefix=lab-a")
        assert (found.host, found.port, found.database, found.prefix) == ("::1", 7000, 3, "lab-a")
        assert (found.user, found.password, found.has_tls) == ("muster", PASSWORD, False)

    def test_little_is_enough(self) -> None:
        found = parse("redis://cache")
        assert (found.host, found.port, found.database, found.prefix, found.user) == ("cache", 6379, 0, "muster", None)

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("redis:///0", "names a host"),
            ("redis://cache:port", "reads redis://HOST"),
            ("redis://cache/asr", "number of a database"),
            ("redis://cache?timeout=3", "no parameter 'timeout'"),
            ("redis://cache?prefix=", "prefix"),
            ("redis://cache?ca=/etc/ca.pem", "rediss://"),
            ("rediss://cache?ca=/nowhere/ca.pem", "No such file"),
            (f"rediss://cache?ca={__file__}", "no certificate"),
        ],
    )
    def test_what_is_wrong_is_said_without_the_password(self, url: str, told: str) -> None:
        url = url.replace("://", f"://:{QUOTED}@", 1)
        with pytest.raises(InvalidSpec, match=told) as failed:
            parse(url)
        assert PASSWORD not in str(failed.value)
        assert QUOTED not in str(failed.value)


@pytest.mark.slow
class TestServer:
    def test_the_value_is_the_documented_json_under_the_documented_key(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry:
                await registry.publish(KEY, FULL)
                await registry.link(NAME, KEY)
            assert server.cli("GET", AT) == FULL.to_json() + "\n"
            assert '"service":"0123456789"' in server.cli("GET", "muster:alias:admin/digits/6006")

        run(scenario)

    def test_prefixes_and_databases_do_not_see_each_other(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with (
                opened(server.url) as one,
                opened(f"{server.url}/1") as two,
                opened(f"{server.url}?prefix=b") as b,
            ):
                await one.publish(KEY, make_set("a"))
                assert await two.get(KEY) is None
                assert await b.get(KEY) is None
                assert list(await b.keys()) == []

        run(scenario)

    @pytest.mark.parametrize(
        "words",
        [
            ("SET", AT, "hello"),
            ("SET", AT, '{"schema":1,"epoch":"x"}'),
            (
                "SET",
                AT,
                '{"schema":2,"epoch":1,"revision":1,"endpoints":[],"published_at":"2026-01-02T03:04:05+00:00"}',
            ),
            ("RPUSH", AT, "hello"),
        ],
    )
    def test_foreign_data_of_any_kind_is_refused_and_stays(self, server: RedisServer, words: tuple[str, ...]) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry:
                server.cli(*words)
                before = server.cli("DUMP", AT)
                with pytest.raises(RegistryUnavailable, match="foreign"):
                    await registry.get(KEY)
                with pytest.raises(RegistryUnavailable, match="foreign"):
                    await registry.publish(KEY, make_set("a", epoch=9))
                assert await registry.claim([KEY], "a#1", over=(), floor=1) == {}
                assert server.cli("DUMP", AT) == before
                server.cli("DEL", AT)
                await registry.publish(KEY, make_set("a"))

        run(scenario)

    def test_a_watch_survives_a_kill_and_a_restart(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                assert await soon(sets) == make_set("a", revision=1)
                server.restart()
                await _until_published(registry, make_set("b", revision=2))
                assert await soon(sets) == make_set("b", revision=2)

        run(scenario)

    def test_a_redis_that_restarts_empty_says_nothing(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                await soon(sets)
                server.restart(is_empty=True)
                coming = asyncio.ensure_future(anext(sets))
                await asyncio.wait([coming], timeout=3)
                assert not coming.done()
                assert await registry.get(KEY) is None
                assert dict(await registry.claims()) == {}
                await registry.publish(KEY, make_set("b", epoch=2))
                assert await asyncio.wait_for(coming, SOON_SECONDS) == make_set("b", epoch=2)

        run(scenario)

    def test_a_redis_that_hangs_is_unavailable_and_comes_back(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                await soon(sets)
                server.pause()
                try:
                    with pytest.raises(RegistryUnavailable, match="no answer"):
                        await registry.publish(KEY, make_set("b", revision=2))
                finally:
                    server.resume()
                await _until_published(registry, make_set("c", revision=3))
                assert (await soon(sets)).revision in {2, 3}

        run(scenario)

    def test_a_lost_message_is_made_good_by_looking(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                await soon(sets)
                text = make_set("b", revision=2).to_json()
                server.cli("SET", AT, text)  # as a restore from a backup would, which announces nothing
                assert await soon(sets) == make_set("b", revision=2)

        run(scenario)

    def test_a_cut_subscription_is_made_anew(self, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                await soon(sets)
                for revision in range(2, 6):
                    server.cli("CLIENT", "KILL", "TYPE", "pubsub")
                    await registry.publish(KEY, make_set("b", revision=revision))
                    assert (await soon(sets)).revision == revision

        caplog.set_level(logging.WARNING)
        run(scenario)
        assert not caplog.records, "nobody has to be told of what mends itself"

    def test_all_watches_of_a_handle_share_one_subscription(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, contextlib.AsyncExitStack() as stack:
                keys = [ServiceKey("admin", f"service{number}") for number in range(20)]
                for key in keys:
                    await registry.publish(key, make_set("a"))
                    await soon(await stack.enter_async_context(watched(registry, key)))
                listed = server.cli("CLIENT", "LIST", "TYPE", "pubsub").splitlines()
                assert len([line for line in listed if line]) == 1

        run(scenario)


@pytest.mark.slow
class TestAccess:
    @pytest.mark.parametrize("user", ["", "muster"])
    def test_a_password_lets_in_and_a_wrong_one_does_not(self, tmp_path: Path, user: str) -> None:
        async def scenario() -> None:
            with RedisServer(tmp_path / "redis", password=PASSWORD, user=user) as server:
                async with opened(f"redis://{user}:{QUOTED}@{server.host}") as registry:
                    await registry.publish(KEY, make_set("a"))
                    given = await registry.claim([KEY], "a#1", over=(), floor=5)
                    assert given == {KEY: Claim("a#1", 5)}
                    async with watched(registry) as sets:
                        assert await soon(sets) == make_set("a")
                async with opened(f"redis://{user}:wr0ng@{server.host}") as registry:
                    with pytest.raises(RegistryUnavailable, match=r"(?i)password") as failed:
                        await registry.get(KEY)
                    assert "wr0ng" not in str(failed.value)
                async with opened(f"redis://{server.host}") as registry:
                    with pytest.raises(RegistryUnavailable, match=r"(?i)authentication"):
                        await registry.get(KEY)

        run(scenario)

    def test_tls_is_believed_by_its_authority_only(self, tmp_path: Path) -> None:
        right, wrong = throwaway_tls.make(tmp_path / "right"), throwaway_tls.make(tmp_path / "wrong")

        async def scenario() -> None:
            with RedisServer(tmp_path / "redis", tls=right) as server:
                async with opened(server.url) as registry, watched(registry) as sets:
                    await registry.publish(KEY, make_set("a"))
                    assert await soon(sets) == make_set("a")
                async with opened(f"rediss://{server.host}?ca={wrong.ca}") as registry:
                    with pytest.raises(RegistryUnavailable, match=r"(?i)certificate"):
                        await registry.get(KEY)
                async with opened(f"redis://{server.host}") as registry:
                    with pytest.raises(RegistryUnavailable):
                        await registry.get(KEY)

        run(scenario)

    def test_nobody_there_is_unavailable(self) -> None:
        async def scenario() -> None:
            async with opened("redis://127.0.0.1:9") as registry:
                with pytest.raises(RegistryUnavailable, match=r"redis at 127\.0\.0\.1:9"):
                    await registry.keys()

        run(scenario)


async def _until_published(registry: RedisRegistry, coming: EndpointSet) -> None:
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            with contextlib.suppress(RegistryUnavailable):
                await registry.publish(KEY, coming)
                return
            await asyncio.sleep(0.05)
