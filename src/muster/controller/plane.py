"""The loops together, and who wakes whom.

::

    a deployment changed                  → deployments
    a container changed                   → its deployment, placements (room, or a new one), containers, readiness
    the engine hints at a container       → containers

Everything between the loops goes through the store; waking is only a way not to wait for the next full pass.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from muster.clock import Clock
from muster.controller.containers import ContainerReconciler
from muster.controller.deployments import DeploymentReconciler
from muster.controller.loop import ReconcileLoop
from muster.controller.placements import ALL, PlacementReconciler
from muster.controller.probe import Prober
from muster.controller.readiness import ReadinessReconciler
from muster.engine.port import Engine
from muster.errors import EngineError
from muster.model.ids import ContainerId, DeploymentId
from muster.planner.lifecycle import Terms
from muster.scheduler.explain import Explanation
from muster.store.port import Changes, Store

DEPLOYMENT_BUSY_SHARE = 0.2
"""A look at a deployment reads all its containers, each of which wakes it several times on its way up: without a bound
the work of n containers grows with n². A fifth leaves a thousand containers a look every half second."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlaneOptions:
    """How the loops run. Seconds between full passes bound how long a lost wake-up can go unnoticed."""

    terms: Terms = field(default_factory=Terms)
    full_pass_seconds: float = 30.0
    engine_calls_at_once: int = 32
    probes_at_once: int = 64


class ControlPlane:
    """Runs every loop of the server until it is cancelled."""

    def __init__(
        self,
        *,
        store: Store,
        engine: Engine,
        clock: Clock,
        prober: Prober,
        random_hex: Callable[[int], str],
        options: PlaneOptions = PlaneOptions(),
    ) -> None:
        def new_id() -> ContainerId:
            return ContainerId(random_hex(16))

        seconds = options.full_pass_seconds
        self._store = store
        self._engine = engine
        self._clock = clock
        self._placing = PlacementReconciler(store, clock, random_hex)
        self._deployments = ReconcileLoop[DeploymentId](
            DeploymentReconciler(store, clock, new_id),
            clock,
            full_pass_seconds=seconds,
            busy_share=DEPLOYMENT_BUSY_SHARE,
        )
        self._placements = ReconcileLoop[str](self._placing, clock, full_pass_seconds=seconds)
        self._containers = ReconcileLoop[ContainerId](
            ContainerReconciler(store, engine, clock, options.terms),
            clock,
            at_once=options.engine_calls_at_once,
            full_pass_seconds=seconds,
        )
        self._probing = ReadinessReconciler(store, clock, prober)
        self._readiness = ReconcileLoop[ContainerId](
            self._probing,
            clock,
            at_once=options.probes_at_once,
            full_pass_seconds=seconds,
        )

    def explanation(self, container_id: ContainerId) -> Explanation | None:
        """Say why a container had no machine when the scheduler last looked; ``None``: nothing stood in its way."""
        return self._placing.explanation(container_id)

    async def run(self) -> None:
        """Run the loops for ever."""
        self._store.on_commit(self._wake)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deployments.run(), name="deployments")
            group.create_task(self._placements.run(), name="placements")
            group.create_task(self._containers.run(), name="containers")
            group.create_task(self._readiness.run(), name="readiness")
            group.create_task(self._follow_engine(), name="engine hints")

    def _wake(self, changes: Changes) -> None:
        for deployment_id in changes.deployments:
            self._deployments.wake(deployment_id)
        for container_id in changes.containers:
            self._containers.wake(container_id)
            self._probing.forget(container_id)
            self._readiness.wake(container_id)
        if changes.containers:
            self._placements.wake(ALL)

    async def _follow_engine(self) -> None:
        while True:
            try:
                async for container_id in self._engine.watch():
                    self._containers.wake(container_id)
            except EngineError as error:
                _log.warning("the engine's hints broke off, full passes go on: %s", error)
            await self._clock.sleep(1.0)
