"""The Redis registry where Redis is killed, hangs, loses its data, or its news get lost."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import RegistryUnavailable
from muster.model.endpoint import ServiceKey
from muster.testing.conformance.registry import QUIET_SECONDS, make_set
from tests.servers.redis import RedisServer
from tests.unit.registry.redis_ground import (
    AT,
    KEY,
    SOON_SECONDS,
    opened,
    run,
    soon,
    until_published,
    until_subscribed,
    watched,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.mark.slow
class TestTrouble:
    def test_a_watch_survives_a_kill_and_a_restart(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                assert await soon(sets) == make_set("a", revision=1)
                server.restart()
                await until_published(registry, make_set("b", revision=2))
                assert await soon(sets) == make_set("b", revision=2)
                await until_subscribed(server)

        run(scenario)

    def test_a_watch_that_is_cancelled_while_it_connects_ends(self, server: RedisServer) -> None:
        async def watch() -> None:
            async with opened(server.url) as registry:
                async for _ in registry.watch(KEY):
                    pass

        async def scenario() -> None:
            watching = set()
            for number in range(200):
                watching.add(task := asyncio.create_task(watch()))
                await asyncio.sleep(number * 0.0001)
                task.cancel()
            _, left = await asyncio.wait(watching, timeout=SOON_SECONDS)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            assert not left, f"{len(left)} go on"

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
                    async with asyncio.timeout(SOON_SECONDS):
                        with pytest.raises(RegistryUnavailable, match="no answer"):
                            await registry.publish(KEY, make_set("b", revision=2))
                finally:
                    server.resume()
                await until_published(registry, make_set("c", revision=3))
                assert (await soon(sets)).revision in {2, 3}

        run(scenario)

    def test_a_lost_message_is_made_good_by_looking(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                await soon(sets)
                await until_subscribed(server)
                coming = asyncio.ensure_future(anext(sets))
                await asyncio.wait([coming], timeout=QUIET_SECONDS)  # what the subscription itself rang has been heard
                text = make_set("b", revision=2).to_json()
                server.cli("SET", AT, text)  # as a restore from a backup would, which announces nothing
                assert await asyncio.wait_for(coming, SOON_SECONDS) == make_set("b", revision=2)

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
                    await until_subscribed(server)

        caplog.set_level(logging.WARNING)
        run(scenario)
        assert not caplog.records, "nobody has to be told of what mends itself"

    def test_a_redis_that_forgot_the_scripts_is_told_them_again(self, server: RedisServer) -> None:
        async def scenario() -> None:
            async with opened(server.url) as registry:
                await registry.publish(KEY, make_set("a", revision=1))
                server.cli("SCRIPT", "FLUSH")
                await registry.publish(KEY, make_set("b", revision=2))
                assert await registry.get(KEY) == make_set("b", revision=2)

        run(scenario)

    def test_a_call_that_is_given_up_leaves_no_answer_to_another(self, server: RedisServer) -> None:
        async def scenario() -> None:
            keys = [ServiceKey("admin", f"service{number}") for number in range(10)]
            async with opened(server.url) as registry:
                for key in keys:
                    await registry.publish(key, make_set(key.service))
                for number in range(200):
                    call = asyncio.ensure_future(registry.get(keys[number % 10]))
                    for _ in range(number % 20):  # so that it is given up at any of its steps
                        await asyncio.sleep(0)
                    call.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await call
                    key = keys[(number + 3) % 10]
                    assert await registry.get(key) == make_set(key.service)

        run(scenario)
