"""The HTTP API of a real server: lists at 1,000 containers and 1,000,000 events, and creates of 50 callers at once.

The database is filled before the server starts: one deployment owns 999,000 of the events, a small one 1,000, and 1,000
containers of the large one ran once and were released. Requests go over loopback, on this machine, from one process
that shares its cores with the server: requests per second are those of both together, and no rate limit is set. What
is created finds no machine and waits, so that nothing but the API and the control plane works.
"""

import asyncio
import contextlib
import datetime
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
from rich.table import Table

from benchmarks.server import TOKEN, Server, call
from benchmarks.table import add_latency, latency_table
from muster import store
from muster.api.auth import ensure_admin
from muster.clock import SystemClock
from muster.model.container import ContainerStatus, Placement, Reason
from muster.model.deployment import DeploymentSpec, DeploymentType
from muster.model.ids import ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.image import LOCAL_IMAGE
from muster.model.quantity import GIB
from muster.store.port import Transaction
from muster.testing.bodies import create_body

LARGE, SMALL = DeploymentId("aaaaaaaaaa"), DeploymentId("bbbbbbbbbb")
CONTAINERS = 1_000
EVENTS, SMALL_EVENTS = 1_000_000, 1_000
ASKED = 300
AT_ONCE = 8
SECONDS = 3.0
CALLERS, EACH = 50, 10


def run() -> Table:
    """Measure everything against one server."""
    table = latency_table(
        "HTTP API",
        f"lists: {CONTAINERS:,} containers, {EVENTS:,} events, {EVENTS - SMALL_EVENTS:,} of them of one deployment;"
        f" creates: {CALLERS} callers at once, each {EACH} in a row",
    )
    with Server() as server:
        asyncio.run(_fill(server))
        server.start()
        server.wait_ready()
        asyncio.run(_measure(server, table))
    return table


async def _measure(server: Server, table: Table) -> None:
    lists: tuple[tuple[str, str, dict[str, Any], str], ...] = (
        ("containers, page of 100", "/container/list", {"released": True, "page_size": 100}, ""),
        ("containers, page of 10", "/container/list", {"released": True, "page_size": 10}, ""),
        ("events, newest 10 of 999,000", "/container/event/list", {"deployment_uuid": LARGE}, "p50 < 20 ms"),
        ("events, newest 10 of 1,000", "/container/event/list", {"deployment_uuid": SMALL}, "p50 < 20 ms"),
    )
    async with server.client() as client:
        for what, path, body, target in lists:
            await call(client, "POST", path, body)  # the first one opens the connection and compiles the statement
            add_latency(table, what, [await _timed(client, path, body) for _ in range(ASKED)], target)
        for what, path, body, _ in lists:
            took, seconds = await _many(client, path, body)
            add_latency(table, f"{what}, {AT_ONCE} at once: {len(took) / seconds:,.0f}/s", took)
        for what, replica_num in (("create, nothing wanted", 0), ("create, one container waits", 1)):
            took, seconds = await _create(client, replica_num)
            add_latency(table, f"{what}: {len(took) / seconds:,.0f}/s", took)


async def _timed(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> float:
    begun = time.perf_counter()
    await call(client, "POST", path, body)
    return time.perf_counter() - begun


async def _many(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> tuple[list[float], float]:
    """Ask from several callers for a while; returns what each request took, and how long the while was."""
    took: list[float] = []
    begun = time.perf_counter()

    async def ask() -> None:
        while time.perf_counter() - begun < SECONDS:
            took.append(await _timed(client, path, body))

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return took, time.perf_counter() - begun


async def _create(client: httpx.AsyncClient, replica_num: int) -> tuple[list[float], float]:
    took: list[float] = []
    body = create_body("made", replica_num=replica_num, template={"gpu_name_set": ["of nobody"]})

    async def ask() -> None:
        for _ in range(EACH):
            begun = time.perf_counter()
            await call(client, "POST", "", body)
            took.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CALLERS)))
    return took, time.perf_counter() - begun


async def _fill(server: Server) -> None:
    clock = SystemClock()
    storage = store.connect(f"sqlite:///{server.database}")
    try:
        admin = await ensure_admin(storage, clock, TOKEN)
        now = clock.now()
        await storage.write(lambda tx: tx.images.put_base(LOCAL_IMAGE, "local", "local", now))
        await storage.write(_containers(admin.id, now))
    finally:
        await storage.aclose()
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        for deployment_id, count in ((LARGE, EVENTS - SMALL_EVENTS), (SMALL, SMALL_EVENTS)):
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)"
                " INSERT INTO events"
                " (account_id, deployment_id, container_id, container_uuid, kind, status, created_at, message)"
                " SELECT :account, :deployment, 'c' || (i % 1000), 'u' || (i % 1000), 'status', 'running',"
                " :now, '' FROM n",
                {
                    "count": count,
                    "account": admin.id,
                    "deployment": deployment_id,
                    "now": now.strftime("%Y-%m-%d %H:%M:%S.%f"),
                },
            )
            connection.execute("INSERT INTO event_counts VALUES (?, ?, 'status', ?)", (admin.id, deployment_id, count))


def _containers(account_id: Any, now: datetime.datetime) -> Callable[[Transaction], None]:
    spec = DeploymentSpec("digits", DeploymentType.REPLICA_SET, LOCAL_IMAGE, "serve", replica_num=0)

    def work(tx: Transaction) -> None:
        large = tx.deployments.add(account_id, LARGE, spec, now)
        tx.deployments.add(account_id, SMALL, spec, now)
        placement = Placement(MachineId("a" * 10), "bench", "RTX 4090", (0,), 16, 64 * GIB, 1980)
        for number in range(CONTAINERS):
            made = tx.containers.add(large, ContainerId(f"{number:016x}"), now)
            tx.containers.update(
                replace(
                    made,
                    placement=placement,
                    uuid=ContainerUuid(f"{LARGE}-{'a' * 10}-{number:010x}"),
                    image=LOCAL_IMAGE,
                    image_reference="local",
                    status=ContainerStatus.SHUTDOWN,
                    reason=Reason.COMPLETED,
                    started_at=now,
                    stopped_at=now,
                    released_at=now,
                )
            )

    return work
