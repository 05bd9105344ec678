"""Token buckets, in the time that the test gives them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api.rate_limit import TokenBuckets


def test_a_burst_passes_and_then_the_rate() -> None:
    buckets = TokenBuckets(50.0, burst=100.0)
    assert [buckets.take("a", 0.0) for _ in range(100)] == [0.0] * 100
    assert buckets.take("a", 0.0) == pytest.approx(0.02)
    assert buckets.take("a", 0.019) == pytest.approx(0.001)
    assert buckets.take("a", 0.0201) == 0.0
    assert buckets.take("a", 0.0201) > 0.0


def test_keys_do_not_share() -> None:
    buckets = TokenBuckets(1.0, burst=1.0)
    assert [buckets.take(key, 0.0) for key in "abc"] == [0.0] * 3
    assert all(buckets.take(key, 0.5) == pytest.approx(0.5) for key in "abc")


def test_asking_while_refused_costs_nothing() -> None:
    buckets = TokenBuckets(10.0, burst=1.0)
    assert buckets.take("a", 0.0) == 0.0
    for tick in range(1, 10):
        assert buckets.take("a", tick / 100) > 0.0
    assert buckets.take("a", 0.1001) == 0.0


def test_less_than_one_request_a_second_is_a_rate_too() -> None:
    buckets = TokenBuckets(0.1, burst=0.2)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 0.0) == pytest.approx(10.0)
    assert buckets.take("a", 10.0) == 0.0


def test_keys_that_are_full_again_are_forgotten() -> None:
    buckets = TokenBuckets(50.0, burst=100.0)
    for number in range(10_000):
        buckets.take(f"drawn-{number}", number / 1000)
    assert len(buckets) <= 4_001, "no more than were asked with in the last two sweeps"
    buckets.take("later", 1000.0)
    assert len(buckets) == 1


@given(st.lists(st.floats(0.0, 0.2), max_size=200))
def test_never_more_than_the_burst_and_the_rate(pauses: list[float]) -> None:
    buckets, now, passed = TokenBuckets(20.0, burst=5.0), 0.0, 0
    for pause in pauses:
        now += pause
        passed += buckets.take("a", now) == 0.0
        assert passed <= 5.0 + 20.0 * now + 1e-6
