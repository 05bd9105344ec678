"""The pure parts of `make bench-lb`: what is asked, what an oracle does with it, and what the figures say of it."""

import argparse
import asyncio
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.balance import brokers, peers, shapes, targets
from benchmarks.balance.__main__ import _names, batch
from benchmarks.balance.churn import outages
from benchmarks.balance.client import Ask, Plan
from benchmarks.balance.compare import best_peer, goodput, p99, samples
from benchmarks.balance.failover import ONE as ONE_KILLED
from benchmarks.balance.failover import WAYS, absences
from benchmarks.balance.figures import Answer, Figures, Verdict, figures, interval, ratio, student, utilisation
from benchmarks.balance.fleet import EQUAL, UNLIKE, VARIED, Fleet, capacity, fleet
from benchmarks.balance.hop import Hop
from benchmarks.balance.oracle import ORACLE_FEATURE, ORACLE_FIFO, ORACLE_WORK, ORDERS, Outage, serve
from benchmarks.balance.replica import Replica, Request
from benchmarks.balance.sdk_load import options
from benchmarks.balance.shapes import (
    HAPROXY_LEAST,
    HAPROXY_QUEUE,
    MUSTER,
    MUSTER_BROKER,
    MUSTER_COST,
    MUSTER_ONE,
    NGINX_LEAST,
    SHAPES,
    Shape,
)
from benchmarks.balance.stage import Run, Together, _plan, run
from benchmarks.balance.trace import FEATURE_CORRELATION, Job, Work, make_trace

ONE = fleet((1, 1, 1))


def trace(seed: int = 1, **wanted: Any) -> tuple[Job, ...]:
    return make_trace(random.Random(seed), **({"seconds": 60.0, "load": 0.9, "capacity": 10.0} | wanted))


def done(
    *jobs: Job,
    units: Fleet = ONE,
    order: str = ORACLE_FIFO,
    patience: float = 60.0,
    outages: Sequence[Outage] = (),
) -> list[float | None]:
    found = serve(jobs, units, ORDERS[order], patience=patience, outages=outages).latency
    return [None if each is None else round(each, 6) for each in found]


def figures_of(**parts: float) -> Figures:
    plain = dict.fromkeys(("p50", "p95", "p99", "goodput", "failed", "refused", "gave_up"), 0.0)
    return Figures(**(plain | parts), utilisation={})


class TestTrace:
    def test_one_seed_makes_one_trace_and_another_seed_another(self) -> None:
        assert trace(1) == trace(1)
        assert trace(1) != trace(2)

    def test_the_trace_of_a_shape_is_the_same_for_whoever_asks(self) -> None:
        assert SHAPES["unlike-0.9"].trace(3, 5.0) == SHAPES["unlike-0.9"].trace(3, 5.0)

    @pytest.mark.parametrize("work", Work)
    @pytest.mark.parametrize("is_bursty", [False, True])
    def test_its_load_is_exactly_the_one_asked_for(self, work: Work, is_bursty: bool) -> None:
        jobs = trace(work=work, is_bursty=is_bursty)
        assert sum(job.work for job in jobs) == pytest.approx(0.9 * 10.0 * 60.0)
        assert statistics.fmean(job.work for job in jobs) == pytest.approx(0.1, rel=0.01)

    def test_arrivals_are_in_order_and_within_the_trace(self) -> None:
        for is_bursty in (False, True):
            moments = [job.at for job in trace(is_bursty=is_bursty)]
            assert moments == sorted(moments)
            assert moments[0] >= 0
            assert moments[-1] <= 60.0

    def test_bursts_vary_more_than_chance(self) -> None:
        def spread(is_bursty: bool) -> float:
            counts = [0] * 60
            for job in trace(is_bursty=is_bursty):
                counts[min(59, int(job.at))] += 1
            return statistics.variance(counts) / statistics.fmean(counts)

        assert spread(is_bursty=False) < 2 < spread(is_bursty=True)

    @pytest.mark.parametrize("work", Work)
    def test_the_feature_is_as_noisy_as_it_says(self, work: Work) -> None:
        jobs = trace(work=work, capacity=50.0)
        found = statistics.correlation([math.log(job.work) for job in jobs], [math.log(job.feature) for job in jobs])
        assert found == pytest.approx(FEATURE_CORRELATION, abs=0.03)

    def test_the_feature_is_not_in_seconds(self) -> None:
        assert statistics.median(job.feature for job in trace()) > 1_000

    def test_memory_is_asked_for_only_where_it_counts(self) -> None:
        assert {job.memory_mb for job in trace()} == {0}
        assert min(job.memory_mb for job in trace(has_memory=True)) > 0

    def test_of_two_large_requests_only_one_fits_and_each_fits_alone(self) -> None:
        budget = SHAPES["memory"].fleet[0].memory_mb
        amounts = sorted(job.memory_mb for job in trace(has_memory=True))
        large = [each for each in amounts if each > budget / 2]
        assert 0.2 < len(large) / len(amounts) < 0.3
        assert large[0] * 2 > budget
        assert large[-1] + max(each for each in amounts if each <= budget / 2) <= budget

    def test_every_client_has_a_share(self) -> None:
        assert {job.client for job in trace(client_num=4)} == {0, 1, 2, 3}

    def test_a_distribution_has_the_tail_that_it_is_named_for(self) -> None:
        for work, least, most in ((Work.LOG_NORMAL, 5, 12), (Work.PARETO, 8, 40), (Work.BIMODAL, 4.5, 6.5)):
            sizes = sorted(job.work for job in trace(work=work))
            assert least < sizes[int(len(sizes) * 0.99)] / 0.1 < most, work


class TestFleet:
    def test_capacity_counts_slots_by_their_speed(self) -> None:
        assert capacity(EQUAL) == 12
        assert capacity(UNLIKE) == 4 * 2 + 2 * 2 / 2
        assert capacity(VARIED) == 2 * 4 + 2 + 2 * 2 / 2 + 1 / 2 + 2 / 4

    def test_replicas_of_one_speed_are_of_one_gpu(self) -> None:
        assert [each.gpu for each in UNLIKE] == ["gpu-1x"] * 4 + ["gpu-2x"] * 2
        assert len({each.name for each in VARIED}) == len(VARIED)


class TestOracle:
    def test_one_slot_serves_one_after_another(self) -> None:
        assert done(Job(0, 1, 1), Job(0.5, 1, 1), Job(3, 1, 1)) == [1, 1.5, 1]

    def test_a_shorter_one_overtakes_by_work_or_by_feature_but_not_by_arrival(self) -> None:
        jobs = (Job(0, 1, 1), Job(0.1, 2, 1), Job(0.2, 1, 9))
        assert done(*jobs) == [1, 2.9, 3.8]
        assert done(*jobs, order=ORACLE_WORK) == [1, 3.9, 1.8]
        assert done(*jobs, order=ORACLE_FEATURE) == [1, 2.9, 3.8]

    def test_the_fastest_free_slot_is_taken_first(self) -> None:
        units = fleet((1, 2, 1), (1, 1, 1))
        assert done(Job(0, 1, 1), Job(0.5, 1, 1), units=units) == [1, 2]

    def test_what_does_not_fit_into_memory_waits_while_what_fits_goes(self) -> None:
        units = fleet((1, 1, 2), memory_mb=10)
        jobs = (Job(0, 1, 1, memory_mb=8), Job(0.1, 1, 1, memory_mb=8), Job(0.2, 1, 1, memory_mb=2))
        assert done(*jobs, units=units) == [1, 1.9, 1]

    def test_whoever_gave_up_leaves_the_queue_and_hears_nothing_late(self) -> None:
        jobs = (Job(0, 1, 1), Job(0, 1, 1), Job(0, 0.5, 1), Job(1.5, 0.5, 1))
        assert done(*jobs, patience=1.5) == [1, None, None, 1]

    def test_a_killed_replica_loses_its_requests_which_begin_again_elsewhere_first(self) -> None:
        outage = Outage(0, 0.5, 2.0)
        assert done(Job(0, 1, 1), outages=(outage,)) == [3]
        assert done(Job(0, 1, 1), units=fleet((1, 1, 1), (1, 2, 1)), outages=(outage,)) == [2.5]

    def test_no_slot_serves_two_at_once_and_all_work_is_done(self) -> None:
        jobs = trace(capacity=capacity(UNLIKE), seconds=10.0)
        for order in ORDERS.values():
            served = serve(jobs, UNLIKE, order, patience=60.0)
            assert None not in served.latency
            work = sum(
                (end - begin) / unit.slowness
                for unit, busy in zip(UNLIKE, served.busy, strict=True)
                for begin, end in busy
            )
            assert work == pytest.approx(sum(job.work for job in jobs))
            for unit, busy in zip(UNLIKE, served.busy, strict=True):
                changes = sorted([(begin, 1) for begin, _ in busy] + [(end, -1) for _, end in busy])
                running = 0
                for _, change in changes:
                    running += change
                    assert 0 <= running <= unit.slots


class TestOutages:
    def test_without_churn_nobody_is_killed(self) -> None:
        assert outages(UNLIKE, None, 60.0, random.Random(1)) == []

    def test_each_is_killed_once_before_any_is_killed_twice(self) -> None:
        found = outages(UNLIKE, 4.0, 24.0, random.Random(1))
        assert sorted(each.unit for each in found) == [0, 1, 2, 3, 4, 5]
        assert [each.begin for each in found] == [2, 6, 10, 14, 18, 22]


class TestBrokers:
    def test_they_are_killed_in_regular_turns_or_never(self) -> None:
        assert brokers.moments(8.0, 24.0) == [4.0, 12.0, 20.0]
        assert brokers.moments(None, 24.0) == []

    def test_an_absence_counts_if_it_began_within_the_trace(self) -> None:
        seen = Run("x", 1, ONE_KILLED, figures_of(), absences=((0, -1.0, 0.5), (0, 4.0, 6.5), (1, 4.0, 7.0)))
        assert absences([seen]) == [2.5, 3.0]

    def test_every_way_has_the_same_traces(self) -> None:
        traces = {shape.trace(1, 5.0) for shape, _ in WAYS.values()}
        assert len(traces) == 1


class TestFigures:
    def test_shares_are_of_all_requests_and_percentiles_of_answered_ones(self) -> None:
        jobs = [Job(0, 0.01, 1), Job(0, 0.2, 1), Job(0, 0.01, 1), Job(0, 0.01, 1)]
        answers = [
            Answer(0.3, Verdict.ANSWERED),  # good: 300 ms
            Answer(1.0, Verdict.ANSWERED),  # good: five times its work
            Answer(0.31, Verdict.ANSWERED),
            Answer(0.0, Verdict.FAILED),
        ]
        found = figures(jobs, answers, ONE, [[]], seconds=1.0)
        assert (found.goodput, found.failed, found.refused, found.gave_up) == (0.5, 0.25, 0, 0)
        assert (found.p50, found.p99) == (0.31, 1.0)

    def test_a_run_in_which_nobody_was_answered_has_no_short_times(self) -> None:
        found = figures([Job(0, 1, 1)], [Answer(2.0, Verdict.GAVE_UP)], ONE, [[]], seconds=1.0)
        assert found.p99 == math.inf
        assert found.gave_up == 1

    def test_utilisation_counts_only_what_is_within_the_trace(self) -> None:
        units = fleet((1, 1, 2), (1, 2, 1))
        busy = [[(-1.0, 5.0), (8.0, 20.0)], [(0.0, 10.0)]]
        assert utilisation(units, busy, 10.0) == {"gpu-1x": (5 + 2) / 20, "gpu-2x": 1.0}

    def test_the_interval_is_students(self) -> None:
        found = interval([1.0, 2.0, 3.0])
        assert found.mean == 2
        assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3))
        assert math.isnan(interval([1.0]).low)

    def test_a_freedom_between_two_of_the_table_takes_the_wider(self) -> None:
        assert student(9) == 2.262
        assert student(14) == student(12)

    def test_a_ratio_is_of_pairs_so_what_traces_differ_by_cancels_out(self) -> None:
        found = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
        assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))

    def test_a_share_of_nothing_still_has_a_ratio(self) -> None:
        assert ratio([0.5], [0.0]).mean == pytest.approx(5_000)


class TestConfigs:
    def test_haproxy_has_a_central_queue_only_with_maxconn(self) -> None:
        plain = peers.haproxy_config(1, VARIED, range(100, 108), has_queue=False)
        queue = peers.haproxy_config(1, VARIED, range(100, 108), has_queue=True, deadline=2.0)
        assert "server r0 127.0.0.1:100 weight 4\n" in plain
        assert "server r0 127.0.0.1:100 weight 4 maxconn 4\n" in queue
        assert "timeout queue 600s" in plain
        assert "timeout queue 2s" in queue
        assert "option redispatch" in queue

    def test_nginx_has_every_replica_with_its_slots_as_weight(self) -> None:
        least = peers.nginx_config(Path("/x"), 1, VARIED, range(100, 108), is_least=True)
        assert least.count("server 127.0.0.1:1") == len(VARIED)
        assert "server 127.0.0.1:107 weight=1 " in least
        assert "least_conn;" in least
        assert "least_conn" not in peers.nginx_config(Path("/x"), 1, VARIED, range(100, 108), is_least=False)


class TestPlan:
    def test_it_survives_the_pipe(self) -> None:
        plan = Plan([Ask(0, 0.5, "/work?seconds=0.1", 3.0, None), Ask(7, 0.6, "/", None, 12)], "8080", 2.0, None)
        assert Plan.from_json(plan.to_json()) == plan

    def test_a_client_of_several_survives_the_pipe_with_its_token_which_no_traceback_shows(self) -> None:
        plan = Plan([Ask(0, 0.5, "/", client=3)], "file:///x", 2.0, token="secret", look_seconds=0.1)
        assert Plan.from_json(plan.to_json()) == plan
        assert "secret" not in repr(plan)

    def test_each_client_is_in_one_process_and_together_they_send_the_trace(self) -> None:
        shape = SHAPES["clients-16"]
        jobs = shape.trace(1, 5.0)
        plans = [_plan(shape, MUSTER_BROKER, jobs, process, "file:///x") for process in range(4)]
        clients = [{ask.client for ask in plan.asks} for plan in plans]
        assert [len(each) for each in clients] == [4, 4, 4, 4]
        assert set.union(*clients) == set(range(16))
        assert sorted(ask.index for plan in plans for ask in plan.asks) == list(range(len(jobs)))

    def test_one_client_for_all_sends_the_same_trace(self) -> None:
        shape = SHAPES["clients-16"]
        jobs = shape.trace(1, 5.0)
        assert shape.process_num(MUSTER_ONE) == 1
        plan = _plan(shape, MUSTER_ONE, jobs, 0, "file:///x")
        assert {ask.client for ask in plan.asks} == {0}
        assert [(ask.index, ask.at) for ask in plan.asks] == [(index, job.at) for index, job in enumerate(jobs)]

    def test_only_clients_of_a_broker_have_a_token_and_only_those_with_a_feature_tell_it(self) -> None:
        shape = SHAPES["clients-4"]
        jobs = shape.trace(1, 1.0)
        plans = {name: _plan(shape, name, jobs, 0, "file:///x") for name in shapes.OF_SEVERAL}
        assert {name for name, plan in plans.items() if plan.token} == set(shapes.BROKERED)
        assert {name for name, plan in plans.items() if plan.asks[0].feature} == {
            MUSTER_COST,
            shapes.MUSTER_BROKER_COST,
            shapes.MUSTER_ONE_COST,
        }

    def test_the_balancer_is_told_what_the_caller_knows_and_never_the_work(self) -> None:
        plan = Plan([], "file:///x", 2.0, 2.0)
        assert options(plan, Ask(0, 0.0, "/")) == {"timeout": 2.0, "deadline": 2.0}
        assert options(plan, Ask(0, 0.0, "/", 5.0, 100)) == {
            "timeout": 2.0,
            "deadline": 2.0,
            "features": {"pixels": 5.0},
            "demands": {"vram_mb": 100},
        }


class TestShapes:
    def test_a_deadline_is_also_when_clients_give_up(self) -> None:
        assert SHAPES["overload"].patience_seconds == shapes.OVERLOAD_DEADLINE_SECONDS
        assert SHAPES["equal"].patience_seconds == shapes.PATIENCE_SECONDS

    def test_every_balancer_of_a_shape_can_be_named_in_a_shell(self) -> None:
        named = set(shapes.SHORT_NAMES.values())
        assert all(set(shape.balancers) <= named for shape in SHAPES.values())

    def test_a_name_that_is_not_known_is_refused_with_those_that_are(self) -> None:
        names = _names(["equal", "churn"])
        assert names("churn,equal") == ["churn", "equal"]
        with pytest.raises(argparse.ArgumentTypeError, match="no x; there are equal, churn"):
            names("x,equal")


class TestBatches:
    def test_runs_go_side_by_side_up_to_what_was_asked(self) -> None:
        assert batch([1, 1, 1, 1, 1], 4) == 4
        assert batch([1, 1], 4) == 2
        assert batch([1, 1, 4, 4], 4) == 2

    def test_one_that_is_heavier_than_all_goes_alone(self) -> None:
        assert batch([4, 1], 2) == 1


class TestTargets:
    def runs(self, shape: str, **by_balancer: list[Figures]) -> list[Run]:
        return [Run(shape, seed, name, each) for name, some in by_balancer.items() for seed, each in enumerate(some)]

    def test_the_best_peer_is_chosen_by_the_measure_and_never_ours(self) -> None:
        runs = self.runs(
            "equal",
            **{
                NGINX_LEAST: [figures_of(p99=1.0, goodput=0.5)],
                HAPROXY_LEAST: [figures_of(p99=2.0, goodput=0.9)],
                MUSTER: [figures_of(p99=0.1, goodput=1.0)],
            },
        )
        assert best_peer(runs, p99) == NGINX_LEAST
        assert best_peer(runs, goodput) == HAPROXY_LEAST
        assert best_peer([run for run in runs if run.balancer == MUSTER], p99) is None

    def test_samples_are_in_the_order_of_seeds(self) -> None:
        runs = self.runs("equal", **{MUSTER: [figures_of(p99=1.0), figures_of(p99=2.0)]})
        assert samples(runs[::-1], MUSTER, p99) == [1.0, 2.0]

    def test_one_lost_request_in_one_trace_is_not_none(self) -> None:
        whole, broken = figures_of(goodput=1.0), figures_of(goodput=1.0, refused=0.001)
        verdicts = {row[0]: row[-1] for row in targets.rows(self.runs("churn", **{MUSTER: [whole, broken, whole]}), [])}
        assert verdicts == {"churn, Muster: not answered, worst trace": "NOT reached"}

    def test_reached_is_what_the_interval_includes(self) -> None:
        near = self.runs("overload", **{MUSTER_COST: [figures_of(goodput=share) for share in (0.82, 0.84, 0.86)]})
        far = self.runs("overload", **{MUSTER_COST: [figures_of(goodput=share) for share in (0.80, 0.80, 0.81)]})
        assert [row[-1] for row in targets.rows(near, [])] == ["reached"]
        assert [row[-1] for row in targets.rows(far, [])] == ["NOT reached"]

    def test_a_broker_is_judged_against_one_client_for_all_on_the_same_traces(self) -> None:
        def verdicts(slower: float) -> set[str]:
            one = [figures_of(p99=1.0 + seed / 10, goodput=0.99) for seed in range(3)]
            shared = [figures_of(p99=each.p99 * slower, goodput=0.99) for each in one]
            runs = self.runs("clients-16", **{shapes.MUSTER_ONE: one, MUSTER_BROKER: shared})
            return {row[-1] for row in targets.rows(runs, []) if "p99" in row[0]}

        assert (verdicts(1.09), verdicts(1.12)) == ({"reached"}, {"NOT reached"})

    def test_of_one_trace_nobody_knows_an_interval(self) -> None:
        runs = self.runs("overload", **{MUSTER_COST: [figures_of(goodput=0.9)]})
        assert [row[-1] for row in targets.rows(runs, [])] == ["one trace only"]

    def test_the_price_of_the_sdk_is_judged(self) -> None:
        def verdict(added: float) -> str:
            return next(targets.rows([], [Hop(MUSTER, 1e-3, added, 100.0, 0.0)]))[-1]

        assert (verdict(100e-6), verdict(200e-6)) == ("reached", "NOT reached")


class Connection:
    """Where a replica's answers go."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, bytes]] = []
        self.is_answered = asyncio.Event()

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        self.answers.append((status, headers, body))
        self.is_answered.set()


class TestReplica:
    """One with one slot and 10 MB; work is so short that it only has to be in order."""

    def run(self, *wanted: tuple[float, int], is_enforcing: bool = False, units: Fleet = ONE) -> list[Connection]:
        async def scene() -> list[Connection]:
            replica = Replica(units[0], is_enforcing=is_enforcing)
            connections = [Connection() for _ in wanted]
            for connection, (seconds, memory_mb) in zip(connections, wanted, strict=True):
                replica.take(Request(connection, seconds, memory_mb))  # type: ignore[arg-type]
            for connection in connections:
                await connection.is_answered.wait()
            return connections

        return asyncio.run(scene())

    def test_what_has_no_slot_waits_and_is_answered(self) -> None:
        assert [each.answers[0][0] for each in self.run((0.001, 0), (0.001, 0), (0.001, 0))] == [200, 200, 200]

    def test_behind_an_ingress_it_is_refused_at_once_with_the_load(self) -> None:
        first, second = self.run((0.001, 0), (0.001, 0), is_enforcing=True)
        status, headers, _ = second.answers[0]
        assert (first.answers[0][0], status) == (200, 503)
        assert b"x-muster-refused: over_capacity\r\n" in headers
        assert b"named_metrics.in_flight=1,named_metrics.concurrency=1" in headers

    def test_what_does_not_fit_when_it_begins_dies_and_what_waits_takes_nothing_yet(self) -> None:
        two_slots = fleet((1, 1, 2), memory_mb=10)
        statuses = [each.answers[0][0] for each in self.run((0.001, 6), (0.001, 6), (0.001, 4), units=two_slots)]
        assert statuses == [200, 500, 200]
        one_slot = fleet((1, 1, 1), memory_mb=10)
        assert [each.answers[0][0] for each in self.run((0.001, 6), (0.001, 6), units=one_slot)] == [200, 200]


@pytest.mark.slow
@pytest.mark.parametrize("balancer", [MUSTER_COST, MUSTER_BROKER, MUSTER_ONE, HAPROXY_QUEUE, NGINX_LEAST])
def test_a_run_answers_everybody_and_accounts_for_all_work(balancer: str) -> None:
    if balancer not in shapes.OURS and peers.program_of(balancer) is None:
        pytest.skip("not installed: scripts/servers ensure")
    shape = Shape("small", "small", EQUAL, 0.3, client_num=2)
    found = run(shape, 1, balancer, 1.0, Together(1))
    assert found.figures.failed == found.figures.refused == found.figures.gave_up == 0
    assert found.figures.utilisation["gpu-1x"] > 0


def test_the_table_of_a_shape_whose_fleet_has_memory_says_so() -> None:
    assert Shape("x", "x", SHAPES["memory"].fleet).has_memory
    assert not Shape("x", "x").has_memory
