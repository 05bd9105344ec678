"""What a balancer knows at one moment, for people: ``service.statistics()``, metrics, ``muster lb show``.

Copies, so that whoever reads them holds up nobody. Times in seconds, ``*_seconds`` totals since the service was made.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from muster.balancer.eligible import free_at
from muster.balancer.lease import Lease, Outcome
from muster.balancer.queue import WaitingQueue
from muster.balancer.replica import Replica
from muster.errors import BalancerError, CannotMeetDeadline, NoEndpoints, QueueFull, QueueTimeout


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
    cost model says of itself (``cost.CostStatistics``). ``broker`` is whom this process asks instead of choosing by
    itself, empty if nobody: then the queue is there, and ``waiting`` counts what waits there for us.
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
    broker: str = ""


@dataclass(slots=True)
class Counts:
    """What a balancer counts; only ``in_flight`` ever falls."""

    in_flight: int = 0
    granted: int = 0
    refused: int = 0
    refused_early: int = 0
    timed_out: int = 0
    answered: int = 0
    waited_seconds: float = 0.0
    busy_seconds: float = 0.0

    def grant(self, waited_seconds: float) -> None:
        """Count a grant."""
        self.in_flight += 1
        self.granted += 1
        self.waited_seconds += waited_seconds

    def refuse(self, error: BalancerError) -> None:
        """Count one that was refused elsewhere."""
        if isinstance(error, CannotMeetDeadline):
            self.refused_early += 1
        elif isinstance(error, QueueFull):
            self.refused += 1
        elif isinstance(error, QueueTimeout | NoEndpoints):
            self.timed_out += 1

    def end(self, lease: Lease, outcome: Outcome, now: float) -> None:
        """Count the end of a lease."""
        self.in_flight -= 1
        if outcome is Outcome.OK:
            self.answered += 1
            self.busy_seconds += now - lease.granted_at


def statistics_of(
    *,
    service: str,
    fence: tuple[int, int] | None,
    replicas: Iterable[Replica],
    queue: WaitingQueue,
    counts: Counts,
    expected_wait: float,
    cost: Any,
    now: float,
) -> Statistics:
    """Put together what a balancer shows of itself."""
    return Statistics(
        service=service,
        fence=fence,
        replicas=tuple(_replica(each, now) for each in replicas),
        in_flight=counts.in_flight,
        waiting=len(queue),
        granted=counts.granted,
        released=counts.granted - counts.in_flight,
        refused=counts.refused,
        refused_early=counts.refused_early,
        timed_out=counts.timed_out,
        answered=counts.answered,
        resent=0,
        waited_seconds=counts.waited_seconds,
        busy_seconds=counts.busy_seconds,
        expected_wait_seconds=expected_wait,
        tenants=tuple(
            TenantStatistics(tenant, len(tickets), now - min(each.asked_at for each in tickets))
            for tenant, tickets in sorted(queue.by_tenant().items())
        ),
        cost=cost,
    )


def _replica(replica: Replica, now: float) -> ReplicaStatistics:
    return ReplicaStatistics(
        id=replica.endpoint.id,
        url=replica.endpoint.url,
        gpu=replica.gpu,
        in_flight=replica.in_flight,
        others=replica.others,
        limit=replica.limit,
        is_limit_declared=replica.endpoint.concurrency is not None,
        served=replica.served,
        slowness=replica.slowness,
        budgets={name: (replica.held[name], whole) for name, whole in replica.endpoint.budgets.items()},
        is_leaving=replica.is_leaving,
        aside_seconds=max(0.0, free_at(replica, now) - now),
        why=_why(replica, now),
    )


def _why(replica: Replica, now: float) -> str:
    if replica.is_leaving:
        return "left the set: its requests finish"
    if replica.health.failures:
        return replica.health.why
    if replica.refuses_until > now:
        return "its ingress refused: " + ("takes no new requests" if replica.is_closed else "full")
    return ""
