"""Why a container has no machine: counts that add up, the nearest miss, and one sentence for people.

In: the survey of a demand, the machines considered, how many GPUs are free on each. Out: an ``Explanation``, the same
object for CLI, API, logs and golden tests.

Each machine is counted once, under the first rule that rejects it, so the counts sum to the machines considered. The
nearest miss is the machine that fewest rules reject; among those, the one that is rejected latest in the order, then
the one with most free GPUs, then the lowest id. Its misses name *all* rules that reject it: together they are what
would have to change for it to fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from muster.model.ids import MachineId
from muster.model.machine import Machine
from muster.scheduler.filters import FREE_GPUS, RULES, Demand, Survey, rejecting

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
    note: str = ""
    """What stands in its way beside machines; then they are not to blame."""

    def sentence(self) -> str:
        """Return it in one sentence."""
        if self.note:
            return self.note
        if self.nearest is None:
            return "no machine fits: none is offered"
        counts = ", ".join(
            f"{count} {_RULE_BY_NAME[name].verdict(self.demand, count)}" for name, count in self.rejected
        )
        misses = " and ".join(f"{miss.offered} ({miss.wanted} wanted)" for miss in self.nearest.misses)
        nearest = f"nearest is {self.nearest.machine_id} with {misses}"
        return f"no machine fits: {self.considered} considered; {counts}; {nearest}"


def explain(surveyed: Survey, machines: Sequence[Machine], free_num: Mapping[MachineId, int]) -> Explanation:
    """Explain why none of ``machines``, which were surveyed, fits; suitable ones must have too few free GPUs."""
    counts = {**surveyed.rejected, FREE_GPUS.name: len(surveyed.suitable)}
    nearest = _nearest(surveyed, machines, free_num)
    return Explanation(
        demand=surveyed.demand,
        considered=len(machines),
        rejected=tuple((rule.name, counts[rule.name]) for rule in RULES if counts[rule.name]),
        nearest=None if nearest is None else _describe(surveyed.demand, nearest, free_num[nearest.id]),
    )


def _nearest(surveyed: Survey, machines: Sequence[Machine], free_num: Mapping[MachineId, int]) -> Machine | None:
    # A suitable machine fails one rule, the last: nothing is nearer, so only the number of free GPUs tells them apart.
    if surveyed.suitable:
        return min(surveyed.suitable.values(), key=lambda machine: (-free_num[machine.id], machine.id))
    best: tuple[tuple[int, int, int, MachineId], Machine] | None = None
    fewest = len(RULES)
    for machine in machines:
        free = free_num[machine.id]
        # One rule more than the nearest so far is enough to know that this machine is not nearer.
        rules = list(islice(rejecting(surveyed.demand, machine, free), fewest + 1))
        distance = (len(rules), -_POSITION[rules[0].name], -free, machine.id)
        if best is None or distance < best[0]:
            best, fewest = (distance, machine), len(rules)
    return None if best is None else best[1]


def _describe(demand: Demand, machine: Machine, free: int) -> NearestMiss:
    return NearestMiss(
        machine_id=machine.id,
        misses=tuple(
            Miss(rule.name, rule.wanted(demand), rule.offered(demand, machine, free))
            for rule in rejecting(demand, machine, free)
        ),
    )
