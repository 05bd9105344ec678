"""How many requests one replica may hold at once.

The endpoint declares it (``service.concurrency`` of the deployment); where it does not, 8: enough to keep a small
model's batch fed, few enough that a dying replica takes little with it. Finding it adaptively is a later part and
takes this function's place.
"""

from muster.model.endpoint import Endpoint

DEFAULT_CONCURRENCY = 8


def concurrency_limit(endpoint: Endpoint, default: int = DEFAULT_CONCURRENCY) -> int:
    """Return the limit for ``endpoint``; at least 1, because a replica without slots would never serve."""
    return max(1, default if endpoint.concurrency is None else endpoint.concurrency)
