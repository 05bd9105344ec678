"""What monitoring is told of a process that balances: its services' statistics, as Prometheus reads them.

In: one ``Statistics`` of each service. Out: the text of one scrape (Prometheus' text format 0.0.4). It is written here
because the SDK's base install has no Prometheus library, and because text is all it takes; who has an exporter of their
own adds this text to theirs (``connection.metrics()``).

Counters begin anew with the process, as Prometheus expects. Labels are bounded: a replica that left is no longer told,
and tenants, whom callers name, are told as long as they wait: those with the longest queues by name, the rest as one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from muster.balancer.cost import CostStatistics
from muster.balancer.statistics import ReplicaStatistics, Statistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_TENANTS = 20
"""Told by name, of each service."""
OTHER_TENANTS = "(others)"

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class _Service(NamedTuple):
    """A figure of each service; a name that ends in ``_total`` is a counter's."""

    name: str
    text: str
    value: Callable[[Statistics], float]


class _Replica(NamedTuple):
    """A figure of each replica."""

    name: str
    text: str
    value: Callable[[ReplicaStatistics], float]


class _Cost(NamedTuple):
    """A figure of what a service learned of its costs."""

    name: str
    text: str
    value: Callable[[CostStatistics], float]


_SERVICE = (
    _Service("in_flight", "Requests that hold a slot", lambda it: it.in_flight),
    _Service("waiting", "Requests that wait for a slot", lambda it: it.waiting),
    _Service(
        "expected_wait_seconds", "How long an average request would wait now", lambda it: it.expected_wait_seconds
    ),
    _Service("granted_total", "Slots that were granted", lambda it: it.granted),
    _Service("answered_total", "Requests that a replica answered", lambda it: it.answered),
    _Service("resent_total", "Requests that went to another replica after the first", lambda it: it.resent),
    _Service("refused_total", "Requests that found the queue full", lambda it: it.refused),
    _Service("refused_early_total", "Requests refused as too late to meet their deadline", lambda it: it.refused_early),
    _Service("timed_out_total", "Requests that waited in vain", lambda it: it.timed_out),
    _Service("waited_seconds_total", "How long those that were granted a slot waited", lambda it: it.waited_seconds),
    _Service("busy_seconds_total", "How long those that were answered took at replicas", lambda it: it.busy_seconds),
    _Service("broker", "1 while a broker chooses for this client and others", lambda it: bool(it.broker)),
    _Service("replicas", "Replicas of the set in use, and those that are leaving it", lambda it: len(it.replicas)),
    _Service("set_epoch", "Epoch of the set in use", lambda it: it.fence[0] if it.fence else math.nan),
    _Service("set_revision", "Revision of the set in use", lambda it: it.fence[1] if it.fence else math.nan),
)
_REPLICA = (
    _Replica("in_flight", "Our requests at a replica", lambda it: it.in_flight),
    _Replica("others", "What other clients are thought to have there", lambda it: it.others),
    _Replica("limit", "How many requests a replica may have at once", lambda it: it.limit),
    _Replica("limit_declared", "1 if the limit was declared, 0 if it was learned", lambda it: it.is_limit_declared),
    _Replica("slowness", "How long it takes, relative to the service's typical replica", lambda it: it.slowness),
    _Replica("served_total", "Requests that a replica was given", lambda it: it.served),
    _Replica("aside_seconds", "For how long it gets nothing; 0: it may get something", lambda it: it.aside_seconds),
    _Replica("leaving", "1 if it is in the set no more and has requests yet", lambda it: it.is_leaving),
)
_COST = (
    _Cost("cost_observations_total", "Answers from which costs were learned", lambda it: it.observations),
    _Cost("cost_unmatched_total", "Those whose requests named no features that could be used", lambda it: it.unmatched),
    _Cost("cost_spread", "Deviation of the log of the seconds from what was expected", lambda it: it.spread),
    _Cost("cost_crowding", "A request takes in_flight to the power of this times as long", lambda it: it.crowding),
)

_Labels = tuple[tuple[str, str], ...]
_Sample = tuple[_Labels, float]


def text(services: Sequence[Statistics]) -> str:
    """Write one scrape. Each service has to have a name of its own."""
    return "".join(line + "\n" for line in _lines(services))


def _lines(services: Sequence[Statistics]) -> Iterator[str]:
    for of_service in _SERVICE:
        samples: Iterable[_Sample] = ((_of(each), of_service.value(each)) for each in services)
        yield from _family(of_service.name, of_service.text, samples)
    for of_replica in _REPLICA:
        samples = (
            (_of(each, replica=replica.id), of_replica.value(replica)) for each in services for replica in each.replicas
        )
        yield from _family(f"replica_{of_replica.name}", of_replica.text, samples)
    yield from _family(
        "replica_info",
        "1 for each replica, with what it is",
        ((_of(each, replica=replica.id, gpu=replica.gpu), 1.0) for each in services for replica in each.replicas),
    )
    yield from _family("replica_budget_held", "What our requests hold of a budget", _budgets(services, 0))
    yield from _family("replica_budget_whole", "The whole budget of a replica", _budgets(services, 1))
    tenants = [(each, sample) for each in services for sample in _tenants(each)]
    yield from _family(
        "tenant_waiting",
        "Requests of a tenant that wait for a slot",
        ((_of(each, tenant=tenant), waiting) for each, (tenant, waiting, _) in tenants),
    )
    yield from _family(
        "tenant_oldest_seconds",
        "How long the one of them has waited that waits longest",
        ((_of(each, tenant=tenant), oldest) for each, (tenant, _, oldest) in tenants),
    )
    costs = [(each, each.cost) for each in services if isinstance(each.cost, CostStatistics)]
    for of_cost in _COST:
        yield from _family(of_cost.name, of_cost.text, ((_of(each), of_cost.value(cost)) for each, cost in costs))
    yield from _family(
        "gpu_slowness",
        "How long a GPU model takes, relative to the service's typical replica",
        ((_of(each, gpu=gpu), factor) for each, cost in costs for gpu, factor in cost.gpus.items()),
    )


def _budgets(services: Sequence[Statistics], part: int) -> Iterator[_Sample]:
    for each in services:
        for replica in each.replicas:
            for budget, figures in replica.budgets.items():
                yield _of(each, replica=replica.id, budget=budget), figures[part]


def _tenants(service: Statistics) -> list[tuple[str, int, float]]:
    """Return who waits, how many and how long; beyond so many tenants those with the shortest queues as one."""
    listed = sorted(service.tenants, key=lambda each: (-each.waiting, each.tenant))
    told = {each.tenant: (each.waiting, each.oldest_seconds) for each in listed[:MOST_TENANTS]}
    for each in listed[MOST_TENANTS:]:
        waiting, oldest = told.get(OTHER_TENANTS, (0, 0.0))
        told[OTHER_TENANTS] = (waiting + each.waiting, max(oldest, each.oldest_seconds))
    return [(tenant, *figures) for tenant, figures in told.items()]


def _of(service: Statistics, **labels: str) -> _Labels:
    return (("service", service.service), *labels.items())


def _family(name: str, help_text: str, samples: Iterable[_Sample]) -> Iterator[str]:
    """Write one metric; nothing where nobody has it, so that a scrape of many small services stays small."""
    full = f"muster_client_{name}"
    kind = "counter" if name.endswith("_total") else "gauge"
    is_first = True
    for labels, value in samples:
        if is_first:
            yield f"# HELP {full} {help_text}"
            yield f"# TYPE {full} {kind}"
            is_first = False
        told = ",".join(f'{label}="{content.translate(_ESCAPES)}"' for label, content in labels)
        yield f"{full}{{{told}}} {_number(value)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 2**63 else repr(float(value))
