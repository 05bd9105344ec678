"""Which machines are lost, which are there again, and when it is wiser to do nothing: the brake.

In: what is thought of each machine, which are on offer, for how long this process itself has seen each not answer, and
what the brake held before.
Out: what to write. A machine is *lost* once it has not answered for ``lost_after_seconds``: from then on its containers
are replaced. It is *back* as soon as its engine answers, and what still runs there is then adopted.

**The brake.** Hosts die one at a time; when many vanish together it is the network, or a switch, or the platform itself
that is cut off, and their containers serve on unseen. Starting them all again would double the load on what is left
and end what was well. So where more than one machine, and more than three of ten, stopped answering within a minute of
each other, those of them that would be lost are *held* instead: nothing moves, people are told. The brake lets go
when so many are back that the rest is few; those are *released* and given the whole time again, since a network that
heals brings its hosts back one after the other. An admin who knows better declares single machines lost.

Time is measured by the caller's own watch and not from the stored moment: a server that was away for an hour must see
for itself that a machine does not answer, and a wall clock that jumps makes nothing lost. The stored moments tell only
which vanished together.

Refused: a share alone (of two machines one is half), and a brake that ends by time (it would then do after an hour
exactly what it was there to prevent).
"""

import datetime
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from muster.model.ids import MachineId
from muster.model.machine import MachineState

TOGETHER = datetime.timedelta(minutes=1)
BRAKE_TENTHS = 3
"""Above so many tenths of all machines the brake holds: a rack of three is not a disaster, a third of a site is."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to write: machines that are lost now, and that are back; what the brake holds, and what it lets go.

    ``vanished_num`` of ``machine_num`` vanished together with others, which is what the brake is for.
    ``look_after_seconds``: when the next may be lost, though nothing changed; ``None``: none that is not held.
    """

    lost: tuple[MachineId, ...] = ()
    back: tuple[MachineId, ...] = ()
    held: frozenset[MachineId] = frozenset()
    released: frozenset[MachineId] = frozenset()
    machine_num: int = 0
    vanished_num: int = 0
    look_after_seconds: float | None = None

    @property
    def alarm(self) -> str:
        """Say to people what the brake is for."""
        return (
            f"{self.vanished_num} of {self.machine_num} machines stopped answering at nearly the same time: nothing is"
            " replaced until most of them answer again, or an admin declares machines lost"
            " (muster machines declare-lost)"
        )


def judge(
    states: Mapping[MachineId, MachineState],
    offered: Collection[MachineId],
    watched_seconds: Mapping[MachineId, float],
    *,
    lost_after_seconds: float,
    held: Collection[MachineId] = (),
) -> Verdict:
    """Decide, in the order of ids. ``watched_seconds`` is of unreachable ones that are not lost, ``held`` of before."""
    vanished = {
        machine_id: state.unreachable_since
        for machine_id, state in sorted(states.items())
        if state.unreachable_since is not None
    }
    machine_num = len(vanished.keys() | set(offered))
    together = _together(vanished, machine_num)
    waiting = {key: lost_after_seconds - watched_seconds.get(key, 0.0) for key in vanished if not states[key].lost_at}
    due = [key for key, seconds in waiting.items() if seconds <= 0]
    return Verdict(
        lost=tuple(key for key in due if key not in together and key not in held),
        back=tuple(key for key, state in sorted(states.items()) if state.lost_at and state.answers),
        held=frozenset(key for key in due if key in together),
        released=frozenset(key for key in due if key in held and key not in together),
        machine_num=machine_num,
        vanished_num=len(together),
        look_after_seconds=min((seconds for seconds in waiting.values() if seconds > 0), default=None),
    )


def _together(vanished: Mapping[MachineId, datetime.datetime], machine_num: int) -> frozenset[MachineId]:
    """Return the machines that vanished within a minute of too many others."""
    moments = sorted(vanished.values())
    found: set[MachineId] = set()
    for first in moments:
        count = bisect_right(moments, first + TOGETHER) - bisect_left(moments, first)
        if count > 1 and count * 10 > machine_num * BRAKE_TENTHS:
            found |= {key for key, moment in vanished.items() if first <= moment <= first + TOGETHER}
    return frozenset(found)
