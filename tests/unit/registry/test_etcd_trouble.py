"""What a watch and a call do when etcd dies, hangs, forgets, or compacts its history away."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import RegistryUnavailable
from muster.registry.etcd import open_url
from muster.registry.port import Beat
from muster.testing.conformance.registry import make_set
from tests.servers.etcd import EtcdServer
from tests.unit.registry.etcd_ground import (
    KEY,
    OTHER,
    PATH,
    SOON_SECONDS,
    client_of,
    opened,
    published,
    run,
    soon,
    watched,
)

COMPACT_FOR_EVER = """
export ETCDCTL_API=3
while answer=$(etcdctl --endpoints "$1" endpoint status --write-out=json); do
    revision=$(echo "$answer" | sed 's/.*"revision":\\([0-9]*\\).*/\\1/')
    etcdctl --endpoints "$1" compact "$revision" > /dev/null
done
"""


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


@pytest.mark.slow
class TestWatchAndTrouble:
    def test_a_watch_survives_a_kill_and_a_restart_with_data(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                assert await soon(sets) == make_set("a", revision=1)
                waiting = asyncio.ensure_future(soon(sets))
                await asyncio.to_thread(etcd.restart)
                await published(registry, make_set("b", revision=2))
                assert await waiting == make_set("b", revision=2)

        run(scenario)

    def test_a_watch_survives_a_restart_without_data(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                for revision in range(1, 30):
                    await registry.publish(KEY, make_set("a", epoch=5, revision=revision))
                assert (await soon(sets)).revision == 29
                waiting = asyncio.ensure_future(soon(sets))
                before = await asyncio.to_thread(etcd.revision)
                await asyncio.to_thread(etcd.restart, is_empty=True)
                await published(registry, make_set("older", epoch=4))
                await published(registry, make_set("new", epoch=6))
                assert await waiting == make_set("new", epoch=6), "the missing and the older set are passed over"
                assert await asyncio.to_thread(etcd.revision) < before, "or else the test is none"

        run(scenario)

    def test_a_watch_started_before_etcd_is_gets_the_first_set(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        etcd.kill()

        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                waiting = asyncio.ensure_future(soon(sets))
                with pytest.raises(RegistryUnavailable, match=f"^read {KEY}: etcd at {etcd.host}: .*refused"):
                    await registry.get(KEY)
                await asyncio.sleep(1.0)  # several attempts, which are one line in the log
                await asyncio.to_thread(etcd.restart)
                await published(registry, make_set("a"))
                assert await waiting == make_set("a")

        run(scenario)
        assert sum("still trying" in record.message for record in caplog.records) == 1

    def test_a_revision_that_was_compacted_away_means_that_something_has_changed(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, client_of(etcd.url) as client:
                for revision in range(1, 10):
                    await registry.publish(KEY, make_set("a", revision=revision))
                await asyncio.to_thread(etcd.ctl, "compact", str(etcd.revision()))
                async with asyncio.timeout(SOON_SECONDS), client.watching([PATH.encode()], 3) as news:
                    assert await news is True

        run(scenario)

    def test_a_watch_is_right_in_the_end_while_all_history_is_compacted_away(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                compactor = await asyncio.create_subprocess_exec(
                    *("sh", "-c", COMPACT_FOR_EVER, "sh", etcd.host), stderr=asyncio.subprocess.DEVNULL
                )
                seen = []
                for revision in range(1, 60):
                    await registry.publish(KEY, make_set("a", revision=revision))
                    if revision % 3 == 0:
                        seen.append((await soon(sets)).revision)
                while seen[-1] != 59:
                    seen.append((await soon(sets)).revision)
                compactor.terminate()
                await compactor.wait()
                assert seen == sorted(set(seen))

        run(scenario)

    def test_a_change_before_the_stream_was_open_is_told_too(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, client_of(etcd.url) as client:
                await registry.publish(KEY, make_set("a"))
                revision = await asyncio.to_thread(etcd.revision)
                async with asyncio.timeout(SOON_SECONDS), client.watching([PATH.encode()], revision) as news:
                    assert await news is True
                async with client.watching([PATH.encode()], revision + 1) as news:
                    assert not (await asyncio.wait([news], timeout=0.3))[0]

        run(scenario)

    def test_a_server_that_went_back_behind_what_was_read_means_read_again(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with (
                client_of(etcd.url) as client,
                asyncio.timeout(SOON_SECONDS),
                client.watching([PATH.encode()], 1_000_000) as news,
            ):
                assert await news is False

        run(scenario)

    def test_a_hanging_etcd_is_unavailable_and_a_watch_goes_on_after_it(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a"))
                await soon(sets)
                waiting = asyncio.ensure_future(soon(sets))
                etcd.pause()
                calls = (
                    registry.get(KEY),
                    registry.keys(),
                    registry.publish(KEY, make_set("b", revision=2)),
                    registry.beat("a#1", Beat(1, 1.0)),
                    registry.claim([KEY], "a#1", over=(), floor=1),
                )
                began = time.monotonic()
                failures = await asyncio.gather(*calls, return_exceptions=True)
                assert time.monotonic() - began < 8.0, "two seconds for all at once, not one after the other"
                assert [type(each) for each in failures] == [RegistryUnavailable] * len(calls)
                assert all("no answer within 2 s" in str(each) for each in failures)
                etcd.resume()
                await published(registry, make_set("c", revision=3))
                while (found := await waiting).revision != 3:  # what hung may have been done after all
                    waiting = asyncio.ensure_future(soon(sets))
                assert found == make_set("c", revision=3)

        run(scenario)

    def test_another_host_serves_when_one_is_away(self, etcd: EtcdServer, tmp_path: Path) -> None:
        with EtcdServer(tmp_path / "dead") as dead:
            dead.kill()
            url = f"etcd://{dead.host},{etcd.host}"

            async def scenario() -> None:
                async with opened(url) as registry, watched(registry) as sets:
                    waiting = asyncio.ensure_future(soon(sets))
                    await registry.publish(KEY, make_set("a"))
                    assert await waiting == make_set("a")

            run(scenario)

    def test_a_watch_leaves_a_host_that_hangs(self, etcd: EtcdServer, tmp_path: Path) -> None:
        with EtcdServer(tmp_path / "other") as other:

            async def scenario() -> None:
                async with opened(other.url) as registry:
                    await registry.publish(KEY, make_set("b", revision=2))
                async with opened(f"etcd://{etcd.host},{other.host}") as registry, watched(registry) as sets:
                    await registry.publish(KEY, make_set("a"))
                    assert await soon(sets) == make_set("a")
                    waiting = asyncio.ensure_future(anext(sets))
                    await registry.keys()
                    etcd.pause()
                    with pytest.raises(RegistryUnavailable):
                        await registry.publish(OTHER, make_set("c"))
                    assert await registry.get(OTHER) is None, "the other host is asked now, but the watch's hangs"
                    async with asyncio.timeout(SOON_SECONDS):
                        assert await waiting == make_set("b", revision=2)

            run(scenario)

    def test_closing_ends_what_is_under_way(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            registry = open_url(etcd.url)
            watching = asyncio.ensure_future(anext(registry.watch(KEY)))
            await registry.beats()
            etcd.pause()
            calling = asyncio.ensure_future(registry.get(KEY))
            await asyncio.sleep(0.1)  # both are waiting now
            await registry.aclose()
            for task in (watching, calling):
                with pytest.raises(RegistryUnavailable, match="closed"):
                    await task
            with pytest.raises(RegistryUnavailable, match="closed"):
                await registry.get(KEY)
            await registry.aclose()

        run(scenario)

    def test_a_cancelled_call_is_cancelled_and_leaves_nothing(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry:
                await registry.beats()
                etcd.pause()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await registry.get(KEY)
                etcd.resume()
                assert await registry.get(KEY) is None

        run(scenario)
