"""What one central queue would do that misses nothing: the same trace, in virtual time, without a network.

All replicas' free slots and all waiting requests are known at every moment; a request goes to the fastest replica that
has a slot and the memory for it, and the first request in the queue's order that fits somewhere goes first. Three
orders: by arrival (knows no sizes: the bound for whoever is told none), by the noisy feature, and by the work itself.
None is the optimum, which nobody knows; they are what a queue could reach if it cost nothing.

A request whose client has given up leaves the queue; one that has begun goes on. A killed replica loses its requests at
once, and they are the first in the queue again.
"""

import bisect
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.balance.fleet import Fleet, Unit
from benchmarks.balance.trace import Job

ORACLE_FIFO = "oracle, first come first"
ORACLE_FEATURE = "oracle, smallest feature first"
ORACLE_WORK = "oracle, shortest first"
ORDERS: dict[str, Callable[[Job], float]] = {
    ORACLE_FIFO: lambda job: job.at,
    ORACLE_FEATURE: lambda job: job.feature,
    ORACLE_WORK: lambda job: job.work,
}
_DOWN, _UP, _END, _ARRIVAL = range(4)


@dataclass(frozen=True, slots=True)
class Outage:
    """A replica, by its place in the fleet, that serves nobody from ``begin`` until ``end``."""

    unit: int
    begin: float
    end: float


@dataclass(slots=True)
class _State:
    unit: Unit
    is_up: bool = True
    running: dict[int, float] = field(default_factory=dict)
    """Job to when it began."""
    memory_mb: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Served:
    """``latency`` of each job, ``None`` for those whose client gave up; per replica when its slots were busy."""

    latency: list[float | None]
    busy: list[list[tuple[float, float]]]


def serve(
    jobs: Sequence[Job],
    units: Fleet,
    order: Callable[[Job], float],
    *,
    patience: float,
    outages: Sequence[Outage] = (),
) -> Served:
    """Let a trace through a central queue of that order."""
    return _Simulation(jobs, units, order, patience).run(outages)


class _Simulation:
    def __init__(self, jobs: Sequence[Job], units: Fleet, order: Callable[[Job], float], patience: float) -> None:
        self._jobs = jobs
        self._order = order
        self._patience = patience
        self._states = [_State(unit) for unit in units]
        self._by_speed = sorted(self._states, key=lambda state: state.unit.slowness)
        self._queue: list[tuple[float, int]] = []
        self._events: list[tuple[float, int, int, int]] = []
        self._numbers = itertools.count()
        self._ends: dict[int, int] = {}
        self._latency: list[float | None] = [None] * len(jobs)

    def run(self, outages: Sequence[Outage]) -> Served:
        for index, job in enumerate(self._jobs):
            self._at(job.at, _ARRIVAL, index)
        for outage in outages:
            self._at(outage.begin, _DOWN, outage.unit)
            self._at(outage.end, _UP, outage.unit)
        while self._events:
            now, kind, number, subject = heapq.heappop(self._events)
            if kind == _ARRIVAL:
                bisect.insort(self._queue, (self._order(self._jobs[subject]), subject))
            elif kind == _END:
                if self._ends.get(subject) != number:
                    continue  # it was killed, and runs anew elsewhere
                self._end(subject, now)
            elif kind == _DOWN:
                self._down(self._states[subject], now)
            else:
                self._states[subject].is_up = True
            self._dispatch(now)
        return Served(self._latency, [state.busy for state in self._states])

    def _at(self, moment: float, kind: int, subject: int) -> int:
        number = next(self._numbers)
        heapq.heappush(self._events, (moment, kind, number, subject))
        return number

    def _end(self, index: int, now: float) -> None:
        state = next(each for each in self._states if index in each.running)
        self._leave(state, index, now)
        if now - self._jobs[index].at <= self._patience:
            self._latency[index] = now - self._jobs[index].at

    def _down(self, state: _State, now: float) -> None:
        state.is_up = False
        for index in list(state.running):
            self._leave(state, index, now)
            self._queue.insert(0, (float("-inf"), index))

    def _leave(self, state: _State, index: int, now: float) -> None:
        del self._ends[index]
        state.busy.append((state.running.pop(index), now))
        state.memory_mb -= self._jobs[index].memory_mb

    def _dispatch(self, now: float) -> None:
        free = [state for state in self._by_speed if state.is_up and len(state.running) < state.unit.slots]
        if not free or not self._queue:
            return
        left: list[tuple[float, int]] = []
        for place, entry in enumerate(self._queue):
            if not free:
                left += self._queue[place:]
                break
            job = self._jobs[entry[1]]
            if now - job.at > self._patience:
                continue
            state = next((each for each in free if _fits(job, each)), None)
            if state is None:
                left.append(entry)
                continue
            self._begin(state, entry[1], now)
            if len(state.running) == state.unit.slots:
                free.remove(state)
        self._queue = left

    def _begin(self, state: _State, index: int, now: float) -> None:
        job = self._jobs[index]
        state.running[index] = now
        state.memory_mb += job.memory_mb
        self._ends[index] = self._at(now + job.work * state.unit.slowness, _END, index)


def _fits(job: Job, state: _State) -> bool:
    return not state.unit.memory_mb or state.memory_mb + job.memory_mb <= state.unit.memory_mb
