"""What both load generators share: the trace on the way in, the moments of sending, the answers on the way out.

A load generator is a process of its own. It is given a ``Plan`` as JSON on its input, says ``ready`` when it could
send, is told the moment of the trace's start (monotonic clock), and writes what became of each request as JSON.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.balance.figures import Verdict


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of a plan. ``index`` is its place in the trace."""

    index: int
    at: float
    path: str
    feature: float | None = None
    memory_mb: int | None = None
    client: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load generator does: ``target`` is a port of a proxy, or the URL of a registry.

    ``token`` is for the broker that the registry names; without one there is none. Whether it is there is looked at
    every ``look_seconds``.
    """

    asks: Sequence[Ask]
    target: str
    patience: float
    deadline: float | None = None
    token: str = field(default="", repr=False)
    look_seconds: float = 0.5

    def to_json(self) -> str:
        """Return one line."""
        asks = [[each.index, each.at, each.path, each.feature, each.memory_mb, each.client] for each in self.asks]
        return json.dumps([asks, self.target, self.patience, self.deadline, self.token, self.look_seconds])

    @staticmethod
    def from_json(line: str) -> "Plan":
        """Read what ``to_json`` wrote."""
        asks, *others = json.loads(line)
        return Plan([Ask(*each) for each in asks], *others)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one request. ``late`` is how much later than meant it left."""

    index: int
    seconds: float
    verdict: Verdict
    late: float
    why: str = ""


Send = Callable[[Ask], Awaitable[tuple[Verdict, str]]]


def read_plan() -> Plan:
    """Return the plan from the input."""
    return Plan.from_json(sys.stdin.readline())


async def play(plan: Plan, send: Send, saw: Callable[[], Mapping[str, Any]] = dict) -> None:
    """Wait for the start, send every request at its moment, wait for all, and write what became of them.

    ``saw`` is what else is to be written.
    """
    used = _cpu_seconds()
    print("ready", flush=True)
    start = float(await asyncio.to_thread(sys.stdin.readline))
    sent: list[Sent] = []
    async with asyncio.TaskGroup() as group:
        for ask in plan.asks:
            await asyncio.sleep(start + ask.at - time.monotonic())
            group.create_task(_one(plan, send, ask, start + ask.at, sent))
    told: Mapping[str, Any] = {
        "cpu_seconds": _cpu_seconds() - used,
        **saw(),
        "sent": [[each.index, each.seconds, each.verdict, each.late, each.why] for each in sent],
    }
    print(json.dumps(told), flush=True)


async def _one(plan: Plan, send: Send, ask: Ask, meant: float, sent: list[Sent]) -> None:
    late = time.monotonic() - meant
    try:
        async with asyncio.timeout(plan.patience - late):
            verdict, why = await send(ask)
    except TimeoutError:
        verdict, why = Verdict.GAVE_UP, ""
    sent.append(Sent(ask.index, time.monotonic() - meant, verdict, late, why))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
