"""The seam of requests: what its users rely on, against real servers. The rules themselves: test_seam_outcomes.py."""

import asyncio
import gzip
import io
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

import muster
from muster import registry
from muster.balancer.balancer import Balancer
from muster.balancer.requests_adapter import (
    AskRefused,
    DeadlineMissed,
    MusterAdapter,
    PreparedFeaturesOf,
    ServiceBusy,
    ServiceOverloaded,
    ServiceTooSmall,
    ServiceUnknown,
    ServiceUnreachable,
)
from muster.balancer.waiting import Gate
from muster.errors import (
    BalancerError,
    CannotMeetDeadline,
    InvalidAsk,
    MusterError,
    NeverFits,
    NoEndpoints,
    QueueFull,
    QueueTimeout,
    SetupError,
)
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.tls.authority import ca_pem
from muster.tls.certificate import Certificates
from tests.unit.balancer.servers import (
    PUBLISHED_AT,
    Behaviour,
    Seen,
    Server,
    dead,
    dies_before_answer,
    endpoint_set,
    held,
    ok,
    serving,
    slow,
    streams_until_told,
    until,
)

IDEMPOTENT = {"X-Muster-Idempotent": "1"}
Use = Callable[[Gate, requests.Session], None]


async def balance(
    endpoints: EndpointSet | None,
    use: Use,
    *,
    concurrency: int = 8,
    capacity: int = 1024,
    features: PreparedFeaturesOf | None = None,
) -> None:
    """Run ``use`` in a thread with a session over these; afterwards nothing may be in flight or waiting."""
    gate = Gate(Balancer("digits", random.Random(1), concurrency=concurrency, queue_capacity=capacity), wait_seconds=5)
    if endpoints is not None:
        gate.update(endpoints)

    def work() -> None:
        with requests.Session() as session:
            session.trust_env = False
            session.mount("http://digits", MusterAdapter(gate, features=features))
            use(gate, session)

    await asyncio.to_thread(work)
    assert gate.statistics().in_flight == 0
    assert gate.statistics().waiting == 0


def answers(head: str, body: bytes = b"") -> Behaviour:
    async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    return behave


def test_a_request_arrives_as_it_was_made_but_for_its_host_and_our_headers() -> None:
    async def scenario() -> None:
        async with serving(
            a=answers("201 Made\r\nX-Own: 1\r\nContent-Type: text/plain; charset=utf-8", b"gr\xc3\xbcn")
        ) as it:

            def use(gate: Gate, session: requests.Session) -> None:
                response = session.put(
                    "http://digits/x%2Fy?b=1",
                    params={"c": "d"},
                    json={"n": 1},
                    headers={"X-Muster-Tenant": "anna", "X-Own": b"bytes"},
                )
                assert (response.status_code, response.reason, response.text) == (201, "Made", "grün")
                assert response.headers["x-own"] == "1"
                assert response.url == "http://digits/x%2Fy?b=1&c=d"
                assert response.request.headers["X-Muster-Tenant"] == "anna"

            await balance(endpoint_set(it["a"]), use)
            (seen,) = it["a"].seen
            assert seen.line == "PUT /x%2Fy?b=1&c=d HTTP/1.1"
            assert seen.headers["host"] == f"127.0.0.1:{it['a'].port}"
            assert seen.headers["user-agent"].startswith("python-requests/")
            assert seen.body == b'{"n": 1}'
            assert not [name for name in seen.headers if name.startswith("x-muster")]

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["text", "generator", "file", "form", "upload", "empty"])
def test_every_kind_of_body_arrives(kind: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "text": {"data": "grün"},
        "generator": {"data": iter([b"gr", "ün".encode()])},
        "file": {"data": io.BytesIO("grün".encode())},
        "form": {"data": {"a": "b"}},
        "upload": {"files": {"f": ("name.txt", b"content")}},
        "empty": {},
    }
    expected = {"form": b"a=b", "empty": b""}

    async def scenario() -> None:
        async with serving(a=ok) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                assert session.post("http://digits/", **options[kind]).text == "a"

            await balance(endpoint_set(servers["a"]), use)
            body = servers["a"].seen[0].body
            assert b"content" in body if kind == "upload" else body == expected.get(kind, "grün".encode())

    asyncio.run(scenario())


def test_cookies_redirects_and_compression_work_as_ever() -> None:
    async def behave(server: Server, seen: Seen, writer: asyncio.StreamWriter) -> None:
        if "/old" in seen.line:
            head = "307 Moved\r\nLocation: /new\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2; Path=/"
            await answers(head)(server, seen, writer)
        else:
            await answers("200 OK\r\nContent-Encoding: gzip", gzip.compress(b"squeezed"))(server, seen, writer)

    async def scenario() -> None:
        async with serving(a=behave) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                response = session.post("http://digits/old", data=b"x")
                assert response.text == "squeezed"
                assert [each.status_code for each in response.history] == [307]
                assert session.cookies.get_dict() == {"a": "1", "b": "2"}

            await balance(endpoint_set(servers["a"]), use)
            assert servers["a"].seen[1].headers["cookie"] == "a=1; b=2"
            assert servers["a"].seen[1].body == b"x"

    asyncio.run(scenario())


def test_a_stream_comes_as_it_is_sent_and_keeps_its_slot_until_it_is_read() -> None:
    async def scenario() -> None:
        async with serving(a=streams_until_told) as servers:
            loop = asyncio.get_running_loop()

            def use(gate: Gate, session: requests.Session) -> None:
                response = session.post("http://digits/", stream=True)
                chunks = response.iter_content(3)
                assert [next(chunks), next(chunks)] == [b"fir", b"st"]
                assert gate.statistics().in_flight == 1
                loop.call_soon_threadsafe(servers["a"].gate.set)
                assert b"".join(chunks) == b"last"
                assert gate.statistics().in_flight == 0

            await balance(endpoint_set(servers["a"]), use)

    asyncio.run(scenario())


def test_a_stream_that_is_closed_gives_its_slot_back() -> None:
    async def scenario() -> None:
        async with serving(a=streams_until_told) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                with session.get("http://digits/", stream=True) as response:
                    assert next(response.iter_content(None)) == b"first"
                    assert gate.statistics().in_flight == 1
                assert gate.statistics().in_flight == 0

            await balance(endpoint_set(servers["a"]), use)

    asyncio.run(scenario())


def test_the_raw_body_can_be_read_like_a_file() -> None:
    async def scenario() -> None:
        async with serving(a=answers("200 OK", b"0123456789")) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                response = session.post("http://digits/", stream=True)
                assert (response.raw.read(4), response.raw.read(3), response.raw.read()) == (b"0123", b"456", b"789")
                assert response.raw.read(1) == b""
                assert response.raw.closed

            await balance(endpoint_set(servers["a"]), use)

    asyncio.run(scenario())


def test_threads_share_the_limits() -> None:
    async def scenario() -> None:
        async with serving(a=slow(0.004), b=slow(0.001)) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                with ThreadPoolExecutor(12) as threads:
                    texts = list(threads.map(lambda _: session.post("http://digits/", data=b"x").text, range(60)))
                assert set(texts) == {"a", "b"}

            await balance(endpoint_set(*servers.values()), use, concurrency=2)
            assert [each.most for each in servers.values()] == [2, 2]

    asyncio.run(scenario())


def test_what_may_go_again_does_and_a_touched_generator_does_not() -> None:
    async def scenario() -> None:
        async with serving(bad=dies_before_answer, good=ok) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                for _ in range(5):
                    assert session.get("http://digits/").text == "good"
                    assert session.post("http://digits/", data=b"x", headers=IDEMPOTENT).text == "good"

            await balance(endpoint_set(*servers.values(), dead()), use)

            def surfaces(gate: Gate, session: requests.Session) -> None:
                with pytest.raises(requests.ConnectionError) as caught:
                    session.post("http://digits/", data=iter([b"x"]), headers=IDEMPOTENT)
                assert isinstance(caught.value.request, requests.PreparedRequest)

            await balance(endpoint_set(servers["bad"]), surfaces)

    asyncio.run(scenario())


def test_the_callable_gets_the_prepared_request() -> None:
    seen: list[requests.PreparedRequest] = []

    def features(request: requests.PreparedRequest) -> dict[str, float]:
        seen.append(request)
        return {"bytes": len(request.body or b"")}

    async def scenario() -> None:
        async with serving(a=ok) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                session.post("http://digits/", data=b"xyz")
                session.post("http://digits/", data=b"xyz", headers={"X-Muster-Features": "bytes=9"})
                with pytest.raises(requests.RequestException, match=r"features\.bytes") as caught:
                    session.post("http://digits/", headers={"X-Muster-Features": "bytes=nan"})
                assert isinstance(caught.value, AskRefused)
                assert isinstance(caught.value, InvalidAsk)

            await balance(endpoint_set(servers["a"]), use, features=features)

    asyncio.run(scenario())
    assert [each.body for each in seen] == [b"xyz"]


class TestErrors:
    """Each is one of requests and one of ours."""

    def test_nobody_is_known_or_serves(self) -> None:
        def use(gate: Gate, session: requests.Session) -> None:
            with pytest.raises(requests.ConnectionError) as caught:
                session.get("http://digits/", headers={"X-Muster-Timeout": "0.05"})
            assert isinstance(caught.value, ServiceUnknown)
            assert isinstance(caught.value, NoEndpoints)

        asyncio.run(balance(None, use))
        asyncio.run(balance(endpoint_set(), use))

    def test_nobody_can_be_reached(self) -> None:
        def use(gate: Gate, session: requests.Session) -> None:
            with pytest.raises(requests.ConnectionError, match="did not connect") as caught:
                session.get("http://digits/", headers={"X-Muster-Timeout": "0.1"})
            assert isinstance(caught.value, ServiceUnreachable)
            assert isinstance(caught.value, BalancerError)
            assert caught.value.request is not None

        asyncio.run(balance(endpoint_set(dead()), use))

    def test_all_are_busy_or_too_many_wait(self) -> None:
        async def scenario() -> None:
            async with serving(a=held) as servers:
                loop = asyncio.get_running_loop()

                def use(gate: Gate, session: requests.Session) -> None:
                    url = "http://digits/"
                    with ThreadPoolExecutor(2) as threads:
                        running = [threads.submit(session.get, url)]
                        _wait_for(loop, lambda: servers["a"].in_flight == 1)
                        with pytest.raises(requests.Timeout) as busy:
                            session.get(url, headers={"X-Muster-Timeout": "0.05"})
                        running.append(threads.submit(session.get, url))
                        _wait_for(loop, lambda: gate.statistics().waiting == 1)
                        with pytest.raises(requests.Timeout) as full:
                            session.get(url)
                        loop.call_soon_threadsafe(servers["a"].gate.set)
                        assert [each.result().text for each in running] == ["a", "a"]
                    assert isinstance(busy.value, ServiceBusy)
                    assert isinstance(busy.value, QueueTimeout)
                    assert busy.value.waited_seconds >= 0.05
                    assert isinstance(full.value, ServiceOverloaded)
                    assert isinstance(full.value, QueueFull)

                await balance(endpoint_set(servers["a"]), use, concurrency=1, capacity=1)

        asyncio.run(scenario())

    def test_a_deadline_or_a_budget_that_nobody_can_meet(self) -> None:
        def use(gate: Gate, session: requests.Session) -> None:
            with pytest.raises(requests.Timeout) as late:
                session.get("http://digits/", headers={"X-Muster-Deadline": "0"})
            assert isinstance(late.value, DeadlineMissed)
            assert isinstance(late.value, CannotMeetDeadline)
            with pytest.raises(requests.RequestException) as large:
                session.get("http://digits/", headers={"X-Muster-Demands": "vram_mb=2"})
            assert isinstance(large.value, ServiceTooSmall)
            assert isinstance(large.value, NeverFits)
            with pytest.raises(MusterError, match="only the async transport"):
                session.get("http://digits/", headers={"X-Muster-Hedge": "1"})

        small = Endpoint("a", "http://127.0.0.1:9", budgets={"vram_mb": 1})
        asyncio.run(balance(EndpointSet(1, 1, (small,), PUBLISHED_AT), use))


@pytest.mark.parametrize("authority", ["own", "another"])
def test_the_authority_of_the_set_is_trusted_and_no_other_whatever_the_session_says(
    tmp_path: Path, authority: str
) -> None:
    async def scenario() -> None:
        certificates = Certificates.open(tmp_path / "own", names=(), certificate=None, key=None)
        async with serving(certificates.context, a=ok) as servers:

            def use(gate: Gate, session: requests.Session) -> None:
                session.verify = authority == "own"
                if authority == "own":
                    assert session.get("http://digits/").text == "a"
                else:
                    with pytest.raises(requests.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                        session.get("http://digits/", headers={"X-Muster-Timeout": "0.2"})

            await balance(endpoint_set(servers["a"], ca_pem=ca_pem(tmp_path / authority)), use)

    asyncio.run(scenario())


def test_a_service_gives_an_adapter_that_watches_until_it_is_closed(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/registry"

    async def scenario() -> None:
        async with serving(a=ok) as servers:
            await registry.connect(url).publish(ServiceKey("admin", "digits"), endpoint_set(servers["a"]))

            def work() -> None:
                with muster.connect(url) as connection, requests.Session() as session:
                    session.mount("http://digits", connection.service("digits").requests_adapter(features=lambda _: {}))
                    assert session.get("http://digits/").text == "a"

            await asyncio.to_thread(work)

    asyncio.run(scenario())


def test_whoever_lacks_requests_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "muster.balancer.requests_adapter")
    monkeypatch.setitem(sys.modules, "requests", None)
    with muster.connect("memory://none") as connection, pytest.raises(SetupError, match="pip install requests"):
        connection.service("digits").requests_adapter()


def _wait_for(loop: asyncio.AbstractEventLoop, condition: Callable[[], bool]) -> None:
    asyncio.run_coroutine_threadsafe(until(condition), loop).result(10)
