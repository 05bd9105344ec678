"""The loops together, and who wakes whom.

::

    a deployment changed                  → deployments
    a container changed                   → its deployment, placements (room, or a new one), containers, readiness
    a container changed, or SSH keys did  → its route, which the ingress is told
    the ingress tells of a drain          → the container
    the ingress cannot open a port        → all routes
    an image changed, or is to be held    → images
    a machine can be used again, or not    → placements, machines, all deployments, all readiness
    the engine hints at a container       → containers
    the engine's hints break off          → all containers

Everything between the loops goes through the store; waking is only a way not to wait for the next full pass.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from muster.clock import Clock
from muster.controller.containers import ContainerReconciler
from muster.controller.deployments import DeploymentReconciler
from muster.controller.images import ImageLoops
from muster.controller.link import IngressEnd
from muster.controller.loop import ReconcileLoop
from muster.controller.machines import ALL as ALL_MACHINES
from muster.controller.machines import MachineReconciler
from muster.controller.placements import ALL, Addressing, PlacementReconciler
from muster.controller.pool import PoolReconciler
from muster.controller.ports import PortRanges
from muster.controller.probe import Prober
from muster.controller.readiness import ReadinessReconciler
from muster.controller.retention import Keep, RetentionReconciler
from muster.controller.routes import RouteBoard, RouteReconciler
from muster.controller.traffic import Traffic
from muster.engine.port import Engine
from muster.errors import EngineError
from muster.model.front import Front
from muster.model.ids import ContainerId, ContainerUuid, DeploymentId
from muster.planner.environment import is_loopback
from muster.planner.lifecycle import Terms
from muster.scheduler.explain import Explanation
from muster.store.keyring import Keyring
from muster.store.port import Changes, Store
from muster.vault import Vault

DEPLOYMENT_BUSY_SHARE = 0.2
"""A look at a deployment reads all its containers, each of which wakes it several times on its way up: without a bound
the work of n containers grows with n². A fifth leaves a thousand containers a look every half second."""

TROUBLED_PASS_SECONDS = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """The ingress: by which name clients reach it, which ports it has, and the token that it shows."""

    front: Front
    ports: PortRanges
    token: str


@dataclass(frozen=True, slots=True)
class PlaneOptions:
    """How the loops run. Seconds between full passes bound how long a lost wake-up can go unnoticed.

    ``keep_free_bytes``: how much of a host's disk the reuse pool leaves free (0: nobody looks).
    ``lost_after_seconds``: how long a host may not answer before its containers are replaced.
    ``front``: the ingress; without one containers are reached at their own addresses, and drains last their whole time.
    ``keep``: how far back events, released containers and the audit log reach.
    """

    terms: Terms = field(default_factory=Terms)
    full_pass_seconds: float = 30.0
    keep_free_bytes: int = 0
    lost_after_seconds: float = 60.0
    keep: Keep = field(default_factory=Keep)
    front: FrontOptions | None = None
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
        vault: Vault | None = None,
        options: PlaneOptions = PlaneOptions(),
    ) -> None:
        def new_id() -> ContainerId:
            return ContainerId(random_hex(16))

        seconds = options.full_pass_seconds
        credential_for = Keyring(vault).credential_for
        self._store = store
        self._engine = engine
        self._clock = clock
        can = engine.capabilities
        self._is_pool_bounded = can.reuses_containers and options.keep_free_bytes > 0
        self.traffic = Traffic(clock)
        self.front = front = options.front
        addressing = None
        if front is not None and vault is not None:
            addressing = Addressing(front.ports, vault)
        self._placing = PlacementReconciler(store, clock, random_hex, has_images=can.has_images, addressing=addressing)
        self._deployments = ReconcileLoop[DeploymentId](
            DeploymentReconciler(store, clock, new_id, has_images=can.has_images),
            clock,
            full_pass_seconds=seconds,
            busy_share=DEPLOYMENT_BUSY_SHARE,
        )
        self._placements = ReconcileLoop[str](self._placing, clock, full_pass_seconds=seconds)
        self._moving = ContainerReconciler(
            store,
            engine,
            clock,
            options.terms,
            credential_for,
            traffic=self.traffic,
            front=None if front is None else front.front,
        )
        self._containers = ReconcileLoop[ContainerId](
            self._moving,
            clock,
            at_once=options.engine_calls_at_once,
            full_pass_seconds=seconds,
        )
        self._machines = ReconcileLoop[str](
            MachineReconciler(store, clock, lost_after_seconds=options.lost_after_seconds),
            clock,
            full_pass_seconds=seconds,
        )
        self._pool = ReconcileLoop[str](
            PoolReconciler(store, engine, clock, options.keep_free_bytes), clock, full_pass_seconds=seconds
        )
        self._retention = ReconcileLoop[str](
            RetentionReconciler(store, clock, options.keep), clock, at_once=1, full_pass_seconds=seconds
        )
        self._images = ImageLoops(store, engine, clock, credential_for, full_pass_seconds=seconds)
        self._probing = ReadinessReconciler(store, clock, prober, self.traffic)
        self._readiness = ReconcileLoop[ContainerId](
            self._probing,
            clock,
            at_once=options.probes_at_once,
            full_pass_seconds=seconds,
        )

        self._board = RouteBoard(int(clock.now().timestamp() * 1000))
        self._routes: ReconcileLoop[ContainerId] | None = None
        self.ingress: IngressEnd | None = None
        if front is not None:
            routing = RouteReconciler(
                store,
                clock,
                self._board,
                self.traffic,
                front.ports,
                is_front_local=is_loopback(front.front.host) and not front.front.domain,
            )
            self._routes = ReconcileLoop[ContainerId](routing, clock, full_pass_seconds=seconds)
            self.ingress = IngressEnd(self._board, self.traffic, clock, front.token)
            self.traffic.on_move(self._wake_moved)

    def explanation(self, container_id: ContainerId) -> Explanation | None:
        """Say why a container had no machine when the scheduler last looked; ``None``: nothing stood in its way."""
        return self._placing.explanation(container_id)

    async def run(self) -> None:
        """Run the loops for ever."""
        self._store.on_commit(self._wake)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._deployments.run(), name="deployments")
                group.create_task(self._placements.run(), name="placements")
                group.create_task(self._containers.run(), name="containers")
                group.create_task(self._machines.run(), name="machines")
                group.create_task(self._readiness.run(), name="readiness")
                group.create_task(self._images.run(), name="images")
                group.create_task(self._retention.run(), name="retention")
                if self._routes is not None:
                    group.create_task(self._routes.run(), name="routes")
                    group.create_task(self._follow_failures(self._routes), name="ports that cannot be opened")
                if self._is_pool_bounded:
                    group.create_task(self._pool.run(), name="pool")
                group.create_task(self._follow_engine(), name="engine hints")
                group.create_task(self._hurry(), name="engine trouble")
        finally:
            self._board.close()

    def _wake(self, changes: Changes) -> None:
        for deployment_id in changes.deployments:
            self._deployments.wake(deployment_id)
        for container_id in changes.containers:
            self._containers.wake(container_id)
            self._probing.forget(container_id)
            self._readiness.wake(container_id)
            if self._routes is not None:
                self._routes.wake(container_id)
        if changes.accounts and self._routes is not None:
            self._routes.wake_all()
        self._images.wake(changes)
        if changes.containers or changes.has_machines:
            self._placements.wake(ALL)
        if changes.has_machines:  # one that is lost or drained concerns whoever has something there
            self._machines.wake(ALL_MACHINES)
            self._deployments.wake_all()
            self._readiness.wake_all()

    def _wake_moved(self, uuids: Iterable[ContainerUuid]) -> None:
        """Let those that are draining be looked at: the last one may be through."""
        for uuid in uuids:
            container_id = self._board.container_of(uuid)
            if container_id is not None:
                self._containers.wake(container_id)

    async def _follow_failures(self, routes: ReconcileLoop[ContainerId]) -> None:
        while True:
            await self.traffic.failures()
            routes.wake_all()

    async def _follow_engine(self) -> None:
        """Wake by the engine's hints; when they break off, something may have happened that nobody will tell of."""
        is_told = False
        while True:
            try:
                async for container_id in self._engine.watch():
                    self._containers.wake(container_id)
                    is_told = False
            except EngineError as error:
                if not is_told:
                    _log.warning("the engine's hints broke off: %s", error)
                    is_told = True
            self._containers.wake_all()
            await self._clock.sleep(1.0)

    async def _hurry(self) -> None:
        """Look at everything more often while an engine cannot be used, so that its return is soon noticed."""
        while True:
            await self._moving.trouble.wait()
            await self._clock.sleep(TROUBLED_PASS_SECONDS)
            self._containers.wake_all()
