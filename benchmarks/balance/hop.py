"""What a balancer itself costs: requests without work, one after another and 32 at once.

A proxy is compared with the same client going to a replica directly; the SDK with plain httpx going there. The SDK's
price is the client's processor time above that of plain httpx, one after another: with 32 at once httpx itself, which
walks all connections of a pool for each request, costs more with one pool than the SDK with a pool for each replica. A
proxy's price is its own processor time, with 32 at once. Requests per second are those of client, balancer and replicas
together on this machine's cores, so the price is what compares.
"""

import contextlib
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.balance import peers
from benchmarks.balance.churn import Published, Replicas
from benchmarks.balance.fleet import fleet
from benchmarks.balance.process import helper
from benchmarks.balance.shapes import HAPROXY_LEAST, HAPROXY_QUEUE, MUSTER, NGINX_LEAST, NGINX_ROUND_ROBIN
from benchmarks.balance.stage import free_port
from benchmarks.ingress.program import Program
from benchmarks.table import plain_table

ROUNDS = 5
RAW, HTTPX = "raw client to a replica", "httpx to a replica"
TARGET_ADDED_SECONDS = 150e-6
_FLEET = fleet((6, 1, 64))
_PROXIES = (NGINX_ROUND_ROBIN, NGINX_LEAST, HAPROXY_LEAST, HAPROXY_QUEUE)


@dataclass(frozen=True, slots=True)
class Hop:
    """One way to a replica, medians of rounds; ``added`` and ``price`` are above the way without a balancer."""

    name: str
    p50: float
    added: float | None
    per_second: float
    price: float | None
    """Processor seconds of the balancer for each request."""


@dataclass(frozen=True, slots=True)
class _Round:
    p50: float
    per_second: float
    client_cpu: float
    proxy_cpu: float


def measure(balancers: Sequence[str], rounds: int) -> list[Hop]:
    """Measure each way in turn, round after round, so that what disturbs the machine disturbs all of them."""
    proxies = [name for name in _PROXIES if name in balancers]
    ways = [RAW, *proxies, *([HTTPX, MUSTER] if MUSTER in balancers else [])]
    seen: dict[str, list[_Round]] = {name: [] for name in ways}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-hop-")))
        replicas = Replicas(_FLEET, stack, folder, is_enforcing=False, are_apart=False)
        published = Published(f"file://{folder}/registry", _FLEET, is_limit_declared=True)
        published.publish(replicas)
        targets: dict[str, tuple[str, str, Program | None]] = {
            RAW: ("raw", str(replicas.ports[0]), None),
            HTTPX: ("httpx", str(replicas.ports[0]), None),
            MUSTER: ("sdk", published.url, None),
        }
        for number, name in enumerate(proxies):
            home, port = folder / f"proxy{number}", free_port()
            home.mkdir()
            program = stack.enter_context(peers.proxy(name, home, port, _FLEET, replicas.ports))
            targets[name] = ("raw", str(port), program)
        for _ in range(rounds):
            for name in ways:
                seen[name].append(_round(folder, *targets[name]))
    return [_hop(name, seen) for name in ways]


def table(hops: Sequence[Hop]) -> Table:
    """Return the figures."""
    shown = plain_table(
        "Requests without work",
        ("way", "p50 alone", "added p50", "requests/s, 32 at once", "balancer's CPU/request", "target"),
        f"median of rounds; {peers.versions()}; one worker or thread each",
    )
    for each in hops:
        shown.add_row(
            each.name,
            f"{each.p50 * 1e6:,.0f} µs",
            "" if each.added is None else f"{each.added * 1e6:,.0f} µs",
            f"{each.per_second:,.0f}",
            "" if each.price is None else f"{each.price * 1e6:,.0f} µs",
            f"added < {TARGET_ADDED_SECONDS * 1e6:.0f} µs" if each.name == MUSTER else "",
        )
    return shown


def _round(folder: Path, way: str, target: str, proxy: Program | None) -> _Round:
    with helper("hop_client", folder, way, target) as client:
        client.hear()
        client.tell("alone")
        alone = json.loads(client.hear())
        before = proxy.cpu_seconds() if proxy else 0.0
        client.tell("together")
        together = json.loads(client.hear())
        used = proxy.cpu_seconds() - before if proxy else 0.0
    requests = together["requests"]
    return _Round(alone["p50"], together["per_second"], alone["cpu"], used / requests)


def _hop(name: str, seen: dict[str, list[_Round]]) -> Hop:
    rounds, plain = seen[name], seen[HTTPX if name == MUSTER else RAW]
    p50 = statistics.median(each.p50 for each in rounds)
    per_second = statistics.median(each.per_second for each in rounds)
    if name in (RAW, HTTPX):
        return Hop(name, p50, None, per_second, None)
    pairs = list(zip(rounds, plain, strict=True))
    prices = [ours.client_cpu - its.client_cpu if name == MUSTER else ours.proxy_cpu for ours, its in pairs]
    added = statistics.median(ours.p50 - its.p50 for ours, its in pairs)
    return Hop(name, p50, added, per_second, statistics.median(prices))
