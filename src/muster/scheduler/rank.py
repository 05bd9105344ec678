"""Which of several machines that fit is taken: the least ``Rank``.

Order, most important first:

1. machines that the request asks to avoid come last, however well they would pack: "not there if another fits";
2. the fewest GPUs left over, so that small containers fill gaps and whole machines stay whole for large ones;
3. the lower price;
4. the machine id, so that equal machines give one answer.

Preferences of a request go in front of packing: a stopped container that can be reused, then an image that is already
there, will join ``is_avoided`` in this order. Refused: spreading (it breaks up the machines that large containers
need; replicas find each other through the registry, not by distance) and weighted scores (nobody can say why 0.62 beat
0.61; a sorted tuple explains itself).
"""

from typing import NamedTuple

from muster.model.ids import MachineId
from muster.model.machine import Machine


class Rank(NamedTuple):
    """How good a fitting machine is for a request; the least is taken."""

    is_avoided: bool
    gpus_left: int
    price_milliyuan: int
    machine_id: MachineId


def rank(machine: Machine, gpus_left: int, *, is_avoided: bool = False) -> Rank:
    """Rank a machine that would have ``gpus_left`` free GPUs once the container is there."""
    return Rank(is_avoided, gpus_left, machine.price_milliyuan, machine.id)
