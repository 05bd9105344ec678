"""A client of requests without work: how long one takes alone, and how many there are of 32 at once.

    python -m benchmarks.balance.hop_client raw PORT        HTTP/1.1 and nothing else
    python -m benchmarks.balance.hop_client httpx PORT      httpx, to one replica
    python -m benchmarks.balance.hop_client sdk REGISTRY    httpx over the SDK's transport

It says ``ready`` after some requests that are not counted, begins when it reads a line, and writes what it saw as JSON.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx

import muster
from benchmarks.balance.load import Pool
from benchmarks.balance.replica import HOST, WORK_PATH
from benchmarks.balance.sdk_load import SERVICE
from benchmarks.table import percentile

ALONE_REQUESTS, WARM_REQUESTS = 2_000, 300
TOGETHER_SECONDS = 3.0
CONNECTIONS = 32
PATH = f"{WORK_PATH}?seconds=0&memory_mb=0"
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)
"""By default httpx closes all but 20 connections when they are idle, and the SDK does not."""
Get = Callable[[], Awaitable[object]]


@contextlib.asynccontextmanager
async def getting(way: str, target: str) -> AsyncIterator[Get]:
    """Give a function that sends one request."""
    if way == "raw":
        pool = Pool(int(target))
        yield lambda: pool.get(PATH)
        pool.close()
    elif way == "httpx":
        async with httpx.AsyncClient(base_url=f"http://{HOST}:{target}", limits=_LIMITS) as client:
            yield lambda: client.get(PATH)
    else:
        async with muster.connect(target) as connection:
            transport = connection.service(SERVICE).async_transport()
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{SERVICE}") as client:
                yield lambda: client.get(PATH)


async def main() -> None:
    """Measure one way."""
    async with getting(*sys.argv[1:3]) as get:
        for _ in range(WARM_REQUESTS):
            await get()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        samples = []
        used = time.process_time()
        for _ in range(ALONE_REQUESTS):
            began = time.perf_counter()
            await get()
            samples.append(time.perf_counter() - began)
        used = time.process_time() - used
        print(json.dumps({"p50": percentile(samples, 50), "cpu": used / ALONE_REQUESTS}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        counts = [0] * CONNECTIONS
        began = time.perf_counter()

        async def go_on(number: int) -> None:
            while time.perf_counter() < began + TOGETHER_SECONDS:
                await get()
                counts[number] += 1

        await asyncio.gather(*map(go_on, range(CONNECTIONS)))
        seconds = time.perf_counter() - began
        print(json.dumps({"per_second": sum(counts) / seconds, "requests": sum(counts)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
