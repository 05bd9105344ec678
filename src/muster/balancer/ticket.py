"""A request that asked for a lease: what it wants, since when, and what it is thought to cost."""

from collections.abc import Callable
from dataclasses import dataclass, field

from muster.balancer.ask import NOTHING_SAID, Ask, Demands
from muster.balancer.lease import Lease
from muster.errors import BalancerError


@dataclass(eq=False, slots=True)
class Ticket:
    """It has a lease, or waits in the queue, or was given up. Instants are of the balancer's clock.

    ``asked_at`` is when the call began, ``queued_at`` when it asked for this lease. ``deadline`` is when it must have
    started. ``tried`` are endpoint ids to avoid while others exist, or until they have answered somebody since.
    ``wake`` is called whenever it pays to look again. ``demands`` are what it said, and what was learned where it said
    nothing. ``cost`` is the expected seconds on a typical replica, and ``rank`` its size class for the order of
    waiting: smaller goes first, an average request has 0. ``credit`` is what overtaking it has paid. ``is_new``: its
    call had not asked before. ``is_spare``: it wants what is free at once, and no place among those who wait. ``error``
    is why it gets nothing, where somebody else decides (``remote.py``).
    """

    asked_at: float
    queued_at: float
    deadline: float
    tried: frozenset[str]
    wake: Callable[[], None]
    ask: Ask = NOTHING_SAID
    cost: float = 1.0
    rank: int = 0
    credit: float = 0.0
    demands: Demands = field(default_factory=dict)
    lease: Lease | None = field(default=None)
    is_new: bool = True
    is_spare: bool = False
    error: BalancerError | None = None
