"""Carries a service's sets from where they are published to its gate, and says why there are none.

The source is a registry, of which only reading is needed; this package does not know the others (``Source``).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from muster.errors import RegistryError, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey

_RETRY_SECONDS = 1.0
"""A registry that failed is asked again after this; the last set serves meanwhile."""

_log = logging.getLogger(__name__)


class Source(Protocol):
    """The part of a registry that a reader needs; what it guarantees: ``registry/port.py``."""

    async def get(self, key: ServiceKey) -> EndpointSet | None:
        """Return the present set of a key, ``None`` if there is none."""
        ...

    def watch(self, key: ServiceKey) -> AsyncIterator[EndpointSet]:
        """Yield the present set, then every newer one, for ever."""
        ...

    async def keys(self) -> Sequence[ServiceKey]:
        """Return all keys that hold a set."""
        ...

    async def aclose(self) -> None:
        """Let go of it."""
        ...


class Taker(Protocol):
    """Who takes sets over: a ``Gate``, or a broker's desk."""

    @property
    def endpoints(self) -> EndpointSet | None:
        """The newest set that it has."""
        ...

    def update(self, endpoints: EndpointSet, *, is_other_target: bool = False) -> bool:
        """Take over a set, see ``Balancer.update``."""
        ...


class Subscription:
    """Carries the sets of one key from the registry to the gate, for as long as ``run`` runs."""

    def __init__(self, where: str, open_source: Callable[[], Source], key: ServiceKey, gate: Taker) -> None:
        self._where = where
        self._open_source = open_source
        self._key = key
        self._gate = gate
        self._neighbours: Sequence[ServiceKey] | None = None
        self._trouble: RegistryError | None = None
        self._foreign: RegistryError | None = None

    async def run(self) -> None:
        """Carry until cancelled."""
        source = self._open_source()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._learn_neighbours(source))
                group.create_task(self._follow(source))
        finally:
            await source.aclose()

    def hint(self) -> str:
        """Say what a user needs who gets no replica of it: the registry, what it does hold, and what is wrong there.

        It goes on where "unknown service" ends.
        """
        where = self._where
        if self._foreign is not None:
            return (
                f"so far: {where} holds something else under its name ({self._foreign}): "
                "upgrade muster here if a newer one wrote it, else remove it there"
            )
        if self._trouble is not None:
            return f"so far: {where} cannot be read ({self._trouble}): see that it runs and can be reached from here"
        if self._neighbours is None:
            return f"in {where}, which has not answered yet"
        some = [str(each) for each in self._neighbours[:10]]
        more = ["…"] if len(self._neighbours) > len(some) else []
        return f"in {where}; known: {', '.join(some + more) or 'none'}"

    async def _follow(self, source: Source) -> None:
        while True:
            try:
                async for endpoints in source.watch(self._key):
                    present = self._gate.endpoints
                    # The registry never steps back for one target, so what is not newer comes from another one.
                    moved = present is not None and endpoints.fence <= present.fence and endpoints != present
                    self._take_over(endpoints, is_other_target=moved)
            except RegistryError as error:
                _log.warning("watching %s in the %s: %s; the last set stays", self._key, self._where, error)
            await asyncio.sleep(_RETRY_SECONDS)

    def _take_over(self, endpoints: EndpointSet, *, is_other_target: bool) -> None:
        """Hand it to the gate; a set that breaks the balancer is told of once, and the next one may be better."""
        try:
            self._gate.update(endpoints, is_other_target=is_other_target)
        except Exception:  # noqa: BLE001 - whatever it is, the last set serves on
            _log.exception("the set %s of %s cannot be used; the last one stays", endpoints.fence, self._key)

    async def _learn_neighbours(self, source: Source) -> None:
        while self._gate.endpoints is None:
            try:
                self._neighbours, self._trouble = await source.keys(), None
            except RegistryError as error:
                self._trouble = error
            else:
                self._foreign = await _foreign_data(source, self._key)
            await asyncio.sleep(_RETRY_SECONDS)


async def _foreign_data(source: Source, key: ServiceKey) -> RegistryError | None:
    """Return why what a registry that can be read holds under ``key`` cannot; a watch only tries again, and again."""
    try:
        await source.get(key)
    except RegistryUnavailable as error:
        return error
    except RegistryError:
        pass  # it may not be read at all: what the watch logs, and the neighbours, say more
    return None
