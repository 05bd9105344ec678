"""The OpenAI SDK, as it is, over balanced replicas: what its users write, and what the service sees of it."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import muster
from muster import registry
from muster.errors import InvalidAsk, QueueTimeout
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.sdk import Connection, Service
from tests.unit.balancer.servers import PUBLISHED_AT, until

pytestmark = pytest.mark.slow

KEY = ServiceKey("admin", "llm")
SCRIPT = Path(__file__).with_name("openai_service.py")
TOLD = {"X-Muster-Features": "prompt_tokens=3, max_tokens=8", "X-Muster-Tenant": "anna", "X-Muster-Idempotent": "1"}


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[Endpoint]]:
    """Two processes that serve, of two slots each."""
    with contextlib.ExitStack() as stack:
        endpoints = []
        for name in ("a", "b"):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, str(SCRIPT), name], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            endpoints.append(Endpoint(name, f"http://127.0.0.1:{int(process.stdout.readline())}", concurrency=2))
        yield endpoints


@pytest.fixture
def connection(replicas: list[Endpoint], tmp_path: Path) -> Iterator[Connection]:
    url = f"file://{tmp_path}/registry"
    asyncio.run(registry.connect(url).publish(KEY, EndpointSet(1, 1, tuple(replicas), PUBLISHED_AT)))
    with muster.connect(url) as connection:
        yield connection


@contextlib.contextmanager
def sdk(service: Service) -> Iterator[openai.OpenAI]:
    # Its annotations name httpx2, the successor that it comes with; clients of httpx are as good to it.
    http_client: Any = httpx.Client(transport=service.transport(), timeout=60)
    with openai.OpenAI(http_client=http_client, base_url="http://llm/v1", api_key="x", max_retries=0) as client:
        yield client


def async_sdk(service: Service) -> openai.AsyncOpenAI:
    http_client: Any = httpx.AsyncClient(transport=service.async_transport(), timeout=60)
    return openai.AsyncOpenAI(http_client=http_client, base_url="http://llm/v1", api_key="x", max_retries=0)


def says(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def seen(replicas: list[Endpoint]) -> list[dict[str, Any]]:
    """Return what the replicas noted since they began."""
    return [each for endpoint in replicas for each in httpx.get(f"{endpoint.url}/seen", trust_env=False).json()]


def test_completions_are_balanced_and_what_the_balancer_is_told_stays_with_it(
    replicas: list[Endpoint], connection: Connection
) -> None:
    before = len(seen(replicas))
    service = connection.service("llm")
    with sdk(service) as client:
        answers = [
            client.chat.completions.create(model="m", messages=says("good morning"), extra_headers=TOLD)
            for _ in range(20)
        ]
    assert {each.choices[0].message.content for each in answers} == {"good morning"}
    assert {each.model for each in answers} == {"a", "b"}
    noted = seen(replicas)
    assert len(noted) - before == 20
    assert {each["path"] for each in noted} == {"/v1/chat/completions"}
    assert not [name for each in noted for name in each["headers"] if name.startswith("x-muster")]
    assert all("authorization" in each["headers"] for each in noted)
    found = service.statistics()
    assert (found.granted, found.answered, found.in_flight) == (20, 20, 0)


def test_a_stream_keeps_its_slot_until_it_is_read(connection: Connection) -> None:
    service = connection.service("llm")
    with sdk(service) as client:
        stream = client.chat.completions.create(model="m", messages=says("one two three"), stream=True)
        words = []
        for chunk in stream:
            assert service.statistics().in_flight == 1
            words.append(chunk.choices[0].delta.content)
        assert words == ["one", "two", "three"]
        assert service.statistics().in_flight == 0
        assert service.statistics().answered == 1, "read to its end, so it is learned from"


def test_a_stream_that_is_closed_gives_its_slot_back_and_ends_at_the_replica(
    replicas: list[Endpoint], connection: Connection
) -> None:
    service = connection.service("llm")
    with sdk(service) as client:
        with client.chat.completions.create(model="m", messages=says("forever"), stream=True) as stream:
            assert [next(stream).choices[0].delta.content for _ in range(3)] == ["0", "1", "2"]
            assert service.statistics().in_flight == 1
        assert service.statistics().in_flight == 0
        assert service.statistics().answered == 0
        # It notices by a write that fails; had it gone on, no slot of it would be free for real.
        for _ in range(4):
            client.chat.completions.create(model="m", messages=says("next"))


def test_the_async_client_streams_and_a_cancelled_reader_gives_its_slot_back(connection: Connection) -> None:
    async def scenario() -> None:
        service = connection.service("llm")
        async with async_sdk(service) as client:
            stream = await client.chat.completions.create(
                model="m", messages=says("one two"), stream=True, extra_headers=TOLD
            )
            assert [chunk.choices[0].delta.content async for chunk in stream] == ["one", "two"]
            assert service.statistics().in_flight == 0

            async def read() -> None:
                async with await client.chat.completions.create(
                    model="m", messages=says("forever"), stream=True
                ) as endless:
                    async for _ in endless:
                        reading.set()

            reading = asyncio.Event()
            task = asyncio.create_task(read())
            await reading.wait()
            assert service.statistics().in_flight == 1
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert service.statistics().in_flight == 0
        await service.aclose()

    asyncio.run(scenario())


def test_those_that_wait_are_told_apart_by_tenant_and_errors_are_those_of_the_sdk(connection: Connection) -> None:
    async def scenario() -> None:
        service = connection.service("llm")
        async with async_sdk(service) as client, contextlib.AsyncExitStack() as busy:
            for _ in range(4):
                stream = await client.chat.completions.create(model="m", messages=says("forever"), stream=True)
                await busy.enter_async_context(stream)
            waiting = asyncio.ensure_future(
                client.chat.completions.create(model="m", messages=says("hello"), extra_headers=TOLD)
            )
            await until(lambda: service.statistics().waiting == 1)
            assert [each.tenant for each in service.statistics().tenants] == ["anna"]
            with pytest.raises(openai.APITimeoutError) as late:
                await client.chat.completions.create(
                    model="m", messages=says("hello"), extra_headers={"X-Muster-Timeout": "0.05"}
                )
            assert isinstance(late.value.__cause__, QueueTimeout)
            with pytest.raises(openai.APIConnectionError) as wrong:
                await client.chat.completions.create(
                    model="m", messages=says("hello"), extra_headers={"X-Muster-Features": "prompt=long"}
                )
            assert isinstance(wrong.value.__cause__, InvalidAsk)
            await busy.aclose()
            assert (await waiting).choices[0].message.content == "hello"
        assert service.statistics().in_flight == 0
        await service.aclose()

    asyncio.run(scenario())


def test_features_may_be_read_from_the_body_by_a_callable(replicas: list[Endpoint], connection: Connection) -> None:
    asked: list[dict[str, float]] = []

    def features(request: httpx.Request) -> dict[str, float]:
        body = json.loads(request.content)
        asked.append({"words": len(body["messages"][-1]["content"].split()), "most": body["max_completion_tokens"]})
        return asked[-1]

    http_client: Any = httpx.Client(transport=connection.service("llm").transport(features=features))
    with openai.OpenAI(http_client=http_client, base_url="http://llm/v1", api_key="x") as client:
        answer = client.chat.completions.create(model="m", messages=says("one two three"), max_completion_tokens=2)
    assert answer.choices[0].message.content == "one two"
    assert asked == [{"words": 3, "most": 2}]
