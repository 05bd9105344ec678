"""One picture of a service from those of several processes, each of which balances it with a balancer of its own. Pure.

Counts add up. Of a replica's requests that one process takes for others', those of the other processes are taken off,
since they are ours. Where there is no sum (how slow a replica is, what was learned of costs) the process that has
seen most speaks for all. ``Totals`` keeps the counts of processes that have ended, so that no sum goes back.
"""

from collections.abc import Iterable, Sequence

from muster.balancer.statistics import ReplicaStatistics, Statistics, TenantStatistics

_COUNTS = (
    "granted",
    "released",
    "refused",
    "refused_early",
    "timed_out",
    "answered",
    "resent",
    "waited_seconds",
    "busy_seconds",
)


def merged(pictures: Sequence[Statistics]) -> Statistics:
    """Return the picture of one service that all of them give."""
    most = max(pictures, key=lambda each: each.answered)
    fences = [each.fence for each in pictures if each.fence is not None]
    counts = {name: sum(getattr(each, name) for each in pictures) for name in _COUNTS}
    return most._replace(
        fence=min(fences) if fences else None,
        replicas=tuple(_replicas(pictures)),
        in_flight=sum(each.in_flight for each in pictures),
        waiting=sum(each.waiting for each in pictures),
        expected_wait_seconds=max(each.expected_wait_seconds for each in pictures),
        tenants=tuple(_tenants(pictures)),
        broker=next((each.broker for each in pictures if each.broker), ""),
        **counts,
    )


def by_service(pictures: Iterable[Statistics]) -> list[Statistics]:
    """Return one picture of each service, in the order of their names."""
    grouped: dict[str, list[Statistics]] = {}
    for each in pictures:
        grouped.setdefault(each.service, []).append(each)
    return [merged(grouped[name]) for name in sorted(grouped)]


def _replicas(pictures: Sequence[Statistics]) -> Iterable[ReplicaStatistics]:
    grouped: dict[str, list[ReplicaStatistics]] = {}
    for replica in (each for picture in pictures for each in picture.replicas):
        grouped.setdefault(replica.id, []).append(replica)
    for _, same in sorted(grouped.items()):
        most = max(same, key=lambda each: each.served)
        in_flight = sum(each.in_flight for each in same)
        budgets = {
            name: (sum(each.budgets.get(name, (0, 0))[0] for each in same), whole)
            for name, (_, whole) in most.budgets.items()
        }
        yield most._replace(
            in_flight=in_flight,
            others=max(0, max(each.others + each.in_flight for each in same) - in_flight),
            served=sum(each.served for each in same),
            aside_seconds=min(each.aside_seconds for each in same),
            budgets=budgets,
        )


def _tenants(pictures: Sequence[Statistics]) -> Iterable[TenantStatistics]:
    found: dict[str, TenantStatistics] = {}
    for each in (tenant for picture in pictures for tenant in picture.tenants):
        before = found.get(each.tenant, TenantStatistics(each.tenant, 0, 0.0))
        oldest = max(before.oldest_seconds, each.oldest_seconds)
        found[each.tenant] = TenantStatistics(each.tenant, before.waiting + each.waiting, oldest)
    return (found[name] for name in sorted(found))


class Totals:
    """The last pictures of all processes, and the counts of those that have ended."""

    def __init__(self) -> None:
        self._ended: dict[str, dict[str, float]] = {}
        self._served: dict[str, dict[str, int]] = {}
        self._present: dict[int, Sequence[Statistics]] = {}

    def take(self, worker: int, pictures: Sequence[Statistics]) -> None:
        """Take over what a process tells."""
        self._present[worker] = pictures

    def ended(self, worker: int) -> None:
        """Keep what a process had counted."""
        for each in self._present.pop(worker, ()):
            counts = self._ended.setdefault(each.service, dict.fromkeys(_COUNTS, 0))
            for name in _COUNTS:
                counts[name] += getattr(each, name)
            counts["released"] += each.in_flight  # what was under way is over
            served = self._served.setdefault(each.service, {})
            for replica in each.replicas:
                served[replica.id] = served.get(replica.id, 0) + replica.served

    def services(self) -> list[Statistics]:
        """Return one picture of each service that a living process has."""
        found = by_service(each for pictures in self._present.values() for each in pictures)
        return [self._with_ended(each) for each in found]

    def _with_ended(self, service: Statistics) -> Statistics:
        counts = self._ended.get(service.service)
        if counts is None:
            return service
        served = self._served[service.service]
        replicas = tuple(each._replace(served=each.served + served.get(each.id, 0)) for each in service.replicas)
        summed = {name: getattr(service, name) + count for name, count in counts.items()}
        return service._replace(replicas=replicas, **summed)
