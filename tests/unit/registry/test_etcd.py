"""What the etcd registry promises beyond the port: its URL, its layout, and its transactions."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aetcd import rpc

from muster.errors import InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.etcd import open_url
from muster.registry.etcd_operations import get, put, unchanged, values
from muster.registry.etcd_url import parse
from muster.registry.port import Beat, Claim
from muster.testing.conformance.registry import FULL, make_set
from tests.servers import throwaway_tls
from tests.servers.etcd import EtcdServer
from tests.unit.registry.etcd_ground import KEY, NAME, PASSWORD, PATH, QUOTED, client_of, opened, run, soon, watched


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


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
        made = throwaway_tls.make(tmp_path)
        tls = parse(f"etcds://one?ca={made.ca}&cert={made.certificate}&key={made.key}").tls
        assert tls is not None
        assert tls.ca == made.ca.read_bytes()
        assert (tls.certificate, tls.key) == (made.certificate.read_bytes(), made.key.read_bytes())
        assert "PRIVATE" not in repr(tls)

    @pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\n", "\xff"])
    def test_files_that_are_no_certificates_are_refused_at_once(self, tmp_path: Path, content: str) -> None:
        made = throwaway_tls.make(tmp_path)
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
    def test_an_epoch_is_above_that_of_the_set_stored_when_the_claim_was_written(self, etcd: EtcdServer) -> None:
        async def scenario() -> None:
            async with opened(etcd.url) as one, opened(etcd.url) as other, client_of(etcd.url) as client:
                keys = [ServiceKey("admin", f"service{number}") for number in range(30)]
                is_over = False

                async def publish_all_the_time(key: ServiceKey) -> None:
                    epoch = 50
                    while not is_over:
                        epoch += 1
                        await other.publish(key, make_set("a", epoch=epoch))

                publishing = asyncio.gather(*(publish_all_the_time(key) for key in keys[::7]))
                for _ in range(10):
                    given = await one.claim(keys, "a#1", over=(), floor=10)
                    assert set(given) == set(keys)
                    for key, claim in given.items():
                        at = f"admin/{key.service}/6006"
                        written = values(await client.txn("read", [get(f"/muster/claim/{at}".encode())]))[0][0]
                        assert claim == Claim(*json.loads(written.value))
                        then = rpc.RangeRequest(key=f"/muster/set/{at}".encode(), revision=written.mod_revision)
                        found = values(await client.txn("read", [rpc.RequestOp(request_range=then)]))[0]
                        assert not found or EndpointSet.from_json(found[0].value).epoch < claim.epoch
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
