"""A Muster server elsewhere as a feed: its list of services, its stream of changes, and each service on demand.

In: an ``AsyncApi``, and perhaps which deployments to follow, by uuid or name. Out: ``model.feed.Feed``. A name is
followed as soon as a deployment has it; names never change, so what has another one is not asked for again.

Reconnecting is not done here: a cut, or a stream that ends, is a ``FeedError``, after which the watcher lists anew and
thereby makes good whatever the cut hid. An address behind which another installation or account appears (a server
begun anew on an empty home, say) is refused from then on: it knows nothing of our deployments, and would have us
publish of each that nobody serves.
"""

import asyncio
import logging
import urllib.parse
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from typing import Any

from muster.client.async_api import AsyncApi
from muster.errors import FeedError, FeedRefused, InvalidSpec, NotFound
from muster.model.event import Cursor
from muster.model.feed import ChangeBatch, Listing, ServiceState
from muster.model.ids import DeploymentId
from muster.model.service_wire import name_of, service_from_wire

SERVICES = "/api/v1/muster/services"

_log = logging.getLogger(__name__)


class StreamFeed:
    """Reads one account's services; whoever made ``api`` closes it. ``deployments`` empty: follow all of them."""

    def __init__(self, api: AsyncApi, deployments: Collection[str] = ()) -> None:
        self._api = api
        self._wanted = frozenset(deployments)
        self._others: set[DeploymentId] = set()
        self._absent: frozenset[str] = frozenset()
        self._owner: tuple[str, str] | None = None

    async def introduce(self) -> tuple[str, str]:
        """Return whose services these are: the installation's id and the account's name.

        Raises ``FeedRefused`` when this is not Muster's API, or when it refuses the token.
        """
        owner, _ = await self._ask_for_all()
        return owner

    async def services(self) -> Listing:
        """Return all live deployments that are followed."""
        owner, wire = await self._ask_for_all()
        found = wire.get("services")
        if not isinstance(found, list) or not isinstance(wire.get("cursor"), int):
            raise FeedError(f"{self._api.base_url}{SERVICES} answers something else than services")
        # of a thousand services it takes a tenth of a second, in which heartbeats would be late
        states = await asyncio.to_thread(lambda: [self._state(each, owner, wire) for each in found])
        followed = [each for each in states if self._follows(each)]
        self._tell_absent(followed)
        return Listing(followed, Cursor(wire["cursor"]))

    async def service(self, deployment_id: DeploymentId) -> ServiceState | None:
        """Return one deployment as it is now; ``None`` if it lives and is not followed."""
        try:
            owner, wire = await self._ask(f"{SERVICES}/{urllib.parse.quote(deployment_id, safe='')}")
        except NotFound:
            await self.introduce()  # is it still the one that would know?
            return ServiceState(deployment_id, {}, {})
        state = self._state(wire.get("service"), owner, wire)
        return None if not self._follows(state) and wire.get("is_live") else state

    async def changes(self, cursor: Cursor) -> AsyncGenerator[ChangeBatch, None]:
        """Yield batches after ``cursor`` until the connection is lost, which is a ``FeedError``."""
        async with aclosing(self._api.lines(f"{SERVICES}/changes", after=cursor)) as lines:
            try:
                async for line in lines:
                    told = frozenset(DeploymentId(str(each)) for each in line["deployments"])
                    batch = ChangeBatch(told - self._others, Cursor(int(line["cursor"])))
                    if batch.deployments:
                        yield batch
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise FeedError(f"{self._api.base_url}{SERVICES}/changes: {error!r} in a line") from error
            except NotFound as error:
                raise FeedRefused(str(error)) from error
        raise FeedError(f"{self._api.base_url} ended the stream of changes")

    async def _ask_for_all(self) -> tuple[tuple[str, str], Mapping[str, Any]]:
        try:
            return await self._ask(SERVICES)
        except NotFound as error:  # Muster always has this list
            raise FeedRefused(str(error)) from error

    async def _ask(self, path: str) -> tuple[tuple[str, str], Mapping[str, Any]]:
        """Return whose an answer is, and the answer."""
        wire = await self._api.get(path)
        source, account = (wire.get("source"), wire.get("account")) if isinstance(wire, dict) else (None, None)
        if not (isinstance(source, str) and isinstance(account, str) and source and account):
            raise FeedRefused(f"{self._api.base_url}{path} is not Muster's API: its answer names no installation")
        owner = source, account
        known = self._owner = self._owner or owner
        if known != owner:
            raise FeedRefused(
                f"{self._api.base_url} is now installation {source}, account {account}: it was {known[0]},"
                f" {known[1]}; if that is meant, start the watcher anew"
            )
        return owner, wire

    def _state(self, wire: Any, owner: tuple[str, str], answer: Mapping[str, Any]) -> ServiceState:
        try:
            return service_from_wire(wire, account=owner[1], ca_pem=answer.get("ca_pem"))
        except InvalidSpec as error:
            raise FeedError(f"{self._api.base_url}: cannot read what it says of a service: {error}") from error

    def _follows(self, state: ServiceState) -> bool:
        if not self._wanted or state.deployment_id in self._wanted or name_of(state) in self._wanted:
            return True
        self._others.add(state.deployment_id)
        return False

    def _tell_absent(self, followed: Collection[ServiceState]) -> None:
        """Say which of the named deployments there are not: a misspelt name looks the same as one that is early."""
        absent = self._wanted - {word for each in followed for word in (each.deployment_id, name_of(each))}
        for word in sorted(absent - self._absent):
            _log.info("deployment %r does not exist; it is followed when it appears", word)
        self._absent = absent
