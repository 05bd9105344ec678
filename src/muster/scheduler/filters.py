"""Which machines may hold a container: an ordered table of named rules, each with the words that explain it.

In: a ``Demand`` (the requirements, the machines that its account has blacklisted, those that the operator keeps free
and those whose engine cannot be used), a machine, the number of its free GPUs. Out: accepted or not, by which rule.

The order is part of the result: a machine is counted under the first rule that rejects it. It runs from what nobody
can change (the model) through what a user or an operator could (ranges, blacklist, cordon) to what time changes by
itself (an engine that answers again, free GPUs), so that the last two rules say "wait" and all others "ask for
something else".

CPU, memory and price are filters on what the machine would give to a container of that many units, never amounts that
are asked of it. All rules but the last look at nothing that a placement changes: ``place`` evaluates them once per
distinct demand.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from muster.model.deployment import Requirements
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler import units


@dataclass(frozen=True, slots=True)
class Demand:
    """What decides where a container may go; requests with equal demands may go to the same machines.

    ``image_only_on``: the image was saved on these machines and can be fetched from nowhere; ``None``: it can.
    ``cordoned`` are the machines that are cordoned or drained.
    """

    requirements: Requirements
    blacklist: frozenset[MachineId] = frozenset()
    unavailable: frozenset[MachineId] = frozenset()
    image_only_on: frozenset[MachineId] | None = None
    cordoned: frozenset[MachineId] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason to reject a machine.

    ``accepts`` is given the number of free GPUs. ``wanted`` and ``offered`` are the two values that it compared, as
    people write them: "4" and "2 of 8 GPUs free". ``verdict`` goes after a number of machines: "3 are blacklisted".
    """

    name: str
    accepts: Callable[[Demand, Machine, int], bool]
    wanted: Callable[[Demand], str]
    offered: Callable[[Demand, Machine, int], str]
    verdict: Callable[[Demand, int], str]


def _one_or_many(one: str, many: str) -> Callable[[Demand, int], str]:
    return lambda _, count: one if count == 1 else many


def _ranged(
    name: str,
    wanted: Callable[[Requirements], Range],
    offered: Callable[[Machine, int], int],
    show: Callable[[int], str],
    noun: str,
) -> Rule:
    """Make the rule that a number of the machine, for a count of units, is inside a range."""

    def verdict(demand: Demand, count: int) -> str:
        return f"{'has' if count == 1 else 'have'} a {noun} {_outside(wanted(demand.requirements), show)}"

    return Rule(
        name=name,
        accepts=lambda demand, machine, _: offered(machine, demand.requirements.gpu_num) in wanted(demand.requirements),
        wanted=lambda demand: _between(wanted(demand.requirements), show),
        offered=lambda demand, machine, _: f"{noun} {show(offered(machine, demand.requirements.gpu_num))}",
        verdict=verdict,
    )


def _between(wanted: Range, show: Callable[[int], str]) -> str:
    if wanted.upper is None:
        return f"{show(wanted.lower)} or more" if wanted.lower else "any"
    if wanted.lower == wanted.upper:
        return show(wanted.lower)
    return f"{show(wanted.lower)} to {show(wanted.upper)}" if wanted.lower else f"up to {show(wanted.upper)}"


def _outside(wanted: Range, show: Callable[[int], str]) -> str:
    if wanted.upper is None:
        return f"below {show(wanted.lower)}"
    if wanted.lower == 0:
        return f"above {show(wanted.upper)}"
    if wanted.lower == wanted.upper:
        return f"other than {show(wanted.lower)}"
    return f"outside {_between(wanted, show)}"


def _cuda(version: int) -> str:
    return f"{version // 10}.{version % 10}"


def _memory(size: int) -> str:
    # Never rounded: "60 GiB, wanted 60 GiB or more" would be a riddle.
    for unit, name in ((GIB, "GiB"), (GIB // 1024, "MiB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _yuan(milliyuan: int) -> str:
    return f"{milliyuan // 1000}.{milliyuan % 1000:03}".rstrip("0").rstrip(".") + " yuan"


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _any_of(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))


GPU_NAME = Rule(
    name="gpu_name",
    accepts=lambda demand, machine, _: (
        not demand.requirements.gpu_names or machine.gpu_name in demand.requirements.gpu_names
    ),
    wanted=lambda demand: _any_of(demand.requirements.gpu_names),
    offered=lambda _, machine, __: f"model {machine.gpu_name}",
    verdict=_one_or_many("is of another GPU model", "are of another GPU model"),
)
GPU_NUM = Rule(
    name="gpu_num",
    accepts=lambda demand, machine, _: machine.gpu_num >= demand.requirements.gpu_num,
    wanted=lambda demand: str(demand.requirements.gpu_num),
    offered=lambda _, machine, __: _gpus(machine.gpu_num),
    verdict=lambda demand, count: f"{'has' if count == 1 else 'have'} fewer than {_gpus(demand.requirements.gpu_num)}",
)
DATA_CENTER = Rule(
    name="data_center",
    accepts=lambda demand, machine, _: (
        not demand.requirements.data_centers or machine.data_center in demand.requirements.data_centers
    ),
    wanted=lambda demand: _any_of(demand.requirements.data_centers),
    offered=lambda _, machine, __: f"data center {machine.data_center}",
    verdict=_one_or_many("is in another data center", "are in another data center"),
)
CUDA = _ranged("cuda", lambda wanted: wanted.cuda, lambda machine, _: machine.cuda, _cuda, "CUDA version")
CPU_NUM = _ranged("cpu_num", lambda wanted: wanted.cpu_num, units.cpus, str, "CPU count")
MEMORY = _ranged("memory", lambda wanted: wanted.memory_bytes, units.memory, _memory, "memory share")
PRICE = _ranged(
    "price", lambda wanted: wanted.price_milliyuan, lambda machine, _: machine.price_milliyuan, _yuan, "price"
)
BLACKLIST = Rule(
    name="blacklist",
    accepts=lambda demand, machine, _: machine.id not in demand.blacklist,
    wanted=lambda _: "none",
    offered=lambda _, __, ___: "a blacklist entry",
    verdict=_one_or_many("is blacklisted", "are blacklisted"),
)
IMAGE = Rule(
    name="image",
    accepts=lambda demand, machine, _: demand.image_only_on is None or machine.id in demand.image_only_on,
    wanted=lambda _: "the saved image",
    offered=lambda _, __, ___: "no copy of the image",
    verdict=_one_or_many(
        "does not hold the saved image, which is in no registry", "do not hold the saved image, which is in no registry"
    ),
)
CORDONED = Rule(
    name="cordoned",
    accepts=lambda demand, machine, _: machine.id not in demand.cordoned,
    wanted=lambda _: "none",
    offered=lambda _, __, ___: "a cordon of the operator",
    verdict=_one_or_many("is cordoned or drained by the operator", "are cordoned or drained by the operator"),
)
ENGINE = Rule(
    name="engine",
    accepts=lambda demand, machine, _: machine.id not in demand.unavailable,
    wanted=lambda _: "a working one",
    offered=lambda _, __, ___: "an engine that does not answer",
    verdict=_one_or_many(
        "cannot be used now: its engine does not answer", "cannot be used now: their engines do not answer"
    ),
)
FREE_GPUS = Rule(
    name="free_gpus",
    accepts=lambda demand, _, free_num: free_num >= demand.requirements.gpu_num,
    wanted=lambda demand: str(demand.requirements.gpu_num),
    offered=lambda _, machine, free_num: f"{free_num} of {_gpus(machine.gpu_num)} free",
    verdict=lambda demand, count: (
        f"{'has' if count == 1 else 'have'} fewer than {_gpus(demand.requirements.gpu_num)} free"
    ),
)

FIXED_RULES: tuple[Rule, ...] = (
    GPU_NAME,
    GPU_NUM,
    DATA_CENTER,
    CUDA,
    CPU_NUM,
    MEMORY,
    PRICE,
    IMAGE,
    BLACKLIST,
    CORDONED,
    ENGINE,
)
"""The rules that no placement changes, in order."""
RULES: tuple[Rule, ...] = (*FIXED_RULES, FREE_GPUS)


@dataclass(frozen=True, slots=True)
class Survey:
    """Machines under the fixed rules: those where the container could run if enough GPUs were free, and the others.

    ``rejected`` counts the others by the first rule that rejects each.
    """

    demand: Demand
    suitable: Mapping[MachineId, Machine]
    rejected: Mapping[str, int]


def survey(demand: Demand, machines: Iterable[Machine]) -> Survey:
    """Hold every machine against the fixed rules, once."""
    suitable: dict[MachineId, Machine] = {}
    rejected = {rule.name: 0 for rule in FIXED_RULES}
    for machine in machines:
        for rule in FIXED_RULES:
            if not rule.accepts(demand, machine, machine.gpu_num):
                rejected[rule.name] += 1
                break
        else:
            suitable[machine.id] = machine
    return Survey(demand, suitable, rejected)


def rejecting(demand: Demand, machine: Machine, free_num: int) -> Iterator[Rule]:
    """Yield every rule that rejects the machine, in order; nothing when the container fits now."""
    return (rule for rule in RULES if not rule.accepts(demand, machine, free_num))
