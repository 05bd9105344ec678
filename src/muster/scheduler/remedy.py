"""What would make a container fit: the smallest change of one field of its request, or what to wait for.

In: the demand that no machine meets, the machines, how many GPUs are free on each. Out: remedies, first those that the
user has in hand (in the order of the rules), then those that somebody else or time has. Each of the former holds the
demand as it would be, so that "this would fit" is a claim that can be checked; the tests do.

One field at a time: where two rules reject every machine no single change helps, nothing is offered, and the nearest
miss says what all would have to change. A range is widened at one end, no further than the nearest machine needs
(memory by whole GiB, as requests are written). Another number of GPUs is chosen as near as possible to the one wanted;
a larger one may help too, since CPU and memory come with GPUs. Of models and data centers the one that most machines
have is added.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from muster.model.deployment import Requirements
from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.model.quantity import GIB, Range
from muster.scheduler import units
from muster.scheduler.filters import (
    BLACKLIST,
    CORDONED,
    CPU_NUM,
    CUDA,
    DATA_CENTER,
    ENGINE,
    FREE_GPUS,
    GPU_NAME,
    GPU_NUM,
    MEMORY,
    PRICE,
    RULES,
    Demand,
    Rule,
    rejecting,
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change after which the container fits on ``machine_num`` machines.

    ``rule`` names the field, ``bound`` which end of a range (``lower``, ``upper``, else empty). ``wanted`` and
    ``would_fit`` are what is asked now and what would do. ``machine_id`` is the machine that it is about, if there is
    one. ``demand`` is the changed one; ``None``: nothing about the request would change, it has to wait.
    """

    rule: str
    wanted: str
    would_fit: str
    machine_num: int
    bound: str = ""
    machine_id: MachineId | None = None
    demand: Demand | None = None


@dataclass(frozen=True, slots=True)
class _Ranged:
    """A range of the requirements: how it is read and changed, a machine's value for a number of GPUs, its unit."""

    rule: Rule
    asked: Callable[[Requirements], Range]
    changed: Callable[[Requirements, Range], Requirements]
    value: Callable[[Machine, int], int]
    unit: int = 1


_RANGES = (
    _Ranged(CUDA, lambda wish: wish.cuda, lambda wish, to: replace(wish, cuda=to), lambda machine, _: machine.cuda),
    _Ranged(CPU_NUM, lambda wish: wish.cpu_num, lambda wish, to: replace(wish, cpu_num=to), units.cpus),
    _Ranged(MEMORY, lambda wish: wish.memory_bytes, lambda wish, to: replace(wish, memory_bytes=to), units.memory, GIB),
    _Ranged(
        PRICE,
        lambda wish: wish.price_milliyuan,
        lambda wish, to: replace(wish, price_milliyuan=to),
        lambda machine, _: machine.price_milliyuan,
    ),
)
_BY_NUMBER = frozenset({GPU_NUM.name, CPU_NUM.name, MEMORY.name, FREE_GPUS.name})


def remedies(demand: Demand, machines: Sequence[Machine], free_num: Mapping[MachineId, int]) -> tuple[Remedy, ...]:
    """Return what would make it fit; nothing when it fits, or when no single change does."""
    alone: dict[str, list[Machine]] = {rule.name: [] for rule in RULES}
    for machine in machines:
        rules = list(islice(rejecting(demand, machine, free_num[machine.id]), 2))
        if not rules:
            return ()
        if len(rules) == 1:
            alone[rules[0].name].append(machine)
    return (
        *_another_model(demand, alone[GPU_NAME.name]),
        *_another_number(demand, machines, free_num),
        *_another_data_center(demand, alone[DATA_CENTER.name]),
        *(each for ranged in _RANGES for each in _wider(demand, ranged, alone[ranged.rule.name])),
        *_without_ban(demand, alone[BLACKLIST.name]),
        *_waiting(demand, alone, free_num),
    )


def _another_model(demand: Demand, machines: Sequence[Machine]) -> Iterator[Remedy]:
    for name, count in _most_common(machine.gpu_name for machine in machines):
        names = demand.requirements.gpu_names | {name}
        changed = replace(demand, requirements=replace(demand.requirements, gpu_names=names))
        yield _remedy(GPU_NAME, demand, changed, count)


def _another_data_center(demand: Demand, machines: Sequence[Machine]) -> Iterator[Remedy]:
    for name, count in _most_common(machine.data_center for machine in machines):
        names = demand.requirements.data_centers | {name}
        changed = replace(demand, requirements=replace(demand.requirements, data_centers=names))
        yield _remedy(DATA_CENTER, demand, changed, count)


def _most_common(names: Iterator[str]) -> list[tuple[str, int]]:
    return sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))[:1]


def _another_number(demand: Demand, machines: Sequence[Machine], free_num: Mapping[MachineId, int]) -> Iterator[Remedy]:
    wanted = demand.requirements.gpu_num
    possible = [
        numbers
        for machine in machines
        if all(rule.accepts(demand, machine, 0) for rule in RULES if rule.name not in _BY_NUMBER)
        and (numbers := _numbers(demand, machine, free_num[machine.id]))
    ]
    nearest = (min(max(wanted, numbers.start), numbers.stop - 1) for numbers in possible)
    best = min(nearest, key=lambda number: (abs(number - wanted), number), default=None)
    if best is not None:
        changed = replace(demand, requirements=replace(demand.requirements, gpu_num=best))
        yield _remedy(GPU_NUM, demand, changed, sum(best in numbers for numbers in possible))


def _numbers(demand: Demand, machine: Machine, free: int) -> range:
    """Return which numbers of GPUs would fit on a machine, as far as numbers decide."""
    least, most = 1, free
    for allowed, share in (
        (demand.requirements.cpu_num, machine.cpu_per_unit),
        (demand.requirements.memory_bytes, machine.memory_per_unit),
    ):
        if share == 0:
            most = most if 0 in allowed else 0
            continue
        least = max(least, -(-allowed.lower // share))
        most = most if allowed.upper is None else min(most, allowed.upper // share)
    return range(least, most + 1)


def _wider(demand: Demand, ranged: _Ranged, machines: Sequence[Machine]) -> Iterator[Remedy]:
    asked = ranged.asked(demand.requirements)
    values = [ranged.value(machine, demand.requirements.gpu_num) for machine in machines]
    below = [value for value in values if value < asked.lower]
    above = [value for value in values if asked.upper is not None and value > asked.upper]
    for bound, allowed in (
        ("lower", Range(max(below) // ranged.unit * ranged.unit, asked.upper) if below else None),
        ("upper", Range(asked.lower, -(-min(above) // ranged.unit) * ranged.unit) if above else None),
    ):
        if allowed is not None:
            changed = replace(demand, requirements=ranged.changed(demand.requirements, allowed))
            yield _remedy(ranged.rule, demand, changed, sum(value in allowed for value in values), bound)


def _without_ban(demand: Demand, machines: Sequence[Machine]) -> Iterator[Remedy]:
    if machines:
        banned = min(machine.id for machine in machines)
        yield Remedy(
            rule=BLACKLIST.name,
            wanted=f"not {banned}",
            would_fit=f"{banned} off the blacklist",
            machine_num=1,
            machine_id=banned,
            demand=replace(demand, blacklist=demand.blacklist - {banned}),
        )


def _waiting(
    demand: Demand, alone: Mapping[str, Sequence[Machine]], free_num: Mapping[MachineId, int]
) -> Iterator[Remedy]:
    for rule, words in (
        (CORDONED, "the operator's cordon of {} taken back"),
        (ENGINE, "the engine of {} answering again"),
        (FREE_GPUS, "{} more {} free on {}"),
    ):
        machines = alone[rule.name]
        if machines:
            best = min(machines, key=lambda machine: (-free_num[machine.id], machine.id))
            lacking = demand.requirements.gpu_num - free_num[best.id]
            subject = (lacking, "GPU" if lacking == 1 else "GPUs", best.id) if rule is FREE_GPUS else (best.id,)
            yield Remedy(
                rule=rule.name,
                wanted=rule.wanted(demand),
                would_fit=words.format(*subject),
                machine_num=len(machines),
                machine_id=best.id,
            )


def _remedy(rule: Rule, demand: Demand, changed: Demand, machine_num: int, bound: str = "") -> Remedy:
    return Remedy(rule.name, rule.wanted(demand), rule.wanted(changed), machine_num, bound=bound, demand=changed)
