"""What a balancer knows at one moment, for people: ``service.statistics()``, metrics, ``muster lb show``.

Copies, so that whoever reads them holds up nobody. Times in seconds, ``*_seconds`` totals since the service was made.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class ReplicaStatistics(NamedTuple):
    """One replica. ``aside_seconds`` is how long it gets nothing, 0 when it may get something, and ``why`` says why.

    ``others`` is what other clients are thought to have in flight there; ``slowness`` how long it takes, relative to
    the service's typical replica; ``budgets`` maps a budget to (held by our requests, whole).
    """

    id: str
    url: str
    gpu: str
    in_flight: int
    others: int
    limit: int
    is_limit_declared: bool
    served: int
    slowness: float
    budgets: Mapping[str, tuple[int, int]]
    is_leaving: bool
    aside_seconds: float
    why: str


class TenantStatistics(NamedTuple):
    """One tenant's waiting requests; ``oldest_seconds`` is how long the one that waits longest has waited."""

    tenant: str
    waiting: int
    oldest_seconds: float


class Statistics(NamedTuple):
    """One service. ``fence`` is ``None`` until the first set.

    ``refused`` counts requests that found the queue full, ``refused_early`` those that could not have met their
    deadline, ``timed_out`` those that waited in vain. ``expected_wait_seconds`` is for an average request now.
    ``answered`` of ``busy_seconds`` were answered, ``granted`` waited ``waited_seconds`` together. ``cost`` is what the
    cost model says of itself (``cost.CostStatistics``).
    """

    service: str
    fence: tuple[int, int] | None
    replicas: tuple[ReplicaStatistics, ...]
    in_flight: int
    waiting: int
    granted: int
    released: int
    refused: int
    refused_early: int
    timed_out: int
    answered: int
    resent: int
    waited_seconds: float
    busy_seconds: float
    expected_wait_seconds: float
    tenants: tuple[TenantStatistics, ...]
    cost: Any
