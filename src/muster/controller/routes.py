"""Containers → the route table that the ingress follows.

A key is a container: ``reconcile`` writes its route onto the ``RouteBoard``, or takes it off. The board is memory, like
everything that is published: a restarted server fills it with its first full pass and only then hands out a table, of
a later epoch. Ports that the ingress could not open are answered with others (``relocate``), which is a commit like any
and comes back as a route.
"""

import asyncio
import datetime
import json
import logging
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from muster.clock import Clock, wait_for_event
from muster.controller.ports import PortRanges, helped_by_others, relocated
from muster.controller.traffic import Traffic
from muster.model.container import Container
from muster.model.deployment import DeploymentSpec
from muster.model.event import EventKind, NewEvent
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId
from muster.model.routes import Route, table_json
from muster.planner.route import ENDED_FOR, route_of
from muster.store.port import Store, Transaction
from muster.store.specs import spec_of

_log = logging.getLogger(__name__)


class Looked(NamedTuple):
    """A container's route, when it is to be looked at again, and the revision of the row that says so."""

    route: Route | None
    wake_at: datetime.datetime | None
    revision: int


class RouteBoard:
    """The present table, and waiting for the next. ``epoch`` is at least unix milliseconds of the server's start."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.revision = 0
        self.is_complete = False
        """Whether every container was looked at since the start: no table goes out before."""
        self._routes: dict[ContainerUuid, tuple[Route, str]] = {}
        self._of: dict[ContainerId, ContainerUuid] = {}
        self._seen: dict[ContainerId, int] = {}
        self._news = asyncio.Event()
        self._json = ""
        self._is_closed = False

    @property
    def fence(self) -> tuple[int, int]:
        """What orders tables."""
        return self.epoch, self.revision

    def container_of(self, uuid: ContainerUuid) -> ContainerId | None:
        """Return whose route it is."""
        found = self._routes.get(uuid)
        return None if found is None else found[0].container_id

    def keys(self) -> AbstractSet[ContainerId]:
        """Return the containers that have a route."""
        return self._of.keys()

    def put(self, container_id: ContainerId, routed: "Looked") -> None:
        """Write a container's route, or that it has none; what was read before what is known changes nothing."""
        if routed.revision < self._seen.get(container_id, 0):
            return
        uuid, route = self._of.get(container_id), routed.route
        if route is None:
            self._seen.pop(container_id, None)
            if uuid is not None:
                del self._of[container_id], self._routes[uuid]
                self._changed()
            return
        self._seen[container_id] = routed.revision
        if uuid is None or self._routes[uuid][0] != route:
            self._of[container_id] = route.container_uuid
            self._routes[route.container_uuid] = route, json.dumps(route.to_wire(), separators=(",", ":"))
            self._changed()

    def complete(self) -> None:
        """Let tables go out."""
        if not self.is_complete:
            self.is_complete = True
            self._changed()

    def close(self) -> None:
        """Let nobody wait for another table: the server ends."""
        self._is_closed = True
        self._news.set()

    def table(self) -> str:
        """Return the present table as JSON."""
        if not self._json:
            ordered = (self._routes[uuid][1] for uuid in sorted(self._routes))
            self._json = table_json(self.epoch, self.revision, ordered)
        return self._json

    async def newer_than(self, fence: tuple[int, int], clock: Clock, seconds: float) -> str | None:
        """Return the first table that is newer, waiting for it; ``None`` when none comes in time.

        Whoever has a table of a later epoch than ours has it from an earlier server, whose clock was ahead.
        """
        if fence[0] > self.epoch:
            self.epoch = fence[0] + 1
            self._changed()
        deadline = clock.monotonic() + seconds
        while not (self.is_complete and self.fence > fence):
            left = deadline - clock.monotonic()
            if left <= 0 or self._is_closed:
                return None
            await wait_for_event(self._news, clock, left)
        return self.table()

    def _changed(self) -> None:
        self.revision += 1
        self._json = ""
        self._news.set()  # wakes who waits now; who comes later waits for the next
        self._news = asyncio.Event()


class RouteReconciler:
    """Keeps the board; see the module's text."""

    name = "routes"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        board: RouteBoard,
        traffic: Traffic,
        ports: PortRanges,
        *,
        is_front_local: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._board = board
        self._traffic = traffic
        self._ports = ports
        self._is_front_local = is_front_local

    async def keys(self) -> Iterable[ContainerId]:
        """Look at every container that may have a route; return those that need another look."""
        now = self._clock.now()
        looked = await self._store.read(lambda tx: self._all(tx, now))
        for container_id, each in looked.items():
            self._board.put(container_id, each)
        self._board.complete()
        await self._relocate()
        gone = self._board.keys() - looked.keys()
        return [*gone, *(key for key, each in looked.items() if each.wake_at is not None)]

    async def reconcile(self, key: ContainerId) -> datetime.datetime | None:
        """Write one container's route."""
        now = self._clock.now()
        looked = await self._store.read(lambda tx: self._one(_Memory(tx), tx.containers.get(key), now))
        self._board.put(key, looked)
        return looked.wake_at

    def _all(self, tx: Transaction, now: datetime.datetime) -> Mapping[ContainerId, Looked]:
        memory = _Memory(tx)
        rows = [*tx.containers.on_machines(), *tx.containers.ended_since(now - ENDED_FOR)]
        return {row.id: self._one(memory, row, now) for row in rows if row.listen_ports}

    def _one(self, memory: "_Memory", container: Container | None, now: datetime.datetime) -> Looked:
        if container is None:
            return Looked(None, None, sys.maxsize)  # a row that was pruned never comes back
        spec = memory.spec_of(container)
        keys = memory.keys_of(container.account_id)
        routed = route_of(container, spec, keys, now, is_front_local=self._is_front_local)
        return Looked(routed.route, routed.wake_at, container.revision)

    async def _relocate(self) -> None:
        """Give containers other ports in place of those that cannot be opened."""
        failures = helped_by_others(self._traffic.bind_failures())
        if not failures:
            return
        now = self._clock.now()

        def work(tx: Transaction) -> None:
            for row in tx.containers.on_machines():
                if row.is_finished or not failures.keys() & {*row.listen_ports.values(), row.ssh_port}:
                    continue
                moved = relocated(tx, row, failures, self._ports, now)
                if moved is None:
                    _log.warning("container %s keeps a port that cannot be opened: no other is free", row.uuid)
                    continue
                container, told = moved
                assert row.uuid is not None
                assert row.status is not None
                tx.containers.update(replace(container, updated_at=now))
                tx.events.append(
                    NewEvent(
                        account_id=row.account_id,
                        deployment_id=row.deployment_id,
                        container_id=row.id,
                        container_uuid=row.uuid,
                        kind=EventKind.ADDRESS,
                        status=row.status,
                        created_at=now,
                        message=told,
                    )
                )

        await self._store.write(work)


class _Memory:
    """What many containers share, read once in a transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._specs: dict[tuple[DeploymentId, str], DeploymentSpec] = {}
        self._keys: dict[AccountId, tuple[str, ...]] = {}

    def spec_of(self, container: Container) -> DeploymentSpec:
        """Return what a container was made from, with what holds for all now."""
        key = container.deployment_id, container.version
        if key not in self._specs:
            deployment = self._tx.deployments.get(container.deployment_id)
            assert deployment is not None  # rows of deployments are never deleted
            self._specs[key] = spec_of(self._tx, container, deployment)
        return self._specs[key]

    def keys_of(self, account_id: AccountId) -> tuple[str, ...]:
        """Return an account's SSH keys."""
        if account_id not in self._keys:
            self._keys[account_id] = tuple(each.key for each in self._tx.ssh_keys.all_of(account_id))
        return self._keys[account_id]
