"""The client and the server's rate limit: it waits and asks again, on both kinds of paths, and not for ever."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from muster.client import Client
from muster.errors import ApiError

TOO_OFTEN = {"code": "TooManyRequests", "message": "more than 50 requests a second"}


def busy(times: int, answer: httpx.Response) -> tuple[list[str], Client]:
    """Return a client of a server that refuses so many requests, and the paths that it was asked for."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(request.url.path)
        if len(asked) > times:
            return answer
        if request.url.path.startswith("/api/v1/muster"):
            return httpx.Response(429, json={"error": TOO_OFTEN}, headers={"Retry-After": "0"})
        return httpx.Response(200, json={**TOO_OFTEN, "msg": "请求过于频繁"}, headers={"Retry-After": "0"})

    return asked, Client("http://127.0.0.1:1", "mst_x", transport=httpx.MockTransport(handle))


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda client: client.stop_deployment("d1"), httpx.Response(200, json={"code": "Success", "data": None})),
        (lambda client: client.registries(), httpx.Response(200, json={"registries": []})),
        (
            lambda client: list(client.logs("c1")),
            httpx.Response(200, content=b"out", headers={"content-type": "text/plain"}),
        ),
    ],
)
def test_what_came_too_often_is_sent_again(call: Callable[[Client], Any], answer: httpx.Response) -> None:
    asked, client = busy(3, answer)
    with client:
        call(client)
    assert len(asked) == 4


def test_patience_ends() -> None:
    asked, client = busy(100, httpx.Response(200))
    with client, pytest.raises(ApiError, match="more than 50 requests") as refused:
        client.registries()
    assert refused.value.code == "TooManyRequests"
    assert len(asked) == 6


def test_content_that_can_be_read_once_is_sent_once() -> None:
    asked, client = busy(100, httpx.Response(200))
    with client, pytest.raises(ApiError):
        client.write_file("/a", iter([b"x"]))
    assert len(asked) == 1
