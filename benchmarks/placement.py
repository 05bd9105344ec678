"""Pure placement: containers placed per second while a cluster fills up, every filter in use.

Machines are of four models in four data centers and differ in CPU, memory, CUDA and price; requests come from many
deployments, interleaved, each with a range on everything. The cluster is filled until a fifth of the requests can no
longer be placed, so the figure holds the expensive end too: full machines, and explanations.
"""

import random
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from muster.model.container import Placement
from muster.model.deployment import Requirements
from muster.model.ids import ContainerId, MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Request, place

MODELS = ("RTX 4090", "RTX 3090", "L20", "H800")
CENTERS = ("west-a", "west-b", "north-a", "south-a")
SIZES = (1, 1, 1, 1, 2, 2, 4, 8)
TARGET_PER_SECOND = 2000


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


def run() -> Table:
    table = Table(title=f"Placement, pure (target: {TARGET_PER_SECOND:,} containers/s at 5,000 machines)")
    for column in ("machines", "deployments", "requests", "placed", "GPUs used", "seconds", "placed/s"):
        table.add_column(column, justify="right")
    for machine_num, deployment_num in ((1000, 10), (1000, 100), (5000, 10), (5000, 100), (5000, 1000)):
        rng = random.Random(20)
        inventory = cluster(machine_num, rng)
        waiting = requests(machine_num * 8 * 5 // 4, deployments(deployment_num, rng), rng)
        started = time.perf_counter()
        result = place(waiting, inventory)
        seconds = time.perf_counter() - started
        placed = [outcome for outcome in result.outcomes if isinstance(outcome, Placement)]
        used = sum(placement.gpu_num for placement in placed) / (machine_num * 8)
        table.add_row(
            f"{machine_num:,}",
            f"{deployment_num:,}",
            f"{len(waiting):,}",
            f"{len(placed):,}",
            f"{used:.0%}",
            f"{seconds:.2f}",
            f"{len(placed) / seconds:,.0f}",
        )
    return table


if __name__ == "__main__":
    Console().print(run())
