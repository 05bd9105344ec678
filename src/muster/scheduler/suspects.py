"""Which hosts fail more than chance explains: those that an account may want to keep off for a while.

In: the machines, and how often what ran on each failed lately, by reason. Out: the suspects, each with the reason that
is most common there.

A host is held against the others that hold the same GPU model, since deployments go to one model and take their
troubles along: a command that crashes everywhere makes nobody a suspect. The rate of a host is its failures per GPU,
for a host of eight sees four times what one of two sees. What is *expected* of it is the median rate of the others
times its own GPUs; the median, so that one more broken host among them does not excuse this one.

Failures that come independently are Poisson distributed, so the probability of this many or more, if nothing were
wrong with the host, is known. Below one in a thousand it is a suspect: even with a thousand hosts that is one false
hint in a window. Fewer than three failures never are, because with none among the others any number would be too
many. By this rule three are enough where 0.19 were expected, five where 0.73 were, and 14 where 5 were.

Refused: a fixed multiple of the median. Three times as many are no news where one was expected (chance does that to one
host in twelve), and long proof where ten were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, lgamma, log
from statistics import median

from muster.model.container import Reason
from muster.model.ids import MachineId
from muster.model.machine import Machine

LEAST_FAILURES = 3
CHANCE = 0.001
"""How improbable it has to be that nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A host that fails: how often, how often one like it was expected to, and what is most common there."""

    machine_id: MachineId
    failure_num: int
    expected_num: float
    reason: Reason
    reason_num: int

    def sentence(self) -> str:
        """Say it in one line."""
        share = "all" if self.reason_num == self.failure_num else f"{self.reason_num} of them"
        return (
            f"{self.failure_num} containers failed here where {self.expected_num:.1f} were to be expected,"
            f" {share} {self.reason.value}"
        )


def suspects(
    machines: Sequence[Machine], failures: Mapping[MachineId, Mapping[Reason, int]]
) -> Mapping[MachineId, Suspect]:
    """Find the hosts that fail too often; one alone of its model is never one, since nobody can tell."""
    rates: dict[str, dict[MachineId, float]] = {}
    for machine in machines:
        total = sum(failures.get(machine.id, {}).values())
        rates.setdefault(machine.gpu_name, {})[machine.id] = total / machine.gpu_num
    found = {}
    for machine in machines:
        by_reason = failures.get(machine.id, {})
        total = sum(by_reason.values())
        others = [rate for machine_id, rate in rates[machine.gpu_name].items() if machine_id != machine.id]
        if total < LEAST_FAILURES or not others:
            continue
        expected = median(others) * machine.gpu_num
        if _at_least(total, expected) < CHANCE:
            reason = max(by_reason, key=lambda each: (by_reason[each], each.value))
            found[machine.id] = Suspect(machine.id, total, expected, reason, by_reason[reason])
    return found


def _at_least(count: int, expected: float) -> float:
    """Return the probability that a Poisson variable of this mean is ``count`` or more."""
    if expected == 0:
        return 0.0
    below = (exp(number * log(expected) - expected - lgamma(number + 1)) for number in range(count))
    return 1.0 - sum(below)
