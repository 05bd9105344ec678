"""The SDK's own core over a trace in virtual time: any number of clients that know nothing of each other, any fleet.

Events are run in order of time against ``muster.balancer.balancer.Balancer``, one for each client; nothing sleeps, and
the same seed gives the same result. What is left out is the CPU: a choice takes no time here.

A replica is as the measured one: ``slots`` at once, and behind its ingress more are refused at once; every answer and
every refusal tells how many requests it has. A request that needs more memory than is free dies of it. A killed replica
breaks its requests, leaves the set ``NOTICE_SECONDS`` later, and another one takes its place.
"""

import datetime
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.balance.fleet import VRAM, Fleet, Unit
from benchmarks.balance.oracle import Outage
from benchmarks.balance.trace import FEATURE, Job
from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.policy import DEFAULT_POLICY, chooser_named
from muster.balancer.report import LoadReport
from muster.balancer.ticket import Ticket
from muster.errors import BalancerError, CannotMeetDeadline
from muster.model.endpoint import Endpoint, EndpointSet

ROUND_TRIP_SECONDS = 0.0006
NOTICE_SECONDS = 0.3
PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Told:
    """What clients are told: features, limits, budgets, a deadline.

    ``is_enforced``: an ingress refuses what is beyond the slots; else the replica has a queue of its own.
    """

    feature: bool = False
    concurrency: bool = True
    budgets: bool = True
    deadline_seconds: float | None = None
    is_enforced: bool = True
    policy: str = DEFAULT_POLICY


@dataclass(slots=True)
class Result:
    """``latency`` of each job, ``None`` if it was not answered; ``failed`` are those that died or broke for good."""

    latency: list[float | None]
    failed: int = 0
    refused_early: int = 0
    refusals: int = 0
    sends: int = 0
    clients: list[Balancer] = field(default_factory=list)
    most: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Request:
    index: int
    client: int
    tried: frozenset[str] = frozenset()
    ticket: Ticket | None = None
    has_asked: bool = False


@dataclass(eq=False, slots=True)
class _Replica:
    id: str
    unit: Unit
    slowness: float
    is_up: bool = True
    running: dict[_Request, Lease] = field(default_factory=dict)
    waiting: deque[tuple[_Request, Lease]] = field(default_factory=deque)
    memory_mb: int = 0

    @property
    def report(self) -> LoadReport:
        return LoadReport(len(self.running) + len(self.waiting), self.unit.slots)


def run(
    jobs: Sequence[Job],
    units: Fleet,
    told: Told,
    *,
    patience: float,
    client_num: int = 1,
    outages: Sequence[Outage] = (),
    drifts: Mapping[float, Mapping[int, float]] | None = None,
    seed: int = 0,
) -> Result:
    """Let a trace through ``client_num`` balancers. ``drifts`` maps a moment to the new slowness of some units."""
    clients = [
        Balancer("sim", random.Random(f"{seed}/{number}"), queue_capacity=100_000, chooser=chooser_named(told.policy))
        for number in range(client_num)
    ]
    return _World(jobs, units, told, patience, clients).run(outages, drifts or {})


class _World:
    def __init__(self, jobs: Sequence[Job], units: Fleet, told: Told, patience: float, clients: list[Balancer]) -> None:
        self._jobs = jobs
        self._told = told
        self._patience = patience
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._names = itertools.count(len(units))
        self._replicas = [_Replica(f"r{index:03}", unit, unit.slowness) for index, unit in enumerate(units)]
        self._by_id = {each.id: each for each in self._replicas}
        self._clients = clients
        self._timers = [float("inf")] * len(clients)
        self._revision = 0
        self._result = Result([None] * len(jobs), clients=clients)

    def run(self, outages: Sequence[Outage], drifts: Mapping[float, Mapping[int, float]]) -> Result:
        self._publish()
        for index, job in enumerate(self._jobs):
            self._at(job.at, lambda index=index, job=job: self._ask(_Request(index, job.client)))  # type: ignore[misc]
        for outage in outages:
            self._at(outage.begin, lambda unit=outage.unit: self._kill(unit))  # type: ignore[misc]
            self._at(outage.end, lambda unit=outage.unit: self._replace(unit))  # type: ignore[misc]
        for moment, changes in drifts.items():
            self._at(moment, lambda changes=changes: self._drift(changes))  # type: ignore[misc]
        while self._events:
            self._now, _, action = heapq.heappop(self._events)
            action()
        return self._result

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), action))

    def _later(self, action: Callable[[], None]) -> None:
        self._at(self._now + ROUND_TRIP_SECONDS / 2, action)

    # ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _publish(self) -> None:
        self._revision += 1
        endpoints = tuple(
            Endpoint(
                each.id,
                f"http://{each.id}",
                gpu_name=each.unit.gpu,
                concurrency=each.unit.slots if self._told.concurrency else None,
                budgets={VRAM: each.unit.memory_mb} if each.unit.memory_mb and self._told.budgets else {},
            )
            for each in self._replicas
            if each.is_up
        )
        for number, client in enumerate(self._clients):
            client.update(EndpointSet(1, self._revision, endpoints, PUBLISHED_AT), self._now)
            self._arm(number)

    def _ask(self, request: _Request) -> None:
        job = self._jobs[request.index]
        client = self._clients[request.client]
        limit = self._told.deadline_seconds
        ask = Ask(
            features={FEATURE: job.feature} if self._told.feature else None,
            demands={VRAM: job.memory_mb} if job.memory_mb and self._told.budgets else {},
            tenant=job.tenant,
            answer_by=job.at + limit if limit else float("inf"),
        )
        try:
            request.ticket = client.acquire(
                self._now,
                deadline=job.at + self._patience,
                tried=request.tried,
                wake=lambda: self._at(self._now, lambda: self._look(request)),
                ask=ask,
                since=job.at if request.has_asked else None,
            )
        except CannotMeetDeadline:
            self._result.refused_early += 1
            return
        except BalancerError:
            return
        request.has_asked = True
        ticket = request.ticket
        if ticket.lease is None:
            self._at(ticket.deadline, lambda: self._expire(request, ticket))
        self._look(request)
        self._arm(request.client)

    def _look(self, request: _Request) -> None:
        ticket = request.ticket
        if ticket is None or ticket.lease is None:
            return
        request.ticket, lease = None, ticket.lease
        self._result.sends += 1
        self._later(lambda: self._arrive(request, lease))

    def _expire(self, request: _Request, ticket: Ticket) -> None:
        if request.ticket is ticket and ticket.lease is None:
            request.ticket = None
            self._clients[request.client].time_out(ticket, self._now)

    def _end(self, request: _Request, lease: Lease, outcome: Outcome, report: LoadReport | None = None) -> None:
        client = self._clients[request.client]
        if report is not None:
            client.reported(lease, report, self._now)
        client.release(lease, outcome, self._now)
        self._arm(request.client)
        job = self._jobs[request.index]
        if outcome is Outcome.OK:
            self._result.latency[request.index] = self._now - job.at
        elif outcome is Outcome.FULL:
            self._result.refusals += 1
            self._ask(request)
        elif report is not None:
            self._result.failed += 1  # it died of memory: asking again would be another death
        else:
            request.tried |= {lease.endpoint.id}
            self._ask(request)

    def _arm(self, number: int) -> None:
        moment = self._clients[number].next_change
        if moment < self._timers[number] or self._timers[number] <= self._now:
            self._timers[number] = moment
            if moment < float("inf"):
                self._at(moment, lambda: self._tick(number))

    def _tick(self, number: int) -> None:
        self._clients[number].tick(self._now)
        self._arm(number)

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _arrive(self, request: _Request, lease: Lease) -> None:
        replica = self._by_id[lease.endpoint.id]
        if not replica.is_up:
            self._later(lambda: self._end(request, lease, Outcome.UNREACHABLE))
        elif len(replica.running) < replica.unit.slots:
            self._start(replica, request, lease)
        elif self._told.is_enforced:
            report = replica.report
            self._later(lambda: self._end(request, lease, Outcome.FULL, report))
        else:
            replica.waiting.append((request, lease))
        present = len(replica.running) + len(replica.waiting)
        self._result.most[replica.id] = max(self._result.most.get(replica.id, 0), present)

    def _start(self, replica: _Replica, request: _Request, lease: Lease) -> None:
        job = self._jobs[request.index]
        if replica.unit.memory_mb and replica.memory_mb + job.memory_mb > replica.unit.memory_mb:
            report = replica.report
            self._later(lambda: self._end(request, lease, Outcome.ERROR, report))
            return
        replica.running[request] = lease
        replica.memory_mb += job.memory_mb
        self._at(self._now + job.work * replica.slowness, lambda: self._finish(replica, request, lease))

    def _finish(self, replica: _Replica, request: _Request, lease: Lease) -> None:
        if replica.running.get(request) is not lease:
            return  # it was killed
        report = replica.report
        del replica.running[request]
        replica.memory_mb -= self._jobs[request.index].memory_mb
        self._later(lambda: self._end(request, lease, Outcome.OK, report))
        while replica.waiting and len(replica.running) < replica.unit.slots:
            self._start(replica, *replica.waiting.popleft())

    def _kill(self, unit: int) -> None:
        replica = self._replicas[unit]
        replica.is_up = False
        broken = [*replica.running.items(), *replica.waiting]
        replica.running.clear()
        replica.waiting.clear()
        replica.memory_mb = 0
        for request, lease in broken:
            self._later(lambda request=request, lease=lease: self._end(request, lease, Outcome.ERROR))  # type: ignore[misc]
        self._at(self._now + NOTICE_SECONDS, self._publish)

    def _replace(self, unit: int) -> None:
        old = self._replicas[unit]
        new = _Replica(f"r{next(self._names):03}", old.unit, old.slowness)
        self._replicas[unit] = self._by_id[new.id] = new
        self._publish()

    def _drift(self, changes: Mapping[int, float]) -> None:
        for unit, slowness in changes.items():
            self._replicas[unit].slowness = slowness
