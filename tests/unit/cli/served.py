"""The real API over a real SQLite store, listening on loopback, for commands that need a server.

No loops run behind it: ``place`` writes what they would have written. Everything happens on one event loop in a thread
of its own, since the command under test blocks the test's.
"""

import asyncio
import datetime
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn

from muster.api.app import create_app
from muster.api.auth import ensure_admin, hash_token
from muster.clock import SystemClock
from muster.engine.port import Capabilities
from muster.files import FileStorage
from muster.home import write_profile
from muster.model.account import Role
from muster.model.container import Address, Container, ContainerStatus, Placement
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId, ContainerUuid, DeploymentId, MachineId, fresh_container_uuid, random_hex
from muster.model.image import LOCAL_IMAGE
from muster.model.machine import Machine
from muster.model.run import Ref
from muster.registry.memory import MemoryRegistry
from muster.store import connect
from muster.store.port import Transaction
from muster.testing.exec_session import Commands
from muster.vault import Vault

T = TypeVar("T")

ADMIN = "token-of-admin"
GIB = 2**30
MACHINES = (
    Machine(MachineId("a000000001"), "lab-a", "RTX 4090", 64, 1024, 4096 * GIB, 128, 1980),
    Machine(MachineId("b000000001"), "lab-b", "L20", 2, 32, 128 * GIB, 124, 2500),
)


class Access(Commands):
    """Output of ``tail`` lines, or three; following adds a last one, a beginning is told before. Commands in memory."""

    capabilities = Capabilities(
        shares_host_ports=False, isolates_tenants=True, has_exec=True, dates_logs=True, has_images=True
    )

    async def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        if since is not None:
            yield f"since {since.isoformat()}\n".encode()
        for number in range(3 if tail is None else tail):
            yield f"line {number}\n".encode()
        if follow:
            yield b"the end\n"


class Served:
    """One server with an admin, two machines and the local image; its home holds the admin's profile.

    Starting one is slow, so tests share it and each has an account of its own.
    """

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.clock = SystemClock()
        self.access = Access()
        self.ca_pem: str | None = None
        self._gpus = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self.run(self._start())
        write_profile(self.home / "profile.json", self.url, ADMIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def write(self, work: Callable[[Transaction], T]) -> T:
        return self.run(self._store.write(work))

    def read(self, work: Callable[[Transaction], T]) -> T:
        return self.run(self._store.read(work))

    def hang_up(self) -> None:
        """Stop answering and end every stream."""
        self.run(self._hang_up())

    def come_back(self) -> None:
        """Answer again at the same address."""
        self.run(self._listen(int(self.url.rpartition(":")[2])))

    def publish(self, key: ServiceKey, endpoints: EndpointSet) -> None:
        """Publish a set, as discovery would."""
        self.run(self._registry.publish(key, endpoints))

    def account(self, name: str) -> str:
        """Make an account and return a token of it."""
        token = f"token-of-{name}"

        def work(tx: Transaction) -> None:
            made = tx.accounts.add(name, Role.MEMBER, self.clock.now())
            tx.accounts.add_token(made.id, hash_token(token), token[:8], self.clock.now())

        self.write(work)
        return token

    def want(self, deployment_uuid: str) -> None:
        """Want one more container that finds no machine."""

        def work(tx: Transaction) -> None:
            deployment = tx.deployments.get(DeploymentId(deployment_uuid))
            assert deployment is not None
            tx.containers.add(deployment, ContainerId(random_hex(16)), self.clock.now())

        self.write(work)

    def place(self, deployment_uuid: str, *, suffix: str, exit_code: int | None = None) -> ContainerUuid:
        """Bring one more container of a deployment to running, or with an exit code to its end."""

        def work(tx: Transaction) -> ContainerUuid:
            now = self.clock.now()
            deployment = tx.deployments.get(DeploymentId(deployment_uuid))
            assert deployment is not None
            machine, gpu = MACHINES[0], next(self._gpus)
            uuid = fresh_container_uuid(deployment.id, machine.id, suffix)
            row = tx.containers.add(deployment, ContainerId(random_hex(16)), now)
            place = Placement(machine.id, machine.data_center, machine.gpu_name, (gpu,), 16, 64 * GIB, 1980)
            row = replace(row, placement=place, uuid=uuid, addresses={6006: Address("127.0.0.1", 40001)})
            for status in tuple(ContainerStatus)[: 5 if exit_code is None else 7]:
                is_up = status is ContainerStatus.RUNNING and exit_code is None
                row = tx.containers.update(replace(row, status=status, is_ready=is_up, exit_code=exit_code))
                tx.events.append(_event(row))
            return uuid

        return self.write(work)

    async def _start(self) -> str:
        self._registry = MemoryRegistry()
        self._store = connect(f"sqlite:///{self.home / 'muster.db'}")
        now = self.clock.now()

        def furnish(tx: Transaction) -> None:
            for machine in MACHINES:
                tx.machines.put(machine)
            tx.images.put_base(LOCAL_IMAGE, "local", "local", now)

        await self._store.write(furnish)
        await ensure_admin(self._store, self.clock, ADMIN)
        self._app = create_app(
            store=self._store,
            clock=self.clock,
            registry=self._registry,
            access=self.access,
            explain=lambda _: None,
            isolates_tenants=True,
            is_ready=lambda: True,
            files=FileStorage(self.home / "files", needs_marker=False),
            vault=Vault(self.home / "secret.key"),
            ca_pem=lambda: self.ca_pem,
        )
        return f"http://127.0.0.1:{await self._listen(0)}"

    async def _listen(self, port: int) -> int:
        self._server = uvicorn.Server(
            uvicorn.Config(self._app, host="127.0.0.1", port=port, log_config=None, timeout_graceful_shutdown=1)
        )
        self._serving = asyncio.ensure_future(self._server.serve())
        async with asyncio.timeout(10):
            while not self._server.started:  # noqa: ASYNC110 uvicorn tells it no other way
                await asyncio.sleep(0.005)
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    async def _hang_up(self) -> None:
        self._server.should_exit = True
        await self._serving

    async def _stop(self) -> None:
        await self._hang_up()
        await self._store.aclose()
        await self._registry.aclose()


def _event(row: Container) -> NewEvent:
    assert row.uuid is not None
    assert row.status is not None
    return NewEvent(
        account_id=row.account_id,
        deployment_id=row.deployment_id,
        container_id=row.id,
        container_uuid=row.uuid,
        kind=EventKind.STATUS,
        status=row.status,
        created_at=row.updated_at,
        exit_code=row.exit_code,
    )
