"""The tables: what each has in common, and who is measured in it.

``goodput`` is the share of all requests that were answered within ``max(5 * own work, 300 ms)`` of the moment at which
they were meant to be sent; own work is that on the fastest GPU.
"""

import random
from dataclasses import dataclass

from benchmarks.balance.fleet import EQUAL, SHORT_OF_MEMORY, UNLIKE, VARIED, Fleet, capacity
from benchmarks.balance.trace import Job, Work, make_trace

GOOD_FACTOR = 5.0
GOOD_SECONDS = 0.3
PATIENCE_SECONDS = 60.0
"""Longer than any queue of a trace: without a deadline every request is answered in the end, or failed."""
OVERLOAD_DEADLINE_SECONDS = 2.0
"""The same for all requests: a deadline that followed from the work would tell a balancer the size."""

NGINX_ROUND_ROBIN = "nginx round robin"
NGINX_LEAST = "nginx least_conn"
HAPROXY_LEAST = "HAProxy leastconn"
HAPROXY_QUEUE = "HAProxy leastconn + maxconn"
HAPROXY_EACH = "HAProxy leastconn, each its own"
"""One for each client, as sidecars stand: like the SDK's clients they know nothing of each other."""
MUSTER = "Muster"
MUSTER_COST = "Muster + feature"
MUSTER_ADAPTIVE = "Muster, no limit declared"
MUSTER_BROKER = "Muster + broker"
MUSTER_BROKER_COST = "Muster + broker + feature"
MUSTER_ONE = "Muster, one client for all"
"""The same trace from one process, as if all clients were one: what a queue for all could reach."""
MUSTER_ONE_COST = "Muster + feature, one client for all"
PEERS = (NGINX_ROUND_ROBIN, NGINX_LEAST, HAPROXY_LEAST, HAPROXY_QUEUE)
STRONG_PEERS = (HAPROXY_LEAST, HAPROXY_QUEUE)
"""Who is enough where the question is whether a figure depends on a fleet or a distribution."""
BROKERED = (MUSTER_BROKER, MUSTER_BROKER_COST)
ONE_FOR_ALL = (MUSTER_ONE, MUSTER_ONE_COST)
WITH_FEATURE = (MUSTER_COST, MUSTER_BROKER_COST, MUSTER_ONE_COST)
OURS = (MUSTER, MUSTER_COST, MUSTER_ADAPTIVE, *BROKERED, *ONE_FOR_ALL)
OF_SEVERAL = (MUSTER, MUSTER_COST, *BROKERED, *ONE_FOR_ALL)
"""Who is measured where there are several clients."""
MOST_PROCESSES = 4
"""More clients than that share processes: a Python that starts takes half a second of a core."""
SHORT_NAMES = {
    "nginx-rr": NGINX_ROUND_ROBIN,
    "nginx-least": NGINX_LEAST,
    "haproxy-least": HAPROXY_LEAST,
    "haproxy-queue": HAPROXY_QUEUE,
    "haproxy-each": HAPROXY_EACH,
    "muster": MUSTER,
    "muster-cost": MUSTER_COST,
    "muster-adaptive": MUSTER_ADAPTIVE,
    "muster-broker": MUSTER_BROKER,
    "muster-broker-cost": MUSTER_BROKER_COST,
    "muster-one": MUSTER_ONE,
    "muster-one-cost": MUSTER_ONE_COST,
}
"""As they are written in a shell."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one table measures."""

    name: str
    title: str
    fleet: Fleet = UNLIKE
    load: float = 0.7
    work: Work = Work.LOG_NORMAL
    is_bursty: bool = False
    client_num: int = 1
    kill_every_seconds: float | None = None
    broker_num: int = 1
    """Of the balancers that have a broker; two share a Redis."""
    broker_kill_every_seconds: float | None = None
    deadline_seconds: float | None = None
    peers: tuple[str, ...] = PEERS
    ours: tuple[str, ...] = (MUSTER, MUSTER_COST)

    @property
    def balancers(self) -> tuple[str, ...]:
        """Who is measured."""
        return self.peers + self.ours

    def process_num(self, balancer: str) -> int:
        """Return how many processes its clients are; those of one process share a loop, and nothing else."""
        return 1 if balancer in ONE_FOR_ALL else min(self.client_num, MOST_PROCESSES)

    @property
    def has_memory(self) -> bool:
        """Whether requests can die of it."""
        return any(each.memory_mb for each in self.fleet)

    @property
    def patience_seconds(self) -> float:
        """When a client gives up and closes its connection."""
        return self.deadline_seconds or PATIENCE_SECONDS

    def trace(self, seed: int, seconds: float) -> tuple[Job, ...]:
        """Return the trace of a seed: for every balancer the same."""
        return make_trace(
            random.Random(f"{self.name}/{seed}"),
            seconds=seconds,
            load=self.load,
            capacity=capacity(self.fleet),
            work=self.work,
            is_bursty=self.is_bursty,
            has_memory=self.has_memory,
            client_num=self.client_num,
        )


SHAPES = {
    each.name: each
    for each in (
        Shape("equal", "6 equal replicas, load 0.8", EQUAL, 0.8),
        Shape("unlike-0.7", "4 fast, 2 slow replicas, load 0.7", ours=OURS),
        Shape("unlike-0.9", "4 fast, 2 slow replicas, load 0.9", load=0.9, ours=OURS),
        Shape("memory", "4 fast, 2 slow replicas, memory for one large request each, load 0.7", SHORT_OF_MEMORY),
        Shape("churn", "4 fast, 2 slow replicas, one killed every 4 s, load 0.7", kill_every_seconds=4.0),
        Shape(
            "overload",
            "4 fast, 2 slow replicas, load 1.2, deadline 2 s",
            load=1.2,
            deadline_seconds=OVERLOAD_DEADLINE_SECONDS,
        ),
        Shape(
            "clients-4",
            "4 fast, 2 slow replicas, load 0.9, 4 independent clients; the proxies but the last are one for all",
            load=0.9,
            client_num=4,
            peers=(*PEERS, HAPROXY_EACH),
            ours=OF_SEVERAL,
        ),
        Shape(
            "clients-16",
            "4 fast, 2 slow replicas, load 0.9, 16 independent clients, 4 in each of 4 processes; the proxies are one"
            " for all",
            load=0.9,
            client_num=16,
            peers=STRONG_PEERS,
            ours=OF_SEVERAL,
        ),
        Shape(
            "varied-0.9", "8 replicas of 1x, 2x, 4x, with 1, 2 or 4 slots, load 0.9", VARIED, 0.9, peers=STRONG_PEERS
        ),
        Shape(
            "pareto-0.9",
            "4 fast, 2 slow replicas, bounded Pareto work, load 0.9",
            load=0.9,
            work=Work.PARETO,
            peers=STRONG_PEERS,
        ),
        Shape(
            "bimodal-0.9",
            "4 fast, 2 slow replicas, bimodal work, load 0.9",
            load=0.9,
            work=Work.BIMODAL,
            peers=STRONG_PEERS,
        ),
        Shape(
            "bursty-0.7", "4 fast, 2 slow replicas, arrivals in bursts, load 0.7", is_bursty=True, peers=STRONG_PEERS
        ),
    )
}


def good_within(work: float) -> float:
    """Return how soon a request must be answered to count as good."""
    return max(GOOD_FACTOR * work, GOOD_SECONDS)
