"""A hundred thousand things that happen to requests and replicas, in any order, and nothing is left when all is over.

Time-outs, cancellations, broken connections, crashes, replicas that come back under their old id or with another
address or other limits, sets that shrink and grow, refusals, load reports, unequal and greedy requests. The books are
compared with the leases that the test itself holds.
"""

import datetime
import random
from collections import Counter

import pytest

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.ticket import Ticket
from muster.errors import CannotMeetDeadline, NeverFits, NoEndpoints, QueueFull, QueueTimeout
from muster.model.endpoint import Endpoint, EndpointSet

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
OPERATIONS = 100_000
NAMES = [f"r{number}" for number in range(12)]
GPUS = ["RTX 4090", "A100", ""]


class Chaos:
    """A balancer, and everything that the outside world holds of it."""

    def __init__(self, seed: int, concurrency: int | None) -> None:
        self.rng = random.Random(seed)
        self.balancer = Balancer("s", random.Random(seed + 1), concurrency=concurrency, queue_capacity=10)
        self.now = 0.0
        self.revision = 0
        self.waiting: list[Ticket] = []
        self.leases: list[Lease] = []
        self.met: Counter[str] = Counter()

    def publish(self) -> None:
        rng = self.rng
        self.revision += 1
        endpoints = tuple(
            Endpoint(
                name,
                f"http://{name}:{rng.randrange(2)}",
                gpu_name=rng.choice(GPUS),
                concurrency=rng.choice([None, 1, 2, 4]),
                budgets=rng.choice([{}, {"vram_mb": rng.choice([8000, 16000])}]),
            )
            for name in rng.sample(NAMES, rng.randrange(len(NAMES)))
        )
        self.balancer.update(EndpointSet(1, self.revision, endpoints, PUBLISHED_AT), self.now)

    def ask(self) -> None:
        rng = self.rng
        ask = Ask(
            features=rng.choice([None, {"pixels": rng.lognormvariate(10, 2)}, {"pixels": 1.0, "steps": 30.0}]),
            demands=rng.choice([{}, {}, {"vram_mb": rng.randrange(1000, 20_000)}]),
            priority=rng.choice([0, 0, 0, 1, -1]),
            tenant=rng.choice(["", "a", "b"]),
            affinity=rng.choice(["", "", "session"]),
            answer_by=self.now + rng.choice([0.0, 0.5, 5.0, float("inf"), float("inf")]),
        )
        tried = frozenset(rng.sample(NAMES, rng.choice([0, 0, 0, 2, 12])))
        deadline = self.now + rng.choice([0.1, 2.0, 30.0])
        try:
            ticket = self.balancer.acquire(self.now, deadline=deadline, tried=tried, wake=lambda: None, ask=ask)
        except (QueueFull, NeverFits, CannotMeetDeadline) as error:
            self.met[type(error).__name__] += 1
        except (QueueTimeout, NoEndpoints):  # the deadline had passed before it asked
            self.met["past"] += 1
        else:
            self.waiting.append(ticket)

    def end(self) -> None:
        if self.leases:
            lease = self.leases.pop(self.rng.randrange(len(self.leases)))
            if self.rng.random() < 0.3:
                self.balancer.reported(lease, LoadReport(self.rng.randrange(6), None), self.now)
            if self.rng.random() < 0.1:
                self.balancer.answered(lease, self.now)
            outcome = self.rng.choice([*Outcome, Outcome.OK, Outcome.OK, Outcome.OK])
            assert self.balancer.release(lease, outcome, self.now)
            assert not self.balancer.release(lease, Outcome.OK, self.now)
            self.met[outcome.value] += 1

    def cancel(self) -> None:
        if self.waiting:
            self.balancer.give_up(self.waiting.pop(self.rng.randrange(len(self.waiting))), self.now)
            self.met["cancelled"] += 1

    def pass_time(self) -> None:
        self.now += self.rng.expovariate(5.0)
        self.balancer.tick(self.now)
        for ticket in [each for each in self.waiting if each.lease is None and each.deadline <= self.now]:
            self.waiting.remove(ticket)
            self.balancer.time_out(ticket, self.now)
            self.met["timed out"] += 1

    def notice(self) -> None:
        for ticket in [each for each in self.waiting if each.lease is not None]:
            self.waiting.remove(ticket)
            assert ticket.lease is not None
            self.leases.append(ticket.lease)

    def check(self) -> None:
        found = self.balancer.statistics(self.now)
        held = self.leases + [each.lease for each in self.waiting if each.lease is not None]
        assert found.in_flight == len(held) == found.granted - found.released
        assert found.waiting == sum(each.lease is None for each in self.waiting)
        for replica in found.replicas:
            mine = [each for each in held if each.replica.endpoint.id == replica.id]
            assert replica.in_flight == len(mine) <= replica.served
            assert replica.others >= 0
            for name, (taken, _) in replica.budgets.items():
                assert taken == sum(each.taken.get(name, 0) for each in mine) >= 0
        assert sum(each.in_flight for each in found.replicas) == len(held)
        assert sum(each.waiting for each in found.tenants) == found.waiting


@pytest.mark.parametrize(("seed", "concurrency"), [(1, None), (2, 3)])
def test_after_a_hundred_thousand_operations_nothing_is_left(seed: int, concurrency: int | None) -> None:
    chaos = Chaos(seed, concurrency)
    actions = [chaos.ask] * 6 + [chaos.end] * 4 + [chaos.notice] * 3 + [chaos.pass_time] * 2 + [chaos.cancel]
    chaos.publish()
    for number in range(OPERATIONS):
        chaos.rng.choice(actions)()
        if chaos.rng.random() < 0.02:
            chaos.publish()
        if number % 50 == 0:
            chaos.check()
    while chaos.waiting or chaos.leases:
        chaos.notice()
        chaos.end()
        chaos.cancel()
    chaos.check()
    found = chaos.balancer.statistics(chaos.now)
    assert (found.in_flight, found.waiting, found.tenants) == (0, 0, ())
    assert all(each.in_flight == 0 and not each.is_leaving for each in found.replicas)
    assert all(taken == 0 for each in found.replicas for taken, _ in each.budgets.values())
    everything = {"QueueFull", "NeverFits", "CannotMeetDeadline", "past", "cancelled", "timed out"}
    assert set(chaos.met) == everything | {each.value for each in Outcome}, "something never happened"
