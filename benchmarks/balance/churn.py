"""Replicas that are killed and replaced while the trace runs, and who is told of it.

Killed means SIGKILL of a process of its own: its connections break, whatever it was doing. Its replacement listens
START_SECONDS later, at the same address, since the proxies' files name addresses. Proxies find out by themselves, by
their checks and by what fails. The SDK is told by the registry: a set without the dead one after DETECT_SECONDS, which
is what the control plane takes from a death to the set (docs: `make bench`), and one with its successor once it
listens. A successor is another endpoint.
"""

import asyncio
import datetime
import itertools
import json
import random
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.balance.fleet import VRAM, Fleet, Unit
from benchmarks.balance.oracle import Outage
from benchmarks.balance.process import Helper, helper
from benchmarks.balance.replica import HOST, STATISTICS_PATH
from benchmarks.balance.sdk_load import SERVICE
from muster import registry
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey

START_SECONDS = 1.0
DETECT_SECONDS = 0.2


def outages(fleet: Fleet, every_seconds: float | None, seconds: float, rng: random.Random) -> list[Outage]:
    """Return who is killed when: one at a time, each as often as the others."""
    if every_seconds is None:
        return []
    order = rng.sample(range(len(fleet)), len(fleet))
    moments = itertools.takewhile(lambda at: at < seconds, itertools.count(every_seconds / 2, every_seconds))
    return [Outage(unit, at, at + START_SECONDS) for unit, at in zip(itertools.cycle(order), moments, strict=False)]


class Replicas:
    """The replicas of a run: together in one process, or each in its own where they are killed."""

    def __init__(self, fleet: Fleet, stack: ExitStack, folder: Path, *, is_enforcing: bool, are_apart: bool) -> None:
        self._fleet = fleet
        self._stack = stack
        self._folder = folder
        self._is_enforcing = is_enforcing
        groups: list[Sequence[Unit]] = [[unit] for unit in fleet] if are_apart else [fleet]
        self._helpers = [self._start(group, [0] * len(group)) for group in groups]
        self.ports: list[int] = [port for each in self._helpers for port in json.loads(each.hear())]
        self.generations = [1] * len(fleet)
        self._lost: dict[str, list[tuple[float, float]]] = {unit.name: [] for unit in fleet}

    def kill(self, index: int) -> None:
        """End a replica; what it did so far is kept."""
        self._lost[self._fleet[index].name] += self._ask(index)[self._fleet[index].name]["busy"]
        self._helpers[index].kill()

    def replace(self, index: int, listen_at: float) -> None:
        """Start a successor, and return once it listens."""
        self._helpers[index] = self._start([self._fleet[index]], [self.ports[index]], listen_at)
        self._helpers[index].hear()
        self.generations[index] += 1

    def busy(self, start: float) -> tuple[list[list[tuple[float, float]]], int]:
        """Return for each replica when its slots were busy, from ``start``; and how often they refused."""
        told: dict[str, Any] = {}
        for index in range(len(self._helpers)):
            told |= self._ask(index)
        busy = [
            [(begin - start, end - start) for begin, end in self._lost[unit.name] + told[unit.name]["busy"]]
            for unit in self._fleet
        ]
        return busy, sum(each["refused"] for each in told.values())

    def _start(self, units: Sequence[Unit], ports: Sequence[int], listen_at: float = 0.0) -> Helper:
        wanted = {
            "units": [asdict(unit) for unit in units],
            "ports": list(ports),
            "is_enforcing": self._is_enforcing,
            "listen_at": listen_at,
        }
        return self._stack.enter_context(helper("replica", self._folder, json.dumps(wanted)))

    def _ask(self, index: int) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{HOST}:{self.ports[index]}{STATISTICS_PATH}", timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
            return told


class Published:
    """The set of the replicas in a registry, for the SDK; ``broker`` is where it is, ``ca_pem`` whom it shows."""

    def __init__(
        self, url: str, fleet: Fleet, *, is_limit_declared: bool, ca_pem: str | None = None, broker: str | None = None
    ) -> None:
        self.url = url
        self._ca_pem = ca_pem
        self._broker = broker
        self._fleet = fleet
        self._is_limit_declared = is_limit_declared
        self._revision = 0

    def publish(self, replicas: Replicas, without: int | None = None) -> None:
        """Publish who is there."""
        self._revision += 1
        endpoints = tuple(
            self._endpoint(index, unit, replicas) for index, unit in enumerate(self._fleet) if index != without
        )
        now = datetime.datetime.now(datetime.UTC)
        wanted = EndpointSet(1, self._revision, endpoints, now, ca_pem=self._ca_pem, broker_url=self._broker)
        asyncio.run(self._publish(wanted))

    async def _publish(self, wanted: EndpointSet) -> None:
        opened = registry.connect(self.url)
        try:
            await opened.publish(ServiceKey("admin", SERVICE), wanted)
        finally:
            await opened.aclose()

    def _endpoint(self, index: int, unit: Unit, replicas: Replicas) -> Endpoint:
        plain = Endpoint(
            f"{unit.name}-{replicas.generations[index]}", f"http://{HOST}:{replicas.ports[index]}", gpu_name=unit.gpu
        )
        if self._is_limit_declared:
            plain = replace(plain, concurrency=unit.slots)
        return replace(plain, budgets={VRAM: unit.memory_mb}) if unit.memory_mb else plain


def disturb(plan: Sequence[Outage], start: float, replicas: Replicas, published: Published | None) -> None:
    """Kill and replace at the moments of the plan; returns when the last successor listens."""
    for outage in plan:
        _sleep_until(start + outage.begin)
        replicas.kill(outage.unit)
        if published is not None:
            _sleep_until(start + outage.begin + DETECT_SECONDS)
            published.publish(replicas, without=outage.unit)
        replicas.replace(outage.unit, start + outage.end)
        if published is not None:
            published.publish(replicas)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
