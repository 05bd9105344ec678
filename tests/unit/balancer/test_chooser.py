"""Which of those that have room is picked."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from muster.balancer.affinity import affinity
from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.chooser import (
    EXACT_UP_TO,
    MOST_KNOWN,
    Randomness,
    RoundRobin,
    by_size,
    least_loaded,
    least_time,
    power_of_two,
    weighted,
)
from muster.balancer.policy import DEFAULT_POLICY, POLICIES, chooser_named
from muster.balancer.replica import Replica
from muster.errors import InvalidSpec
from muster.model.endpoint import Endpoint


@dataclass
class Candidate:
    """As much of a replica as choosing needs."""

    endpoint: Endpoint
    score: float = 1.0
    in_flight: int = 0
    limit: int = 8
    slowness: float = 1.0


def named(*names: str) -> list[Candidate]:
    return [Candidate(Endpoint(name, "http://x")) for name in names]


def numbered(count: int) -> list[Candidate]:
    return named(*(f"r{number}" for number in range(count)))


def scored(*scores: float) -> list[Candidate]:
    candidates = numbered(len(scores))
    for candidate, score in zip(candidates, scores, strict=True):
        candidate.score = score
    return candidates


Choose = Callable[[Sequence[Candidate], Ask, Randomness], Candidate]


def picks(choose: Choose, candidates: list[Candidate], count: int, *, seed: int = 1) -> Counter[str]:
    rng = random.Random(seed)
    return Counter(choose(candidates, NOTHING_SAID, rng).endpoint.id for _ in range(count))


class TestLeastTime:
    def test_it_is_exact(self) -> None:
        assert picks(least_time, scored(0.3, 0.1, 0.2), 50) == {"r1": 50}

    def test_equals_have_equal_chances(self) -> None:
        counts = picks(least_time, scored(1, 0.3, 2, 0.3, 0.3), 3000)
        assert set(counts) == {"r1", "r3", "r4"}
        assert all(900 < count < 1100 for count in counts.values())

    def test_what_differs_in_the_last_bits_only_is_equal(self) -> None:
        counts = picks(least_time, scored(0.1 + 0.2, 0.3), 1000)
        assert min(counts["r0"], counts["r1"]) > 400

    def test_nobody_is_above_the_others_when_all_scores_are_zero_or_endless(self) -> None:
        assert len(picks(least_time, scored(0.0, 0.0), 100)) == 2
        assert len(picks(least_time, scored(float("inf"), float("inf")), 100)) == 2


class TestPowerOfTwo:
    def test_it_never_takes_the_worst_and_reaches_everybody_else(self) -> None:
        counts = picks(power_of_two, scored(0, 1, 2, 9), 6000)
        # Of the 6 pairs 3 hold r0, 2 more hold r1, 1 is (r2, r3).
        assert counts["r3"] == 0
        assert counts["r0"] == pytest.approx(3000, rel=0.1)
        assert counts["r1"] == pytest.approx(2000, rel=0.1)
        assert counts["r2"] == pytest.approx(1000, rel=0.15)

    def test_of_one_it_takes_that_one(self) -> None:
        assert picks(power_of_two, scored(5.0), 3) == {"r0": 3}

    def test_small_sets_are_searched_and_large_ones_sampled(self) -> None:
        small = scored(*([1.0] * (EXACT_UP_TO - 1) + [0.5]))
        large = scored(*([1.0] * EXACT_UP_TO + [0.5]))
        assert picks(by_size, small, 50) == {small[-1].endpoint.id: 50}
        assert picks(by_size, large, 500)[large[-1].endpoint.id] < 50


class TestLeastLoaded:
    def test_it_compares_shares_of_slots_not_requests(self) -> None:
        large, small = numbered(2)
        large.in_flight, large.limit = 3, 8
        small.in_flight, small.limit = 1, 2
        assert picks(least_loaded, [small, large], 20) == {"r0": 20}

    def test_equals_have_equal_chances(self) -> None:
        counts = picks(least_loaded, numbered(3), 3000)
        assert all(900 < counts[f"r{number}"] < 1100 for number in range(3))


class TestWeighted:
    def test_who_can_do_more_gets_more(self) -> None:
        usual, slow, wide = numbered(3)
        slow.slowness = 2.0
        wide.limit = 24
        counts = picks(weighted, [usual, slow, wide], 9000)
        assert counts["r0"] == pytest.approx(2000, rel=0.1)
        assert counts["r1"] == pytest.approx(1000, rel=0.15)
        assert counts["r2"] == pytest.approx(6000, rel=0.1)

    def test_the_highest_number_drawn_is_somebody_s(self) -> None:
        candidates = numbered(10)
        for candidate in candidates:
            candidate.slowness = 1.1
        assert weighted(candidates, NOTHING_SAID, Highest()) is candidates[-1]


class Highest:
    """Chance at its upper end."""

    def randrange(self, stop: int, /) -> int:
        return stop - 1


@dataclass
class Cycle:
    """One round robin and its chance."""

    choose: RoundRobin = field(default_factory=RoundRobin)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __call__(self, candidates: list[Candidate], count: int) -> list[str]:
        return [self.choose(candidates, NOTHING_SAID, self.rng).endpoint.id for _ in range(count)]


class TestRoundRobin:
    def test_each_gets_one_request_in_every_cycle(self) -> None:
        order = Cycle()(numbered(5), 50)
        assert all(len(set(order[start : start + 5])) == 5 for start in range(46))

    def test_clients_begin_in_different_places(self) -> None:
        first = {RoundRobin()(numbered(8), NOTHING_SAID, random.Random(seed)).endpoint.id for seed in range(200)}
        assert len(first) == 8

    def test_the_cycle_does_not_begin_again_whenever_the_candidates_change(self) -> None:
        """Somebody fills up or has room again at every choice, and still all get the same."""
        candidates, cycle, rng = numbered(6), Cycle(), random.Random(2)
        counts: Counter[str] = Counter()
        for _ in range(6000):
            full = rng.choice(candidates)
            counts.update(cycle([each for each in candidates if each is not full], 1))
        assert max(counts.values()) - min(counts.values()) <= 10

    def test_a_new_set_of_the_same_replicas_in_another_order_goes_on(self) -> None:
        cycle = Cycle()
        before = cycle(numbered(6), 3)
        after = cycle(list(reversed(numbered(6))), 3)
        assert len({*before, *after}) == 6

    def test_somebody_new_joins_the_cycle_at_any_place(self) -> None:
        """With many clients it would otherwise get the next request of each of them at once."""
        places = []
        for seed in range(300):
            cycle = Cycle(rng=random.Random(seed))
            cycle(numbered(4), 10)
            places.append(cycle(numbered(5), 5).index("r4"))
        shares = Counter(places)
        assert set(shares) == set(range(5))
        assert max(shares.values()) < 120

    def test_replicas_that_went_are_forgotten_in_the_end(self) -> None:
        cycle = Cycle()
        for number in range(MOST_KNOWN + 10):
            cycle(named("stays", f"went-{number}"), 2)
        assert len(cycle.choose._turns) <= MOST_KNOWN + 1
        assert len(set(cycle(named("stays", "new"), 2))) == 2


KEYS = [f"session-{number}" for number in range(3000)]


def homes(candidates: list[Candidate]) -> dict[str, str]:
    return {key: affinity(candidates, Ask(affinity=key), random.Random()).endpoint.id for key in KEYS}


class TestAffinity:
    def test_a_session_stays_whatever_the_scores_and_the_order_are(self) -> None:
        candidates = numbered(10)
        before = homes(candidates)
        for number, candidate in enumerate(candidates):
            candidate.score = number
        assert homes(candidates[::-1]) == before

    def test_sessions_are_spread_evenly(self) -> None:
        counts = Counter(homes(numbered(10)).values())
        assert len(counts) == 10
        assert all(count == pytest.approx(300, rel=0.25) for count in counts.values())

    def test_who_goes_moves_only_its_own_sessions_to_all_others(self) -> None:
        before, after = homes(numbered(11)), homes(numbered(10))
        moved = Counter(after[key] for key in KEYS if before[key] == "r10")
        assert len(moved) == 10
        assert max(moved.values()) < 3 * sum(moved.values()) / 10
        assert all(after[key] == before[key] for key in KEYS if before[key] != "r10")

    def test_who_is_a_quarter_above_the_mean_is_passed_over_for_the_next_in_the_session_s_order(self) -> None:
        candidates = numbered(10)
        for candidate in candidates:
            candidate.in_flight = 4
        home = affinity(candidates, Ask(affinity="s"), random.Random())
        heir = affinity([each for each in candidates if each is not home], Ask(affinity="s"), random.Random())
        home.in_flight = 6  # (9 · 4 + 6 + 1) / 10 · 1.25 = 5.4, rounded up
        assert affinity(candidates, Ask(affinity="s"), random.Random()) is home
        home.in_flight = 7
        assert affinity(candidates, Ask(affinity="s"), random.Random()) is heir

    def test_one_busy_session_is_spread_before_it_overruns_its_replica(self) -> None:
        candidates = numbered(10)
        for _ in range(200):
            affinity(candidates, Ask(affinity="all the same"), random.Random()).in_flight += 1
        assert max(each.in_flight for each in candidates) <= 26

    def test_every_process_finds_the_same_replica(self) -> None:
        program = (
            "from muster.balancer.affinity import hash_of; print([hash_of(text) for text in ('r1', 'séance', '')])"
        )
        seen = {
            subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True,
                check=True,
                env={"PYTHONHASHSEED": seed},
                text=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert seen == {"[278530537644735801, 1525043738710146316, 335131519762412227]\n"}

    def test_without_a_session_the_least_time_is_picked(self) -> None:
        assert picks(affinity, scored(3, 1, 2), 20) == {"r1": 20}


class TestPolicies:
    @pytest.mark.parametrize("name", POLICIES)
    def test_each_picks_one_of_the_candidates_and_keeps_sessions(self, name: str) -> None:
        replicas = [Replica(Endpoint(f"r{number}", "http://x"), 0.0) for number in range(5)]
        chooser, rng = chooser_named(name), random.Random(1)
        assert {chooser(replicas, NOTHING_SAID, rng) for _ in range(200)} == set(replicas)
        assert len({chooser(replicas, Ask(affinity="s"), rng) for _ in range(200)}) == 1

    def test_services_do_not_share_what_a_chooser_remembers(self) -> None:
        assert POLICIES["round_robin"]() is not POLICIES["round_robin"]()

    def test_an_unknown_name_is_refused_with_all_that_are_known(self) -> None:
        with pytest.raises(InvalidSpec, match=r"'random' is none of least_time, power_of_two, .*weighted"):
            chooser_named("random")

    def test_the_default_is_a_policy(self) -> None:
        assert DEFAULT_POLICY in POLICIES
