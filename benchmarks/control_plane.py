"""The control plane with many containers: how fast they come up, and what they cost when nothing happens.

Loops, discovery and feed of the server run in a process of their own, in real time, over a real SQLite file, a real
file registry and the fake engine (the world's own memory counts, so the figure per container is too high rather than
too low). Only the HTTP half is missing. At rest, CPU is counted over three full passes and a relist of discovery,
once the last wave of the way up is over; freed memory that the process keeps is in the size per container.
"""

import asyncio
import contextlib
import dataclasses
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from muster import registry, store
from muster.api.auth import ensure_admin
from muster.clock import Clock, SystemClock
from muster.config import Settings
from muster.controller.plane import ControlPlane, PlaneOptions
from muster.controller.probe import NetworkProber
from muster.discovery.watcher import Watcher
from muster.feed import StoreFeed
from muster.model.deployment import DeploymentSpec, DeploymentType, ServiceSpec
from muster.model.ids import AccountId, DeploymentId, MachineId, random_hex
from muster.model.image import LOCAL_IMAGE
from muster.model.machine import Machine
from muster.model.quantity import GIB
from muster.store.port import Store, Transaction
from muster.testing.fake_engine import FakeEngine, FakeWorld

SHAPES = ((1_000, 1),)
BIG_SHAPES = (*SHAPES, (1_000, 100), (10_000, 1_000))
"""Containers, and deployments that they are spread over."""
GPUS_PER_MACHINE = 8
REST_SECONDS = 30.0
UP_LIMIT_SECONDS = 90.0
BIG_UP_LIMIT_SECONDS = 900.0
IDLE_SECONDS = 3.0
TARGETS = "targets, at 10,000 at rest: CPU < 1 s/min, < 150 MB idle, < 20 kB per container"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one size cost."""

    containers: int
    deployments: int
    up_seconds: float
    up_cpu_seconds: float
    idle_bytes: int
    rest_bytes: int
    rest_cpu_seconds_per_minute: float
    is_up: bool


def machines(container_num: int) -> Sequence[Machine]:
    """Return just enough machines."""
    return [
        Machine(
            id=MachineId(f"{number:010x}"),
            data_center="bench",
            gpu_name="RTX 4090",
            gpu_num=GPUS_PER_MACHINE,
            cpu_num=16 * GPUS_PER_MACHINE,
            memory_bytes=64 * GIB * GPUS_PER_MACHINE,
            cuda=128,
            price_milliyuan=1980,
        )
        for number in range(-(-container_num // GPUS_PER_MACHINE))
    ]


async def prepare(storage: Store, clock: Clock, container_num: int) -> AccountId:
    """Offer machines and the image."""

    def work(tx: Transaction) -> None:
        for machine in machines(container_num):
            tx.machines.put(machine)
        tx.images.put_base(LOCAL_IMAGE, "local", "local", clock.now())

    account = await ensure_admin(storage, clock, "mst_benchmark")
    await storage.write(work)
    return account.id


async def deploy(storage: Store, clock: Clock, account: AccountId, container_num: int, deployment_num: int) -> None:
    """Want that many containers, evenly spread over the deployments, ready as soon as they run."""

    def work(tx: Transaction) -> None:
        for number in range(deployment_num):
            spec = DeploymentSpec(
                name=f"bench-{number}",
                type=DeploymentType.REPLICA_SET,
                image=LOCAL_IMAGE,
                cmd="serve",
                replica_num=container_num // deployment_num,
                service=ServiceSpec(health_check=None),
            )
            tx.deployments.add(account, DeploymentId(random_hex(16)), spec, clock.now())

    await storage.write(work)


async def until_ready(storage: Store, container_num: int, limit_seconds: float) -> bool:
    """Wait until all are running and ready, looking seldom; return whether they were in time."""

    def work(tx: Transaction) -> int:
        return sum(counts.ready for counts in tx.deployments.counts(tx.deployments.unsettled()).values())

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_seconds):
            while await storage.read(work) < container_num:  # noqa: ASYNC110  to count at each commit would be the load
                await asyncio.sleep(0.1)
            return True
    return False


async def rest_cpu_seconds() -> float:
    """Return the CPU seconds of ``REST_SECONDS``, once the last wave has passed."""
    await asyncio.sleep(IDLE_SECONDS)
    before = time.process_time()
    await asyncio.sleep(REST_SECONDS)
    return time.process_time() - before


async def measure(folder: Path, container_num: int, deployment_num: int, limit_seconds: float) -> Figures:
    """Run a control plane from nothing to rest."""
    clock, settings = SystemClock(), Settings(home=folder)
    storage = store.connect(f"sqlite:///{folder / 'muster.db'}")
    sets = registry.connect(settings.registry_url)
    engine = FakeEngine(FakeWorld(clock))
    account = await prepare(storage, clock, container_num)
    plane = ControlPlane(
        store=storage,
        engine=engine,
        clock=clock,
        prober=NetworkProber(),
        random_hex=random_hex,
        options=PlaneOptions(full_pass_seconds=settings.full_pass_seconds),
    )
    tasks = [
        asyncio.create_task(plane.run()),
        asyncio.create_task(Watcher(StoreFeed(storage, clock), sets, clock, publisher="bench#server").run()),
    ]
    try:
        await asyncio.sleep(IDLE_SECONDS)
        idle_bytes = _resident_bytes()
        began, began_cpu = time.monotonic(), time.process_time()
        await deploy(storage, clock, account, container_num, deployment_num)
        is_up = await until_ready(storage, container_num, limit_seconds)
        up, up_cpu = time.monotonic() - began, time.process_time() - began_cpu
        rest = await rest_cpu_seconds() * 60 / REST_SECONDS if is_up else 0.0
        return Figures(container_num, deployment_num, up, up_cpu, idle_bytes, _resident_bytes(), rest, is_up)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.aclose()
        await sets.aclose()
        await storage.aclose()


def run(*, is_big: bool = False) -> Table:
    """Measure each size in a process of its own and return the table."""
    table = Table(title="Control plane, fake engine", title_justify="left", caption=TARGETS, caption_justify="left")
    for column in ("containers", "deployments", "all ready", "containers/s", "CPU to get there"):
        table.add_column(column, justify="right")
    for column in ("idle", "with all", "per container", "CPU at rest"):
        table.add_column(column, justify="right")
    limit_seconds = BIG_UP_LIMIT_SECONDS if is_big else UP_LIMIT_SECONDS
    for container_num, deployment_num in BIG_SHAPES if is_big else SHAPES:
        figures = _in_process(container_num, deployment_num, limit_seconds)
        row = [f"{container_num:,}", f"{deployment_num:,}"]
        if figures.is_up:
            row += [
                f"{figures.up_seconds:.1f} s",
                f"{container_num / figures.up_seconds:,.0f}",
                f"{figures.up_cpu_seconds:.1f} s",
                f"{figures.idle_bytes / 1e6:.0f} MB",
                f"{figures.rest_bytes / 1e6:.0f} MB",
                f"{(figures.rest_bytes - figures.idle_bytes) / container_num / 1e3:.1f} kB",
                f"{figures.rest_cpu_seconds_per_minute:.2f} s/min",
            ]
        else:  # what never came to rest has no figures of rest
            row += [f"not in {limit_seconds:.0f} s", "", f"{figures.up_cpu_seconds:.1f} s"]
            row += [f"{figures.idle_bytes / 1e6:.0f} MB", "", "", ""]
        table.add_row(*row)
    return table


def _in_process(container_num: int, deployment_num: int, limit_seconds: float) -> Figures:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(theirs, container_num, deployment_num, limit_seconds), daemon=True)
    process.start()
    theirs.close()
    try:
        return Figures(**ours.recv())
    finally:
        process.terminate()
        process.join()


def _measure(result: Connection, container_num: int, deployment_num: int, limit_seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), container_num, deployment_num, limit_seconds))
    result.send(dataclasses.asdict(figures))


def _resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    Console().print(run())
