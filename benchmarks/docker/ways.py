"""The ways to give an ended container's files to another run, side by side (ADR 0010). Only run when it is named.

* *in place*: our engine, the same GPUs. The container itself is started again.
* *as a copy*: our engine, other GPUs. ``docker commit``, a new container, the old one removed.
* *OCI runtime*: a prototype below, registered with the daemon, that writes other GPUs into the bundle at each start;
  against runc, of the same container settings. It is timed alone: whatever else a reuse does comes on top.

Before each reuse its last run wrote so many random bytes anew, into the container's own files or into
``/root/autodl-tmp``. In turns, on one daemon.
"""

import asyncio
import dataclasses
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.docker.peer import Docker
from benchmarks.table import add_latency, latency_table
from muster.engine.docker.engine import DockerEngine
from muster.model.ids import AccountId, ContainerId, ContainerUuid, MachineId
from muster.model.image import ImageOrder
from muster.model.run import ContainerRun, Phase, Ref
from tests.docker import gpu
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH

STARTS = 25
SIZES_MB = {0: 10, 10: 10, 100: 6, 1000: 3}
"""How often each is used again."""
OWN, KEPT = "/root", "/root/autodl-tmp"
WAYS = (("in place", OWN), ("as a copy", OWN), ("as a copy", KEPT))
_LOOK_SECONDS = 0.01
_REST_SECONDS = 0.2

Reuses = dict[tuple[str, str, int], list[tuple[float, float]]]
"""Seconds to take over and to start, by way, folder and megabytes."""
RUNTIMES = ("wrapped-by-sh", "wrapped-by-python")
GPUS = "gpus"
"""The file beside them that says which GPUs to give."""
_BY_SH = """#!/bin/sh
for word; do
    [ "$before" = --bundle ] && bundle=$word
    [ "$word" = create ] && is_create=1
    before=$word
done
if [ "$is_create" ]; then
    read -r gpus <{gpus}
    sed -i "s/NVIDIA_VISIBLE_DEVICES=[0-9,]*/NVIDIA_VISIBLE_DEVICES=$gpus/" "$bundle/config.json"
fi
exec runc "$@"
"""
_BY_PYTHON = """#!{python} -IS
import json, os, sys
if "create" in sys.argv:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    with open(path) as file:
        config = json.load(file)
    with open({gpus!r}) as file:
        gpus = file.read().strip()
    name = "NVIDIA_VISIBLE_DEVICES="
    config["process"]["env"] = [each for each in config["process"]["env"] if not each.startswith(name)] + [name + gpus]
    with open(path, "w") as file:
        json.dump(config, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"""


def runtimes(folder: Path) -> Sequence[str]:
    """Write the prototypes into a folder; return the options by which a daemon knows them."""
    gpus = folder / GPUS
    scripts = (_BY_SH.format(gpus=gpus), _BY_PYTHON.format(python=sys.executable, gpus=str(gpus)))
    for name, script in zip(RUNTIMES, scripts, strict=True):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return [f"--add-runtime={name}={folder / name}" for name in RUNTIMES]


class Chain:
    """Runs of our engine, each of which takes over what the one before left."""

    def __init__(self, engine: DockerEngine, name: str, cmd: str) -> None:
        self._engine = engine
        self._number = 0
        self._run = ContainerRun(
            Ref(MachineId("bench"), ContainerId(f"{name}-0")),
            ContainerUuid(f"{name}-0"),
            AccountId(1),
            ImageOrder(BASH),
            cmd,
            gpu_indices=(0,),
            devices=("0",),
        )

    async def begin(self) -> None:
        """Run the first."""
        await self._engine.create(self._run)
        await self._engine.start(self._run.ref)
        await self._until_ended()

    async def go_on(self, device: int) -> tuple[float, float]:
        """Run the next one on a GPU; return the seconds to take over, and to start."""
        self._number += 1
        before = self._run.ref
        name = f"{before.container_id.rpartition('-')[0]}-{self._number}"
        self._run = dataclasses.replace(
            self._run,
            ref=dataclasses.replace(before, container_id=ContainerId(name)),
            uuid=ContainerUuid(name),
            gpu_indices=(device,),
            devices=(str(device),),
            takes_over=before,
        )
        began = time.perf_counter()
        await self._engine.create(self._run)
        created = time.perf_counter()
        await self._engine.start(self._run.ref)
        started = time.perf_counter()
        await self._until_ended()
        return created - began, started - created

    async def remove(self) -> None:
        """Remove what is left."""
        await self._engine.remove(self._run.ref)

    async def _until_ended(self) -> None:
        seen = await self._engine.observe(self._run.ref)
        while seen.phase is not Phase.EXITED:
            await asyncio.sleep(_LOOK_SECONDS)
            seen = await self._engine.observe(self._run.ref)
        assert seen.exit_code == 0, seen


async def start_by_runtimes(daemon: Daemon) -> Mapping[str, list[float]]:
    """Start a stopped container of each runtime again and again, on another GPU each time where that can be."""
    seconds: dict[str, list[float]] = {}
    async with Docker(daemon) as docker:
        requests = [{"DeviceIDs": ["0"], "Capabilities": [["gpu"]]}]
        host_config = {"Init": True, "NetworkMode": "none", "DeviceRequests": requests}
        command = ("cat", gpu.VISIBLE)
        known = (await docker.call("GET", "/info"))["Runtimes"]
        gpus = Path(known[RUNTIMES[0]]["path"]).with_name(GPUS)
        ids = {
            name: await docker.create(BASH, {**host_config, "Runtime": name}, command) for name in ("runc", *RUNTIMES)
        }
        for number in range(STARTS + 1):
            gpus.write_text(f"{number}\n")
            for name, docker_id in ids.items():
                await asyncio.sleep(_REST_SECONDS)
                began = time.perf_counter()
                await docker.start(docker_id)
                if number:  # the first is no start of a container that was there before
                    seconds.setdefault(name, []).append(time.perf_counter() - began)
                await docker.call("POST", f"/containers/{docker_id}/wait")
        for name in RUNTIMES:  # or it would be the time of something that does not work
            said = daemon.docker("logs", ids[name])
            assert said == "".join(map(str, range(STARTS + 1))), f"{name} gave the GPUs {said!r}"
    return seconds


async def reuse(engine: DockerEngine) -> Reuses:
    """Take over what was written, in place and as a copy."""
    seconds: Reuses = {}
    for size_mb, count in SIZES_MB.items():
        chains: dict[tuple[str, str], Chain] = {}
        for way, target in WAYS if size_mb else WAYS[:2]:
            name = f"{way}-{target}-{size_mb}".replace(" ", "").replace("/", "")
            cmd = f"dd if=/dev/urandom of={target}/file bs=1M count={size_mb} 2>/dev/null; sync" if size_mb else ":"
            chain = chains[way, target] = Chain(engine, name, cmd)
            await chain.begin()
        for number in range(1, count + 1):
            for (way, target), chain in chains.items():
                await asyncio.sleep(_REST_SECONDS)
                device = number % 2 if way == "as a copy" else 0
                seconds.setdefault((way, target, size_mb), []).append(await chain.go_on(device))
        for chain in chains.values():
            await chain.remove()
    return seconds


async def measure(daemon: Daemon, folder: Path) -> Reuses:
    """Take over with an engine of its own."""
    engine = DockerEngine(daemon.url, installation="ways", root=folder)
    try:
        return await reuse(engine)
    finally:
        await engine.aclose()


def run(daemon: Daemon) -> list[Table]:
    """Measure and return the tables."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        starts = asyncio.run(start_by_runtimes(daemon))
        reuses = asyncio.run(measure(daemon, Path(folder)))
    again = latency_table("docker start of a stopped container with a GPU, by OCI runtime")
    for name, samples in starts.items():
        add_latency(again, name, samples)
    for name in RUNTIMES:
        added = [seconds - plain for seconds, plain in zip(starts[name], starts["runc"], strict=True)]
        add_latency(again, f"added by {name}", added)
    taken = latency_table(
        "A take-over by Muster's engine, by way and by what was written since the last one",
        "take over: create, with all that it does; start: Docker's start. Both are needed until the command runs.",
    )
    for (way, target, size_mb), pairs in reuses.items():
        written = f"{size_mb} MB in {target}" if size_mb else "nothing"
        add_latency(taken, f"{way}, {written}: take over", [first for first, _ in pairs])
        add_latency(taken, f"{way}, {written}: take over + start", [first + second for first, second in pairs])
    return [again, taken]
