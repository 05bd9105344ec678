"""The parts of the balancer, one by one."""

from muster.balancer import budget, eject
from muster.balancer.budget import RetryBudget
from muster.balancer.eject import FIRST_SECONDS, LONGEST_SECONDS, Health


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

    def test_several_failures_in_a_row_count_as_one_failed_connect(self) -> None:
        health = Health()
        for number in range(eject.ERRORS_IN_A_ROW - 1):
            health.failed(granted_at=number, now=number)
        assert health.is_healthy
        health.reachable(granted_at=4.5, limit=8)
        for number in range(5, 4 + eject.ERRORS_IN_A_ROW):
            health.failed(granted_at=number, now=number)
        assert health.is_healthy, "an answer between them starts the count anew"
        health.failed(granted_at=20.0, now=20.0)
        assert health.is_aside(20.0)
        assert health.why == "could not be reached, or failed, once"

    def test_one_failure_of_a_trial_is_enough(self) -> None:
        health = Health()
        health.unreachable(granted_at=0.0, now=0.0)
        health.failed(granted_at=FIRST_SECONDS, now=1.0)
        assert health.failures == 2
