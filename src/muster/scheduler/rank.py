"""Which of several machines that fit is taken for a fresh start: the least ``Rank``.

Order, most important first:

1. machines that the request asks to avoid come last, however well they would pack: "not there if another fits";
2. machines that hold the image, since a pull takes minutes and nothing below saves any;
3. the fewest GPUs left over, so that small containers fill gaps and whole machines stay whole for large ones;
4. the lower price;
5. the machine id, so that equal machines give one answer.

A container of the pool that can be taken over goes in front of all but the first: see ``reuse`` for which one.
Refused: spreading (it breaks up the machines that large containers need; replicas find each other through the
registry, not by distance), weighted scores (nobody can say why 0.62 beat 0.61; a sorted tuple explains itself), and
keeping machines of pooled containers free for them (it would leave paid hardware idle on a guess; only the choice
among a machine's free GPUs spares theirs, which costs nothing).
"""

from typing import NamedTuple

from muster.model.ids import MachineId
from muster.model.machine import Machine


class Rank(NamedTuple):
    """How good a fitting machine is for a request; the least is taken."""

    is_avoided: bool
    lacks_image: bool
    gpus_left: int
    price_milliyuan: int
    machine_id: MachineId


def rank(machine: Machine, gpus_left: int, *, is_avoided: bool = False, lacks_image: bool = False) -> Rank:
    """Rank a machine that would have ``gpus_left`` free GPUs once the container is there."""
    return Rank(is_avoided, lacks_image, gpus_left, machine.price_milliyuan, machine.id)
