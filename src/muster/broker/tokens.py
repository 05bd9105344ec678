"""Whose a token is, for brokers that do not have the store: told at the start, or by asking an API.

An API's answer is good for a minute, so a client that comes back costs nothing, and a revoked token lets nobody in for
longer than that. While the API does not answer, the last one serves on: a broker that turned everybody away because
another server restarts would help nobody. What is unknown is remembered shortly, so that a client with a wrong token
does not become a load on the API. Neither do all clients of a broker that has just started: it asks once for all who
come with the same token.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256

from muster.client.async_api import AsyncApi
from muster.errors import FeedError, FeedRefused, MusterError, NotFound

Authenticate = Callable[[str], Awaitable[str | None]]
"""Returns the account that a token acts for, ``None`` if it is none. Raises ``MusterError`` if nobody can tell now."""

KNOWN_SECONDS, UNKNOWN_SECONDS, LAST_SECONDS = 60.0, 5.0, 3600.0
MOST_REMEMBERED = 10_000
ME = "/api/v1/muster/me"


def shared_token(token: str, account: str) -> Authenticate:
    """Return who knows one token, of one account."""
    expected = token.encode()

    async def authenticate(given: str) -> str | None:
        return account if hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected) else None

    return authenticate


@dataclass(frozen=True, slots=True)
class _Answer:
    account: str | None
    at: float


class ApiTokens:
    """Asks a Muster's API. ``open_api`` makes the API's client for a token; call the instance as ``Authenticate``."""

    def __init__(self, open_api: Callable[[str], AsyncApi], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._open_api = open_api
        self._monotonic = monotonic
        self._answers: dict[bytes, _Answer] = {}
        self._asking: dict[bytes, asyncio.Task[str | None]] = {}

    async def __call__(self, token: str) -> str | None:
        """Return the account that a token acts for. Raises ``FeedError`` where nobody can tell now."""
        digest, now = sha256(token.encode("utf-8", "surrogatepass")).digest(), self._monotonic()
        last = self._answers.get(digest)
        if last is not None and now - last.at < (UNKNOWN_SECONDS if last.account is None else KNOWN_SECONDS):
            return last.account
        try:
            account = await asyncio.shield(self._asked(digest, token))  # whoever gives up leaves the others to wait
        except FeedError:
            if last is not None and last.account is not None and now - last.at < LAST_SECONDS:
                return last.account
            raise
        self._answers.pop(digest, None)
        while len(self._answers) >= MOST_REMEMBERED:
            del self._answers[next(iter(self._answers))]
        self._answers[digest] = _Answer(account, now)
        return account

    def _asked(self, digest: bytes, token: str) -> "asyncio.Task[str | None]":
        """Return the question that is under way, or ask; it ends by itself, in the API's time."""
        found = self._asking.get(digest)
        if found is None:
            found = self._asking[digest] = asyncio.create_task(self._ask(token), name="broker asks for a token")
            found.add_done_callback(lambda _: self._asking.pop(digest))
        return found

    async def _ask(self, token: str) -> str | None:
        try:
            api = self._open_api(token)
        except MusterError:
            return None  # no token has such characters
        try:
            wire = await api.get(ME)
        except FeedRefused as error:
            if error.code == "AuthorizeFailed":
                return None
            raise
        except NotFound as error:
            raise FeedError(str(error)) from error
        finally:
            await api.aclose()
        if not isinstance(wire, dict) or not isinstance(wire.get("name"), str):
            raise FeedError(f"{api.base_url}{ME} is not Muster's API: it names no account")
        return str(wire["name"])
