"""One admitted request: the right to occupy one slot of one replica, until it is released.

A lease is granted together with the choice, names the replica and the epoch of the set it came from, and is released
exactly once: the first release counts, any later one is ignored, so that every path out of a request may release
without knowing what the others did.
"""

from dataclasses import dataclass, field
from enum import Enum

from muster.balancer.ask import Demands, Features
from muster.balancer.eject import Health
from muster.balancer.replica import Replica
from muster.model.endpoint import Endpoint


class Outcome(Enum):
    """What became of the request, as far as the balancer cares."""

    OK = "ok"
    """The replica answered, and the answer was read to its end: how long that took is learned."""
    UNREAD = "unread"
    """The replica answered well, but the caller did not read on: nothing is learned about its speed."""
    ERROR = "error"
    """The replica answered that it failed (5xx), or broke the connection: several in a row put it aside."""
    BUSY = "busy"
    """The replica answered that it is overloaded (429, or 503 with Retry-After): it gets none for a moment."""
    TIMED_OUT = "timed out"
    """Nothing came in the time that the caller gave it: busy is not dead, but several in a row and nothing else are."""
    FAILED = "failed"
    """Broken after the connection stood, cancelled, or given back unused: nothing is concluded."""
    UNREACHABLE = "unreachable"
    """No connection came about, so nothing was sent: the replica is put aside."""
    CLOSED = "closed"
    """Its ingress sent nothing, because the replica takes no new requests: it gets none for a while, or until a set."""
    FULL = "full"
    """Its ingress sent nothing, because the replica holds as many requests as it may: it gets none for a moment."""


@dataclass(eq=False, slots=True)
class Lease:
    """``endpoint`` and ``health`` are the replica's at the time of the grant; a newer set may bring others.

    ``expected_seconds`` is what the request was thought to take there. ``taken`` is what it holds of the replica's
    budgets. ``unmet`` is how many requests had found no slot by then, and ``is_wanted`` says that somebody waited for
    one meanwhile. ``is_told``: whoever gave it wants to hear at once that the replica answers. ``refusal`` is what the
    user of an explicit lease was told by the ingress, if it refused.
    """

    replica: Replica
    endpoint: Endpoint
    health: Health
    epoch: int
    granted_at: float
    is_trial: bool
    features: Features | None = None
    expected_seconds: float = 0.0
    taken: Demands = field(default_factory=dict)
    busy_at_grant: int = 1
    unmet: int = 0
    is_wanted: bool = False
    is_answered: bool = False
    is_released: bool = False
    is_told: bool = False
    refusal: str | None = None

    def refused(self, reason: str) -> None:
        """Say that the ingress answered 503 with this ``x-muster-refused``: nothing was sent to the replica.

        For users of ``acquire``, before they leave its block: others then keep off the replica as long as they should.
        """
        self.refusal = reason
