"""One run: start replicas, balancer and clients, let the trace through, end everything, sum it up."""

import contextlib
import functools
import itertools
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.balance import brokers, oracle, peers
from benchmarks.balance.brokers import Brokers
from benchmarks.balance.churn import Published, Replicas, disturb, outages
from benchmarks.balance.client import Ask, Plan
from benchmarks.balance.figures import Answer, Figures, Verdict, figures
from benchmarks.balance.process import Helper, helper
from benchmarks.balance.replica import WORK_PATH
from benchmarks.balance.shapes import (
    BROKERED,
    HAPROXY_EACH,
    MUSTER_ADAPTIVE,
    ONE_FOR_ALL,
    OURS,
    WITH_FEATURE,
    Shape,
)
from benchmarks.balance.trace import Job
from benchmarks.ingress.stand import free_ports
from benchmarks.table import percentile

_LEAD_SECONDS = 0.3
"""From telling the clients the start to the start: they are other processes, and must have heard it."""
_LOOK_SECONDS, _CLOSE_LOOK_SECONDS = 0.5, 0.05
"""How often clients look whether they have a broker: 16 that look closely would take a part of a core."""
_PORTS = 400
"""Given in turn, so that one that was just used rests."""


@dataclass(frozen=True, slots=True)
class Run:
    """A balancer's run of a trace.

    ``reasons`` counts what those were told who were not answered; ``client_cpu`` is seconds of processor time for each
    request, which with the SDK is also the balancer's; ``refusals`` are by how many replicas each was turned away.
    With a broker: ``broker_cpu`` is its seconds for each request, ``absences`` whose client had none from when until
    when, and ``kills`` are when one was killed, both in seconds from the trace's start.
    """

    shape: str
    seed: int
    balancer: str
    figures: Figures
    reasons: dict[str, int] = field(default_factory=dict)
    client_cpu: float = 0.0
    refusals: float = 0.0
    broker_cpu: float = 0.0
    absences: tuple[tuple[int, float, float], ...] = ()
    kills: tuple[float, ...] = ()


class Together:
    """Where runs that go side by side wait for each other: starting a program would disturb the others' requests."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._change = threading.Condition()

    def arrive(self) -> None:
        """Return when all are ready."""
        with self._change:
            self._missing -= 1
            self._change.notify_all()
            self._change.wait_for(lambda: self._missing <= 0)

    def leave(self) -> None:
        """Be waited for by nobody."""
        with self._change:
            self._missing -= 1
            self._change.notify_all()


def foresee(shape: Shape, seed: int, name: str, seconds: float) -> Run:
    """Let the trace of a seed through an oracle."""
    jobs, plan = _given(shape, seed, seconds)
    served = oracle.serve(jobs, shape.fleet, oracle.ORDERS[name], patience=shape.patience_seconds, outages=plan)
    answers = [
        Answer(shape.patience_seconds, Verdict.GAVE_UP) if each is None else Answer(each, Verdict.ANSWERED)
        for each in served.latency
    ]
    return Run(shape.name, seed, name, figures(jobs, answers, shape.fleet, served.busy, seconds=seconds))


def run(shape: Shape, seed: int, balancer: str, seconds: float, together: Together) -> Run:
    """Let the trace of a seed through a balancer, starting when the others of ``together`` are ready too."""
    jobs, plan = _given(shape, seed, seconds)
    is_ours = balancer in OURS
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-balance-")))
        replicas = Replicas(
            shape.fleet,
            stack,
            folder,
            is_enforcing=is_ours and shape.client_num > 1,
            are_apart=bool(plan),
        )
        published: Published | None = None
        broker: Brokers | None = None
        if is_ours:
            url = f"file://{folder}/registry"
            if balancer in BROKERED:
                if shape.broker_num > 1:
                    url = stack.enter_context(brokers.redis(folder / "redis", free_port()))
                ports = [free_port() for _ in range(shape.broker_num)]
                broker = stack.enter_context(Brokers(folder / "brokers", url, ports))
            published = Published(
                url,
                shape.fleet,
                is_limit_declared=balancer != MUSTER_ADAPTIVE,
                ca_pem=None if broker is None else broker.ca_pem,
                broker=None if broker is None else broker.urls,
            )
            published.publish(replicas)
            targets = [published.url]
        else:
            targets = [
                str(_proxy(shape, balancer, stack, folder / f"proxy{number}", replicas))
                for number in range(shape.client_num if balancer == HAPROXY_EACH else 1)
            ]
        clients = [
            stack.enter_context(helper("sdk_load" if is_ours else "load", folder))
            for _ in range(shape.process_num(balancer))
        ]
        for number, client in enumerate(clients):
            client.tell(_plan(shape, balancer, jobs, number, targets[number % len(targets)]).to_json())
        for client in clients:
            client.hear()
        together.arrive()
        start = time.monotonic() + _LEAD_SECONDS
        broker_used = 0.0 if broker is None else broker.cpu_seconds()
        with ThreadPoolExecutor(len(clients) + 2) as pool:
            disturbing = pool.submit(disturb, plan, start, replicas, published)
            kills = brokers.moments(shape.broker_kill_every_seconds, seconds)
            killing = pool.submit(brokers.disturb, kills, start, broker)
            patience = seconds + shape.patience_seconds + 30
            told = list(pool.map(lambda client: _finish(client, start, patience), clients))
            disturbing.result()
            killed = killing.result()
        broker_used = 0.0 if broker is None else broker.cpu_seconds() - broker_used
        busy, refusals = replicas.busy(start)
    sent = sorted((each for some in told for each in some["sent"]), key=lambda each: each[0])
    answers = [Answer(each[1], Verdict(each[2])) for each in sent]
    late = percentile([each[3] for each in sent], 99)
    reasons = Counter(each[4] for each in sent if each[4])
    found = figures(jobs, answers, shape.fleet, busy, seconds=seconds, late_send=late)
    cpu = sum(some["cpu_seconds"] for some in told) / len(jobs)
    absences = [(each[0], each[1] - start, each[2] - start) for some in told for each in some.get("absences", ())]
    return Run(
        shape.name,
        seed,
        balancer,
        found,
        dict(reasons.most_common(8)),
        cpu,
        refusals / len(jobs),
        broker_used / len(jobs),
        tuple(sorted(absences, key=lambda each: each[1])),
        tuple(killed),
    )


def _proxy(shape: Shape, balancer: str, stack: contextlib.ExitStack, folder: Path, replicas: Replicas) -> int:
    port = free_port()
    folder.mkdir()
    stack.enter_context(
        peers.proxy(balancer, folder, port, shape.fleet, replicas.ports, deadline=shape.deadline_seconds)
    )
    return port


def _given(shape: Shape, seed: int, seconds: float) -> tuple[tuple[Job, ...], list[oracle.Outage]]:
    plan = outages(shape.fleet, shape.kill_every_seconds, seconds, random.Random(seed))
    return shape.trace(seed, seconds), plan


def _plan(shape: Shape, balancer: str, jobs: tuple[Job, ...], process: int, target: str) -> Plan:
    count = shape.process_num(balancer)
    asks = [
        Ask(
            index,
            job.at,
            f"{WORK_PATH}?seconds={job.work:.6f}&memory_mb={job.memory_mb}",
            job.feature if balancer in WITH_FEATURE else None,
            job.memory_mb if balancer in OURS and shape.has_memory else None,
            0 if balancer in ONE_FOR_ALL else job.client,
        )
        for index, job in enumerate(jobs)
        if job.client % count == process
    ]
    token = brokers.TOKEN if balancer in BROKERED else ""
    look_seconds = _LOOK_SECONDS if shape.broker_kill_every_seconds is None else _CLOSE_LOOK_SECONDS
    return Plan(asks, target, shape.patience_seconds, shape.deadline_seconds, token, look_seconds)


def _finish(client: Helper, start: float, seconds: float) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(client.finish(repr(start), seconds))
    return told


_turn = threading.Lock()


def free_port() -> int:
    """Return a port for a proxy to listen on; runs that go side by side get different ones."""
    with _turn:
        return next(_ports())


@functools.cache
def _ports() -> Iterator[int]:
    return itertools.cycle(free_ports(_PORTS))
