"""A Muster server's own list of endpoints as a registry, for clients that can reach nothing but the API. Read-only.

The server watches its registry for us: ``watch`` is one long answer that holds the present set and each newer one. When
it breaks off, it is asked for again, for ever and ever more slowly, with jitter, since all clients of a server that
restarts come back at once; in between nothing is yielded, so the last set stays. What only a person can mend (a wrong
token, another API at the address) is logged once and tried again as well: they may be mending it.

A token sees one account, so the account of a key has to be the token's; a key without one is of it anyway.
"""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from muster.client.async_api import AsyncApi
from muster.errors import (
    FeedError,
    FeedRefused,
    InvalidSpec,
    NotFound,
    RegistryError,
    RegistryUnavailable,
    Unauthenticated,
)
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry.api_url import parse
from muster.registry.port import Beat, Claim

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0
_ENDPOINTS = "/api/v1/muster/endpoints"
_ME = "/api/v1/muster/me"

_log = logging.getLogger(__name__)


def open_url(url: str) -> "ApiRegistry":
    """Open ``muster+http://…`` or ``muster+https://…``. Raises ``InvalidSpec``, also where there is no token for it."""
    found = parse(url)
    try:
        return ApiRegistry(AsyncApi(found.base_url, found.token, ca_file=found.ca_file))
    except Unauthenticated as error:
        raise InvalidSpec("registry", f"{found.base_url}: {error}") from error


class ApiRegistry:
    """A handle on a server, which it closes."""

    def __init__(self, api: AsyncApi) -> None:
        self._api = api
        self._account: str | None = None

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key or alias, ``None`` if there is none."""
        try:
            await self._check_account(key)
            return self._read(await self._api.get(_ENDPOINTS, service=key.service, port=key.port))
        except NotFound:
            return None
        except FeedError as error:
            raise _trouble(error) from error

    async def target(self, key: ServiceKey) -> ServiceKey | None:  # noqa: ARG002 the port's argument
        """Refuse: the server follows aliases by itself and does not say where they lead."""
        raise RegistryError(f"{self._api.base_url} does not tell which deployment a name stands for")

    async def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        last: EndpointSet | None = None
        wait_seconds = FIRST_WAIT_SECONDS
        said = ""
        while True:
            try:
                await self._check_account(key)
                async with aclosing(
                    self._api.lines(f"{_ENDPOINTS}/watch", service=key.service, port=key.port)
                ) as lines:
                    async for line in lines:
                        found, wait_seconds = self._read(line), FIRST_WAIT_SECONDS
                        if found != last:  # the present one is told again by each new answer
                            last, said = found, ""
                            yield found
            except (FeedError, NotFound, RegistryUnavailable) as error:
                if isinstance(error, FeedRefused | RegistryUnavailable) and str(error) != said:
                    said = str(error)
                    _log.warning("watching %s: %s; the last set stays", key, said)
            await asyncio.sleep(wait_seconds * random.uniform(0.5, 1.0))  # noqa: S311 spreads load, hides nothing
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys of the account that hold a set (no aliases), in order."""
        try:
            wire = await self._api.get(f"{_ENDPOINTS}/keys")
            return [ServiceKey(wire["account"], str(each["service"]), int(each["port"])) for each in wire["keys"]]
        except FeedError as error:
            raise _trouble(error) from error
        except (NotFound, KeyError, TypeError, ValueError) as error:
            raise RegistryUnavailable(
                f"{self._api.base_url}{_ENDPOINTS}/keys answers something else: {error}"
            ) from error

    async def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:  # noqa: ARG002 the port's arguments
        """Refuse: a server publishes what runs on it, and nobody else."""
        raise self._is_read_only()

    async def link(self, alias: ServiceKey, target: ServiceKey) -> None:  # noqa: ARG002
        """Refuse, as ``publish`` does."""
        raise self._is_read_only()

    async def unlink(self, alias: ServiceKey) -> None:  # noqa: ARG002
        """Refuse, as ``publish`` does."""
        raise self._is_read_only()

    async def beat(self, publisher: str, beat: Beat) -> Mapping[str, Beat]:  # noqa: ARG002
        """Refuse, as ``publish`` does."""
        raise self._is_read_only()

    async def beats(self) -> Mapping[str, Beat]:
        """Refuse: who publishes is not for clients."""
        raise self._is_read_only()

    async def retire(self, publisher: str) -> None:  # noqa: ARG002
        """Refuse, as ``publish`` does."""
        raise self._is_read_only()

    async def claim(
        self,
        keys: Collection[ServiceKey],  # noqa: ARG002
        publisher: str,  # noqa: ARG002
        *,
        over: Collection[str],  # noqa: ARG002
        floor: int,  # noqa: ARG002
    ) -> Mapping[ServiceKey, Claim]:
        """Refuse, as ``publish`` does."""
        raise self._is_read_only()

    async def claims(self) -> Mapping[ServiceKey, Claim]:
        """Refuse: who publishes is not for clients."""
        raise self._is_read_only()

    async def aclose(self) -> None:
        """Let go of the server; watches end with whoever reads them."""
        await self._api.aclose()

    async def _check_account(self, key: ServiceKey) -> None:
        """Raise ``RegistryError`` for a key of another account than the token's."""
        if not key.account:
            return
        if self._account is None:
            wire = await self._api.get(_ME)
            if not isinstance(wire, dict) or not isinstance(wire.get("name"), str):
                raise FeedRefused(f"{self._api.base_url}{_ME} is not Muster's API: it names no account")
            self._account = wire["name"]
        if self._account != key.account:
            raise RegistryError(
                f"{self._api.base_url}: the token is of account {self._account!r}, so {key} cannot be seen: connect"
                f" with account={self._account!r}"
            )

    def _read(self, wire: Any) -> EndpointSet:
        try:
            return EndpointSet.from_json(json.dumps(wire))
        except InvalidSpec as error:
            raise RegistryUnavailable(f"{self._api.base_url} answers what cannot be read: {error}") from error

    def _is_read_only(self) -> RegistryError:
        return RegistryError(f"{self._api.base_url} is read-only: a server publishes its own services, and only those")


def _trouble(error: FeedError) -> RegistryError:
    return RegistryError(str(error)) if isinstance(error, FeedRefused) else RegistryUnavailable(str(error))
