"""An endpoint with everything that is known about it here: load, limit, health, until when it refuses.

A replica lives as long as its endpoint id is in the set, and after that until its last lease is released; an id that
returns before then is the same replica, so its running requests stay counted.
"""

from muster.balancer.eject import Health
from muster.balancer.limit import concurrency_limit
from muster.balancer.load import InFlight
from muster.model.endpoint import Endpoint


class Replica:
    """Mutable, owned by one ``Balancer``."""

    __slots__ = ("endpoint", "health", "is_leaving", "limit", "load", "refuses_until", "served")

    def __init__(self, endpoint: Endpoint, default_concurrency: int) -> None:
        self.endpoint = endpoint
        self.load = InFlight()
        self.limit = concurrency_limit(endpoint, default_concurrency)
        self.health = Health()
        self.served = 0
        self.is_leaving = False
        self.refuses_until = 0.0

    def renew(self, endpoint: Endpoint, default_concurrency: int) -> None:
        """Take over what a newer set says, which also knows better than a refusal did.

        Another address starts with a clean bill of health.
        """
        if endpoint.url != self.endpoint.url:
            self.health = Health()
        self.endpoint = endpoint
        self.limit = concurrency_limit(endpoint, default_concurrency)
        self.is_leaving = False
        self.refuses_until = 0.0
