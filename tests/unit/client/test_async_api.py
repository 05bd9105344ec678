"""The async client of an API: what each kind of answer becomes, and that the token is never told."""

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from muster.client.async_api import PATIENCE, AsyncApi
from muster.errors import (
    CursorExpired,
    FeedError,
    FeedRefused,
    InvalidSpec,
    MusterError,
    NotAnApi,
    NotFound,
    Unauthenticated,
)
from muster.testing.clock import VirtualLoop
from muster.tls.authority import ca_pem
from muster.tls.certificate import Certificates
from tests.unit.balancer.servers import ok, serving

URL, TOKEN = "https://api.example/prefix", "mst_secret"
LIST, SERVICES = "/api/v1/dev/deployment/list", "/api/v1/muster/services"
NDJSON = {"content-type": "application/x-ndjson"}

Handler = Callable[[httpx.Request], httpx.Response]


def run(handle: Handler | httpx.Response, call: Callable[[AsyncApi], Any], *, virtual: bool = False) -> Any:
    async def scenario() -> Any:
        transport = httpx.MockTransport(handle if callable(handle) else lambda _request: handle)
        api = AsyncApi(URL, TOKEN, transport=transport)
        try:
            return await call(api)
        finally:
            await api.aclose()

    with asyncio.Runner(loop_factory=VirtualLoop if virtual else None) as runner:
        return runner.run(scenario())


async def read(api: AsyncApi) -> list[Any]:
    async with aclosing(api.lines(f"{SERVICES}/changes", after=3)) as lines:
        return [line async for line in lines]


def refused(kind: str, code: str, text: str, status: int = 200) -> httpx.Response:
    if kind == "post":
        return httpx.Response(status, json={"code": code, "data": None, "msg": text, "request_id": "1"})
    return httpx.Response(status, json={"error": {"code": code, "message": text, "field": "", "request_id": "1"}})


CALLS: dict[str, Callable[[AsyncApi], Any]] = {
    "post": lambda api: api.post(LIST, {"page_index": 1}),
    "get": lambda api: api.get(SERVICES, service="asr", port=None),
    "lines": read,
}
every_call = pytest.mark.parametrize("kind", CALLS)


def test_a_call_of_autodls_sends_the_raw_token_and_returns_the_data() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == f"{URL}{LIST}"
        assert request.headers["authorization"] == TOKEN
        assert json.loads(request.content) == {"page_index": 1}
        return httpx.Response(200, json={"code": "Success", "data": {"list": []}, "msg": "", "request_id": "1"})

    assert run(handle, CALLS["post"]) == {"list": []}


def test_a_call_of_ours_returns_the_body() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert str(request.url) == f"{URL}{SERVICES}?service=asr"
        return httpx.Response(200, json={"services": []})

    assert run(handle, CALLS["get"]) == {"services": []}


def test_a_stream_is_read_line_by_line_and_silence_is_skipped() -> None:
    answer = httpx.Response(200, content=b'{"cursor":1}\n\n\n{"cursor":2}\n', headers=NDJSON)
    assert run(answer, read) == [{"cursor": 1}, {"cursor": 2}]


def test_a_stream_may_end_with_an_error() -> None:
    content = b'{"cursor":1}\n{"error":{"code":"CursorExpired","message":"list again","field":"","request_id":"1"}}\n'
    with pytest.raises(CursorExpired, match="list again"):
        run(httpx.Response(200, content=content, headers=NDJSON), read)


@every_call
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.Response(200, html="<html>hello</html>"), NotAnApi, "answers HTML, not an API.*is the address right"),
        (httpx.Response(502, text="bad gateway"), FeedError, "no JSON.*HTTP 502"),
        (httpx.Response(200, text=""), NotAnApi, "no JSON"),
        (httpx.Response(200, content=b"\xff\xfe\x00"), NotAnApi, "no JSON"),
        (httpx.Response(302, headers={"location": "https://elsewhere/?token=x"}), NotAnApi, "leads elsewhere"),
        (httpx.Response(404, html="<html>nothing</html>"), FeedRefused, "no such path.*HTML"),
        (httpx.Response(404, json={"code": "NotFound", "msg": "Not Found", "request_id": "1"}), FeedRefused, "no such"),
        (httpx.Response(401, text="who are you?"), FeedRefused, "is the token right"),
    ],
)
def test_what_is_no_answer_is_said_with_the_address(
    kind: str, answer: httpx.Response, error: type[FeedError], words: str
) -> None:
    with pytest.raises(FeedError, match=words) as raised:
        run(answer, CALLS[kind])
    assert type(raised.value) is error
    assert URL in str(raised.value)
    assert TOKEN not in str(raised.value)


@every_call
@pytest.mark.parametrize(
    ("code", "text", "status", "error", "words"),
    [
        ("AuthorizeFailed", "登录超时，请重新登录", 401, FeedRefused, "登录超时.*is the token right"),
        ("BadRequest", "无当前资源访问权限", 403, FeedRefused, "not entitled"),
        ("RecordNotFoundError", "未查询到相关部署", 404, NotFound, "未查询到相关部署"),
        ("CursorExpired", "pruned", 410, CursorExpired, "pruned"),
        ("InternalError", "服务繁忙", 503, FeedError, "InternalError: 服务繁忙"),
        ("SomethingNew", "whatever", 200, FeedError, "SomethingNew: whatever"),
    ],
)
def test_a_refusal_becomes_an_exception_of_its_kind(
    kind: str, *, code: str, text: str, status: int, error: type[MusterError], words: str
) -> None:
    with pytest.raises(MusterError, match=words) as raised:
        run(refused(kind, code, text, 200 if kind == "post" else status), CALLS[kind])
    assert type(raised.value) is error


@pytest.mark.parametrize("kind", ["get", "lines"])
@pytest.mark.parametrize("code", ["Success", "AuthorizeFailed"])
def test_an_envelope_on_one_of_our_paths_is_another_api(kind: str, code: str) -> None:
    with pytest.raises(FeedRefused):
        run(refused("post", code, "text"), CALLS[kind])


@pytest.mark.parametrize("body", [{}, [], None, {"code": 3}, "Success"])
def test_json_without_an_envelope_is_no_answer_of_autodls(body: Any) -> None:
    with pytest.raises(FeedError, match="JSON"):
        run(httpx.Response(200, json=body), CALLS["post"])


def test_a_stream_that_is_none_is_refused() -> None:
    with pytest.raises(FeedError, match="does not answer with a stream"):
        run(httpx.Response(200, json={"services": []}), read)


@every_call
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError("refused"), "cannot reach"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "not trusted"),
        (httpx.ConnectTimeout(""), "cannot reach.*within 10 s"),
        (httpx.ReadTimeout(""), "does not answer in time"),
        (httpx.RemoteProtocolError("cut"), "lost the connection"),
    ],
)
def test_a_connection_that_fails_is_no_refusal(kind: str, error: Exception, words: str) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(FeedError, match=words) as raised:
        run(handle, CALLS[kind])
    assert not isinstance(raised.value, FeedRefused)


@every_call
@pytest.mark.parametrize("headers", [{"Retry-After-Ms": "500"}, {"Retry-After": "1"}, {}])
def test_the_rate_limit_is_waited_for_and_not_for_ever(kind: str, headers: dict[str, str]) -> None:
    asked = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(asyncio.get_running_loop().time())
        return httpx.Response(429, json={"error": {"code": "TooManyRequests"}}, headers=headers)

    with pytest.raises(FeedError, match="asks too often"):
        run(handle, CALLS[kind], virtual=True)
    assert len(asked) == PATIENCE + 1
    assert asked[1] - asked[0] >= 0.5
    assert all(
        later - sooner > 1.5 * (sooner - first)
        for first, sooner, later in zip(asked, asked[1:], asked[2:], strict=False)
    )


@pytest.mark.parametrize("url", ["", "api.example", "ftp://api.example", "http://", "http://a:x", "http://a/?x=1"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidSpec, match="url"):
        AsyncApi(url, TOKEN)


def test_an_address_with_a_password_is_refused_without_telling_it() -> None:
    with pytest.raises(InvalidSpec, match="user or password") as raised:
        AsyncApi("https://me:hush@api.example", TOKEN)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("token", ["two words", "new\nline", "词"])
def test_what_is_no_token_is_refused_without_telling_it(token: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        AsyncApi(URL, token)
    assert token not in str(raised.value)


def test_authorities_that_are_none_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(InvalidSpec, match="holds no certificate authority"):
            AsyncApi(URL, TOKEN, ca_file=path)


def test_the_authorities_of_the_file_are_trusted_and_nobody_elses_are(tmp_path: Path) -> None:
    certificates = Certificates.open(tmp_path, names=("127.0.0.1",), certificate=None, key=None)
    ca_file = tmp_path / "published.pem"
    ca_file.write_text(ca_pem(tmp_path))

    async def scenario() -> None:
        async with serving(certificates.context, a=ok) as servers:
            for trusted, words in (
                (ca_file, "answers something that is no JSON"),
                (None, "certificate is not trusted"),
            ):
                async with aclosing(AsyncApi(servers["a"].endpoint.url, TOKEN, ca_file=trusted)) as api:
                    with pytest.raises(FeedError, match=words):
                        await api.get(SERVICES)

    asyncio.run(scenario())
