"""An endpoint with everything that is known about it here: load, speed, limit, memory, health, until when it refuses.

A replica lives as long as its endpoint id is in the set, and after that until its last lease is released; an id that
returns before then is the same replica, so its running requests stay counted.
"""

import math
from collections import Counter

from muster.balancer.ask import Demands
from muster.balancer.eject import Health
from muster.model.endpoint import Endpoint


class Replica:
    """Mutable, owned by one ``Balancer``.

    ``in_flight`` counts our leases, ``others`` what other clients are thought to have there. ``slowness`` is how long
    it takes relative to the typical replica; ``score`` the same for one request more, which is what choosers compare.
    ``held`` is what our requests demand of each budget. ``turned_down`` is the recent share of answers that were 4xx or
    not read, and ``oddness`` how far that is above the other replicas'.
    """

    __slots__ = (
        "answered_at",
        "answers",
        "endpoint",
        "gpu",
        "health",
        "held",
        "in_flight",
        "is_closed",
        "is_leaving",
        "limit",
        "oddness",
        "others",
        "probed_at",
        "refuses_until",
        "reported_at",
        "score",
        "served",
        "slowness",
        "turned_down",
    )

    def __init__(self, endpoint: Endpoint, now: float) -> None:
        self.endpoint = endpoint
        self.gpu = gpu_label(endpoint)
        self.limit = 1
        self.health = Health()
        self.in_flight = 0
        self.others = 0
        self.reported_at = now
        self.slowness = 1.0
        self.score = 1.0
        self.held: Counter[str] = Counter()
        self.served = 0
        self.answered_at = self.probed_at = now
        self.answers = 0
        self.turned_down = self.oddness = 0.0
        self.is_leaving = False
        self.refuses_until = 0.0
        self.is_closed = False

    @property
    def busy(self) -> int:
        """Everybody's requests at the replica, as far as is known."""
        return self.in_flight + self.others

    def renew(self, endpoint: Endpoint) -> None:
        """Take over what a newer set says, which also knows better than a refusal did.

        Another address starts with a clean bill of health.
        """
        if endpoint.url != self.endpoint.url:
            self.health = Health()
        self.endpoint = endpoint
        self.gpu = gpu_label(endpoint)
        self.is_leaving = False
        self.refuses_until = 0.0
        self.is_closed = False

    def start(self, demands: Demands) -> Demands:
        """Count a request in; return what it holds of each budget until it is counted out."""
        self.in_flight += 1
        self.served += 1
        taken = self.demanded(demands)
        self.held.update(taken)
        return taken

    def finish(self, taken: Demands) -> None:
        """Count a request out. One finish too many is a bug in the caller and says so."""
        if self.in_flight == 0:
            raise AssertionError("a lease was released twice: the in-flight count would become negative")
        self.in_flight -= 1
        self.held.subtract(taken)

    def demanded(self, demands: Demands) -> dict[str, int]:
        """Return what a request takes of the budgets here; where it says nothing, one slot's part of the budget."""
        return {
            name: demands[name] if name in demands else whole // self.limit
            for name, whole in self.endpoint.budgets.items()
        }

    def free(self, name: str) -> float:
        """Return how much of a budget our own requests leave, infinity where it has no such budget."""
        whole = self.endpoint.budgets.get(name)
        return math.inf if whole is None else whole - self.held[name]

    def fits(self, demands: Demands) -> bool:
        """Whether the request's memory is free, as far as our own requests hold it."""
        held = self.held
        return all(
            held[name] + amount <= self.endpoint.budgets[name] for name, amount in self.demanded(demands).items()
        )

    def could_fit(self, demands: Demands) -> bool:
        """Whether the request would fit if it were alone."""
        return all(amount <= self.endpoint.budgets[name] for name, amount in self.demanded(demands).items())


def gpu_label(endpoint: Endpoint) -> str:
    """Return what replicas of one kind have in common: ``RTX 4090``, or ``RTX 4090 x2`` for two of them."""
    return endpoint.gpu_name if endpoint.gpu_num == 1 else f"{endpoint.gpu_name} x{endpoint.gpu_num}"
