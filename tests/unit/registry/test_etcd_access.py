"""Who may talk to etcd: certificates, users and passwords, and where a password never appears."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import RegistryUnavailable
from muster.model.endpoint import EndpointSet
from muster.testing.conformance.registry import FULL, make_set
from tests.servers import throwaway_tls
from tests.servers.etcd import EtcdServer
from tests.unit.registry.etcd_ground import KEY, PASSWORD, PATH, QUOTED, opened, published, run, soon, watched


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


@pytest.mark.slow
class TestTls:
    def test_it_serves_those_who_know_its_authority(self, tmp_path: Path) -> None:
        with EtcdServer(tmp_path / "etcd", tls=throwaway_tls.make(tmp_path / "tls")) as etcd:
            assert etcd.url.startswith("etcds://")

            async def scenario() -> None:
                async with opened(etcd.url) as registry, watched(registry) as sets:
                    await registry.publish(KEY, FULL)
                    assert await soon(sets) == FULL

            run(scenario)
            assert EndpointSet.from_json(etcd.ctl("get", "--print-value-only", PATH)) == FULL

    def test_a_server_that_asks_for_a_certificate_gets_ours(self, tmp_path: Path) -> None:
        tls = throwaway_tls.make(tmp_path / "tls")
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
        wrong = throwaway_tls.make(tmp_path / "other").ca
        with EtcdServer(tmp_path / "etcd", tls=throwaway_tls.make(tmp_path / "tls")) as etcd:

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
    def test_the_right_one_serves_also_after_a_restart(self, etcd: EtcdServer) -> None:
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
                await published(registry, make_set("b", revision=2))
                assert await waiting == make_set("b", revision=2)

        run(scenario)

    def test_a_token_that_etcd_has_forgotten_is_replaced(self, etcd: EtcdServer) -> None:
        etcd.require_password("ann", PASSWORD)

        async def scenario() -> None:
            async with opened(f"etcd://ann:{QUOTED}@{etcd.host}") as registry, watched(registry) as sets:
                await registry.publish(KEY, make_set("a"))
                assert await soon(sets) == make_set("a")
                waiting = asyncio.ensure_future(soon(sets))
                for change in ("disable", "enable"):
                    await asyncio.to_thread(etcd.ctl, "auth", change)
                await registry.publish(KEY, make_set("b", revision=2))
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

    def test_readers_do_with_permission_to_read_sets_and_aliases(self, etcd: EtcdServer) -> None:
        etcd.require_password("ann", PASSWORD)
        etcd.ctl("role", "add", "reader")
        for prefix in ("/muster/set/", "/muster/alias/"):
            etcd.ctl("role", "grant-permission", "reader", "--prefix=true", "read", prefix)
        etcd.ctl("user", "add", "bob:reads")
        etcd.ctl("user", "grant-role", "bob", "reader")

        async def scenario() -> None:
            async with (
                opened(f"etcd://ann:{QUOTED}@{etcd.host}") as publisher,
                opened(f"etcd://bob:reads@{etcd.host}") as reader,
                watched(reader) as sets,
            ):
                waiting = asyncio.ensure_future(soon(sets))
                await publisher.publish(KEY, make_set("a"))
                assert await waiting == make_set("a")
                waiting = asyncio.ensure_future(soon(sets))
                await publisher.publish(KEY, make_set("b", revision=2))
                assert await waiting == make_set("b", revision=2)
                assert await reader.keys() == [KEY]
                with pytest.raises(RegistryUnavailable, match="permission denied"):
                    await reader.publish(KEY, make_set("c", revision=3))

        run(scenario)
