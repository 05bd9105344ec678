"""Server start to the first answered call: what a restart costs those who call the API.

Each sample is a new process, timed from the moment before exec. The home with data holds 20 running containers, which
the start adopts, and a log of 50,000 events; its page cache is warm, as after a crash.
"""

import asyncio
import datetime
import time

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.server import PATIENCE_SECONDS, TOKEN, Server, create, following
from benchmarks.table import add_latency, latency_table
from muster import store
from muster.model.container import ContainerStatus
from muster.model.event import EventKind, NewEvent
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId
from muster.store.port import Transaction

STARTS = 5
CONTAINERS = 20
EVENTS = 50_000
TARGET = "< 2 s"


def start_seconds(server: Server) -> tuple[float, float]:
    """Start the server; return the seconds to readiness, and to the first list of containers."""
    began = time.perf_counter()
    server.start()
    server.wait_ready()
    ready = time.perf_counter() - began
    answer = httpx.post(
        f"{server.url}/api/v1/dev/deployment/container/list",
        json={"page_index": 1, "page_size": 20},
        headers={"Authorization": TOKEN},
        trust_env=False,
        timeout=PATIENCE_SECONDS,
    )
    assert answer.json()["code"] == "Success", answer.text
    return ready, time.perf_counter() - began


async def fill(server: Server) -> None:
    """Let containers run, and make the log long."""
    async with server.client() as client, following(client) as stream:
        await create(client, "old", CONTAINERS)
        await stream.until(lambda seen: seen.word == "ready", CONTAINERS)
    await asyncio.to_thread(server.stop)
    storage = store.connect(f"sqlite:///{server.database}")
    event = NewEvent(
        account_id=AccountId(1),
        deployment_id=DeploymentId("gone"),
        container_id=ContainerId("gone"),
        container_uuid=ContainerUuid("gone"),
        kind=EventKind.STATUS,
        status=ContainerStatus.SHUTDOWN,
        created_at=datetime.datetime.now(datetime.UTC),
    )

    def work(tx: Transaction) -> None:
        for _ in range(EVENTS):
            tx.events.append(event)

    try:
        await storage.write(work)
    finally:
        await storage.aclose()


def run() -> Table:
    """Measure and return the table."""
    fresh, old = [], []
    for _ in range(STARTS):
        with Server() as server:
            fresh.append(start_seconds(server))
    with Server() as server:
        start_seconds(server)
        asyncio.run(fill(server))
        for _ in range(STARTS):
            old.append(start_seconds(server))
            server.stop()
    table = latency_table("Server start", "from before exec to the end of the answer")
    for home, samples in (("fresh home", fresh), (f"{CONTAINERS} containers, {EVENTS:,} events", old)):
        add_latency(table, f"{home}: first 200 of /readyz", [ready for ready, _ in samples])
        add_latency(table, f"{home}: first container list", [answered for _, answered in samples], TARGET)
    return table


if __name__ == "__main__":
    Console().print(run())
