"""One admitted request: the right to occupy one slot of one replica, until it is released.

A lease is granted together with the choice, names the replica and the epoch of the set it came from, and is released
exactly once: the first release counts, any later one is ignored, so that every path out of a request may release
without knowing what the others did.
"""

from dataclasses import dataclass
from enum import Enum

from muster.balancer.eject import Health
from muster.balancer.replica import Replica
from muster.model.endpoint import Endpoint


class Outcome(Enum):
    """What became of the request, as far as the balancer cares."""

    OK = "ok"
    """The replica answered."""
    FAILED = "failed"
    """Broken after the connection stood, cancelled, or given back unused: nothing is concluded."""
    REFUSED = "refused"
    """No connection came about, so nothing was sent: the replica is put aside."""


@dataclass(eq=False, slots=True)
class Lease:
    """``endpoint`` and ``health`` are the replica's at the time of the grant; a newer set may bring others."""

    replica: Replica
    endpoint: Endpoint
    health: Health
    epoch: int
    granted_at: float
    is_trial: bool
    is_answered: bool = False
    is_released: bool = False
