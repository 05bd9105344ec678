"""Our own stream as a feed, over a real socket to the real API: what it tells, resumes from, and takes for trouble."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from muster.client.async_api import AsyncApi
from muster.clock import SystemClock
from muster.discovery.stream import StreamFeed
from muster.discovery.watcher import Watcher
from muster.errors import CursorExpired, FeedError, FeedRefused
from muster.model.container import ContainerStatus
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId
from muster.registry import connect
from muster.registry.port import Registry
from tests.compat.world import ADMIN, MEMBER, World
from tests.unit.api.line import Line
from tests.unit.api.served import Server, on_stage

UNKNOWN = DeploymentId("0123456789")


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
def world(server: Server, furnished: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copy(furnished, tmp_path)
    with on_stage(server, tmp_path) as opened:
        yield opened


@pytest.fixture
def line(server: Server, world: World) -> Line:
    """Put what can be cut between the API and its readers."""
    made = Line(server, world.app)
    server.app = made
    return made


@asynccontextmanager
async def feed_of(url: str, *deployments: str, token: str = ADMIN) -> AsyncIterator[StreamFeed]:
    async with aclosing(AsyncApi(url, token)) as api:
        yield StreamFeed(api, deployments)


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(20):
            return await scenario

    return asyncio.run(bounded())


def test_an_address_at_which_there_is_no_list_of_services_is_refused_and_ends_no_watcher() -> None:
    wire = {"error": {"code": "RecordNotFoundError", "message": "nothing here"}}

    async def scenario() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(404, json=wire))
        async with aclosing(AsyncApi("http://api.test", ADMIN, transport=transport)) as api:
            feed = StreamFeed(api)
            with pytest.raises(FeedRefused, match="nothing here"):
                await feed.services()
            with pytest.raises(FeedRefused, match="nothing here"):
                await feed.service(UNKNOWN)
            with pytest.raises(FeedRefused, match="nothing here"):
                await anext(feed.changes(Cursor(0)))

    run(scenario())


def asked(
    url: str, question: Callable[[StreamFeed], Coroutine[Any, Any, Any]], *follow: str, token: str = ADMIN
) -> Any:
    """Return what a new feed answers to one question."""

    async def scenario() -> Any:
        async with feed_of(url, *follow, token=token) as feed:
            return await question(feed)

    return run(scenario())


def state_of(url: str, uuid: DeploymentId, *follow: str, token: str = ADMIN) -> Any:
    return asked(url, lambda feed: feed.service(uuid), *follow, token=token)


async def next_batch(changes: AsyncIterator[ChangeBatch]) -> ChangeBatch:
    return await anext(changes)


def uuids(listing: Listing) -> set[str]:
    return {each.deployment_id for each in listing.services}


def end(world: World, uuid: str) -> None:
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"})


def test_it_says_what_the_servers_own_feed_says(server: Server, world: World) -> None:
    world.ca_pem = "-----BEGIN CERTIFICATE-----"
    uuid = world.create()
    world.up(world.place(uuid))
    world.place(uuid, gpu=1)
    world.create(name="other", service={"concurrency": 4, "budgets": {"tokens": 9}})
    stopped = DeploymentId(world.create(name="stopped"))
    end(world, stopped)
    own = world.app.state.context.feed
    assert asked(server.url, StreamFeed.services) == world.run(own.services())
    for each in (DeploymentId(uuid), stopped):
        assert state_of(server.url, each) == world.run(own.service(each))
    assert state_of(server.url, UNKNOWN) == ServiceState(UNKNOWN, {}, {})


def test_it_introduces_itself_and_sees_its_own_account_only(server: Server, world: World) -> None:
    mine, theirs = world.create(), world.create(token=MEMBER)
    world.up(world.place(mine))
    for token, name, own, other in ((ADMIN, "admin", mine, theirs), (MEMBER, "member", theirs, mine)):
        assert asked(server.url, StreamFeed.introduce, token=token) == ("muster", name)
        assert uuids(asked(server.url, StreamFeed.services, token=token)) == {own}
        foreign = DeploymentId(other)
        assert state_of(server.url, foreign, token=token) == ServiceState(foreign, {}, {})


def test_names_and_uuids_choose_what_is_followed(server: Server, world: World) -> None:
    first, second, third = (DeploymentId(world.create(name=name)) for name in ("first", "second", "third"))
    assert uuids(asked(server.url, StreamFeed.services, "first", third)) == {first, third}
    assert state_of(server.url, second, "first") is None
    ended = world.create(name="ended")
    end(world, ended)
    state = state_of(server.url, DeploymentId(ended), "first")
    assert set(state.endpoints.values()) == {()}


def test_a_name_is_followed_as_soon_as_a_deployment_has_it(server: Server, world: World) -> None:
    other = DeploymentId(world.create(name="other"))

    async def scenario() -> None:
        async with feed_of(server.url, "asr") as feed:
            listing = await feed.services()
            assert uuids(listing) == set()
            async with aclosing(feed.changes(listing.cursor)) as changes:
                coming = asyncio.ensure_future(next_batch(changes))
                await asyncio.to_thread(world.place, other, gpu=1)
                uuid = DeploymentId(await asyncio.to_thread(world.create))
                await asyncio.to_thread(world.place, uuid)
                assert (await coming).deployments == {uuid}
                assert uuids(await feed.services()) == {uuid}
                assert await feed.service(uuid) is not None

    run(scenario())


def test_changes_go_on_from_a_cursor_after_a_cut(server: Server, world: World, line: Line) -> None:
    uuid = DeploymentId(world.create())
    container = world.place(uuid)

    async def scenario() -> None:
        async with feed_of(server.url) as feed:
            async with aclosing(feed.changes(Cursor(0))) as changes:
                first = await anext(changes)
                assert first.deployments == {uuid}
                line.cut()
                with pytest.raises(FeedError, match="lost the connection"):
                    await anext(changes)
            with pytest.raises(FeedError, match="HTTP 502"):
                await feed.services()
            world.up(container)
            line.mend()
            async with aclosing(feed.changes(first.cursor)) as changes:
                second = await anext(changes)
                assert second.deployments == {uuid}
                assert second.cursor > first.cursor

    run(scenario())


@pytest.mark.parametrize("cursor", [1, 999])
def test_a_cursor_that_is_gone_says_list_again(server: Server, world: World, cursor: int) -> None:
    world.up(world.place(world.create()))
    world.write(lambda tx: tx.events.prune(Cursor(3)))

    async def first(feed: StreamFeed) -> None:
        async with aclosing(feed.changes(Cursor(cursor))) as changes:
            await anext(changes)

    with pytest.raises(CursorExpired):
        asked(server.url, first)


QUESTIONS: list[Callable[[StreamFeed], Coroutine[Any, Any, Any]]] = [
    StreamFeed.introduce,
    StreamFeed.services,
    lambda feed: feed.service(UNKNOWN),
    lambda feed: next_batch(feed.changes(Cursor(0))),
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_wrong_token_is_a_persons_to_mend(server: Server, world: World, question: Any) -> None:
    with pytest.raises(FeedRefused, match="is the token right") as refused:
        asked(server.url, question, token="mst_wrong")
    assert "mst_wrong" not in str(refused.value)


def answering(answer: httpx.Response, question: Callable[[StreamFeed], Coroutine[Any, Any, Any]]) -> Any:
    async def scenario() -> Any:
        transport = httpx.MockTransport(lambda _request: answer)
        async with aclosing(AsyncApi("http://autodl.example", ADMIN, transport=transport)) as api:
            return await question(StreamFeed(api))

    return run(scenario())


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="404 page not found"),
        httpx.Response(404, json={"code": "NotFound", "msg": "", "data": None, "request_id": "1"}),
        httpx.Response(200, json={"code": "AuthorizeFailed", "msg": "登录超时", "data": None, "request_id": "1"}),
        httpx.Response(200, json={"code": "Success", "msg": "", "data": None, "request_id": "1"}),
    ],
)
def test_another_api_is_refused(question: Any, answer: httpx.Response) -> None:
    with pytest.raises(FeedRefused):
        answering(answer, question)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("body", [b"<html>a console</html>", b"[]", b"{}", b'{"source": 1, "account": 2}', b"null"])
def test_whatever_it_answers_it_is_a_feeds_error(question: Any, body: bytes) -> None:
    with pytest.raises(FeedError):
        answering(httpx.Response(200, content=body), question)


@pytest.mark.parametrize("text", ["{}", "[]", '{"deployments":["a"]}', '{"deployments":3,"cursor":1}', "x", ""])
def test_whatever_the_stream_says_it_is_a_feeds_error(text: str) -> None:
    answer = httpx.Response(200, text=text + "\n", headers={"content-type": "application/x-ndjson"})
    with pytest.raises(FeedError):
        answering(answer, QUESTIONS[-1])


def test_another_installation_at_the_same_address_is_refused(server: Server, world: World, tmp_path: Path) -> None:
    uuid = DeploymentId(world.create())

    async def scenario() -> None:
        async with feed_of(server.url) as feed:
            assert await feed.introduce() == ("muster", "admin")
            assert world.run(replace_context(world, installation="another")) is None
            for question in (feed.services(), feed.service(uuid), feed.service(UNKNOWN)):
                with pytest.raises(FeedRefused, match="is now installation another"):
                    await question

    run(scenario())


async def replace_context(world: World, **changes: Any) -> None:
    world.app.state.context = replace(world.app.state.context, **changes)


async def until(registry: Registry, key: ServiceKey, is_right: Callable[[EndpointSet], bool]) -> EndpointSet:
    async with aclosing(registry.watch(key)) as sets:  # type: ignore[type-var]
        async for found in sets:
            if is_right(found):
                return found
    raise AssertionError("a watch does not end")


def has(*containers: Any) -> Callable[[EndpointSet], bool]:
    return lambda found: {each.id for each in found.endpoints} == {each.uuid for each in containers}


@asynccontextmanager
async def watching(url: str, registry: Registry, *follow: str) -> AsyncIterator[None]:
    async with feed_of(url, *follow) as feed:
        source, account = await feed.introduce()
        watcher = Watcher(feed, registry, SystemClock(), publisher=f"{source}/{account}#test")
        task = asyncio.ensure_future(watcher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


def test_a_name_that_nobody_has_is_told_once_and_followed_when_somebody_does(
    server: Server, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "muster.discovery")
    uuid = world.create()

    async def scenario() -> None:
        async with feed_of(server.url, "asr", "later", UNKNOWN) as feed:
            for _ in range(2):
                assert uuids(await feed.services()) == {uuid}
            later = await asyncio.to_thread(world.create, name="later")
            assert uuids(await feed.services()) == {uuid, later}

    run(scenario())
    assert [each for each in caplog.messages if "does not exist" in each] == [
        f"deployment {UNKNOWN!r} does not exist; it is followed when it appears",
        "deployment 'later' does not exist; it is followed when it appears",
    ]


@pytest.mark.slow
def test_a_watcher_elsewhere_publishes_what_the_server_knows(
    server: Server, world: World, line: Line, tmp_path: Path
) -> None:
    uuid = world.create()
    world.create(name="other")
    first = world.up(world.place(uuid))
    key, name = ServiceKey("admin", uuid), ServiceKey("admin", "asr")

    async def scenario() -> None:
        async with aclosing(connect(f"file://{tmp_path}/sets")) as registry, watching(server.url, registry, "asr"):
            await until(registry, key, has(first))
            second = await asyncio.to_thread(lambda: world.up(world.place(uuid, gpu=1)))
            await until(registry, name, has(first, second))
            line.cut()
            await asyncio.to_thread(world.advance, first, ContainerStatus.SHUTDOWN, is_ready=False)
            await until(registry, key, lambda found: found.stale_since is not None and has(first, second)(found))
            line.mend()
            await until(registry, key, lambda found: found.stale_since is None and has(second)(found))
            await asyncio.to_thread(world.ok, "DELETE", "/deployment", {"deployment_uuid": uuid})
            await asyncio.to_thread(world.advance, second, ContainerStatus.SHUTDOWN, is_ready=False)
            await until(registry, key, has())
            assert {each.service for each in await registry.keys()} == {uuid}

    run(scenario())
