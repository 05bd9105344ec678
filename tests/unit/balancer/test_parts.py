"""The parts of the balancer, one by one."""

import random
from collections import Counter

import pytest

from muster.balancer import budget, eject
from muster.balancer.budget import RetryBudget
from muster.balancer.chooser import EXACT_UP_TO, by_size, least_loaded, power_of_two
from muster.balancer.eject import FIRST_SECONDS, LONGEST_SECONDS, Health
from muster.balancer.limit import concurrency_limit
from muster.balancer.load import InFlight
from muster.balancer.queue import Ticket, WaitingQueue
from muster.balancer.replica import Replica
from muster.model.endpoint import Endpoint


def replicas(*loads: int) -> list[Replica]:
    made = [Replica(Endpoint(id=f"r{number}", url="http://x"), 8) for number in range(len(loads))]
    for replica, load in zip(made, loads, strict=True):
        replica.load.value = load
    return made


class TestLoad:
    def test_one_finish_too_many_is_an_error_not_a_negative_count(self) -> None:
        load = InFlight()
        load.start()
        load.finish()
        with pytest.raises(AssertionError, match="negative"):
            load.finish()
        assert load.value == 0


class TestLimit:
    def test_the_endpoint_declares_it_and_the_default_fills_in(self) -> None:
        assert concurrency_limit(Endpoint(id="a", url="u", concurrency=3)) == 3
        assert concurrency_limit(Endpoint(id="a", url="u")) == 8
        assert concurrency_limit(Endpoint(id="a", url="u"), 2) == 2

    def test_a_replica_always_has_a_slot(self) -> None:
        assert concurrency_limit(Endpoint(id="a", url="u", concurrency=0)) == 1


class TestChooser:
    def test_least_loaded_is_exact(self) -> None:
        candidates = replicas(3, 1, 2)
        assert least_loaded(candidates, random.Random(1)) is candidates[1]

    def test_equals_have_equal_chances(self) -> None:
        candidates = replicas(1, 0, 2, 0, 0)
        rng = random.Random(1)
        picks = Counter(least_loaded(candidates, rng).endpoint.id for _ in range(3000))
        assert set(picks) == {"r1", "r3", "r4"}
        assert all(900 < count < 1100 for count in picks.values())

    def test_two_choices_never_take_the_worst_and_reach_everybody_else(self) -> None:
        candidates = replicas(0, 1, 2, 9)
        rng = random.Random(1)
        picks = Counter(power_of_two(candidates, rng).endpoint.id for _ in range(6000))
        # Of the 6 pairs 3 hold r0, 2 more hold r1, 1 is (r2, r3).
        assert picks["r3"] == 0
        assert picks["r0"] == pytest.approx(3000, rel=0.1)
        assert picks["r1"] == pytest.approx(2000, rel=0.1)
        assert picks["r2"] == pytest.approx(1000, rel=0.15)

    def test_two_choices_of_one_is_that_one(self) -> None:
        (only,) = replicas(5)
        assert power_of_two([only], random.Random(1)) is only

    def test_small_sets_are_searched_and_large_ones_sampled(self) -> None:
        small = replicas(*([1] * (EXACT_UP_TO - 1) + [0]))
        large = replicas(*([1] * EXACT_UP_TO + [0]))
        rng = random.Random(1)
        assert all(by_size(small, rng) is small[-1] for _ in range(50))
        assert sum(by_size(large, rng) is large[-1] for _ in range(500)) < 50


class TestQueue:
    def test_it_is_first_in_first_out_and_bounded(self) -> None:
        queue = WaitingQueue(capacity=2)
        first, second = (Ticket(0, 9, frozenset(), lambda: None) for _ in range(2))
        fills = []
        for ticket in (first, second):
            queue.push(ticket)
            fills.append(queue.is_full)
        assert fills == [False, True]
        assert list(queue) == [first, second]
        queue.discard(first)
        queue.discard(first)
        assert list(queue) == [second]

    def test_the_expired_can_be_dropped(self) -> None:
        queue = WaitingQueue()
        soon, late = (Ticket(0, deadline, frozenset(), lambda: None) for deadline in (5, 9))
        queue.push(late)
        queue.push(soon)
        queue.drop_expired(5)
        assert list(queue) == [late]


class TestBudget:
    def test_without_traffic_the_reserve_is_what_there_is(self) -> None:
        retries = RetryBudget()
        granted = sum(retries.withdraw(0.0) for _ in range(1000))
        assert granted == budget.RESERVE_PER_SECOND * budget.WINDOW_SECONDS

    def test_calls_add_a_fifth_each(self) -> None:
        retries = RetryBudget()
        for _ in range(1000):
            retries.deposit(0.5)
        assert sum(retries.withdraw(0.5) for _ in range(1000)) == 300

    def test_what_was_taken_and_what_was_given_is_forgotten_after_the_window(self) -> None:
        retries = RetryBudget()
        for _ in range(1000):
            retries.deposit(3.0)
        while retries.withdraw(3.0):
            pass
        assert not retries.withdraw(12.9)
        assert sum(retries.withdraw(13.1) for _ in range(1000)) == 100

    def test_in_a_long_outage_resends_stay_a_fifth_of_the_calls_and_the_reserve(self) -> None:
        retries = RetryBudget()
        resends = 0
        seconds, rate = 60, 100
        for tick in range(seconds * rate):
            now = tick / rate
            retries.deposit(now)
            resends += retries.withdraw(now)
        allowed = (0.2 * rate + budget.RESERVE_PER_SECOND) * seconds
        assert resends <= allowed + budget.RESERVE_PER_SECOND * budget.WINDOW_SECONDS
        assert resends > 0.9 * allowed


class TestHealth:
    def test_the_time_aside_doubles_up_to_a_bound(self) -> None:
        health = Health()
        now = 100.0
        spans = []
        for _ in range(9):
            health.unreachable(granted_at=now, now=now)
            spans.append(health.aside_until - now)
            now = health.aside_until
        assert spans[:4] == [FIRST_SECONDS * 2**n for n in range(4)]
        assert spans[5:] == [LONGEST_SECONDS] * 4

    def test_days_of_failure_do_not_overflow(self) -> None:
        health = Health()
        for _ in range(5000):
            health.unreachable(granted_at=health.aside_until, now=health.aside_until)
        assert health.aside_until <= LONGEST_SECONDS * 5000

    def test_requests_that_fail_together_count_once(self) -> None:
        health = Health()
        for _ in range(8):
            health.unreachable(granted_at=1.0, now=1.5)
        assert health.failures == 1
        assert health.aside_until == 1.5 + eject.FIRST_SECONDS

    def test_it_returns_with_one_trial_then_two_then_four_then_all(self) -> None:
        health = Health()
        health.unreachable(granted_at=0.0, now=0.0)
        assert not health.admits(FIRST_SECONDS - 0.01)
        now = FIRST_SECONDS
        allowed = []
        while not health.is_healthy:
            started = 0
            while health.admits(now) and started < 100:
                health.trials += 1
                started += 1
            allowed.append(started)
            health.trials = 0
            health.reachable(granted_at=now, limit=8)
        assert allowed == [1, 2, 4, 8]

    def test_an_answer_to_an_older_request_proves_nothing(self) -> None:
        health = Health()
        health.unreachable(granted_at=5.0, now=5.0)
        assert not health.reachable(granted_at=4.0, limit=1)
        assert not health.is_healthy

    def test_an_answer_while_aside_heals_at_once(self) -> None:
        """Such a request was sent in panic mode: that it was answered shows that the ejection was wrong."""
        health = Health()
        health.unreachable(granted_at=5.0, now=5.0)
        assert health.reachable(granted_at=5.1, limit=8)
        assert health.is_healthy
