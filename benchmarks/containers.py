"""Create-to-running of a local container and its way down, through a real server over HTTP, and the engine's share.

One at a time: a ReplicaSet of one is created, run, stopped. In a burst: one of 20 replicas. Moments are those of the
server's own events (``created_at``) and of their arrival on the event stream, which is what a caller sees.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.server import Server, Stream, call, create, following
from benchmarks.table import add_latency, latency_table
from muster.engine.local import LocalEngine
from muster.model.ids import AccountId, ContainerId, ContainerUuid, MachineId
from muster.model.image import ImageOrder
from muster.model.run import ContainerRun, Phase, Ref

SINGLES = 30
BURSTS = 3
BURST_SIZE = 20


class Life:
    """Ups and downs of containers, in seconds since the call that asked for them."""

    def __init__(self, server: Server, client: httpx.AsyncClient, stream: Stream) -> None:
        self._server = server
        self._client = client
        self._stream = stream

    async def up(self, name: str, replica_num: int) -> tuple[str, list[tuple[float, float]]]:
        """Create a deployment; return it, and when each container was told to run: by its event, on the stream."""
        called = time.time()
        uuid = await create(self._client, name, replica_num)
        return uuid, await self._since(called, uuid, "running", replica_num)

    async def down(self, uuid: str, replica_num: int) -> list[tuple[float, float]]:
        """Stop a deployment; return when each container was told to have ended."""
        called = time.time()
        await call(self._client, "PUT", "/operate", {"deployment_uuid": uuid, "operate": "stop"})
        return await self._since(called, uuid, "shutdown", replica_num)

    async def _since(self, called: float, uuid: str, word: str, count: int) -> list[tuple[float, float]]:
        found = await self._stream.until(lambda seen: seen.deployment == uuid and seen.word == word, count)
        decided = await asyncio.to_thread(self._server.decided_at)
        return [(decided[seen.id] - called, seen.at - called) for seen in found]


async def engine_seconds() -> list[float]:
    """Return how long create and start of one container take without a server."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        engine = LocalEngine(Path(folder))
        samples = []
        try:
            for number in range(SINGLES):
                ref = Ref(MachineId("bench"), ContainerId(f"c{number}"))
                run = ContainerRun(
                    ref, ContainerUuid(f"u{number}"), AccountId(1), ImageOrder("local"), "sleep infinity"
                )
                began = time.perf_counter()
                await engine.create(run)
                seen = await engine.start(ref)
                samples.append(time.perf_counter() - began)
                assert seen.phase is Phase.RUNNING
                await engine.remove(ref)
        finally:
            await engine.purge()
            await engine.aclose()
    return samples


async def measure(server: Server) -> Table:
    """Run everything against a server that serves."""
    ups, downs, bursts, burst_downs = [], [], [], []
    async with server.client() as client, following(client) as stream:
        life = Life(server, client, stream)
        for number in range(SINGLES):
            uuid, up = await life.up(f"single-{number}", 1)
            ups += up
            downs += await life.down(uuid, 1)
        for number in range(BURSTS):
            uuid, up = await life.up(f"burst-{number}", BURST_SIZE)
            bursts += up
            last_up = max(at for _, at in up)
            down = await life.down(uuid, BURST_SIZE)
            burst_downs.append((last_up, max(at for _, at in down)))
    table = latency_table(
        "Local containers (command: sleep infinity)",
        "from the API call; event: created_at in the database; stream: arrival at the caller",
    )
    add_latency(table, "create → running, event", [event for event, _ in ups])
    add_latency(table, "create → running, stream", [at for _, at in ups])
    add_latency(table, "engine alone: create + start", await engine_seconds())
    add_latency(table, "stop → shutdown (drain 0), event", [event for event, _ in downs])
    add_latency(table, "stop → shutdown (drain 0), stream", [at for _, at in downs])
    add_latency(table, f"burst of {BURST_SIZE}: create → each runs, stream", [at for _, at in bursts])
    add_latency(table, f"burst of {BURST_SIZE}: create → all run, stream", [up for up, _ in burst_downs])
    add_latency(table, f"burst of {BURST_SIZE}: stop → all shut down, stream", [down for _, down in burst_downs])
    return table


def run() -> Table:
    """Measure and return the table."""
    with Server() as server:
        server.start()
        server.wait_ready()
        return asyncio.run(measure(server))


if __name__ == "__main__":
    Console().print(run())
