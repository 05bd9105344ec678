"""What the balancer costs: a choice, and a request through the SDK's transport against plain httpx.

The choice is measured on the core alone (grant and release), half of the slots taken. Requests go one after another
to the same loopback server, which runs in a process of its own; plain and balanced alternate in blocks, so that both
see the same machine. Registry to SDK is measured through the file registry, which looks for changes every 50 ms.
"""

import asyncio
import contextlib
import datetime
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import httpx
from rich.console import Console
from rich.table import Table

import muster
from muster import registry
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Outcome
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey

CHOICES = 3000
BLOCKS = 10
REQUESTS_PER_BLOCK = 100
UPDATES = 40
TARGET_CHOICE_MICROSECONDS = 20
TARGET_OVERHEAD_MICROSECONDS = 150
TARGET_UPDATE_MILLISECONDS = 100
KEY = ServiceKey("admin", "bench")


def endpoint_set(urls: list[str], revision: int = 1) -> EndpointSet:
    endpoints = tuple(Endpoint(f"r{number:03}", url) for number, url in enumerate(urls))
    return EndpointSet(1, revision, endpoints, datetime.datetime.now(datetime.UTC))


def choice_microseconds(replica_num: int) -> tuple[float, float]:
    """Return the medians of an acquire, and of a release, which also learns from the answer."""
    balancer = Balancer("bench", random.Random(1), concurrency=8)
    balancer.update(endpoint_set(["http://127.0.0.1:1"] * replica_num), 0.0)

    for _ in range(replica_num * 4):
        balancer.acquire(0.0, deadline=1.0, wake=lambda: None)
    acquires, releases = [], []
    for _ in range(CHOICES):
        began = time.perf_counter()
        lease = balancer.acquire(0.0, deadline=1.0, wake=lambda: None).lease
        granted = time.perf_counter()
        assert lease is not None
        balancer.release(lease, Outcome.OK, 0.1)
        acquires.append(granted - began)
        releases.append(time.perf_counter() - granted)
    return statistics.median(acquires) * 1e6, statistics.median(releases) * 1e6


async def request_microseconds(url: str, registry_url: str) -> tuple[list[float], list[float]]:
    """Return the times of plain and of balanced requests."""
    await registry.connect(registry_url).publish(KEY, endpoint_set([url]))
    service = muster.connect(registry_url).service(KEY.service)
    plain: list[float] = []
    balanced: list[float] = []
    async with (
        httpx.AsyncClient(base_url=url) as direct,
        httpx.AsyncClient(transport=service.async_transport(), base_url="http://bench") as through,
    ):
        for _ in range(BLOCKS):
            for client, samples in ((direct, plain), (through, balanced)):
                await client.post("/", content=b"x" * 512)  # connects again where the server closed the connection
                for _ in range(REQUESTS_PER_BLOCK):
                    began = time.perf_counter()
                    await client.post("/", content=b"x" * 512, extensions={"muster": {"idempotent": True}})
                    samples.append((time.perf_counter() - began) * 1e6)
    return plain, balanced


async def update_milliseconds(registry_url: str) -> list[float]:
    """Return how long after its publication a set is in use."""
    source = registry.connect(registry_url)
    rng = random.Random(1)
    samples = []
    async with muster.connect(registry_url) as connection:
        service = connection.service("updates")
        key = service.key
        for revision in range(1, UPDATES + 1):
            await source.publish(key, endpoint_set(["http://127.0.0.1:1"] * revision, revision))
            began = time.perf_counter()
            await service.wait_ready(min_endpoints=revision)
            samples.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(rng.uniform(0, 0.06))  # so that publications fall anywhere between two looks
    return samples


@contextlib.contextmanager
def loopback_server() -> Iterator[str]:
    """Run a server that answers 64 bytes to anything, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def run() -> Table:
    """Measure and return the table."""
    table = Table(title="SDK overhead")
    for column in ("what", "figure", "target", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for replica_num in (10, 100):
        acquire, release = choice_microseconds(replica_num)
        target = f"< {TARGET_CHOICE_MICROSECONDS} µs"
        table.add_row(f"choice out of {replica_num} replicas", f"{acquire:.1f} µs", target, "")
        table.add_row(f"end of a request, {replica_num} replicas, and what it teaches", f"{release:.1f} µs", "", "")
    with loopback_server() as url, tempfile.TemporaryDirectory() as folder:
        plain, balanced = asyncio.run(request_microseconds(url, f"file://{folder}"))
        updates = asyncio.run(update_milliseconds(f"file://{folder}"))
    plain_p50, balanced_p50 = statistics.median(plain), statistics.median(balanced)
    table.add_row("request, plain httpx, p50", f"{plain_p50:.0f} µs", "", "1.00")
    table.add_row("request, balanced, p50", f"{balanced_p50:.0f} µs", "", f"{balanced_p50 / plain_p50:.2f}")
    table.add_row(
        "added per request, p50", f"{balanced_p50 - plain_p50:.0f} µs", f"< {TARGET_OVERHEAD_MICROSECONDS} µs", ""
    )
    p99 = statistics.quantiles(updates, n=100)[98]
    table.add_row(
        "file registry → SDK, p50 / p99",
        f"{statistics.median(updates):.0f} / {p99:.0f} ms",
        f"< {TARGET_UPDATE_MILLISECONDS} ms",
        "",
    )
    return table


def _serve(ready: Connection) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(512)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + b"y" * 64)
                await writer.drain()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


if __name__ == "__main__":
    Console().print(run())
