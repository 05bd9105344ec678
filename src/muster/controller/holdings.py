"""Machines → what they hold: the scheduler prefers machines that have an image, and people ask which do.

A key is a machine. Fetches that Muster asked for are noted as they end; a look finds the rest: what others fetched, and
what was removed to make room. A machine that cannot be asked keeps what was last seen of it: stale beats empty here,
since a wrong preference costs one fetch.
"""

import datetime
import logging
from collections.abc import Iterable

from muster.engine.port import Engine
from muster.errors import EngineError
from muster.model.ids import MachineId
from muster.store.port import Store

_log = logging.getLogger(__name__)


class HoldingReconciler:
    """Looks what machines hold; see the module's text."""

    name = "holding"

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    async def keys(self) -> Iterable[MachineId]:
        """Return the machines on offer."""
        return [machine.id for machine in await self._store.read(lambda tx: tx.machines.offered())]

    async def reconcile(self, key: MachineId) -> datetime.datetime | None:
        """Look at one machine; the next full pass looks again."""
        try:
            held = await self._engine.images(key)
        except EngineError as error:
            _log.debug("the images of machine %s cannot be listed: %s", key, error)  # the container loop says it aloud
            return None
        await self._store.write(lambda tx: tx.held_images.hold(key, held))
        return None
