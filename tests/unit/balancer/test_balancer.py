"""The core's rules, by a hand-driven clock."""

import datetime
import math
import random
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from muster.balancer.ask import NOTHING_SAID, Ask, Demands
from muster.balancer.balancer import Balancer
from muster.balancer.eject import FIRST_SECONDS
from muster.balancer.lease import Lease, Outcome
from muster.balancer.refusal import CLOSED_SECONDS, LONGEST_SECONDS
from muster.balancer.ticket import Ticket
from muster.errors import BalancerError, NoEndpoints, QueueFull, QueueTimeout
from muster.model.endpoint import Endpoint, EndpointSet

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
_NONE: frozenset[str] = frozenset()


class World:
    """A balancer, its time, and who has been woken."""

    def __init__(self, *ids: str, concurrency: int = 1, queue_capacity: int = 4) -> None:
        self.now = 1000.0
        self.revision = 0
        self.woken: list[int] = []
        self.balancer = Balancer("s", random.Random(1), concurrency=concurrency, queue_capacity=queue_capacity)
        if ids:
            self.set(*ids)

    def set(
        self,
        *ids: str,
        url: str = "http://{}",
        concurrency: int | None = None,
        budgets: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.revision += 1
        endpoints = tuple(
            Endpoint(id=each, url=url.format(each), concurrency=concurrency, budgets=budgets) for each in ids
        )
        assert self.balancer.update(EndpointSet(1, self.revision, endpoints, PUBLISHED_AT), self.now)

    def ask(self, *, tried: frozenset[str] = _NONE, wait: float = 30.0, demands: Demands | None = None) -> Ticket:
        number = self.balancer.statistics(self.now).granted + self.balancer.statistics(self.now).waiting
        return self.balancer.acquire(
            self.now,
            deadline=self.now + wait,
            tried=tried,
            wake=lambda: self.woken.append(number),
            ask=NOTHING_SAID if demands is None else Ask(demands=demands),
        )

    def lease(self, *, tried: frozenset[str] = _NONE) -> Lease:
        lease = self.ask(tried=tried).lease
        assert lease is not None
        return lease

    def end(self, lease: Lease, outcome: Outcome = Outcome.OK) -> None:
        assert self.balancer.release(lease, outcome, self.now)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.balancer.tick(self.now)

    def served(self) -> dict[str, int]:
        return {each.id: each.served for each in self.balancer.statistics(self.now).replicas}

    def in_flight(self) -> dict[str, int]:
        return {each.id: each.in_flight for each in self.balancer.statistics(self.now).replicas}


def served(ticket: Ticket) -> bool:
    return ticket.lease is not None


def lease_of(ticket: Ticket) -> Lease:
    assert ticket.lease is not None
    return ticket.lease


def test_requests_spread_over_the_least_loaded() -> None:
    world = World("a", "b", "c", concurrency=2)
    for _ in range(3):
        world.lease()
    assert world.in_flight() == {"a": 1, "b": 1, "c": 1}


def test_no_replica_gets_more_than_it_declares() -> None:
    world = World()
    world.set("a", "b", concurrency=2)
    tickets = [world.ask() for _ in range(6)]
    assert world.in_flight() == {"a": 2, "b": 2}
    assert [ticket.lease is None for ticket in tickets] == [False] * 4 + [True] * 2


def test_a_slot_that_becomes_free_goes_to_who_waited_longest() -> None:
    world = World("a")
    running = world.lease()
    first, second = world.ask(), world.ask()
    world.end(running)
    assert served(first)
    assert not served(second)
    world.end(lease_of(first))
    assert served(second)


def test_a_newcomer_does_not_overtake() -> None:
    world = World("a")
    running = world.lease()
    waiting = world.ask()
    world.end(running)
    newcomer = world.ask()
    assert served(waiting)
    assert not served(newcomer)


def test_a_full_queue_refuses_at_once() -> None:
    world = World("a", queue_capacity=2)
    world.lease()
    world.ask()
    world.ask()
    with pytest.raises(QueueFull, match="2 requests wait"):
        world.ask()
    assert world.balancer.statistics(world.now).refused == 1


def test_those_past_their_deadline_do_not_fill_the_queue_and_get_nothing() -> None:
    world = World("a", queue_capacity=2)
    running = world.lease()
    expired = [world.ask(wait=1), world.ask(wait=1)]
    world.pass_time(1)
    waiting = world.ask()
    world.end(running)
    assert served(waiting)
    assert [each.lease for each in expired] == [None, None]


def test_a_deadline_in_the_past_is_a_timeout_at_once() -> None:
    world = World("a")
    with pytest.raises(QueueTimeout):
        world.ask(wait=-1)
    assert world.in_flight() == {"a": 0}


def test_the_timeout_says_what_was_missing() -> None:
    world = World()
    assert isinstance(world.balancer.time_out(world.ask(), world.now), NoEndpoints)
    world.set()
    error = world.balancer.time_out(world.ask(), world.now)
    assert isinstance(error, NoEndpoints)
    assert "nobody serves it (empty since 2026-01-02" in str(error)
    world.set("a")
    world.lease()
    ticket = world.ask()
    world.now += 3
    error = world.balancer.time_out(ticket, world.now)
    assert isinstance(error, QueueTimeout)
    assert error.waited_seconds == 3
    assert "1 replicas, 1 requests in flight" in str(error)


def test_a_lease_ends_once() -> None:
    world = World("a")
    lease = world.lease()
    world.end(lease)
    assert not world.balancer.release(lease, Outcome.OK, world.now)
    assert world.in_flight() == {"a": 0}


def test_giving_up_a_ticket_that_was_just_granted_passes_its_slot_on() -> None:
    world = World("a")
    running = world.lease()
    cancelled, next_one = world.ask(), world.ask()
    world.end(running)
    assert served(cancelled)
    world.balancer.give_up(cancelled, world.now)
    assert served(next_one)
    assert world.in_flight() == {"a": 1}


def test_a_lease_names_its_endpoint_and_epoch() -> None:
    world = World("a")
    lease = world.lease()
    assert (lease.endpoint.url, lease.epoch) == ("http://a", 1)


class TestUpdate:
    def test_the_first_set_serves_whoever_waits(self) -> None:
        world = World()
        waiting = world.ask()
        assert not served(waiting)
        world.set("a")
        assert served(waiting)
        assert world.woken

    def test_an_older_or_equal_set_is_ignored(self) -> None:
        world = World("a", "b")
        older = EndpointSet(1, 1, (Endpoint(id="x", url="http://x"),), PUBLISHED_AT)
        assert not world.balancer.update(older, world.now)
        assert set(world.in_flight()) == {"a", "b"}

    def test_another_target_of_the_alias_is_taken_over_whatever_its_fence(self) -> None:
        world = World("a")
        other = EndpointSet(0, 1, (Endpoint(id="x", url="http://x"),), PUBLISHED_AT)
        assert world.balancer.update(other, world.now, is_other_target=True)
        assert set(world.in_flight()) == {"x"}

    def test_survivors_keep_their_load(self) -> None:
        world = World("a")
        world.lease()
        world.set("a", "b")
        assert world.in_flight() == {"a": 1, "b": 0}

    def test_one_that_left_gets_nothing_new_and_is_counted_until_its_last_request_ends(self) -> None:
        world = World("a", concurrency=4)
        lease = world.lease()
        world.set("b")
        assert world.lease().endpoint.id == "b"
        assert world.in_flight() == {"b": 1, "a": 1}
        world.end(lease)
        assert world.in_flight() == {"b": 1}

    def test_one_that_left_idle_is_forgotten_at_once(self) -> None:
        world = World("a", "b")
        world.set("b")
        assert world.in_flight() == {"b": 0}

    def test_one_that_returns_while_its_requests_run_still_counts_them(self) -> None:
        world = World("a")
        lease = world.lease()
        world.set()
        world.set("a")
        assert not served(world.ask())
        world.end(lease)
        assert world.in_flight() == {"a": 1}

    def test_a_lower_limit_holds_as_requests_end(self) -> None:
        world = World()
        world.set("a", concurrency=3)
        leases = [world.lease() for _ in range(3)]
        world.set("a", concurrency=1)
        waiting = world.ask()
        world.end(leases[0])
        world.end(leases[1])
        assert not served(waiting)
        world.end(leases[2])
        assert served(waiting)

    def test_a_new_address_is_a_new_start_for_its_health(self) -> None:
        world = World("a", "b")
        world.end(world.lease(tried=frozenset("b")), Outcome.UNREACHABLE)
        world.set("a", "b", url="https://{}")
        assert world.lease(tried=frozenset("b")).endpoint.url == "https://a"

    def test_a_trial_that_ends_after_the_address_changed_is_counted_where_it_began(self) -> None:
        world = World("a")
        world.end(world.lease(), Outcome.UNREACHABLE)
        world.pass_time(FIRST_SECONDS)
        trial = world.lease()
        assert trial.is_trial
        world.set("a", url="https://{}")
        world.end(trial, Outcome.UNREACHABLE)
        assert world.lease().replica.health.trials == 0


class TestHealth:
    def test_an_unreachable_replica_is_avoided_and_tried_with_one_request_later(self) -> None:
        world = World("a", "b", concurrency=8)
        world.end(world.lease(tried=frozenset("b")), Outcome.UNREACHABLE)
        assert {world.lease().endpoint.id for _ in range(5)} == {"b"}
        world.pass_time(FIRST_SECONDS)
        assert [world.lease().endpoint.id for _ in range(3)] == ["a", "b", "b"]
        assert world.in_flight() == {"a": 1, "b": 7}

    def test_a_trial_that_is_answered_lets_more_in_before_it_ends(self) -> None:
        world = World("a", "b", concurrency=8)
        world.end(world.lease(tried=frozenset("b")), Outcome.UNREACHABLE)
        world.pass_time(FIRST_SECONDS)
        trial = world.lease(tried=frozenset("b"))
        assert world.ask(tried=frozenset("b")).lease is None
        world.balancer.answered(trial, world.now)
        assert world.in_flight() == {"a": 2, "b": 0}
        waiting = [world.ask(tried=frozenset("b")) for _ in range(3)]
        world.end(trial)  # says nothing new: two trials at once, not four
        assert [served(each) for each in waiting] == [True, False, False]

    def test_a_broken_answer_puts_nobody_aside(self) -> None:
        world = World("a", "b")
        world.end(world.lease(tried=frozenset("b")), Outcome.FAILED)
        assert {world.lease().endpoint.id for _ in range(2)} == {"a", "b"}

    def test_when_nobody_is_healthy_health_is_ignored(self) -> None:
        world = World("a", "b")
        for each in ("a", "b"):
            world.end(world.lease(tried=frozenset("ab") - {each}), Outcome.UNREACHABLE)
        assert world.lease().endpoint.id in {"a", "b"}

    def test_while_some_are_healthy_health_counts(self) -> None:
        world = World("a", "b", "c", "d")
        for each in ("a", "b", "c"):
            world.end(world.lease(tried=frozenset("abcd") - {each}), Outcome.UNREACHABLE)
        assert world.lease().endpoint.id == "d"
        assert not served(world.ask())

    def test_when_less_than_a_tenth_is_healthy_health_is_ignored(self) -> None:
        ids = [f"r{number:02}" for number in range(20)]
        world = World(*ids, concurrency=1, queue_capacity=50)
        for each in ids[:18]:
            world.end(world.lease(tried=frozenset(ids) - {each}), Outcome.UNREACHABLE)
        last = [world.lease(), world.lease()]
        waiting = world.ask()
        assert not served(waiting)
        world.end(last[0], Outcome.UNREACHABLE)
        assert served(waiting)


class TestRefusal:
    def test_a_replica_that_takes_no_requests_gets_none_for_a_while_and_then_everything(self) -> None:
        world = World("a", "b", concurrency=8)
        world.end(world.lease(tried=frozenset("b")), Outcome.CLOSED)
        assert {world.lease().endpoint.id for _ in range(3)} == {"b"}
        world.pass_time(CLOSED_SECONDS)
        assert [world.lease().endpoint.id for _ in range(3)] == ["a", "a", "a"]

    def test_a_replica_that_is_full_of_others_requests_is_asked_again_soon_but_after_those_that_are_not(self) -> None:
        world = World("a", "b", concurrency=2)
        world.end(world.lease(tried=frozenset("b")), Outcome.FULL)
        assert [world.lease().endpoint.id for _ in range(2)] == ["b", "b"]
        waiting = world.ask()
        assert not served(waiting)
        world.pass_time(LONGEST_SECONDS)
        assert lease_of(waiting).endpoint.id == "a"

    @pytest.mark.parametrize("outcome", [Outcome.CLOSED, Outcome.FULL])
    def test_nothing_is_held_against_it_and_panic_does_not_reach_it(self, outcome: Outcome) -> None:
        world = World("a")
        lease = world.lease()
        world.end(lease, outcome)
        assert lease.replica.health.is_healthy
        waiting = world.ask()
        assert not served(waiting)
        assert world.balancer.next_change == lease.replica.refuses_until
        world.pass_time(CLOSED_SECONDS)
        assert served(waiting)
        assert not lease_of(waiting).is_trial

    def test_a_newer_set_that_has_it_knows_better(self) -> None:
        world = World("a")
        world.end(world.lease(), Outcome.CLOSED)
        waiting = world.ask()
        world.set("a")
        assert served(waiting)

    def test_while_it_refuses_the_others_are_all_there_is(self) -> None:
        world = World("a", "b", concurrency=8)
        world.end(world.lease(tried=frozenset("b")), Outcome.CLOSED)
        world.end(world.lease(), Outcome.UNREACHABLE)
        assert world.lease().endpoint.id == "b", "panic: nobody who takes requests is healthy"

    def test_a_later_refusal_of_an_earlier_request_does_not_shorten_its_rest(self) -> None:
        world = World("a", concurrency=2)
        first, second = world.lease(), world.lease()
        world.end(first, Outcome.CLOSED)
        world.end(second, Outcome.FULL)
        world.pass_time(CLOSED_SECONDS / 2)
        assert not served(world.ask())

    def test_statistics_tell_for_how_long_it_gets_nothing(self) -> None:
        world = World("a")
        world.end(world.lease(), Outcome.CLOSED)
        world.pass_time(CLOSED_SECONDS / 4)
        (replica,) = world.balancer.statistics(world.now).replicas
        assert replica.aside_seconds == pytest.approx(CLOSED_SECONDS * 3 / 4)
        world.pass_time(CLOSED_SECONDS)
        (replica,) = world.balancer.statistics(world.now).replicas
        assert replica.aside_seconds == 0


class TestRetry:
    def test_it_avoids_what_it_tried_while_others_exist_even_busy_ones(self) -> None:
        world = World("a", "b")
        busy = world.lease(tried=frozenset("a"))
        waiting = world.ask(tried=frozenset("a"))
        assert not served(waiting)
        world.end(busy)
        assert served(waiting)
        assert lease_of(waiting).endpoint.id == "b"

    def test_it_returns_to_what_it_tried_when_there_is_nobody_else(self) -> None:
        world = World("a")
        assert world.lease(tried=frozenset("a")).endpoint.id == "a"

    def test_who_waits_for_a_certain_replica_does_not_hold_up_others(self) -> None:
        world = World("a", "b")
        first, second = world.lease(tried=frozenset("b")), world.lease()
        picky, easy = world.ask(tried=frozenset("a")), world.ask()
        world.end(first)
        assert not served(picky)
        assert served(easy)
        world.end(second)
        assert served(picky)

    def test_who_could_reach_nobody_waits_for_the_first_to_return(self) -> None:
        world = World("a")
        world.end(world.lease(), Outcome.UNREACHABLE)
        waiting = world.ask(tried=frozenset("a"))
        assert not served(waiting)
        assert world.balancer.next_change == world.now + FIRST_SECONDS
        world.pass_time(FIRST_SECONDS)
        assert served(waiting)
        assert lease_of(waiting).is_trial

    def test_who_could_reach_nobody_is_served_by_a_newcomer(self) -> None:
        world = World("a")
        world.end(world.lease(), Outcome.UNREACHABLE)
        waiting = world.ask(tried=frozenset("a"))
        world.set("a", "b")
        assert served(waiting)
        assert lease_of(waiting).endpoint.id == "b"

    def test_who_sleeps_is_woken_when_the_next_change_comes_nearer(self) -> None:
        world = World("a", "b")
        busy = [world.lease(), world.lease()]
        world.ask()
        assert world.balancer.next_change == math.inf
        assert not world.woken
        world.end(next(each for each in busy if each.endpoint.id == "a"), Outcome.UNREACHABLE)
        assert world.woken
        assert world.balancer.next_change == world.now + FIRST_SECONDS


class TestFavoured:
    @pytest.mark.parametrize("is_late", [False, True])
    def test_what_was_kept_free_for_one_that_waits_no_more_goes_to_the_next_at_once(self, is_late: bool) -> None:
        """Nothing else need happen: there may be nobody whose request could end."""
        world = World(concurrency=8)
        world.set("a", budgets={"vram_mb": 16})
        world.ask(demands={"vram_mb": 8})
        large = world.ask(demands={"vram_mb": 16})
        while world.balancer._queue.favoured is not large:
            world.end(lease_of(world.ask(demands={"vram_mb": 1})), Outcome.FAILED)
        small = world.ask(demands={"vram_mb": 1}, wait=60.0)
        assert small.lease is None
        if is_late:
            world.now = large.deadline
            world.balancer.time_out(large, world.now)
        else:
            world.balancer.give_up(large, world.now)
        assert served(small)


class TestAdopt:
    def adopted(self, world: World, name: str) -> Lease:
        endpoint = Endpoint(id=name, url=f"http://{name}", concurrency=2)
        return world.balancer.adopt(endpoint, NOTHING_SAID, world.now, asked_at=world.now)

    def test_what_it_served_before_the_first_set_is_remembered(self) -> None:
        world = World()
        for name in ("a", "gone"):
            world.end(self.adopted(world, name))
        world.set("a", "b")
        assert world.served() == {"a": 1, "b": 0}
        world.end(world.lease(), Outcome.OK)
        assert sum(world.served().values()) == 2

    def test_nobody_is_sent_to_one_that_no_set_has(self) -> None:
        world = World()
        lease = self.adopted(world, "a")
        waiting = world.ask()
        world.end(lease)
        assert not served(waiting)
        world.set("b")
        assert lease_of(waiting).endpoint.id == "b"

    def test_one_that_the_set_does_not_have_is_forgotten_with_its_last_lease(self) -> None:
        world = World("a")
        leases = [self.adopted(world, "b"), self.adopted(world, "b")]
        world.end(leases[0])
        assert world.in_flight() == {"a": 0, "b": 1}
        world.end(leases[1])
        assert world.in_flight() == {"a": 0}


class TestClose:
    def test_whoever_waits_is_woken_and_refused_and_leases_still_end(self) -> None:
        world = World("a")
        lease = world.lease()
        waiting = world.ask()
        world.balancer.close()
        assert world.woken
        with pytest.raises(BalancerError, match="closed"):
            world.balancer.check(waiting)
        with pytest.raises(BalancerError, match="closed"):
            world.ask()
        world.end(lease)
        assert world.in_flight() == {"a": 0}
