"""Why a container has no machine: counts that add up, the nearest miss, and one sentence for people.

In: a demand, the machines considered, the number of free GPUs on each. Out: an ``Explanation``, the same object for
CLI, API, logs and golden tests.

Each machine is counted once, under the first rule that rejects it, so the counts sum to the machines considered. The
nearest miss is the machine that fewest rules reject; among those, the one that is rejected latest in the order, then
the one with most free GPUs, then the lowest id. Its misses name *all* rules that reject it: together they are what
would have to change for it to fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.scheduler.filters import RULES, Demand, rejecting

_RULE_BY_NAME = {rule.name: rule for rule in RULES}
_POSITION = {rule.name: position for position, rule in enumerate(RULES)}


@dataclass(frozen=True, slots=True)
class Miss:
    """One rule that rejects the nearest machine, with the two values that it compared."""

    rule: str
    wanted: str
    offered: str


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """The machine that came closest, and everything that keeps it from fitting."""

    machine_id: MachineId
    misses: tuple[Miss, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why no machine fits. ``rejected`` holds rule name and number of machines, in the order of the rules."""

    demand: Demand
    considered: int
    rejected: tuple[tuple[str, int], ...]
    nearest: NearestMiss | None

    def sentence(self) -> str:
        """Return it in one sentence."""
        if self.nearest is None:
            return "no machine fits: none is offered"
        counts = ", ".join(
            f"{count} {_RULE_BY_NAME[name].verdict(self.demand, count)}" for name, count in self.rejected
        )
        misses = " and ".join(f"{miss.offered} (wanted: {miss.wanted})" for miss in self.nearest.misses)
        return (
            f"no machine fits: {self.considered} considered; {counts}; nearest is {self.nearest.machine_id}: {misses}"
        )


def explain(demand: Demand, machines: Sequence[Machine], free_num: Mapping[MachineId, int]) -> Explanation:
    """Explain why none of ``machines`` fits; every one of them must be rejected by some rule."""
    counts = dict.fromkeys(_POSITION, 0)
    nearest: tuple[tuple[int, int, int, MachineId], Machine] | None = None
    for machine in machines:
        free = free_num[machine.id]
        rules = rejecting(demand, machine, free)
        counts[rules[0].name] += 1
        distance = (len(rules), -_POSITION[rules[0].name], -free, machine.id)
        if nearest is None or distance < nearest[0]:
            nearest = distance, machine
    return Explanation(
        demand=demand,
        considered=len(machines),
        rejected=tuple((name, count) for name, count in counts.items() if count),
        nearest=None if nearest is None else _describe(demand, nearest[1], free_num[nearest[1].id]),
    )


def _describe(demand: Demand, machine: Machine, free: int) -> NearestMiss:
    return NearestMiss(
        machine_id=machine.id,
        misses=tuple(
            Miss(rule.name, rule.wanted(demand), rule.offered(demand, machine, free))
            for rule in rejecting(demand, machine, free)
        ),
    )
