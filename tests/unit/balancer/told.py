"""Statistics as a balancer under load would tell them, to be changed with ``_replace``."""

from muster.balancer.cost import CostStatistics, KindStatistics
from muster.balancer.statistics import ReplicaStatistics, Statistics, TenantStatistics

FAST = ReplicaStatistics(
    id="a",
    url="https://gpu1.lab:20001",
    gpu="RTX 4090",
    in_flight=3,
    others=1,
    limit=4,
    is_limit_declared=True,
    served=120,
    slowness=0.8,
    budgets={"vram_mb": (9000, 24000)},
    is_leaving=False,
    aside_seconds=0.0,
    why="",
)
SLOW = FAST._replace(
    id="b",
    url="https://gpu2.lab:20001",
    gpu="RTX 3090",
    in_flight=0,
    others=0,
    limit=2,
    is_limit_declared=False,
    served=31,
    slowness=1.62,
    budgets={},
    aside_seconds=0.25,
    why="refused",
)
COST = CostStatistics(
    observations=150,
    unmatched=2,
    spread=0.21,
    crowding=0.4,
    kinds={
        "pixels, steps": KindStatistics(
            in_use="power law",
            formula="0.021 s × pixels^0.97 × steps^1.02",
            error=0.11,
            mean_error=0.83,
            shares={"mean": 0.1, "power law": 0.9},
            observations=148,
        )
    },
    gpus={"RTX 4090": 0.81, "RTX 3090": 1.6},
    replicas={"a": 0.8, "b": 1.62},
)
BUSY = Statistics(
    service="admin/digits/6006",
    fence=(5, 7),
    replicas=(FAST, SLOW),
    in_flight=3,
    waiting=4,
    granted=151,
    released=148,
    refused=6,
    refused_early=2,
    timed_out=1,
    answered=147,
    resent=3,
    waited_seconds=30.2,
    busy_seconds=31.5,
    expected_wait_seconds=0.4,
    tenants=(TenantStatistics("ann", 3, 0.8), TenantStatistics("bob", 1, 0.1)),
    cost=COST,
)
NEW = BUSY._replace(
    service="admin/ocr/6006",
    fence=None,
    replicas=(),
    in_flight=0,
    waiting=0,
    granted=0,
    released=0,
    refused=0,
    refused_early=0,
    timed_out=0,
    answered=0,
    resent=0,
    waited_seconds=0.0,
    busy_seconds=0.0,
    expected_wait_seconds=float("inf"),
    tenants=(),
    cost=None,
)
