"""The loops about images together: what is to be saved, what machines are to hold, and what they do hold.

They run only where the engine has images at all; elsewhere there is one image, the host, and nothing to do.
"""

import asyncio

from muster.clock import Clock
from muster.controller.holdings import HoldingReconciler
from muster.controller.loop import ReconcileLoop
from muster.controller.prewarms import PrewarmReconciler
from muster.controller.saves import SaveReconciler
from muster.engine.port import Engine
from muster.model.ids import ImageUuid, MachineId
from muster.store.keyring import CredentialFor
from muster.store.port import Changes, Store

SAVES_AT_ONCE = 2
"""A save copies all that a container wrote: more of them at once only make each slower, and everybody else too."""


class ImageLoops:
    """Runs the loops about images until it is cancelled."""

    def __init__(
        self, store: Store, engine: Engine, clock: Clock, credential_for: CredentialFor, *, full_pass_seconds: float
    ) -> None:
        self._has_images = engine.capabilities.has_images
        self._saves = ReconcileLoop[ImageUuid](
            SaveReconciler(store, engine, clock), clock, at_once=SAVES_AT_ONCE, full_pass_seconds=full_pass_seconds
        )
        self._prewarms = ReconcileLoop[ImageUuid](
            PrewarmReconciler(store, engine, clock, credential_for), clock, full_pass_seconds=full_pass_seconds
        )
        self._holdings = ReconcileLoop[MachineId](
            HoldingReconciler(store, engine), clock, full_pass_seconds=full_pass_seconds
        )

    def wake(self, changes: Changes) -> None:
        """Look soon at what a commit touched."""
        for image in changes.images if self._has_images else ():
            self._saves.wake(image)
            self._prewarms.wake(image)

    async def run(self) -> None:
        """Run the loops for ever."""
        if not self._has_images:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._saves.run(), name="saves")
            group.create_task(self._prewarms.run(), name="prewarms")
            group.create_task(self._holdings.run(), name="holdings")
