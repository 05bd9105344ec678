"""What a deployment would cost, and how many of its containers fit now: pure arithmetic on the machines on offer.

An estimate for a person who is about to say yes. The server decides, with rules that this repeats only in outline:
one machine a container, whole GPUs, and CPU, memory, CUDA and price as filters on what the machine would give.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.client import Machine

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """``fitting`` containers fit now, on idle GPUs of ``machine_num`` machines that qualify.

    Prices are 1/1000 yuan per hour for all containers wanted, on the cheapest and on the dearest of those machines;
    ``None`` when no machine qualifies at all. ``strangers`` are the models asked for that no machine has, each with
    the offered one that it may be a slip of the pen for, or an empty text.
    """

    wanted: int
    fitting: int
    machine_num: int
    lowest_milliyuan: int | None
    highest_milliyuan: int | None
    strangers: tuple[tuple[str, str], ...] = ()


def estimate(body: Mapping[str, Any], machines: "Iterable[Machine]") -> Estimate:
    """Estimate a create body."""
    machines = list(machines)
    offered = sorted({machine.gpu_name for machine in machines})
    template = body["container_template"]
    gpu_num = int(template.get("gpu_num", 1))
    at_once = body.get("parallelism_num") if body["deployment_type"] == "Job" else body.get("replica_num")
    wanted = 1 if body["deployment_type"] == "Container" else int(at_once or 0)
    qualified = [machine for machine in machines if _qualifies(machine, template, gpu_num)]
    prices = [wanted * gpu_num * machine.price_milliyuan for machine in qualified]
    return Estimate(
        wanted=wanted,
        fitting=min(wanted, sum(machine.idle_gpu_num // gpu_num for machine in qualified)),
        machine_num=len(qualified),
        lowest_milliyuan=min(prices, default=None),
        highest_milliyuan=max(prices, default=None),
        strangers=tuple(
            (model, next(iter(difflib.get_close_matches(model, offered, n=1)), ""))
            for model in template.get("gpu_name_set") or ()
            if model not in offered
        ),
    )


def _qualifies(machine: "Machine", template: Mapping[str, Any], gpu_num: int) -> bool:
    centers = template.get("dc_list") or [each for each in (template.get("region_sign"),) if each]
    models = template.get("gpu_name_set") or ()
    lower_cuda = template.get("cuda_v_from") or template.get("cuda_v") or 0
    return (
        gpu_num <= machine.gpu_num
        and (not models or machine.gpu_name in models)
        and (not centers or machine.data_center in centers)
        and _within(machine.cuda, lower_cuda, template.get("cuda_v_to"))
        and _within(machine.price_milliyuan, template.get("price_from"), template.get("price_to"))
        and _within(
            machine.cpu_num // machine.gpu_num * gpu_num, template.get("cpu_num_from"), template.get("cpu_num_to")
        )
        and _within(
            machine.memory_bytes // machine.gpu_num * gpu_num,
            (template.get("memory_size_from") or 0) * GIB,
            (template.get("memory_size_to") or 0) * GIB,
        )
    )


def _within(value: int, lower: int | None, upper: int | None) -> bool:
    """Tell whether a value is in a range of the wire, where an upper bound of 0 is none."""
    return (lower or 0) <= value and (not upper or value <= upper)
