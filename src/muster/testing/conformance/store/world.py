"""What the tests of a store start from: a store with one account, and short ways to fill it.

The builders give what a test does not care about one value everywhere, so that a test names only what it is about.
Each scenario opens a world of its own and closes it in the end, and none outlives its deadline.
"""

import asyncio
import dataclasses
import datetime
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from muster.model.account import Account, Role
from muster.model.container import Container, ContainerStatus, Placement
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentType
from muster.model.event import EventKind, NewEvent
from muster.model.ids import ContainerId, ContainerUuid, DeploymentId, ImageUuid, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB
from muster.store.port import Store, Transaction

OpenStore = Callable[[], Store]

START = datetime.datetime(2026, 3, 2, 9, 14, 31, 123456, tzinfo=datetime.UTC)
DEADLINE_SECONDS = 10.0


def at(seconds: float) -> datetime.datetime:
    """Return a moment after the start of the test's world."""
    return START + datetime.timedelta(seconds=seconds)


def a_spec(name: str = "digits", **fields: Any) -> DeploymentSpec:
    """Return a specification."""
    return DeploymentSpec(
        name=name, **{"type": DeploymentType.REPLICA_SET, "image": ImageUuid("image-1"), "cmd": "serve", **fields}
    )


def a_placement(*gpus: int, machine: str = "m1", **fields: Any) -> Placement:
    """Return a placement on these GPUs."""
    values: dict[str, Any] = {
        "data_center": "lab-a",
        "gpu_name": "RTX 4090",
        "cpu_num": 16,
        "memory_bytes": 64 * GIB,
        "price_milliyuan": 1980,
        **fields,
    }
    return Placement(machine_id=MachineId(machine), gpu_indices=gpus, **values)


def a_machine(machine_id: str, **fields: Any) -> Machine:
    """Return a machine of four GPUs."""
    values: dict[str, Any] = {
        "data_center": "lab-a",
        "gpu_name": "RTX 4090",
        "gpu_num": 4,
        "cpu_num": 64,
        "memory_bytes": 256 * GIB,
        "cuda": 128,
        "price_milliyuan": 1980,
        **fields,
    }
    return Machine(id=MachineId(machine_id), **values)


class World:
    """A store with one account, and short ways to fill it."""

    def __init__(self, store: Store, account: Account) -> None:
        self.store = store
        self.account = account
        self._made = 0

    async def deployment(self, deployment_id: str = "d1", *, account: Account | None = None, **spec: Any) -> Deployment:
        """Write a deployment."""
        owner = (account or self.account).id
        return await self.store.write(
            lambda tx: tx.deployments.add(owner, DeploymentId(deployment_id), a_spec(**spec), START)
        )

    async def container(self, deployment: Deployment, container_id: str, **fields: Any) -> Container:
        """Write a container that looks like this."""
        self._made += 1
        now = at(self._made)

        def work(tx: Transaction) -> Container:
            container = tx.containers.add(deployment, ContainerId(container_id), now)
            return tx.containers.update(dataclasses.replace(container, **fields)) if fields else container

        return await self.store.write(work)

    async def placed(
        self,
        deployment: Deployment,
        container_id: str,
        *gpus: int,
        status: ContainerStatus = ContainerStatus.CREATING,
        **fields: Any,
    ) -> Container:
        """Write a placed container."""
        return await self.container(
            deployment,
            container_id,
            **{
                "placement": a_placement(*gpus),
                "uuid": ContainerUuid(f"uuid-{container_id}"),
                "status": status,
                **fields,
            },
        )

    async def change(self, container: Container, **fields: Any) -> Container:
        """Write some fields of a container."""
        return await self.store.write(lambda tx: tx.containers.update(dataclasses.replace(container, **fields)))

    async def event(self, container: Container, **fields: Any) -> int:
        """Record something about a container; returns the event's id."""
        values: dict[str, Any] = {
            "account_id": container.account_id,
            "deployment_id": container.deployment_id,
            "container_id": container.id,
            "container_uuid": container.uuid or ContainerUuid("uuid"),
            "kind": EventKind.STATUS,
            "status": ContainerStatus.RUNNING,
            "created_at": START,
            **fields,
        }
        return (await self.store.write(lambda tx: tx.events.append(NewEvent(**values)))).id


@asynccontextmanager
async def a_world(open_store: OpenStore) -> AsyncIterator[World]:
    """Open the store, add an account, close in the end."""
    store = open_store()
    try:
        yield World(store, await store.write(lambda tx: tx.accounts.add("ann", Role.MEMBER, START)))
    finally:
        await store.aclose()


def in_a_world(open_store: OpenStore, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario against a new world."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_SECONDS * 2), a_world(open_store) as world:
            await scenario(world)

    asyncio.run(run())


def ids(items: Sequence[Any]) -> list[Any]:
    """Return what identifies each item."""
    return [item.id for item in items]
