"""What the etcd registry promises beyond the port: its layout, its URL, and what it does when etcd fails."""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.errors import Fenced, InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.etcd import EtcdRegistry, open_url
from muster.registry.etcd_client import EtcdClient
from muster.registry.etcd_operations import get, put, unchanged, values
from muster.registry.etcd_url import parse
from muster.registry.port import Beat, Claim
from muster.testing.conformance.registry import FULL, make_set
from tests.servers import etcd_tls
from tests.servers.etcd import EtcdServer

KEY = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")
PATH = "/muster/set/admin/0123456789/6006"
SOON_SECONDS = 10.0
PASSWORD = "s3cret/&@:"
QUOTED = "s3cret%2F%26%40%3A"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[EtcdRegistry]:
    registry = open_url(url)
    try:
        yield registry
    finally:
        await registry.aclose()


@contextlib.asynccontextmanager
async def client_of(url: str) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(parse(url))
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.asynccontextmanager
async def watched(registry: EtcdRegistry) -> AsyncIterator[AsyncIterator[EndpointSet]]:
    sets = registry.watch(KEY)
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
        left: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
        if left:  # gRPC's own, of a stream that was just cancelled
            _, left = await asyncio.wait(left, timeout=SOON_SECONDS)
        assert not left, f"left behind: {left}"

    asyncio.run(world(), debug=True)


class TestUrl:
    def test_it_names_hosts_prefix_and_password(self) -> None:
        address = parse(f"etcd://ann:{QUOTED}@one,two:2380,[::1]:99?prefix=/lab/muster/")
        assert address.hosts == ("one:2379", "two:2380", "[::1]:99")
        assert (address.prefix, address.user, address.password) == ("/lab/muster", "ann", PASSWORD)
        assert address.tls is None

    def test_its_defaults(self) -> None:
        address = parse("etcd://one")
        assert (address.hosts, address.prefix, address.user, address.password) == (("one:2379",), "/muster", None, None)

    def test_tls_takes_certificates_from_files(self, tmp_path: Path) -> None:
        made = etcd_tls.make(tmp_path)
        tls = parse(f"etcds://one?ca={made.ca}&cert={made.certificate}&key={made.key}").tls
        assert tls is not None
        assert tls.ca == made.ca.read_bytes()
        assert (tls.certificate, tls.key) == (made.certificate.read_bytes(), made.key.read_bytes())
        assert "PRIVATE" not in repr(tls)

    @pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\n", "\xff"])
    def test_files_that_are_no_certificates_are_refused_at_once(self, tmp_path: Path, content: str) -> None:
        made = etcd_tls.make(tmp_path)
        wrong = tmp_path / "wrong"
        wrong.write_text(content, encoding="latin-1")
        with pytest.raises(InvalidSpec, match=f"ca={wrong} holds no certificate"):
            parse(f"etcds://one?ca={wrong}")
        for cert, key in ((wrong, made.key), (made.certificate, wrong), (made.ca, made.key)):
            with pytest.raises(InvalidSpec, match=f"cert={cert} and key={key} are no pair"):
                parse(f"etcds://one?cert={cert}&key={key}")

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("etcd://", "names a host"),
            (f"etcd://ann:{PASSWORD[:6]}@", "names a host"),
            ("etcd://one,,two", "names a host"),
            ("etcd://one:port", "HOST:PORT"),
            ("etcd://one:99999", "HOST:PORT"),
            ("etcd://ann@one", "USER:PASSWORD"),
            (f"etcd://:{QUOTED}@one", "USER:PASSWORD"),
            (f"etcd://ann:{QUOTED}@one/muster", "no path"),
            (f"etcd://ann:{QUOTED}@one?prefix=muster", "slash"),
            (f"etcd://ann:{QUOTED}@one?prefx=/a", "prefx"),
            (f"etcd://ann:{QUOTED}@one?prefix", "NAME=VALUE"),
            (f"etcd://ann:{QUOTED}@one?ca=/x", "etcds"),
            (f"etcds://ann:{QUOTED}@one?ca=/not/there", "/not/there"),
            (f"etcds://ann:{QUOTED}@one?cert=/x", "together"),
        ],
    )
    def test_a_wrong_one_is_refused_without_being_quoted(self, url: str, says: str) -> None:
        with pytest.raises(InvalidSpec, match=re.escape(says)) as caught:
            parse(url)
        assert "s3cret" not in str(caught.value)

    def test_a_password_is_in_no_repr(self) -> None:
        assert "s3cret" not in repr(parse(f"etcd://ann:{QUOTED}@one"))
        assert "s3cret" not in repr(open_url(f"etcd://ann:{QUOTED}@one"))


@pytest.mark.slow
class TestLayout:
    def test_it_is_the_documented_one(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry:
                await registry.publish(KEY, FULL)
                await registry.link(NAME, KEY)
                await registry.beat("lab#a/b", Beat(3, 0.6))
                await registry.claim([KEY], "lab#a/b", over=(), floor=7)
                await registry.publish(ServiceKey("团队 a", "../名字", 80), FULL)

        run(scenario)
        assert etcd.ctl("get", "--prefix", "--keys-only", "/").split() == [
            "/muster/alias/admin/digits/6006",
            "/muster/beat/lab%23a%2Fb",
            "/muster/claim/admin/0123456789/6006",
            PATH,
            "/muster/set/团队%20a/%2E.%2F名字/80",
        ]
        assert EndpointSet.from_json(etcd.ctl("get", "--print-value-only", PATH)) == FULL
        alias = json.loads(etcd.ctl("get", "--print-value-only", "/muster/alias/admin/digits/6006"))
        assert alias == {"schema": 1, "target": {"account": "admin", "service": "0123456789", "port": 6006}}

    def test_keys_of_others_are_left_alone(self, etcd: EtcdServer) -> None:
        others = {
            "/muster/set/a/b": "1",
            "/muster/set/a/b/c": "2",
            "/muster/setting": "3",
            "/muster2/set/a/b/6006": "4",
        }
        for path, value in others.items():
            etcd.ctl("put", path, value)

        async def scenario() -> None:
            async with opened(etcd.url) as registry:
                await registry.publish(KEY, FULL)
                assert await registry.keys() == [KEY]

        run(scenario)
        assert {path: etcd.ctl("get", "--print-value-only", path).strip() for path in others} == others

    @pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"schema":99}', '{"schema":1,"endpoints":[]}'])
    def test_whatever_is_not_a_set_is_foreign(self, etcd: EtcdServer, text: str) -> None:
        etcd.ctl("put", PATH, text)

        async def scenario() -> None:
            async with opened(etcd.url) as registry:
                with pytest.raises(RegistryUnavailable, match=f"{PATH}: foreign"):
                    await registry.publish(KEY, make_set("a"))
                assert await registry.claim([KEY], "a#1", over=(), floor=1) == {}

        run(scenario)
        assert etcd.ctl("get", "--print-value-only", PATH) == f"{text}\n"

    @pytest.mark.parametrize("text", ["", "[]", '{"schema":99}', '{"schema":1,"target":"x"}'])
    def test_a_broken_alias_is_foreign(self, etcd: EtcdServer, text: str) -> None:
        etcd.ctl("put", "/muster/alias/admin/digits/6006", text)

        async def scenario() -> None:
            async with opened(etcd.url) as registry:
                for attempt in (registry.get(NAME), registry.link(NAME, KEY), registry.unlink(NAME)):
                    with pytest.raises(RegistryUnavailable, match="foreign"):
                        await attempt

        run(scenario)
        assert etcd.ctl("get", "--print-value-only", "/muster/alias/admin/digits/6006") == f"{text}\n"

    @pytest.mark.parametrize("text", ["", "{", "7", '["a"]', '["a","b"]'])
    def test_foreign_heartbeats_and_claims_say_nothing(self, etcd: EtcdServer, text: str) -> None:
        etcd.ctl("put", "/muster/beat/lab%23a", text)
        etcd.ctl("put", "/muster/claim/admin/0123456789/6006", text)

        async def scenario() -> None:
            async with opened(etcd.url) as registry:
                assert await registry.beat("lab#b", Beat(1, 1.0)) == {}
                assert await registry.claims() == {}
                assert await registry.claim([KEY, NAME], "lab#b", over=(), floor=1) == {NAME: Claim("lab#b", 1)}

        run(scenario)
        assert etcd.ctl("get", "--print-value-only", "/muster/claim/admin/0123456789/6006") == f"{text}\n"

    def test_a_watch_goes_on_once_foreign_data_is_removed(self, etcd: EtcdServer) -> None:
        etcd.ctl("put", PATH, "foreign")

        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                waiting = asyncio.ensure_future(soon(sets))
                await asyncio.to_thread(etcd.ctl, "del", PATH)
                await registry.publish(KEY, make_set("a"))
                assert await waiting == make_set("a")

        run(scenario)


@pytest.mark.slow
class TestContention:
    def test_a_set_published_between_read_and_claim_is_still_below_the_epoch(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as one, opened(etcd.url) as other:
                keys = [ServiceKey("admin", f"service{number}") for number in range(30)]
                is_over = False

                async def publish_all_the_time() -> None:
                    revision = 0
                    while not is_over:
                        revision += 1
                        for key in keys[::7]:
                            await other.publish(key, make_set("a", epoch=50 + revision))

                publishing = asyncio.ensure_future(publish_all_the_time())
                for _ in range(5):
                    before = {key: await one.get(key) for key in keys}
                    given = await one.claim(keys, "a#1", over=(), floor=10)
                    assert set(given) == set(keys)
                    assert {claim.publisher for claim in given.values()} == {"a#1"}
                    for key, stored in before.items():
                        assert stored is None or given[key].epoch > stored.epoch
                is_over = True
                await publishing

        run(scenario)

    def test_two_that_claim_the_same_thousand_keys_share_them_without_a_dispute(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as one, opened(etcd.url) as other:
                keys = [ServiceKey("admin", f"{number:010x}") for number in range(1000)]
                ours, theirs = await asyncio.gather(
                    one.claim(keys, "a#1", over=(), floor=10), other.claim(keys[::-1], "b#2", over=(), floor=10)
                )
                assert ours == theirs == await one.claims()
                assert len(ours) == len(keys)

        run(scenario)


@pytest.mark.slow
class TestWatchAndTrouble:
    def test_a_watch_survives_a_kill_and_a_restart_with_data(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a", revision=1))
                assert await soon(sets) == make_set("a", revision=1)
                waiting = asyncio.ensure_future(soon(sets))
                await asyncio.to_thread(etcd.restart)
                await _published(registry, make_set("b", revision=2))
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
                await _published(registry, make_set("older", epoch=4))
                await _published(registry, make_set("new", epoch=6))
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
                await _published(registry, make_set("a"))
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
                assert time.monotonic() - began < 4.0, "a deadline of two seconds, and a busy machine"
                assert [type(each) for each in failures] == [RegistryUnavailable] * len(calls)
                assert all("no answer within 2 s" in str(each) for each in failures)
                etcd.resume()
                await _published(registry, make_set("c", revision=3))
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


COMPACT_FOR_EVER = """
export ETCDCTL_API=3
while answer=$(etcdctl --endpoints "$1" endpoint status --write-out=json); do
    revision=$(echo "$answer" | sed 's/.*"revision":\\([0-9]*\\).*/\\1/')
    etcdctl --endpoints "$1" compact "$revision" > /dev/null
done
"""


@pytest.mark.slow
class TestTls:
    def test_it_serves_those_who_know_its_authority(self, tmp_path: Path) -> None:
        with EtcdServer(tmp_path / "etcd", tls=etcd_tls.make(tmp_path / "tls")) as etcd:
            assert etcd.url.startswith("etcds://")

            async def scenario() -> None:
                async with opened(etcd.url) as registry, watched(registry) as sets:
                    await registry.publish(KEY, FULL)
                    assert await soon(sets) == FULL

            run(scenario)
            assert EndpointSet.from_json(etcd.ctl("get", "--print-value-only", PATH)) == FULL

    def test_a_server_that_asks_for_a_certificate_gets_ours(self, tmp_path: Path) -> None:
        tls = etcd_tls.make(tmp_path / "tls")
        with EtcdServer(tmp_path / "etcd", tls=tls, asks_for_certificate=True) as etcd:

            async def scenario() -> None:
                async with opened(f"{etcd.url}&cert={tls.certificate}&key={tls.key}") as registry:
                    await registry.publish(KEY, FULL)
                    assert await registry.get(KEY) == FULL
                async with opened(etcd.url) as registry:
                    with pytest.raises(RegistryUnavailable):
                        await registry.get(KEY)

            run(scenario)

    def test_a_server_that_the_authority_did_not_sign_is_not_talked_to(self, tmp_path: Path) -> None:
        wrong = etcd_tls.make(tmp_path / "other").ca
        with EtcdServer(tmp_path / "etcd", tls=etcd_tls.make(tmp_path / "tls")) as etcd:

            async def scenario() -> None:
                for url in (f"etcds://ann:{QUOTED}@{etcd.host}?ca={wrong}", f"etcds://{etcd.host}"):
                    async with opened(url) as registry:
                        with pytest.raises(RegistryUnavailable, match=etcd.host) as caught:
                            await registry.publish(KEY, FULL)
                        assert "s3cret" not in str(caught.value)

            run(scenario)
            assert etcd.ctl("get", "--print-value-only", PATH) == ""


@pytest.mark.slow
class TestPassword:
    def test_the_right_one_serves_also_after_a_restart_that_forgets_all_tokens(self, etcd: EtcdServer) -> None:
        etcd.require_password("ann", PASSWORD)

        async def scenario() -> None:
            async with (
                opened(f"etcd://ann:{QUOTED}@{etcd.host}") as registry,
                watched(registry) as sets,
            ):
                await registry.publish(KEY, make_set("a"))
                assert await soon(sets) == make_set("a")
                waiting = asyncio.ensure_future(soon(sets))
                await asyncio.to_thread(etcd.restart)
                await _published(registry, make_set("b", revision=2))
                assert await waiting == make_set("b", revision=2)

        run(scenario)

    def test_a_password_that_becomes_required_is_then_given(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with (
                opened(f"etcd://ann:{QUOTED}@{etcd.host}") as registry,
                watched(registry) as sets,
            ):
                await registry.publish(KEY, make_set("a"))
                assert await soon(sets) == make_set("a")
                waiting = asyncio.ensure_future(soon(sets))
                await asyncio.to_thread(etcd.require_password, "ann", PASSWORD)
                await registry.publish(KEY, make_set("b", revision=2))
                assert await waiting == make_set("b", revision=2)

        run(scenario)

    @pytest.mark.parametrize(
        ("who", "says"),
        [
            ("", "asks for a user and a password"),
            ("ann:s3cret-wrong@", "authentication failed"),
            ("bob:s3cret@", "authentication failed"),
        ],
    )
    def test_a_wrong_one_is_refused_and_not_told(
        self, etcd: EtcdServer, caplog: pytest.LogCaptureFixture, who: str, says: str
    ) -> None:
        caplog.set_level(logging.DEBUG)
        etcd.require_password("ann", PASSWORD)

        async def scenario() -> None:
            async with opened(f"etcd://{who}{etcd.host}") as registry:
                with pytest.raises(RegistryUnavailable, match=says) as caught:
                    await registry.publish(KEY, FULL)
                assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await anext(registry.watch(KEY))

        run(scenario)
        assert "s3cret" not in caplog.text
        assert etcd.ctl("get", "--print-value-only", PATH) == ""

    def test_keys_outside_the_users_permissions_are_refused(self, etcd: EtcdServer) -> None:
        etcd.require_password("ann", PASSWORD)

        async def scenario() -> None:
            async with opened(f"etcd://ann:{QUOTED}@{etcd.host}?prefix=/elsewhere") as registry:
                with pytest.raises(RegistryUnavailable, match="permission denied"):
                    await registry.publish(KEY, FULL)

        run(scenario)


@pytest.mark.slow
def test_a_comparison_that_fails_changes_nothing_and_reads_what_is_there(etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with client_of(etcd.url) as client:
            path = PATH.encode()
            first = await client.txn("put", [put(path, "one")], compare=[unchanged(path, 0)])
            assert first.succeeded
            second = await client.txn("put", [put(path, "two")], compare=[unchanged(path, 0)], failure=[get(path)])
            assert not second.succeeded
            assert [each.value for each in values(second)[0]] == [b"one"]

    run(scenario)


async def _published(registry: EtcdRegistry, endpoints: EndpointSet) -> None:
    """Publish as soon as the registry can be reached; an attempt that nobody answered may have been done."""
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            try:
                await registry.publish(KEY, endpoints)
            except RegistryUnavailable:
                await asyncio.sleep(0.05)
            except Fenced:
                assert await registry.get(KEY) == endpoints
                return
            else:
                return
