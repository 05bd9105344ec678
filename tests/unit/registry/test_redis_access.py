"""Who gets into Redis: passwords, TLS, nobody there, and a driver that is not installed."""

import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from muster.errors import RegistryUnavailable
from muster.registry.port import Beat, Claim
from muster.testing.conformance.registry import make_set
from tests.servers import throwaway_tls
from tests.servers.redis import RedisServer
from tests.unit.registry.redis_ground import (
    KEY,
    NAME,
    PASSWORD,
    QUOTED,
    SOON_SECONDS,
    opened,
    run,
    soon,
    until_subscribed,
    watched,
)

_WITHOUT_DRIVER = """
import sys
sys.modules["redis"] = None
from muster.errors import SetupError
from muster.registry import connect
try:
    connect("rediss://:s3cret@cache")
except SetupError as error:
    print(error)
"""


def test_a_missing_driver_is_one_line_that_says_what_to_install() -> None:
    said = subprocess.run([sys.executable, "-c", _WITHOUT_DRIVER], capture_output=True, text=True, check=True).stdout
    assert said == "rediss:// needs: pip install 'muster-gpu[redis]'\n"


def _documented_users() -> list[list[str]]:
    """Return the words of each ``ACL SETUSER`` that docs/registries.md tells people to type."""
    page = (Path(__file__).parents[3] / "docs" / "registries.md").read_text()
    return [line.replace(">…", ">pw").split() for line in page.splitlines() if line.startswith("ACL SETUSER")]


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

    def test_a_named_authority_is_the_only_one_believed(self, tmp_path: Path) -> None:
        right, named = throwaway_tls.make(tmp_path / "right"), throwaway_tls.make(tmp_path / "named")

        async def scenario() -> None:
            with RedisServer(tmp_path / "redis", tls=right) as server:
                async with opened(f"rediss://{server.host}") as registry:
                    await registry.publish(KEY, make_set("a"))  # the system's, which here knows the right one
                async with opened(f"rediss://{server.host}?ca={named.ca}") as registry:
                    with pytest.raises(RegistryUnavailable, match=r"(?i)certificate"):
                        await registry.get(KEY)

        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("SSL_CERT_FILE", str(right.ca))
            environment.delenv("SSL_CERT_DIR", raising=False)
            run(scenario)

    @pytest.mark.parametrize("password", ["", PASSWORD])
    def test_no_log_and_no_repr_holds_the_password(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str
    ) -> None:
        caplog.set_level(logging.DEBUG)
        shown: list[str] = []

        async def scenario() -> None:
            with RedisServer(tmp_path / "redis", password=password) as server:
                async with opened(f"redis://:wr0ng@{server.host}") as registry, watched(registry) as sets:
                    coming = asyncio.ensure_future(anext(sets))
                    await asyncio.wait([coming], timeout=0.5)
                    if password:
                        async with asyncio.timeout(SOON_SECONDS):
                            while "password" not in caplog.text.lower():  # noqa: ASYNC110  a watch says why it waits
                                await asyncio.sleep(0.02)
                    coming.cancel()
                    await asyncio.wait([coming])
                    shown.append(repr(vars(registry)))

        run(scenario)
        assert "wr0ng" not in caplog.text + "".join(shown)

    @pytest.mark.parametrize("database", ["", "/3"])
    def test_the_documented_users_may_do_what_they_need_and_readers_no_more(
        self, tmp_path: Path, database: str
    ) -> None:
        async def scenario() -> None:
            with RedisServer(tmp_path / "redis") as server:
                for words in _documented_users():
                    server.cli(*words)
                async with opened(f"redis://watcher:pw@{server.host}{database}") as watcher:
                    await watcher.publish(KEY, make_set("a"))
                    await watcher.link(NAME, KEY)
                    await watcher.unlink(NAME)
                    await watcher.link(NAME, KEY)
                    await watcher.claim([KEY], "lab#a", over=(), floor=5)
                    await watcher.beat("lab#a", Beat(1, 0.5))
                    await watcher.retire("lab#b")
                async with opened(f"redis://reader:pw@{server.host}{database}") as reader:
                    assert await reader.get(NAME) == make_set("a")
                    assert list(await reader.keys()) == [KEY]
                    assert dict(await reader.claims()) == {KEY: Claim("lab#a", 5)}
                    assert dict(await reader.beats()) == {"lab#a": Beat(1, 0.5)}
                    async with watched(reader) as sets:
                        assert await soon(sets) == make_set("a")
                        await until_subscribed(server)
                    for forbidden in (
                        reader.publish(KEY, make_set("b", revision=9)),
                        reader.unlink(NAME),
                        reader.retire("lab#a"),
                    ):
                        with pytest.raises(RegistryUnavailable, match="permission"):
                            await forbidden
                    assert await reader.get(NAME) == make_set("a")

        run(scenario)
