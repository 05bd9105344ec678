"""Requests by wrk: how long they take alone, and how many there are of 32 connections, at what price.

wrk counts in a histogram of microseconds, and a script prints what it holds. The price is the processor time of the
program that stands in front, divided by the requests: it says more than requests per second where load, program and
backend share few cores, since then whoever is cheap is slowed down by the load that it lets through.
"""

import json
import re
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from benchmarks.ingress import stand
from benchmarks.ingress.backend import HOST
from benchmarks.ingress.stand import Subject
from benchmarks.table import plain_table

ROUNDS = 3
ALONE_SECONDS, TOGETHER_SECONDS = 2, 4
CONNECTIONS = 32
TARGET_PER_CORE = 5_000
TARGET_ADDED_SECONDS = 0.0005
TARGET_RATIO = 0.8
_SCRIPT = """
function wrk.resolve(host, service)  -- names of the domain layout are in nobody's DNS
  wrk.addrs = wrk.lookup("%s", service)
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %%d, "microseconds": %%d, "p50": %%d, "p99": %%d, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of wrk saw."""

    per_second: float
    p50_seconds: float
    p99_seconds: float
    cpu_seconds: float
    """Of the program in front, for each request."""


@dataclass(slots=True)
class Runs:
    """All runs before one subject, a round each."""

    alone: list[Run] = field(default_factory=list)
    together: list[Run] = field(default_factory=list)

    def cpu_seconds(self) -> float:
        """Return the price of a request."""
        return statistics.median(run.cpu_seconds for run in self.together)

    def per_second(self) -> float:
        """Return how many requests there are in a second."""
        return statistics.median(run.per_second for run in self.together)


def measure(wrk: str, folder: Path, subjects: tuple[Subject, ...]) -> dict[str, Runs]:
    """Load the subjects in turn, round after round, so that what disturbs the machine disturbs all of them."""
    script = folder / "wrk.lua"
    script.write_text(_SCRIPT % HOST)
    runs = {each.name: Runs() for each in subjects}
    for _ in range(ROUNDS):
        for each in subjects:
            runs[each.name].alone.append(_run(wrk, script, each, 1, ALONE_SECONDS))
            runs[each.name].together.append(_run(wrk, script, each, CONNECTIONS, TOGETHER_SECONDS))
    return runs


def table(runs: dict[str, Runs], caption: str) -> Table:
    """Return the figures; those of one connection are over the backend's own in the same round."""
    columns = (
        "requests of 31 bytes",
        "added p50",
        "added p99",
        f"requests/s, {CONNECTIONS} conn.",
        "p99",
        "CPU/request",
        "target",
    )
    found = plain_table("Ingress: requests over kept connections", columns, caption)
    first = runs[stand.ALONE]
    for name, each in runs.items():
        p50, p99 = (
            statistics.median(
                getattr(run, part) - getattr(alone, part) for run, alone in zip(each.alone, first.alone, strict=True)
            )
            for part in ("p50_seconds", "p99_seconds")
        )
        alone = [statistics.median(getattr(run, part) for run in each.alone) for part in ("p50_seconds", "p99_seconds")]
        shown = [f"({value * 1e6:,.0f} µs)" for value in alone]
        if each is not first:
            shown = [f"{value * 1e6:,.0f} µs" for value in (p50, p99)]
        price = each.cpu_seconds()
        found.add_row(
            name,
            *shown,
            f"{each.per_second():,.0f}",
            f"{statistics.median(run.p99_seconds for run in each.together) * 1e3:.1f} ms",
            f"{price * 1e6:.0f} µs",
            "added p50 < 500 µs" if name == stand.OURS_HTTP else "",
        )
    _add_targets(found, runs)
    return found


def _add_targets(found: Table, runs: dict[str, Runs]) -> None:
    per_core = 1 / runs[stand.OURS_HTTP].cpu_seconds()
    found.add_row("http: requests per second of CPU", "", "", f"{per_core:,.0f}", "", "", f"≥ {TARGET_PER_CORE:,}")
    for what, ours, theirs, target in (
        ("tcp in TLS: ratio to HAProxy", stand.OURS_TLS, stand.HAPROXY_TLS, f"≥ {TARGET_RATIO} x"),
        ("tcp: ratio to HAProxy", stand.OURS_RAW, stand.HAPROXY_RAW, ""),
        ("http: ratio to nginx", stand.OURS_HTTP, stand.NGINX, ""),
        ("http: ratio to HAProxy", stand.OURS_HTTP, stand.HAPROXY_HTTP, ""),
    ):
        if ours in runs and theirs in runs:
            speed = runs[ours].per_second() / runs[theirs].per_second()
            price = runs[ours].cpu_seconds() / runs[theirs].cpu_seconds()
            found.add_row(what, "", "", f"{speed:.2f} x", "", f"{price:.2f} x", target)


def _run(wrk: str, script: Path, subject: Subject, connections: int, seconds: int) -> Run:
    before = subject.program.cpu_seconds()
    told = subprocess.run(
        (wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"{subject.url}/"),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
    )
    used = subject.program.cpu_seconds() - before
    line = re.search(r"^\{.*\}$", told.stdout, re.MULTILINE)
    if line is None:
        raise RuntimeError(f"wrk before {subject.name}: {told.stdout}{told.stderr}")
    wire = json.loads(line[0])
    if wire["errors"] or not wire["requests"]:
        raise RuntimeError(f"wrk before {subject.name} had {wire['errors']} errors of {wire['requests']} requests")
    requests = wire["requests"]
    return Run(requests / wire["microseconds"] * 1e6, wire["p50"] / 1e6, wire["p99"] / 1e6, used / requests)
