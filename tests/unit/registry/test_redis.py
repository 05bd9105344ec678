"""What the Redis registry promises beyond the port: its URL, its layout, and what it does with others' data."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from muster.errors import InvalidSpec, RegistryUnavailable
from muster.model.endpoint import ServiceKey
from muster.registry.port import Beat, Claim
from muster.registry.redis import open_url
from muster.registry.redis_url import parse
from muster.testing.conformance.registry import FULL, make_set
from tests.servers.redis import RedisServer
from tests.unit.registry.redis_ground import (
    ALIAS_AT,
    AT,
    KEY,
    NAME,
    PASSWORD,
    QUOTED,
    SOON_SECONDS,
    opened,
    run,
    soon,
    watched,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


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
    @pytest.mark.parametrize("text", ["", "{", "[1]", '["a",1,"newer"]', '{"schema":2}', "null", '[["a"],1]'])
    def test_a_row_of_publishers_that_cannot_be_read_stays_and_holds_up_no_other(
        self, server: RedisServer, text: str
    ) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, Redis.from_url(server.url) as redis:
                await redis.hset("muster:beats", mapping={"foreign": text, b"\xff": text, "b": "[3,1]"})
                await redis.hset("muster:claims", mapping={f"admin/{KEY.service}/6006": text, "x": text})
                other = ServiceKey("admin", "other")
                assert await registry.beat("a", Beat(1, 0.5)) == {"b": Beat(3, 1.0)}
                assert (await registry.beats()).keys() == {"a", "b"}
                assert await registry.claims() == {}
                assert await registry.claim([KEY, other], "a", over=(), floor=7) == {other: Claim("a", 7)}
                assert await redis.hget("muster:claims", f"admin/{KEY.service}/6006") == text.encode()

        run(scenario)

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

    def test_news_are_announced_on_channels_named_like_the_keys(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, Redis(port=server.port).pubsub() as heard:
                await heard.subscribe(AT, ALIAS_AT)
                await registry.publish(KEY, make_set("a"))
                await registry.link(NAME, KEY)
                await registry.link(NAME, KEY)
                await registry.unlink(NAME)
                await registry.unlink(NAME)
                await registry.publish(KEY, make_set("b", revision=2))
                told: list[str] = []
                async with asyncio.timeout(SOON_SECONDS):
                    while told[-1:] != [AT] or len(told) < 2:
                        message = await heard.get_message(timeout=1.0)
                        if message is not None and message["type"] == "message":
                            told.append(message["channel"].decode())
                assert told == [AT, ALIAS_AT, ALIAS_AT, AT], "and what changes nothing is no news"

        run(scenario)

    def test_a_set_that_somebody_deleted_is_listed_no_more(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry:
                await registry.publish(KEY, make_set("a"))
                await registry.publish(NAME, make_set("b"))
                server.cli("DEL", AT)
                assert list(await registry.keys()) == [NAME]
                await registry.publish(KEY, make_set("a"))
                assert list(await registry.keys()) == [KEY, NAME]

        run(scenario)

    @pytest.mark.parametrize(
        "words",
        [("SET", ALIAS_AT, "hello"), ("SET", ALIAS_AT, '{"schema":1}'), ("RPUSH", ALIAS_AT, "hello")],
    )
    def test_a_foreign_alias_is_refused_and_stays(self, server: RedisServer, words: tuple[str, ...]) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry:
                server.cli(*words)
                before = server.cli("DUMP", ALIAS_AT)
                with pytest.raises(RegistryUnavailable, match="foreign"):
                    await registry.link(NAME, KEY)
                with pytest.raises(RegistryUnavailable, match="foreign"):
                    await registry.unlink(NAME)
                assert server.cli("DUMP", ALIAS_AT) == before

        run(scenario)

    def test_a_thousand_services_are_published_listed_and_taken_over(self, server: RedisServer) -> None:
        async def scenario() -> None:
            keys = [ServiceKey("admin", f"{number:010x}") for number in range(1000)]
            async with opened(server.url) as registry:
                places = asyncio.Semaphore(32)

                async def publish(key: ServiceKey) -> None:
                    async with places:
                        await registry.publish(key, make_set(key.service, epoch=7))

                await asyncio.gather(*map(publish, keys))
                assert list(await registry.keys()) == keys
                given = await registry.claim(keys, "a#1", over=(), floor=5)
                assert given == dict.fromkeys(keys, Claim("a#1", 8))
                assert await registry.get(keys[-1]) == make_set(keys[-1].service, epoch=7)

        run(scenario)

    def test_two_event_loops_use_a_handle_each(self, server: RedisServer) -> None:
        one, two = open_url(server.url), open_url(server.url)  # no loop runs yet

        async def publish() -> None:
            await one.publish(KEY, make_set("a"))
            await one.aclose()

        async def follow() -> None:
            async with watched(two) as sets:
                other = threading.Thread(target=asyncio.run, args=(publish(),))
                other.start()
                assert await soon(sets) == make_set("a")
                await asyncio.to_thread(other.join, SOON_SECONDS)
            await two.aclose()
            await asyncio.get_running_loop().shutdown_default_executor()

        run(follow)
