"""What a gateway counts of its requests: in each process as they end, and the sums of all processes for Prometheus.

``Counters`` is one process's, and can be told as JSON (``snapshot``). ``Sums`` is the parent's: it keeps the last
snapshot of each process, and what those that ended had counted, so that no sum ever goes back when a process is
started anew. Histograms have the buckets of ``BOUNDS``: a refusal takes microseconds, a stream may take an hour.

Labels are bounded. ``service`` is a name that is known to lead somewhere; what was asked for beside that counts as
``(unknown)``, or the metrics would grow with every name that somebody tries. ``reason`` is one of our own words, empty
for a replica's own answer; ``status`` is a class (``2xx``), ``gone`` for clients that did not wait for one.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from muster.gateway.port import Record

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
UNKNOWN = "(unknown)"
_PREFIX = "muster_gateway_"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Snapshot = Mapping[str, Any]


class Counters:
    """What one process has counted since it began."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known
        self.requests: dict[tuple[str, str, str], int] = {}
        self.bytes: dict[str, list[int]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.queue_seconds: dict[str, list[float]] = {}
        self.resent: dict[str, int] = {}
        self.upgraded = 0

    def count(self, record: Record) -> None:
        """Count a request that is over."""
        service = record.service
        if not service or not self._is_known(service):
            service = UNKNOWN
        key = service, _status_class(record.status), record.reason
        self.requests[key] = self.requests.get(key, 0) + 1
        transferred = self.bytes.setdefault(service, [0, 0])
        transferred[0] += record.bytes_in
        transferred[1] += record.bytes_out
        _observe(self.seconds, service, record.seconds)
        if record.attempts or record.queue_seconds:
            _observe(self.queue_seconds, service, record.queue_seconds)
        if record.attempts > 1:
            self.resent[service] = self.resent.get(service, 0) + record.attempts - 1
        self.upgraded += record.is_upgraded

    def snapshot(self, *, in_flight: int, open_connections: int, log_lost: int = 0) -> dict[str, Any]:
        """Return everything as JSON takes it, with what is so now."""
        return {
            "requests": [[*key, count] for key, count in self.requests.items()],
            "bytes": self.bytes,
            "seconds": self.seconds,
            "queue_seconds": self.queue_seconds,
            "resent": self.resent,
            "upgraded": self.upgraded,
            "log_lost": log_lost,
            "in_flight": in_flight,
            "open_connections": open_connections,
        }


def _observe(histograms: dict[str, list[float]], service: str, seconds: float) -> None:
    """Count in a bucket; behind the buckets are the number of all and their sum."""
    histogram = histograms.get(service)
    if histogram is None:
        histogram = histograms[service] = [0.0] * (len(BOUNDS) + 3)
    histogram[bisect.bisect_left(BOUNDS, seconds)] += 1
    histogram[-2] += 1
    histogram[-1] += seconds


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if status else "gone"


class Sums:
    """What all processes have counted, those that have ended among them."""

    def __init__(self) -> None:
        self._ended = _Sum()
        self._present: dict[int, Snapshot] = {}
        self.restarts = 0

    def take(self, worker: int, snapshot: Snapshot) -> None:
        """Take over what a process tells; what it told before is in it."""
        self._present[worker] = snapshot

    def ended(self, worker: int) -> None:
        """Keep what a process had counted, and begin anew with its next life."""
        snapshot = self._present.pop(worker, None)
        if snapshot is not None:
            self._ended.add(snapshot)

    @property
    def in_flight(self) -> int:
        """How many requests are under way now."""
        return sum(each["in_flight"] for each in self._present.values())

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open now."""
        return sum(each["open_connections"] for each in self._present.values())

    def text(self, *, processes: int) -> str:
        """Write one scrape: Prometheus' text format 0.0.4."""
        total = _Sum()
        for each in (self._ended, *map(_Sum.of, self._present.values())):
            total.merge(each)
        gauges = (
            ("in_flight", "gauge", "Requests under way, those that wait for a replica among them", self.in_flight),
            ("open_connections", "gauge", "Open connections of clients", self.open_connections),
            ("processes", "gauge", "Processes that accept connections", processes),
            ("process_restarts_total", "counter", "Processes that were started again", self.restarts),
            ("upgraded_total", "counter", "Requests that became WebSockets or the like", total.upgraded),
            ("access_log_lost_total", "counter", "Lines that the access log could not take", total.log_lost),
        )
        return "".join(f"{line}\n" for line in (*total.lines(), *(one for each in gauges for one in _single(*each))))


class _Sum:
    """Counts that were added up."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str], float] = {}
        self.bytes: dict[str, list[float]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.queue_seconds: dict[str, list[float]] = {}
        self.resent: dict[str, float] = {}
        self.upgraded = 0
        self.log_lost = 0

    @classmethod
    def of(cls, snapshot: Snapshot) -> "_Sum":
        """Return what one snapshot says."""
        made = cls()
        made.add(snapshot)
        return made

    def add(self, snapshot: Snapshot) -> None:
        """Add what a process counted."""
        for service, status, reason, count in snapshot["requests"]:
            key = service, status, reason
            self.requests[key] = self.requests.get(key, 0) + count
        self._add_rest(snapshot["bytes"], snapshot["seconds"], snapshot["queue_seconds"], snapshot["resent"])
        self.upgraded += snapshot["upgraded"]
        self.log_lost += snapshot["log_lost"]

    def merge(self, other: "_Sum") -> None:
        """Add what was added up elsewhere."""
        for key, count in other.requests.items():
            self.requests[key] = self.requests.get(key, 0) + count
        self._add_rest(other.bytes, other.seconds, other.queue_seconds, other.resent)
        self.upgraded += other.upgraded
        self.log_lost += other.log_lost

    def _add_rest(
        self,
        transferred: Mapping[str, list[float]],
        seconds: Mapping[str, list[float]],
        queue_seconds: Mapping[str, list[float]],
        resent: Mapping[str, float],
    ) -> None:
        _add_lists(self.bytes, transferred)
        _add_lists(self.seconds, seconds)
        _add_lists(self.queue_seconds, queue_seconds)
        for service, count in resent.items():
            self.resent[service] = self.resent.get(service, 0) + count

    def lines(self) -> Iterator[str]:
        """Write what is told of each service."""
        yield from _family(
            "requests_total",
            "counter",
            "Requests that are over",
            (
                (_labels(service=service, status=status, reason=reason), count)
                for (service, status, reason), count in sorted(self.requests.items())
            ),
        )
        for at, (name, text) in enumerate(
            (
                ("received_bytes_total", "Bytes of bodies from clients"),
                ("sent_bytes_total", "Bytes of bodies to clients"),
            )
        ):
            samples = ((_labels(service=service), each[at]) for service, each in sorted(self.bytes.items()))
            yield from _family(name, "counter", text, samples)
        yield from _family(
            "resent_total",
            "counter",
            "Sends of requests after the first one",
            ((_labels(service=service), count) for service, count in sorted(self.resent.items())),
        )
        yield from _histogram("request_seconds", "From a request's head to its answer's last byte", self.seconds)
        yield from _histogram("queue_seconds", "How long requests waited for a replica", self.queue_seconds)


def _add_lists(into: dict[str, list[float]], more: Mapping[str, list[float]]) -> None:
    for service, figures in more.items():
        present = into.setdefault(service, [0] * len(figures))
        for at, figure in enumerate(figures):
            present[at] += figure


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield from _family(name, kind, text, [("", value)])


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    is_first = True
    for labels, value in samples:
        if is_first:
            yield from _about(name, kind, text)
            is_first = False
        yield f"{_PREFIX}{name}{labels} {_number(value)}"


def _histogram(name: str, text: str, histograms: Mapping[str, list[float]]) -> Iterator[str]:
    if histograms:
        yield from _about(name, "histogram", text)
    for service, figures in sorted(histograms.items()):
        total = 0.0
        for bound, count in zip((*BOUNDS, math.inf), figures, strict=False):
            total += count
            le = "+Inf" if math.isinf(bound) else f"{bound:g}"
            yield f"{_PREFIX}{name}_bucket{_labels(service=service, le=le)} {_number(total)}"
        yield f"{_PREFIX}{name}_sum{_labels(service=service)} {_number(figures[-1])}"
        yield f"{_PREFIX}{name}_count{_labels(service=service)} {_number(figures[-2])}"


def _about(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}"
    yield f"# TYPE {_PREFIX}{name} {kind}"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()) + "}"


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(float(value))
