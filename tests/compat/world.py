"""The API over a real SQLite store, called in-process: what the contract tests are written against.

Nothing runs behind it: ``place`` and ``advance`` play the loops by writing what they would have written.
"""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self, TypeVar

import httpx
from fastapi import FastAPI

from muster.api.app import create_app
from muster.api.auth import ensure_admin, hash_token
from muster.clock import SystemClock
from muster.engine.port import Capabilities
from muster.files import FileStorage
from muster.model.account import Role
from muster.model.container import Address, Container, ContainerStatus, Placement
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId, DeploymentId, MachineId, fresh_container_uuid, random_hex
from muster.model.image import LOCAL_IMAGE
from muster.model.machine import Machine
from muster.model.run import Ref
from muster.registry.memory import MemoryRegistry
from muster.scheduler.explain import Explanation
from muster.store import connect
from muster.store.port import Transaction
from muster.testing.exec_session import Commands
from muster.testing.executor import InlineExecutor
from muster.vault import Vault

T = TypeVar("T")

ADMIN = "mst_admin"
MEMBER = "mst_member"
GIB = 2**30

MACHINES = (
    Machine(MachineId("a000000001"), "lab-a", "RTX 4090", 4, 64, 256 * GIB, 128, 1980),
    Machine(MachineId("a000000002"), "lab-a", "RTX 4090", 4, 64, 256 * GIB, 128, 1980),
    Machine(MachineId("b000000001"), "lab-b", "L20", 2, 32, 128 * GIB, 124, 2500),
)

BODY: Mapping[str, Any] = MappingProxyType(
    {
        "name": "asr",
        "deployment_type": "ReplicaSet",
        "replica_num": 2,
        "container_template": {
            "dc_list": ["lab-a"],
            "gpu_name_set": ["RTX 4090"],
            "gpu_num": 1,
            "cuda_v_from": 118,
            "cuda_v_to": 128,
            "cpu_num_from": 1,
            "cpu_num_to": 64,
            "memory_size_from": 1,
            "memory_size_to": 256,
            "price_from": 10,
            "price_to": 9000,
            "image_uuid": LOCAL_IMAGE,
            "cmd": "python serve.py",
        },
    }
)


def body(**changes: Any) -> dict[str, Any]:
    """A create body; ``template__x=…`` changes the template, ``...`` leaves a field out."""
    made = {**BODY, "container_template": dict(BODY["container_template"])}
    for name, value in changes.items():
        inside, _, field = name.rpartition("__")
        target = made["container_template"] if inside else made
        if value is ...:
            target.pop(field, None)
        else:
            target[field] = value
    return made


class FixedAccess(Commands):
    """Output that says which container was asked for, and how; and commands in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = Capabilities(
            shares_host_ports=False, isolates_tenants=True, has_exec=True, dates_logs=True, has_images=True
        )

    async def logs(
        self, ref: Ref, *, tail: int | None = None, since: datetime.datetime | None = None, follow: bool = False
    ) -> AsyncIterator[bytes]:
        yield f"{ref.container_id} {ref.machine_id} ".encode()
        yield (f"since={since.isoformat()} " if since else "").encode()
        yield f"tail={tail} follow={follow}\n".encode()


class Runner(Protocol):
    """What runs the coroutines of a world: an event loop in this thread, or one elsewhere."""

    def run(self, coro: Coroutine[Any, Any, T], /) -> T: ...
    def close(self) -> None: ...


class World:
    """One API over the database in a folder. Use as a context manager."""

    def __init__(self, folder: Path, *, isolates_tenants: bool = True, runner: Runner | None = None) -> None:
        self.clock = SystemClock()
        self.is_ready = True
        self.ca_pem: str | None = None
        self.explanations: dict[ContainerId, Explanation] = {}
        self.registry = MemoryRegistry()
        self.access = FixedAccess()
        self._runner: Runner = runner or asyncio.Runner()
        self.store = connect(f"sqlite:///{folder / 'muster.db'}", executor=InlineExecutor())
        self.app: FastAPI = create_app(
            store=self.store,
            clock=self.clock,
            registry=self.registry,
            access=self.access,
            explain=self.explanations.get,
            isolates_tenants=isolates_tenants,
            is_ready=lambda: self.is_ready,
            files=FileStorage(folder / "files", needs_marker=False),
            vault=Vault(folder / "secret.key"),
            ca_pem=lambda: self.ca_pem,
        )
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://muster")

    @classmethod
    def furnish(cls, folder: Path) -> None:
        """Make a database with two accounts, three machines and the local image: migrating anew is slow."""
        with cls(folder) as world:
            world.write(world._furnish)
            world.run(ensure_admin(world.store, world.clock, ADMIN))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._http.aclose())
        self.run(self.registry.aclose())
        self.run(self.store.aclose())
        self._runner.close()

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
        result: T = self.run(self.store.write(work))
        return result

    def read(self, work: Callable[[Transaction], T]) -> T:
        result: T = self.run(self.store.read(work))
        return result

    def send(self, method: str, path: str, *, token: str = ADMIN, **options: Any) -> httpx.Response:
        headers = {"Authorization": token, **options.pop("headers", {})} if token else options.pop("headers", {})
        response: httpx.Response = self.run(self._http.request(method, path, headers=headers, **options))
        return response

    def call(self, method: str, path: str, content: Any = None, *, token: str = ADMIN) -> dict[str, Any]:
        """Call one of AutoDL's paths; returns the envelope, which must be one."""
        raw = b"" if content is None else json.dumps(content).encode()
        response = self.send(method, f"/api/v1/dev{path}", content=raw, token=token)
        assert response.status_code == 200, response.text
        envelope: dict[str, Any] = response.json()
        assert list(envelope)[:4] == ["code", "data", "msg", "request_id"]
        return envelope

    def ok(self, method: str, path: str, content: Any = None, *, token: str = ADMIN) -> Any:
        envelope = self.call(method, path, content, token=token)
        assert envelope["code"] == "Success", envelope
        assert envelope["msg"] == ""
        return envelope["data"]

    def refused(self, method: str, path: str, content: Any = None, *, token: str = ADMIN) -> tuple[str, str]:
        envelope = self.call(method, path, content, token=token)
        assert envelope["code"] != "Success", envelope
        assert envelope["message"] == envelope["msg"] != ""
        return envelope["code"], envelope["msg"]

    def create(self, *, token: str = ADMIN, **changes: Any) -> str:
        return str(self.ok("POST", "/deployment", body(**changes), token=token)["deployment_uuid"])

    def place(
        self,
        deployment_uuid: str,
        machine: Machine = MACHINES[0],
        gpu: int = 0,
        *,
        now: datetime.datetime | None = None,
    ) -> Container:
        """Want one more container of a deployment and place it, as the loops would."""
        return self.write(lambda tx: self.place_in(tx, deployment_uuid, machine, gpu, now=now))

    def place_in(
        self,
        tx: Transaction,
        deployment_uuid: str,
        machine: Machine = MACHINES[0],
        gpu: int = 0,
        *,
        now: datetime.datetime | None = None,
    ) -> Container:
        """Do what ``place`` does, inside a transaction."""
        now = now or self.clock.now()
        deployment = tx.deployments.get(DeploymentId(deployment_uuid))
        assert deployment is not None
        wanted = tx.containers.add(deployment, ContainerId(random_hex(16)), now)
        placement = Placement(
            machine.id, machine.data_center, machine.gpu_name, (gpu,), 16, 64 * GIB, machine.price_milliyuan
        )
        uuid = fresh_container_uuid(deployment.id, machine.id, random_hex(10))
        placed = tx.containers.update(replace(wanted, placement=placement, uuid=uuid, status=ContainerStatus.CREATING))
        record(tx, placed, now)
        return placed

    def want(self, deployment_uuid: str) -> Container:
        """Want one more container, unplaced."""

        def work(tx: Transaction) -> Container:
            deployment = tx.deployments.get(DeploymentId(deployment_uuid))
            assert deployment is not None
            return tx.containers.add(deployment, ContainerId(random_hex(16)), self.clock.now())

        return self.write(work)

    def advance(self, container: Container, *statuses: ContainerStatus, **changes: Any) -> Container:
        """Bring a container through statuses, with an event for each."""

        def work(tx: Transaction) -> Container:
            row = tx.containers.get(container.id)
            assert row is not None
            for status in statuses:
                row = tx.containers.update(replace(row, status=status, **changes))
                record(tx, row, self.clock.now())
            return row

        return self.write(work)

    def up(self, container: Container) -> Container:
        """Bring a container to running and ready, with its addresses."""
        return self.advance(
            container,
            ContainerStatus.CREATED,
            ContainerStatus.STARTING,
            ContainerStatus.OSS_MERGED,
            ContainerStatus.RUNNING,
            addresses={6006: Address("127.0.0.1", 40001), 6008: Address("127.0.0.1", 40002)},
            started_at=self.clock.now(),
            is_ready=True,
        )

    def row(self, container: Container) -> Container:
        found = self.read(lambda tx: tx.containers.get(container.id))
        assert found is not None
        return found

    def row_uuids(self) -> list[str]:
        """Return the uuids of all containers that hold GPUs."""
        return [str(each.uuid) for each in self.read(lambda tx: tx.containers.on_machines())]

    def _furnish(self, tx: Transaction) -> None:
        now = self.clock.now()
        for machine in MACHINES:
            tx.machines.put(machine)
        tx.images.put_base(LOCAL_IMAGE, "local", "local", now)
        member = tx.accounts.add("member", Role.MEMBER, now)
        tx.accounts.add_token(member.id, hash_token(MEMBER), MEMBER[:8], now)


def record(tx: Transaction, container: Container, now: datetime.datetime, kind: EventKind = EventKind.STATUS) -> None:
    """Append an event of a container as it is."""
    assert container.uuid is not None
    assert container.status is not None
    tx.events.append(
        NewEvent(
            account_id=container.account_id,
            deployment_id=container.deployment_id,
            container_id=container.id,
            container_uuid=container.uuid,
            kind=kind,
            status=container.status,
            created_at=now,
        )
    )
