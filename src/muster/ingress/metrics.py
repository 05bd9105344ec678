"""What monitoring is told of the ingress: what its gates count, as Prometheus reads it.

In: the gates and the counts of the process, looked at when asked. Out: the text of one scrape. Counts are since the
ingress started, which is how Prometheus expects counters to begin anew. Containers are labels here, unlike in the
server's metrics: who looks for the replica that is slow needs them, and one that is gone is no longer told.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from muster.ingress.gate import Gate

_LABELS = ("deployment", "container", "port")


class AnswerCounts:
    """Counts answers by the class of their status; a container's are forgotten with its gate."""

    def __init__(self) -> None:
        self.unknown = 0
        """Requests of which nobody knew whom they were for."""
        self._by_gate: WeakKeyDictionary[Gate, Counter[tuple[int, str]]] = WeakKeyDictionary()

    def note(self, gate: Gate | None, container_port: int, status: int, seconds: float) -> None:
        """Count one; status 0 is that of a request that got no answer."""
        del seconds  # the gate adds them up
        if gate is None:
            self.unknown += 1
            return
        counts = self._by_gate.get(gate)
        if counts is None:
            counts = self._by_gate[gate] = Counter()
        counts[container_port, f"{status // 100}xx" if status else "none"] += 1

    def of(self, gate: Gate) -> Mapping[tuple[int, str], int]:
        """Return how many answers there were, by container port and class."""
        return self._by_gate.get(gate, {})


@dataclass(frozen=True, slots=True)
class Figures:
    """One look at the ingress. ``certificate_expires_at`` is Unix time; ``epoch`` and ``revision`` those in force."""

    gates: tuple[Gate, ...]
    answers: AnswerCounts
    epoch: int
    revision: int
    bind_failures: int
    open_connections: int
    turned_away: int
    failed_connections: Mapping[str, int]
    certificate_expires_at: float
    ssh_sessions: int
    failed_logins: int


def text(figures: Figures) -> bytes:
    """Write one scrape."""
    registry = CollectorRegistry()
    registry.register(_Figures(figures))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        yield from _of_gates(self._figures.gates, self._figures.answers)
        yield from _of_process(self._figures)


def _of_gates(gates: tuple[Gate, ...], answers: AnswerCounts) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily(
        "muster_ingress_in_flight", "Requests and raw connections that are not over", labels=_LABELS
    )
    requests = CounterMetricFamily(
        "muster_ingress_requests",
        "Requests and raw connections that are over, by outcome",
        labels=(*_LABELS, "outcome"),
    )
    seconds = SummaryMetricFamily(
        "muster_ingress_request_seconds", "How long those that ended well took, to their last byte", labels=_LABELS
    )
    answered = CounterMetricFamily(
        "muster_ingress_answers",
        "Answers of HTTP, the ingress's own too, by the class of their status",
        labels=(*_LABELS, "status"),
    )
    refused = CounterMetricFamily(
        "muster_ingress_refused",
        "Requests that were not sent to a container, by why not",
        labels=(*_LABELS[:2], "reason"),
    )
    for gate in gates:
        container = [gate.route.deployment_id, gate.route.container_uuid]
        for port, counts in gate.counts.items():
            labels = [*container, str(port)]
            in_flight.add_metric(labels, counts.in_flight)
            requests.add_metric([*labels, "served"], counts.served)
            requests.add_metric([*labels, "failed"], counts.failed)
            seconds.add_metric(labels, counts.served, counts.seconds)
        for (port, status), count in answers.of(gate).items():
            answered.add_metric([*container, str(port), status], count)
        for reason, count in gate.refusals.items():
            if count:
                refused.add_metric([*container, reason.value], count)
    yield from (in_flight, requests, seconds, answered, refused)


def _of_process(figures: Figures) -> Iterator[Metric]:
    for name, text_, value in (
        ("table_epoch", "Epoch of the route table in force", figures.epoch),
        ("table_revision", "Revision of the route table in force", figures.revision),
        ("bind_failures", "Ports that should listen and cannot", figures.bind_failures),
        ("open_connections", "Connections of clients that are open", figures.open_connections),
        ("certificate_expiry_timestamp_seconds", "When the certificate ends", figures.certificate_expires_at),
        ("ssh_sessions", "SSH sessions that are open", figures.ssh_sessions),
    ):
        yield GaugeMetricFamily(f"muster_ingress_{name}", text_, value=value)
    yield CounterMetricFamily(
        "muster_ingress_unknown_names", "Requests for a host name that no container has", value=figures.answers.unknown
    )
    yield CounterMetricFamily("muster_ingress_turned_away", "Connections above the limit", value=figures.turned_away)
    yield CounterMetricFamily(
        "muster_ingress_ssh_failed_logins", "SSH logins with a wrong password", value=figures.failed_logins
    )
    failed = CounterMetricFamily(
        "muster_ingress_failed_connections",
        "Connections that came to nothing before a request, by why",
        labels=("reason",),
    )
    for reason, count in sorted(figures.failed_connections.items()):
        failed.add_metric([reason], count)
    yield failed
