"""The API as a registry, over a real socket to the real API: what it holds, what it refuses, and the SDK through it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

import muster
from muster.client.async_api import AsyncApi
from muster.errors import Fenced, InvalidSpec, NoEndpoints, RegistryError, RegistryUnavailable
from muster.home import write_profile
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.registry import connect
from muster.registry.api import ApiRegistry
from muster.registry.api_url import parse
from muster.registry.port import Beat
from muster.testing.clock import VirtualLoop
from muster.testing.conformance.registry import FULL, NOW, make_set
from tests.compat.world import ADMIN, MEMBER, World
from tests.unit.api.line import Line
from tests.unit.api.served import Server, on_stage

UUID = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    World.furnish(folder)
    return folder / "muster.db"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with closing(Server()) as opened:
        yield opened


@pytest.fixture
def world(server: Server, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    shutil.copy(furnished, tmp_path)
    with on_stage(server, tmp_path) as opened:
        yield opened


def publish(world: World, endpoints: EndpointSet, key: ServiceKey = UUID) -> None:
    world.run(world.registry.publish(key, endpoints))


def link(world: World, target: ServiceKey = UUID) -> None:
    world.run(world.registry.link(NAME, target))


def run(server: Server, scenario: Callable[[ApiRegistry], Coroutine[Any, Any, Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20), aclosing(connect(f"muster+{server.url}")) as registry:
            assert isinstance(registry, ApiRegistry)
            return await scenario(registry)

    return asyncio.run(bounded())


async def coming(sets: AsyncIterator[EndpointSet]) -> EndpointSet:
    return await anext(sets)


def test_it_holds_what_the_servers_registry_holds(server: Server, world: World) -> None:
    publish(world, FULL)
    link(world)
    for key in (UUID, NAME, ServiceKey("", "digits")):
        assert run(server, lambda registry, key=key: registry.get(key)) == FULL  # type: ignore[misc]
    for key in (ServiceKey("admin", "other"), ServiceKey("admin", "digits", 6008)):
        assert run(server, lambda registry, key=key: registry.get(key)) is None  # type: ignore[misc]


def test_keys_are_those_of_the_account(server: Server, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(world, FULL)
    publish(world, FULL, ServiceKey("admin", "0123456789", 6008))
    publish(world, FULL, ServiceKey("member", "abcdefabcd"))
    link(world)
    assert run(server, lambda registry: registry.keys()) == [UUID, ServiceKey("admin", "0123456789", 6008)]
    monkeypatch.setenv("MUSTER_TOKEN", MEMBER)
    assert run(server, lambda registry: registry.keys()) == [ServiceKey("member", "abcdefabcd")]


def test_a_key_of_another_account_is_refused_with_whose_the_token_is(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(world, FULL)
    monkeypatch.setenv("MUSTER_TOKEN", MEMBER)
    for call in (lambda registry: registry.get(UUID), lambda registry: coming(registry.watch(UUID))):
        with pytest.raises(RegistryError, match=r"of account 'member'.*connect with account='member'"):
            run(server, call)


def test_a_watch_begins_with_the_present_set_and_follows_a_name(server: Server, world: World) -> None:
    other = ServiceKey("admin", "abcdefabcd")
    publish(world, make_set("a", epoch=9))
    link(world)

    async def scenario(registry: ApiRegistry) -> None:
        async with aclosing(registry.watch(NAME)) as sets:  # type: ignore[type-var]
            assert await anext(sets) == make_set("a", epoch=9)
            publish(world, make_set("a", "b", epoch=9, revision=2))
            assert await anext(sets) == make_set("a", "b", epoch=9, revision=2)
            publish(world, make_set("c"), other)
            link(world, other)
            assert await anext(sets) == make_set("c")

    run(server, scenario)


def test_a_watch_waits_while_nothing_is_known(server: Server, world: World) -> None:
    async def scenario(registry: ApiRegistry) -> None:
        async with aclosing(registry.watch(NAME)) as sets:  # type: ignore[type-var]
            first = asyncio.ensure_future(coming(sets))
            assert not (await asyncio.wait({first}, timeout=0.1))[0]
            publish(world, make_set("a"))
            link(world)
            assert await first == make_set("a")

    run(server, scenario)


@pytest.mark.slow
def test_a_watch_outlives_a_cut_and_tells_nothing_twice(
    server: Server, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    line = server.app = Line(server, world.app)
    publish(world, make_set("a"))

    async def scenario(registry: ApiRegistry) -> None:
        async with aclosing(registry.watch(UUID)) as sets:  # type: ignore[type-var]
            assert await anext(sets) == make_set("a")
            second = asyncio.ensure_future(coming(sets))
            line.cut()
            done, _ = await asyncio.wait({second}, timeout=0.5)
            line.mend()
            assert not done
            done, _ = await asyncio.wait({second}, timeout=1)
            assert not done, "it is back, and the set is the same"
            publish(world, make_set("a", "b", revision=2))
            assert await second == make_set("a", "b", revision=2)

    run(server, scenario)
    assert not [each for each in caplog.records if each.name.startswith("muster.registry")]


def test_a_watch_with_a_wrong_token_says_so_once_and_goes_on_trying(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(asyncio.get_running_loop().time())
        return httpx.Response(401, json={"error": {"code": "AuthorizeFailed", "message": "unknown token"}})

    async def scenario() -> None:
        api = AsyncApi("http://muster.example", "mst_wrong", transport=httpx.MockTransport(refuse))
        async with aclosing(ApiRegistry(api)) as registry:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(coming(registry.watch(UUID)), 600)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
    assert 100 < len(asked) < 300, "every 2.5 to 5 s, after a quick beginning"
    assert asked[3] < 2
    (told,) = (each for each in caplog.records if each.name.startswith("muster.registry"))
    assert "is the token right" in told.getMessage()
    assert "mst_wrong" not in caplog.text


def answering(answer: httpx.Response | Exception, call: Callable[[ApiRegistry], Coroutine[Any, Any, Any]]) -> Any:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def scenario() -> Any:
        api = AsyncApi("http://muster.example", "mst_x", transport=httpx.MockTransport(handle))
        async with aclosing(ApiRegistry(api)) as registry:
            return await call(registry)

    return asyncio.run(scenario())


@pytest.mark.parametrize("call", [lambda registry: registry.get(ServiceKey("", "s")), lambda registry: registry.keys()])
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.ConnectError("refused"), RegistryUnavailable, "cannot reach http://muster.example"),
        (httpx.Response(200, html="<html>"), RegistryUnavailable, "answers HTML"),
        (httpx.Response(200, json=[]), RegistryUnavailable, "http://muster.example"),
        (httpx.Response(200, json={"schema": 99, "keys": 3}), RegistryUnavailable, "http://muster.example"),
        (httpx.Response(404, text="no"), RegistryError, "no such path"),
        (httpx.Response(401, json={"error": {"code": "AuthorizeFailed"}}), RegistryError, "is the token right"),
    ],
)
def test_what_goes_wrong_is_a_registrys_error(call: Any, answer: Any, error: type[RegistryError], words: str) -> None:
    with pytest.raises(RegistryError, match=words) as raised:
        answering(answer, call)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    "write",
    [
        lambda registry: registry.publish(UUID, FULL),
        lambda registry: registry.link(NAME, UUID),
        lambda registry: registry.unlink(NAME),
        lambda registry: registry.beat("a#b", Beat(1, 1)),
        lambda registry: registry.beats(),
        lambda registry: registry.retire("a#b"),
        lambda registry: registry.claim([UUID], "a#b", over=(), floor=1),
        lambda registry: registry.claims(),
    ],
)
def test_nothing_is_written_through_it(write: Any) -> None:
    with pytest.raises(RegistryError, match=r"http://muster\.example is read-only") as refused:
        answering(httpx.ConnectError("never asked"), write)
    assert not isinstance(refused.value, RegistryUnavailable | Fenced)


@pytest.mark.parametrize(
    "url",
    [
        "muster+http://",
        "muster+http:///path",
        "muster+https://host:port",
        "muster+https://host?ca=relative.pem",
        "muster+https://host?ca",
        "muster+https://host?ca=/a&ca=/b",
        "muster+https://host?token=x",
        "muster+https://host#x",
        "muster+https://me:hush@host",
        "muster+https://host?ca=/does/not/exist.pem",
    ],
)
def test_a_url_that_is_wrong_is_refused_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "mst_x")
    with pytest.raises(InvalidSpec) as refused:
        muster.connect(url)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("token", ["two words", "词"])
def test_what_is_no_token_is_refused_at_once(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", token)
    with pytest.raises(InvalidSpec) as refused:
        muster.connect("muster+https://host")
    assert token not in str(refused.value)


def test_the_token_is_that_of_the_environment_or_of_the_servers_own_profile(tmp_path: Path) -> None:
    home = {"MUSTER_HOME": str(tmp_path)}
    with pytest.raises(InvalidSpec, match="set MUSTER_TOKEN"):
        parse("muster+http://lab:7600", home)
    write_profile(tmp_path / "profile.json", "http://lab:7600", "mst_profile")
    found = parse("muster+http://lab:7600/", home)
    assert (found.base_url, found.token) == ("http://lab:7600", "mst_profile")
    assert "mst_profile" not in repr(found)
    assert parse("muster+http://lab:7600", home | {"MUSTER_TOKEN": "mst_told"}).token == "mst_told"
    for elsewhere in ("muster+https://lab:7600", "muster+http://lab:7601", "muster+http://lab.example:7600"):
        with pytest.raises(InvalidSpec, match="set MUSTER_TOKEN"):
            parse(elsewhere, home)
    (tmp_path / "profile.json").chmod(0o644)
    with pytest.raises(InvalidSpec, match="chmod 600"):
        parse("muster+http://lab:7600", home)


def serving(server: Server) -> EndpointSet:
    """Return a set whose replica is the API itself: it answers HTTP."""
    return EndpointSet(1, 1, (Endpoint(id="replica", url=server.url),), published_at=NOW)


def test_the_sdk_finds_a_service_by_its_name(server: Server, world: World) -> None:
    publish(world, serving(server))
    link(world)

    async def scenario() -> int:
        async with asyncio.timeout(20), muster.connect(f"muster+{server.url}") as connection:
            service = connection.service("digits")
            async with httpx.AsyncClient(transport=service.async_transport(), base_url="http://digits") as client:
                return (await client.get("/healthz")).status_code

    assert asyncio.run(scenario()) == 200


def test_the_sdk_without_a_loop_finds_it_too(server: Server, world: World) -> None:
    publish(world, serving(server))
    with muster.connect(f"muster+{server.url}") as connection, connection.service(UUID.service).acquire() as lease:
        assert (lease.endpoint.id, lease.endpoint.url) == ("replica", server.url)


@pytest.mark.slow
def test_who_names_no_account_is_told_whose_the_token_is(
    server: Server, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", MEMBER)
    publish(world, serving(server), ServiceKey("member", "digits"))

    async def scenario() -> None:
        async with muster.connect(f"muster+{server.url}", account="member") as connection:
            await connection.service("digits").wait_ready(timeout=10)
        async with muster.connect(f"muster+{server.url}") as connection:
            with pytest.raises(NoEndpoints, match="known: member/digits/6006"):
                await connection.service("digits").wait_ready(timeout=3)

    asyncio.run(scenario())
    assert "connect with account='member'" in caplog.text
