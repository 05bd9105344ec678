"""Whose a token is: one that all share, and what an API says, which may be slow, wrong, or away."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from muster.broker import tokens as module
from muster.broker.tokens import ApiTokens, shared_token
from muster.client.async_api import AsyncApi
from muster.errors import FeedError

URL = "https://muster.lab"


class Api:
    """A Muster's API, as far as it says who one is."""

    def __init__(self) -> None:
        self.accounts = {"a-token": "ann"}
        self.is_away = False
        self.calls = 0
        self.now = 1000.0

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        if self.is_away:
            return httpx.Response(502, text="<html>")
        account = self.accounts.get(request.headers["authorization"])
        if account is None:
            error = {"code": "AuthorizeFailed", "message": "the token is unknown", "request_id": "1"}
            return httpx.Response(401, json={"error": error})
        return httpx.Response(200, json={"name": account})

    @property
    def tokens(self) -> ApiTokens:
        return ApiTokens(
            lambda token: AsyncApi(URL, token, transport=httpx.MockTransport(self.answer)), lambda: self.now
        )


def run(scenario: Callable[[Api, ApiTokens], Coroutine[Any, Any, None]]) -> None:
    api = Api()
    asyncio.run(scenario(api, api.tokens))


def test_one_token_that_all_share_is_of_one_account() -> None:
    authenticate = shared_token("secret", "lab")

    async def scenario() -> None:
        assert await authenticate("secret") == "lab"
        for wrong in ("", "secre", "secret ", "sécret", "\udc80"):
            assert await authenticate(wrong) is None

    asyncio.run(scenario())


def test_an_answer_holds_for_a_minute() -> None:
    async def scenario(api: Api, tokens: ApiTokens) -> None:
        assert await tokens("a-token") == "ann"
        api.now += module.KNOWN_SECONDS - 1
        assert await tokens("a-token") == "ann"
        assert api.calls == 1
        api.accounts.clear()
        api.now += 2
        assert await tokens("a-token") is None, "it was revoked"

    run(scenario)


def test_an_unknown_token_is_soon_asked_for_again() -> None:
    async def scenario(api: Api, tokens: ApiTokens) -> None:
        assert await tokens("new") is None
        assert await tokens("new") is None
        assert api.calls == 1
        api.accounts["new"] = "bob"
        api.now += module.UNKNOWN_SECONDS
        assert await tokens("new") == "bob"

    run(scenario)


def test_while_the_api_is_away_its_last_answer_holds_and_nobody_new_is_let_in() -> None:
    async def scenario(api: Api, tokens: ApiTokens) -> None:
        assert await tokens("a-token") == "ann"
        api.is_away = True
        api.now += module.KNOWN_SECONDS + 1
        assert await tokens("a-token") == "ann"
        with pytest.raises(FeedError):
            await tokens("another")
        api.now += module.LAST_SECONDS
        with pytest.raises(FeedError):
            await tokens("a-token")

    run(scenario)


def test_an_address_that_is_no_muster_lets_nobody_in() -> None:
    async def scenario(api: Api, tokens: ApiTokens) -> None:
        api.answer = lambda request: httpx.Response(200, json=["hello"])  # type: ignore[method-assign]
        with pytest.raises(FeedError, match="not Muster's API"):
            await tokens("a-token")

    run(scenario)


def test_what_no_token_looks_like_is_none_and_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_REMEMBERED", 3)

    async def scenario(api: Api, tokens: ApiTokens) -> None:
        assert await tokens("a b\n") is None
        assert api.calls == 0
        for number in range(10):
            await tokens(f"wrong{number}")
        assert len(tokens._answers) == 3

    run(scenario)


def take_time(api: Api) -> None:
    """Answer not before others have come, too."""
    at_once = api.answer

    async def later(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        return at_once(request)

    api.answer = later  # type: ignore[method-assign, assignment]


def test_all_who_come_with_one_token_at_once_are_asked_for_together() -> None:
    """A broker that has just started sees all its clients within a second, and most have the account's one token."""

    async def scenario(api: Api, tokens: ApiTokens) -> None:
        take_time(api)
        assert await asyncio.gather(*(tokens("a-token") for _ in range(100))) == ["ann"] * 100
        assert api.calls == 1
        api.is_away = True
        found = await asyncio.gather(*(tokens("new") for _ in range(100)), return_exceptions=True)
        assert {type(each) for each in found} == {FeedError}
        assert api.calls == 2
        api.is_away = False
        assert await tokens("new") is None

    run(scenario)


def test_whoever_gives_up_asking_leaves_the_others_to_ask() -> None:
    async def scenario(api: Api, tokens: ApiTokens) -> None:
        take_time(api)
        first, second, third = (asyncio.create_task(tokens("a-token")) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        assert await third == "ann"
        assert first.cancelled()
        assert second.cancelled()

    run(scenario)
