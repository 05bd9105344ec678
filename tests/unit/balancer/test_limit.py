"""The limit that is found where none is declared; ``tests/simulation/test_limit.py`` shows what it finds."""

import math
import random

import pytest

from muster.balancer.limit import HIGHEST, OPENED_REST, AdaptiveLimit
from muster.balancer.trial import Noise, Sums


def answer(limit: AdaptiveLimit, count: int, *, ratio: float = 1.0, is_wanted: bool = True) -> None:
    """Let requests run that cost each other nothing, one after the other, with as many in flight as may be."""
    for _ in range(count):
        limit.observe(limit.value, ratio, is_wanted, 0.0)


class TestAdaptive:
    def test_it_begins_with_one(self) -> None:
        assert AdaptiveLimit().value == 1

    def test_it_doubles_while_more_costs_nothing(self) -> None:
        limit = AdaptiveLimit(opens=False)
        seen = []
        for _ in range(400):
            answer(limit, 1)
            seen.append(limit.value)
        assert set(seen) >= {1, 2, 4, 8, 16}
        assert seen.index(2) < seen.index(4) < seen.index(8) < 60

    def test_it_never_grows_while_nobody_waits(self) -> None:
        limit = AdaptiveLimit(opens=False)
        answer(limit, 5000, is_wanted=False)
        assert limit.value == 1

    def test_a_trial_pauses_while_nobody_waits_and_goes_on_with_what_it_knows(self) -> None:
        limit = AdaptiveLimit(opens=False)
        while limit.value == 1:
            answer(limit, 1)
        answer(limit, 4)
        known = limit.describe().levels[0].answers
        answer(limit, 40, is_wanted=False)
        assert limit.value == 1
        assert limit.describe().doing == "waits until somebody waits for a slot"
        assert limit.describe().levels[0].answers > known > 0
        answer(limit, 1)
        assert limit.value > 1

    def test_it_ends_at_the_highest(self) -> None:
        limit = AdaptiveLimit(opens=False)
        highest = 0
        for _ in range(60_000):
            answer(limit, 1)
            highest = max(highest, limit.value)
        assert highest == HIGHEST

    def test_it_stays_where_more_buys_nothing(self) -> None:
        limit = AdaptiveLimit(opens=False)
        seen = []
        for _ in range(2000):
            answer(limit, 1, ratio=limit.value)
            seen.append(limit.value)
        assert max(seen) == 2
        assert seen.count(1) > 1700

    @pytest.mark.parametrize("ratio", [math.nan, math.inf, 0.0, -1.0])
    def test_a_ratio_that_is_none_teaches_nothing(self, ratio: float) -> None:
        limit = AdaptiveLimit(opens=False)
        answer(limit, 500, ratio=ratio)
        assert limit.describe().answers == 0

    def test_one_answer_that_took_a_thousand_times_as_long_does_not_decide(self) -> None:
        """It comes while two are tried, and two cost nothing."""
        limit = AdaptiveLimit(opens=False)
        while limit.value == 1:
            answer(limit, 1)
        answer(limit, 5)
        answer(limit, 1, ratio=1000.0)
        seen = []
        for _ in range(400):
            answer(limit, 1)
            seen.append(limit.value)
        assert max(seen) >= 4

    def test_it_says_in_words_what_it_is_about(self) -> None:
        limit = AdaptiveLimit(opens=False)
        answer(limit, 12, ratio=1.0)
        described = limit.describe()
        assert described.doing == "compares 1 with 2"
        assert [level.limit for level in described.levels] == [1, 2]
        assert described.levels[0].ratio == pytest.approx(1.0)
        for _ in range(300):
            answer(limit, 1, ratio=limit.value)
        assert limit.describe().doing.startswith("rests for ")
        assert limit.describe().levels[1].ratio > 1.5 * limit.describe().levels[0].ratio

    def test_a_request_counts_for_the_limit_at_which_it_began(self) -> None:
        """Those that began before the trial count for none: most of them are long ones."""
        limit = AdaptiveLimit(opens=False)
        now = 0.0
        while not limit.describe().levels:
            now += 1.0
            limit.observe(1, 1.0, True, now, now - 0.5)
        limit.observe(1, 1.0, True, now + 1.0, granted_at=now - 10.0)
        assert limit.describe().levels[0].answers == 0
        limit.observe(1, 1.0, True, now + 1.0, granted_at=now + 0.5)
        assert limit.describe().levels[0].answers == 1


class TestFollowed:
    """Somebody else chooses, and says what he has found."""

    @pytest.mark.parametrize("is_new", [True, False])
    def test_it_is_what_is_told_as_long_as_that_is_told(self, is_new: bool) -> None:
        limit = AdaptiveLimit()
        answer(limit, 0 if is_new else 500)
        for told in (32, 2, 5, 1, 8):
            for _ in range(OPENED_REST):
                limit.follow(told, 0.0)
                answer(limit, 1, is_wanted=False)
                assert limit.value == limit.found == told

    def test_what_an_opening_reaches_it_goes_on_to_open(self) -> None:
        limit = AdaptiveLimit()
        answer(limit, 100, is_wanted=False)
        limit.follow(4, 0.0)
        answer(limit, 7)
        assert limit.value == 4
        answer(limit, 1)
        assert limit.value == 8
        assert limit.is_open

    def test_one_that_had_opened_opens_again_where_less_is_told(self) -> None:
        limit = AdaptiveLimit()
        answer(limit, 500)
        limit.follow(2, 0.0)
        answer(limit, 8)
        assert (limit.value, limit.is_open) == (4, True)

    def test_more_than_that_it_holds_for_a_while_and_then_tries(self) -> None:
        limit = AdaptiveLimit()
        limit.follow(32, 0.0)
        assert not limit.is_open
        for _ in range(OPENED_REST - 1):
            answer(limit, 1)
            assert limit.value == 32
        answer(limit, 200)
        assert limit.value > 32

    def test_a_trial_of_its_own_is_over(self) -> None:
        limit = AdaptiveLimit(opens=False)
        while limit.value == 1:
            answer(limit, 1)
        assert limit.found == 1, "a trial has found nothing yet"
        limit.follow(16, 0.0)
        assert (limit.value, limit.found) == (16, 16)
        assert limit.describe().doing.startswith("rests")

    @pytest.mark.parametrize(("told", "held"), [(0, 1), (10**18, HIGHEST)])
    def test_nonsense_is_bounded(self, told: int, held: int) -> None:
        limit = AdaptiveLimit()
        limit.follow(told, 0.0)
        assert limit.value == held


class TestNoise:
    def test_it_learns_the_variance_that_there_is(self) -> None:
        noise, level, rng = Noise(), Sums(), random.Random(1)
        level.add(1.0, 1.0)
        for _ in range(500):
            seconds = noise.clipped(rng.lognormvariate(-0.005, 0.1), 1.0, level)
            level.add(seconds, 1.0)
        assert math.sqrt(noise.variance) == pytest.approx(0.1, rel=0.2)

    def test_the_more_answers_the_surer_it_is(self) -> None:
        def odds(count: int) -> float:
            low, high = Sums(), Sums()
            for _ in range(count):
                low.add(1.0, 1.0)
                high.add(1.1, 1.0)
            return Noise().odds(math.log(2.0), low, high)

        assert 0 < odds(2) < odds(20) < odds(200)
