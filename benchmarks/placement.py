"""Pure placement: containers placed per second while a cluster fills up, every filter in use.

Machines are of four models in four data centers and differ in CPU, memory, CUDA and price; requests come from many
deployments, interleaved, each with a range on everything. The cluster is filled until a fifth of the requests can no
longer be placed, so the figure holds the expensive end too: full machines, and explanations.

With a pool every deployment is offered all of 1,000 ended containers (of half of them as its own), a tenth of the
machines is to be avoided, one in fifty has a broken engine, and there are 20 images, each on a fifth of the machines.
"""

import datetime
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, ContainerUuid, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Placed, Request, place
from muster.scheduler.reuse import Reusable

MODELS = ("RTX 4090", "RTX 3090", "L20", "H800")
CENTERS = ("west-a", "west-b", "north-a", "south-a")
SIZES = (1, 1, 1, 1, 2, 2, 4, 8)
TARGET_PER_SECOND = 2000
POOLED_NUM = 1000


def cluster(machine_num: int, rng: random.Random) -> Inventory:
    return Inventory.of(
        [
            Machine(
                id=MachineId(f"{number:010x}"),
                data_center=rng.choice(CENTERS),
                gpu_name=rng.choice(MODELS),
                gpu_num=8,
                cpu_num=8 * rng.choice((12, 16, 24)),
                # Hosts report what their kernel left over: hardly two are equal.
                memory_bytes=8 * rng.choice((60, 90, 120)) * GIB + rng.randrange(GIB),
                cuda=rng.choice((118, 122, 124, 128)),
                price_milliyuan=rng.choice((1580, 1880, 1980, 2500)),
            )
            for number in range(machine_num)
        ],
        {},
    )


def deployments(count: int, rng: random.Random) -> list[Requirements]:
    made = []
    for _ in range(count):
        gpu_num = rng.choice(SIZES)
        made.append(
            Requirements(
                gpu_num=gpu_num,
                gpu_names=frozenset(rng.sample(MODELS, 2)),
                data_centers=frozenset(rng.sample(CENTERS, 3)),
                cuda=Range(rng.choice((118, 122))),
                cpu_num=Range(gpu_num * 8, gpu_num * rng.choice((16, 32))),
                memory_bytes=Range(gpu_num * rng.choice((32, 64)) * GIB),
                price_milliyuan=Range(0, rng.choice((2000, 3000))),
            )
        )
    return made


def requests(wanted_gpus: int, specs: Sequence[Requirements], rng: random.Random) -> list[Request]:
    """Draw requests of all deployments in turn, until together they want that many GPUs."""
    drawn: list[Request] = []
    while wanted_gpus > 0:
        spec = rng.choice(specs)
        drawn.append(Request(ContainerId(f"c{len(drawn)}"), spec))
        wanted_gpus -= spec.gpu_num
    return drawn


def pool(inventory: Inventory, rng: random.Random) -> tuple[Reusable, ...]:
    """Draw the reuse pool: ended containers all over the cluster."""
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return tuple(
        Reusable(
            uuid=ContainerUuid(f"u{number}"),
            machine_id=rng.choice(inventory.machines).id,
            gpu_indices=tuple(sorted(rng.sample(range(8), rng.choice(SIZES)))),
            is_same_deployment=rng.random() < 0.5,
            ended_well=rng.random() < 0.9,
            stopped_at=now - datetime.timedelta(minutes=rng.randrange(10_000)),
        )
        for number in range(POOLED_NUM)
    )


def with_pool(waiting: Sequence[Request], inventory: Inventory, rng: random.Random) -> list[Request]:
    """Give each deployment its view of the pool, its image, and machines that it avoids."""

    def machines(of: int) -> frozenset[MachineId]:
        return frozenset(machine.id for machine in rng.sample(inventory.machines, len(inventory.machines) // of))

    pooled, images, unavailable = pool(inventory, rng), [machines(5) for _ in range(20)], machines(50)
    views: dict[Requirements, Request] = {}
    for request in waiting:
        if request.requirements not in views:
            views[request.requirements] = replace(
                request,
                avoid=machines(10),
                reusable=tuple(replace(each, is_same_deployment=rng.random() < 0.5) for each in pooled),
                image_holders=rng.choice(images),
                unavailable=unavailable,
            )
    return [replace(views[request.requirements], container_id=request.container_id) for request in waiting]


def measure(machine_num: int, deployment_num: int, *, has_pool: bool) -> list[str]:
    """Fill one cluster, and return the row to print."""
    rng = random.Random(20)
    inventory = cluster(machine_num, rng)
    waiting = requests(machine_num * 8 * 5 // 4, deployments(deployment_num, rng), rng)
    if has_pool:
        waiting = with_pool(waiting, inventory, rng)
    started = time.perf_counter()
    result = place(waiting, inventory)
    seconds = time.perf_counter() - started
    placed = [outcome for outcome in result.outcomes if isinstance(outcome, Placed)]
    used = sum(each.placement.gpu_num for each in placed) / (machine_num * 8)
    return [
        f"{machine_num:,}",
        f"{deployment_num:,}",
        f"{POOLED_NUM if has_pool else 0:,}",
        f"{len(waiting):,}",
        f"{len(placed):,}",
        f"{sum(each.reuses is not None for each in placed):,}",
        f"{used:.0%}",
        f"{seconds:.2f}",
        f"{len(placed) / seconds:,.0f}",
    ]


def run() -> Table:
    table = Table(title=f"Placement, pure (target: {TARGET_PER_SECOND:,} containers/s at 5,000 machines)")
    columns = ("machines", "deployments", "pool", "requests", "placed", "reused", "GPUs used", "seconds", "placed/s")
    for column in columns:
        table.add_column(column, justify="right")
    for has_pool in (False, True):
        for machine_num, deployment_num in ((1000, 10), (1000, 100), (5000, 10), (5000, 100), (5000, 1000)):
            table.add_row(*measure(machine_num, deployment_num, has_pool=has_pool))
    return table


if __name__ == "__main__":
    Console().print(run())
