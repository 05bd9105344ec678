"""Who is refused early and who never is; what a slow past, other tenants and waiting large requests may not do."""

import datetime
import random

import pytest

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.explore import UNSEEN_SECONDS
from muster.balancer.forecast import FEWEST, MOST_KINDS
from muster.balancer.lease import Lease, Outcome
from muster.balancer.queue import MOST_REMEMBERED
from muster.balancer.ticket import Ticket
from muster.errors import CannotMeetDeadline, QueueTimeout
from muster.model.endpoint import Endpoint, EndpointSet

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


class World:
    """A balancer and its time."""

    def __init__(self, replica_num: int = 1, concurrency: int | None = 1, vram_mb: int = 0) -> None:
        self.now = 1000.0
        self.woken: list[int] = []
        self.balancer = Balancer("s", random.Random(1))
        budgets = {"vram_mb": vram_mb} if vram_mb else {}
        endpoints = tuple(
            Endpoint(f"r{number}", "http://x", concurrency=concurrency, budgets=budgets)
            for number in range(replica_num)
        )
        self.balancer.update(EndpointSet(1, 1, endpoints, PUBLISHED_AT), self.now)

    def ask(self, *, within: float = float("inf"), timeout: float = 30.0, **said: object) -> Ticket:
        number = len(self.woken)
        return self.balancer.acquire(
            self.now,
            deadline=self.now + timeout,
            wake=lambda: self.woken.append(number),
            ask=Ask(answer_by=self.now + within, **said),  # type: ignore[arg-type]
        )

    def lease(self, **said: float) -> Lease:
        lease = self.ask(**said).lease
        assert lease is not None
        return lease

    def end(self, lease: Lease, outcome: Outcome = Outcome.OK) -> None:
        self.balancer.release(lease, outcome, self.now)

    def serve(self, seconds: float, count: int = FEWEST) -> None:
        for _ in range(count):
            lease = self.lease()
            self.now += seconds
            self.end(lease)

    @property
    def waiting(self) -> int:
        return self.balancer.statistics(self.now).waiting


def served(ticket: Ticket) -> bool:
    return ticket.lease is not None


class TestEarlyRefusal:
    def test_what_cannot_make_its_deadline_is_refused_at_once_and_leaves_nothing_behind(self) -> None:
        world = World()
        world.serve(2.0)
        world.lease()
        world.ask(within=3.0)  # it may make it
        with pytest.raises(
            CannotMeetDeadline, match=r"in about \d\.\d s, it takes 2\.0 s itself, and has 3\.0 s"
        ) as caught:
            world.ask(within=3.0)
        assert 5.0 < caught.value.expected_seconds < 7.0
        found = world.balancer.statistics(world.now)
        assert (found.waiting, found.refused_early) == (1, 1)

    def test_one_that_can_make_it_waits(self) -> None:
        world = World()
        world.serve(2.0)
        world.lease()
        assert world.ask(within=30.0).lease is None

    def test_nothing_is_refused_while_a_slot_is_free_since_the_past_may_be_over(self) -> None:
        world = World(concurrency=4)
        world.serve(30.0)
        for _ in range(50):
            lease = world.lease(within=10.0)
            world.now += 0.1
            world.end(lease)
            world.now += 60.0
        assert world.balancer.statistics(world.now).cost.kinds["no features"].observations == FEWEST + 50

    def test_a_wait_without_a_deadline_is_never_refused_early(self) -> None:
        world = World()
        world.serve(60.0)
        world.lease()
        assert [world.ask(timeout=30.0).lease for _ in range(5)] == [None] * 5

    def test_somebody_who_is_refused_early_counts_as_waiting_for_the_limit_that_grows(self) -> None:
        world = World(concurrency=None)
        world.serve(60.0)
        lease = world.lease()
        with pytest.raises(CannotMeetDeadline):
            world.ask(within=5.0)
        world.now += 60.0
        world.end(lease)
        assert lease.is_wanted

    def test_an_end_that_is_near_is_waited_for(self) -> None:
        world = World()
        world.serve(60.0)
        lease = world.lease()
        world.now += 59.0
        waiting = world.ask(within=90.0)
        world.now += 1.0
        world.end(lease)
        assert waiting.lease is not None

    def test_a_wide_spread_is_given_the_benefit_of_the_doubt(self) -> None:
        """The mean is 1.65 s, but half take less than 1 s: a deadline of 1.1 s behind a short wait is no lost cause."""
        world = World()
        rng = random.Random(1)
        for _ in range(200):
            world.serve(rng.lognormvariate(0.0, 1.0), 1)
        lease = world.lease()
        world.now += 1.6
        waiting = world.ask(within=1.1)
        world.end(lease)
        assert waiting.lease is not None

    def test_a_time_out_of_nothing_is_granted_when_somebody_is_free_and_refused_when_not(self) -> None:
        world = World()
        world.lease(timeout=0.0)
        with pytest.raises(QueueTimeout):
            world.ask(timeout=0.0)
        assert world.waiting == 0


class TestOthersInTheWay:
    def test_a_free_slot_is_used_although_somebody_waits_for_memory(self) -> None:
        world = World(concurrency=4, vram_mb=8000)
        for _ in range(FEWEST):
            lease = world.ask(demands={"vram_mb": 100}).lease
            assert lease is not None
            world.now += 60.0
            world.end(lease)
        assert world.ask(demands={"vram_mb": 6000}).lease is not None
        assert world.ask(demands={"vram_mb": 6000}, timeout=600.0).lease is None
        assert world.ask(demands={"vram_mb": 100}, within=70.0).lease is not None

    def test_a_retry_may_go_back_to_a_replica_that_has_answered_since(self) -> None:
        world = World(replica_num=2)
        busy = world.lease()
        other = "r1" if busy.endpoint.id == "r0" else "r0"
        world.end(world.lease(), Outcome.UNREACHABLE)
        world.now += 0.02
        retry = world.balancer.acquire(
            world.now, deadline=world.now + 30, tried=frozenset({other}), wake=lambda: None, since=world.now - 0.02
        )
        assert not served(retry)
        world.now += 1.0
        world.balancer.tick(world.now)
        proof = world.lease()
        assert proof.endpoint.id == other
        world.now += 0.5
        world.end(proof)
        assert retry.lease is not None
        assert retry.lease.endpoint.id == other

    def test_a_request_with_a_deadline_is_not_sent_to_learn_something(self) -> None:
        world = World(replica_num=2, concurrency=4)
        for _ in range(60):
            first, second = world.lease(), world.lease()
            slow, fast = (first, second) if first.endpoint.id == "r0" else (second, first)
            world.now += 0.5
            world.end(fast)
            world.now += 9.5
            world.end(slow)
        asked = [world.lease(within=30.0)]
        for _ in range(200):
            world.now += UNSEEN_SECONDS / 10
            world.end(asked[-1])
            asked.append(world.lease(within=30.0))
        assert {each.endpoint.id for each in asked} == {"r1"}


class TestReplicas:
    def test_one_that_says_nothing_again_and_again_is_put_aside(self) -> None:
        world = World(replica_num=2, concurrency=8)
        for _ in range(5):
            lease = world.balancer.acquire(
                world.now, deadline=world.now + 1, tried=frozenset({"r1"}), wake=lambda: None
            ).lease
            assert lease is not None
            world.now += 0.01
            world.end(lease, Outcome.TIMED_OUT)
        assert {world.lease().endpoint.id for _ in range(6)} == {"r1"}

    def test_one_that_says_that_it_is_busy_rests_and_nothing_is_held_against_it(self) -> None:
        world = World(replica_num=2, concurrency=8)
        lease = world.lease()
        world.end(lease, Outcome.BUSY)
        assert lease.replica.health.is_healthy
        assert lease.replica.others == 0
        assert {world.lease().endpoint.id for _ in range(6)} == {"r1" if lease.endpoint.id == "r0" else "r0"}

    def test_budgets_are_shared_out_so_that_as_many_fit_as_there_are_slots(self) -> None:
        world = World(concurrency=7, vram_mb=24_000)
        assert [world.ask().lease is not None for _ in range(8)] == [True] * 7 + [False]


class TestSize:
    def test_one_of_a_thousand_that_wait_wakes_when_a_replica_comes_back(self) -> None:
        world = World(concurrency=1)
        world.end(world.lease(), Outcome.CLOSED)
        waiting = [world.ask() for _ in range(1000)]
        world.woken.clear()
        timed = [each for each in waiting if world.balancer.sleep_until(each) < each.deadline]
        assert len(timed) == 1
        world.balancer.give_up(timed[0], world.now)
        assert len(world.woken) == 1, "the next one keeps the time"
        assert len([each for each in waiting[1:] if world.balancer.sleep_until(each) < each.deadline]) == 1

    def test_tenants_without_number_are_not_remembered_for_ever(self) -> None:
        world = World()
        held = world.lease()
        for _ in range(3):
            world.ask(tenant="steady")
        for number in range(3000):
            world.now += 0.01
            passing = world.ask(tenant=f"t{number}")
            world.end(held)
            granted = next(iter(world.balancer._running))
            held = granted
            if passing.lease is None:
                world.balancer.give_up(passing, world.now)
            if world.waiting < 3:
                world.ask(tenant="steady")
        (band,) = world.balancer._queue._bands.values()
        assert len(band._lanes) <= 2 * world.waiting + MOST_REMEMBERED + 1
        assert len(world.balancer._admission._arrivals._work) <= MOST_KINDS
