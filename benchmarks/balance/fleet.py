"""Who serves: the fleets of the benchmark, as a list of replicas.

A fleet must not be one that a balancer happens to like, so there are three: all equal; two kinds of GPU; and one in
which both speed and slots differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

VRAM = "vram_mb"
"""The budget's name, as an endpoint declares it and a request demands it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One replica. A request of one second of work takes ``slowness`` seconds of one of its ``slots``."""

    name: str
    gpu: str
    slowness: float = 1.0
    slots: int = 2
    memory_mb: int = 0
    """What its requests may take together; 0: they take none that counts."""


Fleet = tuple[Unit, ...]


def fleet(*kinds: tuple[int, float, int], memory_mb: int = 0) -> Fleet:
    """Return replicas for each (how many, slowness, slots); those of one slowness are of one GPU model."""
    wanted = [(slowness, slots) for count, slowness, slots in kinds for _ in range(count)]
    return tuple(
        Unit(f"r{number}", f"gpu-{slowness:g}x", slowness, slots, memory_mb)
        for number, (slowness, slots) in enumerate(wanted)
    )


def capacity(units: Sequence[Unit]) -> float:
    """Return how many seconds of work they do in a second."""
    return sum(each.slots / each.slowness for each in units)


EQUAL = fleet((6, 1, 2))
UNLIKE = fleet((4, 1, 2), (2, 2, 2))
VARIED = fleet((2, 1, 4), (1, 1, 2), (2, 2, 2), (1, 2, 1), (2, 4, 1))
SHORT_OF_MEMORY = fleet((4, 1, 2), (2, 2, 2), memory_mb=16_000)
