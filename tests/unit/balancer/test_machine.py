"""Whatever happens in whatever order: counters are never negative, never above the limit, and 0 when idle."""

import datetime
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.ticket import Ticket
from muster.errors import QueueFull
from muster.model.endpoint import Endpoint, EndpointSet

IDS = ["a", "b", "c", "d", "e"]
PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class BalancerMachine(RuleBasedStateMachine):
    """Requests, sets and time in any order; the model is the leases and tickets that the test holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.revision = 0
        self.balancer = Balancer("s", random.Random(1), concurrency=2, queue_capacity=5)
        self.limits: dict[str, int] = {}
        self.waiting: list[Ticket] = []
        self.leases: list[Lease] = []
        self.steps = 0

    @initialize()
    def begin(self) -> None:
        self.publish(dict.fromkeys(IDS[:3], 2), new_url=False)

    @precondition(lambda self: self.steps % 5 == 0)  # most sets live for a while
    @rule(members=st.dictionaries(st.sampled_from(IDS), st.integers(1, 3)), new_url=st.booleans())
    def publish(self, members: dict[str, int], new_url: bool) -> None:
        self.revision += 1
        port = self.revision if new_url else 1
        endpoints = tuple(Endpoint(name, f"http://{name}:{port}", concurrency=limit) for name, limit in members.items())
        self.balancer.update(EndpointSet(1, self.revision, endpoints, PUBLISHED_AT), self.now)
        self.limits = members

    @rule(behind=st.integers(0, 3))
    def publish_late(self, behind: int) -> None:
        before = self.balancer.endpoints
        late = EndpointSet(1, self.revision - behind, (Endpoint("z", "http://z"),), PUBLISHED_AT)
        if before is not None:
            assert not self.balancer.update(late, self.now)
            assert self.balancer.endpoints is before

    @rule(tried=st.just(frozenset()) | st.frozensets(st.sampled_from(IDS)), patience=st.floats(0.1, 20))
    def acquire(self, tried: frozenset[str], patience: float) -> None:
        try:
            ticket = self.balancer.acquire(self.now, deadline=self.now + patience, tried=tried, wake=lambda: None)
        except QueueFull:
            assert self.balancer.statistics(self.now).waiting == 5
            return
        if ticket.lease is None:
            self.waiting.append(ticket)
        else:
            self.leases.append(ticket.lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), twice=st.booleans())
    def release(self, data: st.DataObject, outcome: Outcome, twice: bool) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        self.leases.remove(lease)
        assert self.balancer.release(lease, outcome, self.now)
        if twice:
            assert not self.balancer.release(lease, outcome, self.now)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        self.balancer.answered(data.draw(st.sampled_from(self.leases)), self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Some of those cancelled have been granted a lease that they have not noticed."""
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.balancer.give_up(ticket, self.now)

    @precondition(lambda self: self.leases)
    @rule(outcome=st.sampled_from(Outcome))
    def release_all(self, outcome: Outcome) -> None:
        while self.leases:
            self.balancer.release(self.leases.pop(), outcome, self.now)

    @rule(seconds=st.floats(0.01, 2))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.balancer.tick(self.now)
        for ticket in [each for each in self.waiting if each.deadline <= self.now and each.lease is None]:
            self.waiting.remove(ticket)
            self.balancer.time_out(ticket, self.now)

    @rule()
    def notice_grants(self) -> None:
        for ticket in [each for each in self.waiting if each.lease is not None]:
            self.waiting.remove(ticket)
            assert ticket.lease is not None
            self.leases.append(ticket.lease)

    def all_leases(self) -> list[Lease]:
        return self.leases + [each.lease for each in self.waiting if each.lease is not None]

    @invariant()
    def count_steps(self) -> None:
        self.steps += 1

    @invariant()
    def the_counters_are_the_leases(self) -> None:
        found = self.balancer.statistics(self.now)
        held = self.all_leases()
        assert found.in_flight == len(held) == found.granted - found.released
        for replica in found.replicas:
            assert replica.in_flight == sum(lease.endpoint.id == replica.id for lease in held)
        assert found.in_flight == sum(each.in_flight for each in found.replicas)
        assert {each.id for each in found.replicas if not each.is_leaving} == set(self.limits)

    @invariant()
    def trials_are_counted_right(self) -> None:
        for lease in self.all_leases():
            trials = sum(each.is_trial and each.health is lease.health for each in self.all_leases())
            assert lease.health.trials == trials

    @invariant()
    def nobody_waits_beside_a_free_healthy_replica(self) -> None:
        found = self.balancer.statistics(self.now)
        free = [
            replica
            for replica in self.balancer._eligible.serving
            if replica.health.is_healthy and replica.refuses_until <= self.now and replica.in_flight < replica.limit
        ]
        untried = [each for each in self.waiting if each.lease is None and not each.tried and each.deadline > self.now]
        assert not (free and untried)
        assert found.waiting == sum(each.lease is None for each in self.waiting)

    def teardown(self) -> None:
        for ticket in self.waiting:
            self.balancer.give_up(ticket, self.now)
        for lease in self.leases:
            self.balancer.release(lease, Outcome.OK, self.now)
        found = self.balancer.statistics(self.now)
        assert (found.in_flight, found.waiting) == (0, 0)
        assert all(each.in_flight == 0 and not each.is_leaving for each in found.replicas)
        assert all(replica.health.trials == 0 for replica in self.balancer._eligible.serving)


BalancerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestBalancerMachine = BalancerMachine.TestCase
