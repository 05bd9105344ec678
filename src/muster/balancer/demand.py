"""Learns what a request takes of a budget where its caller does not say: from its features and what replicas tell.

A container that knows what a request took (the peak of its memory, say) writes ``request_cost.vram_mb=3100`` into
``endpoint-load-metrics`` of its answer. From ``FEWEST`` such answers on, a request without a demand of its own is
admitted by what is expected of it, times the most that lately was taken beyond expectation: too little is a request
that dies, and others with it; too much is a slot that is used a little later. Before that, and where nobody tells, a
request counts for one slot's part.
"""

import math
from collections.abc import Mapping

from muster.balancer.ask import Demands, Features
from muster.balancer.cost import CostModel

FEWEST = 20
FIRST_MARGIN, LEAST_MARGIN, MOST_MARGIN = 1.25, 1.05, 2.0
FADING = 0.998
"""What is left of the margin after each answer that took less: a surprise of 15 % is remembered for 70 of them."""


class _Budget:
    """One budget: the model of amounts is the model of seconds (``cost.py``) with another unit."""

    def __init__(self) -> None:
        self.model = CostModel()
        self.margin = FIRST_MARGIN
        self.answers = 0

    def observe(self, features: Features | None, amount: float) -> None:
        ratio = self.model.observe(features, "", "", max(amount, 1e-6), 1)
        self.margin = max(LEAST_MARGIN, FADING * self.margin, min(ratio, MOST_MARGIN))
        self.answers += 1


class DemandModel:
    """One service's budgets."""

    def __init__(self) -> None:
        self._budgets: dict[str, _Budget] = {}

    def observe(self, features: Features | None, costs: Mapping[str, float], budgets: Mapping[str, int]) -> None:
        """Learn from one answer; what is no budget of the replica is left alone."""
        for name, amount in costs.items():
            if amount <= budgets.get(name, -1.0):  # more than there is was not taken here
                self._budgets.setdefault(name, _Budget()).observe(features, amount)

    def complete(self, demands: Demands, features: Features | None) -> Demands:
        """Return the demands with what is learned of budgets that they do not name."""
        learned = {
            name: math.ceil(budget.model.work(features) * budget.margin)
            for name, budget in self._budgets.items()
            if budget.answers >= FEWEST and name not in demands
        }
        return {**learned, **demands} if learned else demands
