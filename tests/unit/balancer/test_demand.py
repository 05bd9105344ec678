"""Memory that nobody declares per request is learned from what replicas tell; and what they tell is read with care."""

import datetime
import random
import time

import pytest

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.demand import FEWEST, DemandModel
from muster.balancer.lease import Outcome
from muster.balancer.report import LoadReport, load_of
from muster.errors import NeverFits
from muster.model.endpoint import Endpoint, EndpointSet

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
BUDGETS = {"vram_mb": 16_000}


def a_balancer(*budgets: int, concurrency: int = 4) -> Balancer:
    balancer = Balancer("s", random.Random(1))
    endpoints = tuple(
        Endpoint(f"r{number}", "http://x", concurrency=concurrency, budgets={"vram_mb": whole})
        for number, whole in enumerate(budgets)
    )
    balancer.update(EndpointSet(1, 1, endpoints, PUBLISHED_AT), 0.0)
    return balancer


def ask(balancer: Balancer, said: Ask, now: float = 0.0) -> bool:
    return balancer.acquire(now, deadline=now + 30, wake=lambda: None, ask=said).lease is not None


class TestModel:
    def test_it_says_nothing_before_it_knows_something_and_never_overrules_the_caller(self) -> None:
        model = DemandModel()
        for pixels in range(1, FEWEST):
            model.observe({"pixels": pixels}, {"vram_mb": 2000.0}, BUDGETS)
        assert model.complete({}, {"pixels": 3.0}) == {}
        model.observe({"pixels": 9.0}, {"vram_mb": 2000.0}, BUDGETS)
        assert model.complete({}, {"pixels": 3.0})["vram_mb"] >= 2000
        assert model.complete({"vram_mb": 5}, {"pixels": 3.0}) == {"vram_mb": 5}

    def test_what_is_expected_covers_what_is_taken(self) -> None:
        rng = random.Random(1)
        model = DemandModel()

        def taken(pixels: float) -> float:
            return 500 + 2e-3 * pixels * rng.uniform(0.9, 1.1)

        for _ in range(300):
            pixels = rng.uniform(2e5, 4e6)
            model.observe({"pixels": pixels}, {"vram_mb": taken(pixels)}, BUDGETS)
        sizes = [rng.uniform(2e5, 4e6) for _ in range(1000)]
        expected = [model.complete({}, {"pixels": pixels})["vram_mb"] for pixels in sizes]
        actual = [taken(pixels) for pixels in sizes]
        assert sum(a <= e for a, e in zip(actual, expected, strict=True)) >= 960
        assert sum(expected) <= 1.6 * sum(actual)

    def test_what_is_no_budget_is_left_alone(self) -> None:
        model = DemandModel()
        for _ in range(FEWEST):
            model.observe(None, {"tokens": 12.0}, BUDGETS)
        assert model.complete({}, None) == {}


class TestAdmission:
    def test_a_request_that_says_nothing_takes_one_slots_part(self) -> None:
        balancer = a_balancer(16_000)
        assert ask(balancer, Ask(demands={"vram_mb": 9000}))
        assert ask(balancer, Ask()), "4000 of 7000"
        assert not ask(balancer, Ask())

    def test_what_was_learned_is_kept_free(self) -> None:
        balancer = a_balancer(16_000)
        for number in range(5 * FEWEST):
            lease = balancer.acquire(number, deadline=1e9, wake=lambda: None, ask=Ask(features={"n": 1.0})).lease
            assert lease is not None
            balancer.reported(lease, LoadReport(None, costs={"vram_mb": 7000.0}), number)
            balancer.release(lease, Outcome.OK, number + 0.5)
        granted = [ask(balancer, Ask(features={"n": 1.0}), 1000.0) for _ in range(3)]
        assert granted == [True, True, False]

    def test_who_is_expected_to_take_more_than_anybody_has_runs_alone_instead_of_never(self) -> None:
        balancer = a_balancer(16_000, 8_000)
        for number in range(4 * FEWEST):
            lease = balancer.acquire(number, deadline=1e9, wake=lambda: None, ask=Ask(features={"n": 1.0})).lease
            assert lease is not None
            balancer.reported(lease, LoadReport(None, costs={"vram_mb": 15_900.0}), number)
            balancer.release(lease, Outcome.OK, number + 0.5)
        ticket = balancer.acquire(1000.0, deadline=1e9, wake=lambda: None, ask=Ask(features={"n": 1.0}))
        assert ticket.lease is not None
        assert ticket.lease.endpoint.id == "r0"
        assert not ask(balancer, Ask(features={"n": 1.0}), 1000.0)

    def test_a_report_that_cannot_be_true_teaches_nothing(self) -> None:
        model = DemandModel()
        for _ in range(5 * FEWEST):
            model.observe(None, {"vram_mb": 1000.0}, BUDGETS)
        before = model.complete({}, None)["vram_mb"]
        model.observe(None, {"vram_mb": 1e9}, BUDGETS)
        assert model.complete({}, None)["vram_mb"] == before
        model.observe(None, {"vram_mb": 16_000.0}, BUDGETS)
        assert model.complete({}, None)["vram_mb"] < 3 * before

    def test_a_demand_beyond_every_budget_is_refused_and_the_error_says_what_there_is(self) -> None:
        with pytest.raises(NeverFits, match=r"vram_mb 20000 \(the largest replica has 16000\)"):
            ask(a_balancer(8_000, 16_000), Ask(demands={"vram_mb": 20_000}))

    def test_those_that_wait_for_memory_cost_nothing_where_many_replicas_have_slots(self) -> None:
        balancer = a_balancer(*[16_000] * 200)
        for _ in range(200):
            assert ask(balancer, Ask(demands={"vram_mb": 10_000}))
        began_at = time.process_time()
        for number in range(300):
            assert not ask(balancer, Ask(demands={"vram_mb": 12_000}), number * 0.001)
        assert time.process_time() - began_at < 1.0, "to look at each replica for each takes some seconds"

    def test_a_large_request_is_not_overtaken_for_ever_by_small_ones(self) -> None:
        balancer = a_balancer(16_000, concurrency=8)
        small = [balancer.acquire(0.0, deadline=1e9, wake=lambda: None, ask=Ask(demands={"vram_mb": 4000}))]
        small += [
            balancer.acquire(0.0, deadline=1e9, wake=lambda: None, ask=Ask(demands={"vram_mb": 4000})) for _ in range(3)
        ]
        large = balancer.acquire(0.0, deadline=1e9, wake=lambda: None, ask=Ask(demands={"vram_mb": 16_000}))
        now = 0.0
        for _ in range(200):
            now += 1.0
            small.append(balancer.acquire(now, deadline=1e9, wake=lambda: None, ask=Ask(demands={"vram_mb": 4000})))
            running = next((each for each in small if each.lease and not each.lease.is_released), None)
            if running is None:
                break
            assert running.lease is not None
            balancer.release(running.lease, Outcome.OK, now)
        assert large.lease is not None


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("TEXT named_metrics.in_flight=2,named_metrics.concurrency=4", LoadReport(2, 4)),
        ("text named_metrics.in_flight=0", LoadReport(0, None)),
        ("TEXT request_cost.vram_mb=3100.5", LoadReport(None, None, {"vram_mb": 3100.5})),
        ("TEXT named_metrics.in_flight=1,request_cost.vram_mb=nan,request_cost.x=-1", LoadReport(1, None)),
        ("JSON {}", None),
        ("TEXT cpu_utilization=0.3", None),
        ("TEXT named_metrics.in_flight=-1", None),
        ("TEXT named_metrics.in_flight=99999999999999", None),
        ("TEXT ,,=,named_metrics.in_flight", None),
        ("", None),
    ],
)
def test_the_header_is_read_with_care(text: str, report: LoadReport | None) -> None:
    assert load_of(text) == report
