"""From answers to figures: percentiles, shares and utilisation of a run; ratios over paired runs, with an interval.

Percentiles are over the requests that were answered, and shares over all requests, so no balancer gains by refusing.
Ratios are geometric means over seeds of (ours / theirs on the same trace), with Student's interval of the logarithms:
the trace is the same, so what traces differ by cancels out.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.balance.fleet import Fleet
from benchmarks.balance.shapes import good_within
from benchmarks.balance.trace import Job
from benchmarks.table import percentile

_T_975 = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
    10: 2.228,
    12: 2.179,
    15: 2.131,
    20: 2.086,
    30: 2.042,
    60: 2.000,
}
"""Student's t, two-sided 95 %, by degrees of freedom; those between take the next smaller, whose t is wider."""
_LEAST = 1e-4
"""A share of nothing has no logarithm; less than one request of a run is taken as this."""


class Verdict(StrEnum):
    """What became of a request, as its client saw it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """Told that nobody serves it now, before its client gave up."""
    GAVE_UP = "gave up"
    """The client's deadline passed."""
    FAILED = "failed"
    """Anything else: an error of the replica, out of memory among them, or of the balancer; a broken connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end. ``seconds`` are from the moment at which it was meant to be sent."""

    seconds: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. Shares are from 0 to 1, times in seconds."""

    p50: float
    p95: float
    p99: float
    goodput: float
    failed: float
    refused: float
    gave_up: float
    utilisation: Mapping[str, float]
    """Per GPU kind, the share of slot-time that was busy while the trace ran."""
    late_send: float = 0.0
    """p99 of how much later than meant the requests left the client: what the load generator itself adds."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval; of one sample, nobody knows the interval."""

    mean: float
    low: float
    high: float


def figures(
    jobs: Sequence[Job],
    answers: Sequence[Answer],
    fleet: Fleet,
    busy: Sequence[Sequence[tuple[float, float]]],
    *,
    seconds: float,
    late_send: float = 0.0,
) -> Figures:
    """Sum a run up; ``busy`` are per replica the intervals of its requests, from the trace's start."""
    count = len(jobs)
    verdicts = [each.verdict for each in answers]
    times = [each.seconds for each in answers if each.verdict is Verdict.ANSWERED] or [math.inf]
    good = sum(
        answer.verdict is Verdict.ANSWERED and answer.seconds <= good_within(job.work)
        for job, answer in zip(jobs, answers, strict=True)
    )
    return Figures(
        percentile(times, 50),
        percentile(times, 95),
        percentile(times, 99),
        good / count,
        verdicts.count(Verdict.FAILED) / count,
        verdicts.count(Verdict.REFUSED) / count,
        verdicts.count(Verdict.GAVE_UP) / count,
        utilisation(fleet, busy, seconds),
        late_send,
    )


def utilisation(fleet: Fleet, busy: Sequence[Sequence[tuple[float, float]]], seconds: float) -> dict[str, float]:
    """Return for each GPU kind which share of its slots' time was busy between 0 and ``seconds``."""
    used: dict[str, float] = {}
    there: dict[str, float] = {}
    for unit, intervals in zip(fleet, busy, strict=True):
        within = sum(max(0.0, min(end, seconds) - max(begin, 0.0)) for begin, end in intervals)
        used[unit.gpu] = used.get(unit.gpu, 0.0) + within
        there[unit.gpu] = there.get(unit.gpu, 0.0) + unit.slots * seconds
    return {gpu: used[gpu] / there[gpu] for gpu in used}


def interval(samples: Sequence[float]) -> Interval:
    """Return the mean of independent samples and Student's 95 % interval of it."""
    mean = statistics.fmean(samples)
    if len(samples) < 2:
        return Interval(mean, math.nan, math.nan)
    half = student(len(samples) - 1) * statistics.stdev(samples) / math.sqrt(len(samples))
    return Interval(mean, mean - half, mean + half)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return the geometric mean of paired ratios and its interval."""
    logs = [math.log(max(a, _LEAST) / max(b, _LEAST)) for a, b in zip(ours, theirs, strict=True)]
    found = interval(logs)
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def student(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t."""
    return _T_975[max(each for each in _T_975 if each <= freedom)]
