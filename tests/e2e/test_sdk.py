"""The SDK against real containers: found in the registry, balanced, and mended where the caller allows it."""

import asyncio
import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

import muster
from tests.e2e.world import PATIENCE_SECONDS, SERVE, World

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def who(module_world: World) -> set[str]:
    """Three replicas that say who they are; their uuids."""
    deployment = module_world.deploy("who", 3, SERVE, is_service=True)
    return {each.uuid for each in module_world.live(deployment)}


def test_the_async_client_reaches_every_container(shared: World, who: set[str]) -> None:
    async def scenario() -> None:
        async with muster.connect(shared.registry_url) as connection:
            service = connection.service("who")
            async with httpx.AsyncClient(
                transport=service.async_transport(), base_url="http://who", timeout=PATIENCE_SECONDS
            ) as client:
                await service.wait_ready(3)
                answers = await asyncio.gather(*(client.get("/who") for _ in range(30)))
        assert {answer.text for answer in answers} == who

    asyncio.run(scenario())


def test_the_sync_client_reaches_every_container(shared: World, who: set[str]) -> None:
    with muster.connect(shared.registry_url) as connection:
        transport = connection.service("who").transport()
        with (
            httpx.Client(transport=transport, base_url="http://who", timeout=PATIENCE_SECONDS) as client,
            ThreadPoolExecutor(8) as threads,
        ):
            answers = set(threads.map(lambda _: client.get("/who").text, range(60)))
    assert answers == who


def test_the_sdk_serves_on_while_the_server_is_dead(shared: World, who: set[str]) -> None:
    with (
        muster.connect(shared.registry_url) as connection,
        httpx.Client(
            transport=connection.service("who").transport(), base_url="http://who", timeout=PATIENCE_SECONDS
        ) as client,
    ):
        killed = shared.server_pid
        shared.kill(killed)
        assert {client.get("/who").text for _ in range(30)} <= who
        shared.until(lambda: shared.server_pid != killed and shared.ask(lambda api: api.is_ready()), "it is back")


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_response_broken_by_a_kill_is_sent_again_elsewhere_if_marked_idempotent(shared: World, kind: str) -> None:
    with broken_in_the_middle(shared, kind, is_idempotent=True) as (answer, killed):
        text = answer.result(PATIENCE_SECONDS)
    half = text[: len(text) // 2]
    assert text == half * 2, "it is whole, and of one container"
    assert half != killed


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_response_broken_by_a_kill_is_an_error_of_the_caller_without_the_mark(shared: World, kind: str) -> None:
    with (
        broken_in_the_middle(shared, kind, is_idempotent=False) as (answer, _),
        pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)),
    ):
        answer.result(PATIENCE_SECONDS)


@contextlib.contextmanager
def broken_in_the_middle(world: World, kind: str, *, is_idempotent: bool) -> "Iterator[tuple[Future[str], str]]":
    """Post through the SDK, and kill the container that has sent half of its answer: the answer to be, and its uuid."""
    name = f"{kind}-{is_idempotent}".lower()
    deployment = world.deploy(name, 2, SERVE, is_service=True)
    replicas = world.live(deployment)
    post = {"async": _post_async, "sync": _post_sync}[kind]
    with ThreadPoolExecutor(1) as thread, world.client() as client:
        answer = thread.submit(post, world.registry_url, name, is_idempotent)
        busy = world.until(
            lambda: [each for each in replicas if b"half\n" in b"".join(client.logs(each.uuid))], "half an answer"
        )[0]
        for each in replicas:
            if each != busy:
                httpx.post(f"{each.url_6006}/go", verify=world.trust(), trust_env=False)
        (pid,) = world.pids()[busy.uuid]
        world.kill(pid)
        yield answer, busy.uuid
    world.cli("delete", name, "-y")


def _post_sync(url: str, name: str, is_idempotent: bool) -> str:
    with (
        muster.connect(url) as connection,
        httpx.Client(
            transport=connection.service(name).transport(), base_url="http://it", timeout=PATIENCE_SECONDS
        ) as client,
    ):
        return client.post("/slow", extensions=_mark(is_idempotent)).text


def _post_async(url: str, name: str, is_idempotent: bool) -> str:
    async def scenario() -> str:
        async with muster.connect(url) as connection:
            transport = connection.service(name).async_transport()
            async with httpx.AsyncClient(transport=transport, base_url="http://it", timeout=PATIENCE_SECONDS) as client:
                return (await client.post("/slow", extensions=_mark(is_idempotent))).text

    return asyncio.run(scenario())


def _mark(is_idempotent: bool) -> dict[str, dict[str, bool]]:
    return {"muster": {"idempotent": True}} if is_idempotent else {}
