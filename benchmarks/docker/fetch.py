"""What reuse saves: a container of a 1 GiB image that is used again, against fetching the image and running it.

The image is of random bytes in a registry on this host's loopback and its own disk, uncompressed, so a real network
only makes a fetch slower than here. It is removed between two fetches; its containers are used again in between.
"""

import asyncio
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from benchmarks.docker.place import REST_SECONDS, Place, place
from benchmarks.docker.reuse import Reused
from benchmarks.server import PATIENCE_SECONDS, add_image
from benchmarks.table import add_latency, add_ratio, latency_table
from muster.model.quantity import GIB
from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.registry import Registry

FETCHES = 3
REUSES_PER_FETCH = 7
LAYERS_BYTES = (GIB // 4,) * 4


@dataclass(slots=True)
class Starts:
    """Seconds of each way."""

    fetched: list[float] = field(default_factory=list)
    deployed: list[float] = field(default_factory=list)
    reused: list[float] = field(default_factory=list)


class Fetches:
    """One image, fetched and run again and again."""

    def __init__(self, here: Place, reference: str) -> None:
        self._here = here
        self._reference = reference
        self.starts = Starts()

    async def by_docker(self) -> None:
        """Call Docker's pull, create and start."""
        began = time.perf_counter()
        await self._here.docker.pull(self._reference)
        docker_id = await self._here.docker.create(self._reference, self._here.host_config)
        await self._here.docker.start(docker_id)
        self.starts.fetched.append(time.perf_counter() - began)
        await self._here.docker.remove(docker_id)
        await self._forget()

    async def by_deployment(self, name: str, image: str) -> None:
        """Create a deployment, which fetches; then want one replica again and again, which reuses."""
        reused = Reused(self._here)
        self.starts.deployed.append(await reused.begin(name, image))
        await reused.stop()
        for _ in range(REUSES_PER_FETCH):
            await asyncio.sleep(REST_SECONDS)
            self.starts.reused.append((await reused.start())[1])
            await reused.stop()
        await reused.leave()
        await self._forget()

    async def _forget(self) -> None:
        """Remove the image, once nobody has a container of it."""
        filters = json.dumps({"ancestor": [self._reference]})
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self._here.docker.call(  # noqa: ASYNC110  the server's own removal, of which nobody tells
                "GET", "/containers/json", all=True, filters=filters
            ):
                await asyncio.sleep(REST_SECONDS)
        await self._here.docker.call("DELETE", f"/images/{self._reference}")


async def measure(daemon: Daemon, reference: str) -> Starts:
    """Fetch and run, in turns."""
    async with place(daemon) as here:
        fetches = Fetches(here, reference)
        image = await add_image(here.client, "big", reference)
        for number in range(FETCHES):
            await fetches.by_docker()
            await fetches.by_deployment(f"big-{number}", image)
        return fetches.starts


def run(daemon: Daemon) -> list[Table]:
    """Measure and return the table."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as scratch:
        folder = Path(scratch)
        image = images.sized(folder, images.bash(folder), LAYERS_BYTES)
        with Registry(folder) as registry:
            starts = asyncio.run(measure(daemon, registry.push(image, "big:1")))
    table = latency_table(
        "A container of a 1 GiB image: used again, against fetched and run",
        "Registry on loopback and the same disk: with a network between, a fetch takes longer. Ratios are of medians.",
    )
    add_latency(table, "Docker's API: pull + create + start", starts.fetched)
    add_latency(table, "Muster: API call → running, image fetched", starts.deployed)
    add_latency(table, "Muster: API call → running, reused", starts.reused)
    add_ratio(table, "speed-up: Docker's pull + run : reused", starts.fetched, starts.reused)
    return [table]
