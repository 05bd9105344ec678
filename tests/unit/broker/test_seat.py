"""The client's decisions, message by message: a gate, its core and its seat, and a broker that is spoken by hand."""

import asyncio
import datetime
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.ticket import Ticket
from muster.balancer.waiting import AsyncWaiter, Gate, ThreadWaiter
from muster.broker import messages
from muster.broker.frames import MOST_BYTES, BadFrame, frame
from muster.broker.messages import HELD_PER_FRAME, MOST_HELD, MOST_TOLD, Bye, Grant, Message, Welcome
from muster.broker.seat import CLOCK_SECONDS, LATE_SECONDS, LOAD_EVERY_SECONDS, USED_WITHIN_SECONDS, Seat, State
from muster.errors import (
    BalancerError,
    CannotMeetDeadline,
    NeverFits,
    NoEndpoints,
    QueueCancelled,
    QueueFull,
    QueueTimeout,
)
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
R1 = Endpoint("r1", "http://r1", concurrency=1)
UNDECLARED = Endpoint("r1", "http://r1")
AHEAD = 5000.0
"""The broker's clock is ahead of the client's by so much."""


class Ground:
    """Everything that a client has, and what it said to its broker since somebody last looked."""

    def __init__(self, *endpoints: Endpoint, capacity: int = 100, concurrency: int | None = None) -> None:
        self.now = 100.0
        self.core = Balancer("s", random.Random(1), queue_capacity=capacity, concurrency=concurrency)
        self.core.update(EndpointSet(1, 1, endpoints or (R1,), PUBLISHED_AT), self.now)
        self.gate = Gate(self.core, monotonic=lambda: self.now)
        self.seat = Seat(self.core, ServiceKey("account", "s"), "token", "client")
        assert self.gate.attach(self.seat)
        self.sent: list[Message] = []
        self.woken: list[Ticket] = []

    @property
    def time(self) -> float:
        """The broker's."""
        return self.now + AHEAD

    def connect(self, ready_seconds: float = 0.0) -> None:
        self.seat.connected("tcp://b1", self.sent.append, self.now)
        self.says(messages.welcome(Welcome("b1", self.time, ready_seconds)))

    def up(self) -> "Ground":
        self.connect()
        self.said()
        return self

    def says(self, message: Message) -> Bye | None:
        return self.seat.take(message, self.now)

    def grants(self, number: int, *, at: float | None = None, endpoint: Endpoint | None = R1, **rest: bool) -> None:
        self.says(messages.grant(Grant(number, (endpoint or R1).id, at or self.time, endpoint, **rest)))

    def said(self) -> list[Message]:
        sent = self.sent.copy()
        self.sent.clear()
        return sent

    def kinds(self) -> list[tuple[str, int]]:
        return [(each["type"], each.get("id", 0)) for each in self.said()]

    def ask(
        self,
        ask: Ask = NOTHING_SAID,
        within: float = 30.0,
        since: float | None = None,
        tried: frozenset[str] = frozenset(),
    ) -> Ticket:
        found: list[Ticket] = []
        ticket = self.gate.ask(self.now + within, tried, lambda: self.woken.extend(found), ask, since)
        found.append(ticket)
        return ticket

    def take(self, ticket: Ticket) -> Lease:
        found = self.gate.look(ticket)
        assert isinstance(found, Lease)
        return found

    @property
    def in_flight(self) -> int:
        return self.core.statistics(self.now).in_flight

    def is_empty(self) -> bool:
        seat = self.seat
        kept = seat._asked, seat._asked_as, seat._given, seat._given_as, seat._unstarted, seat._costs
        return not any(kept)


# ── coming and going ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seat_introduces_itself_and_is_up_when_it_is_welcome() -> None:
    ground = Ground()
    assert (ground.seat.state, ground.seat.next_tick, ground.gate.is_shared) == (State.DOWN, float("inf"), False)
    ground.seat.connected("tcp://b1", ground.sent.append, ground.now)
    assert (ground.seat.state, ground.gate.is_shared) == (State.GREETED, False)
    assert messages.read_hello(ground.said()[0]).client == "client"
    ground.says(messages.welcome(Welcome("b1", ground.time)))
    assert (ground.seat.state, ground.gate.is_shared, ground.said()) == (State.UP, True, [])
    assert ground.gate.statistics().broker == "tcp://b1"


def test_a_limit_that_the_caller_asks_for_is_told() -> None:
    assert messages.read_hello(messages.hello(Ground(concurrency=4).seat._hello)).concurrency == 4
    assert "concurrency" not in messages.hello(Ground().seat._hello)


def test_while_a_broker_settles_requests_are_decided_here() -> None:
    ground = Ground()
    ground.connect(ready_seconds=0.4)
    lease = ground.take(ground.ask())
    waiting = ground.ask()
    ground.said()
    assert (ground.seat.state, ground.core.waiting, ground.seat.next_tick) == (State.SETTLING, 1, 100.4)
    ground.now += 0.4
    assert ground.seat.tick(ground.now)
    (hold, ask) = ground.said()
    assert [each.endpoint for each in messages.read_hold(hold)] == [R1]
    assert (ask["type"], ask["kept"], ask["again"]) == ("ask", True, True)
    assert (ground.core.waiting, ground.seat.waiting, waiting.lease) == (0, 1, None)
    ground.gate.release(lease)
    assert ground.kinds() == [("report", hold["leases"][0]["id"])]


def test_leases_from_before_are_told_at_the_welcome_and_only_once() -> None:
    ground = Ground(replace(R1, concurrency=2))
    ground.take(ground.ask(Ask({"pixels": 2.0})))
    ground.now += 3.0
    ground.connect(ready_seconds=0.25)
    ground.take(ground.ask())
    ground.now += 0.25
    ground.seat.tick(ground.now)
    _, *holds = ground.said()
    first, second = (messages.read_hold(each) for each in holds)
    assert [(each.seconds, each.ask.features) for each in first] == [(3.0, {"pixels": 2.0})]
    assert [(each.seconds, each.ask.features) for each in second] == [(0.25, None)]


def test_many_leases_are_told_in_frames_that_fit() -> None:
    ground = Ground(replace(R1, concurrency=1000))
    for number in range(3 * HELD_PER_FRAME + 1):
        ground.take(ground.ask(Ask({f"{'é' * 3000}{number}": 1.0})))
    ground.connect()
    _, *holds = ground.said()
    assert [len(each["leases"]) for each in holds] == [HELD_PER_FRAME] * 3 + [1]
    assert max(len(frame(each)) for each in holds) < MOST_BYTES


def test_the_queue_moves_to_the_broker_in_the_order_of_age_and_keeps_it() -> None:
    ground = Ground()
    ground.take(ground.ask())
    young = ground.ask()
    ground.now += 1.0
    old = ground.ask(since=ground.now - 7.0)
    ground.now += 1.0
    ground.connect()
    asks = [each for each in ground.said() if each["type"] == "ask"]
    assert [each["waited"] for each in asks] == [pytest.approx(8.0), pytest.approx(2.0)]
    assert [ground.seat._asked[each["id"]] for each in asks] == [old, young]


def test_the_queue_comes_back_when_the_broker_is_lost_in_the_order_of_age() -> None:
    ground = Ground().up()
    young = ground.ask()
    old = ground.ask(since=ground.now - 5.0)
    ground.seat.lost(ground.now)
    assert (old.lease is not None, young.lease, ground.core.waiting) == (True, None, 1)
    assert ground.woken == [old]
    assert ground.is_empty()
    ground.gate.release(ground.take(old))
    assert ground.take(young).endpoint == R1


def test_thousands_come_back_at_once_in_a_moment() -> None:
    ground = Ground(R1, Endpoint("r2", "http://r2", concurrency=1)).up()
    for _ in range(4000):
        ground.ask(tried=frozenset({"r1"}))
    began_at = time.process_time()
    ground.seat.lost(ground.now)
    assert time.process_time() - began_at < 0.3, "one by one takes some seconds"
    assert ground.core.waiting == 3999


def test_what_cannot_wait_here_is_told_so_when_it_comes_back() -> None:
    ground = Ground(replace(R1, budgets={"vram_mb": 10})).up()
    ticket = ground.ask(Ask(demands={"vram_mb": 20}))
    ground.seat.lost(ground.now)
    assert ground.woken == [ticket]
    with pytest.raises(NeverFits):
        ground.gate.look(ticket)


def test_a_queue_that_is_full_here_loses_nobody_who_comes_back() -> None:
    ground = Ground(capacity=1).up()
    tickets = [ground.ask() for _ in range(5)]
    ground.seat.lost(ground.now)
    assert ground.core.waiting == 4
    assert [each.error for each in tickets] == [None] * 5
    with pytest.raises(QueueFull):
        ground.ask()


def test_a_forecast_refuses_nobody_who_comes_back() -> None:
    ground = Ground()
    for _ in range(30):
        lease = ground.take(ground.ask())
        ground.now += 2.0
        ground.gate.release(lease)
    ground.take(ground.ask())
    with pytest.raises(CannotMeetDeadline):
        [ground.ask(Ask(answer_by=ground.now + 10.0)) for _ in range(10)]
    ground.up()
    tickets = [ground.ask(Ask(answer_by=ground.now + 10.0)) for _ in range(10)]
    ground.seat.lost(ground.now)
    assert [each.error for each in tickets] == [None] * 10


def test_leases_go_on_when_the_broker_is_lost_and_are_told_to_the_next_one() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    lease = ground.take(ticket)
    ground.said()
    ground.seat.lost(ground.now)
    assert (ground.in_flight, ground.said()) == (1, [])
    ground.connect()
    _, hold = ground.said()
    (held,) = messages.read_hold(hold)
    assert held.endpoint == R1
    ground.gate.release(lease)
    assert ground.kinds() == [("report", held.id)]
    assert ground.is_empty()


def test_a_grant_of_a_broker_that_is_lost_since_is_used() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    ground.seat.lost(ground.now)
    ground.now += 5.0
    assert ground.take(ticket).endpoint == R1


def test_a_farewell_is_handed_on() -> None:
    assert Ground().up().says(messages.bye(Bye("standby", "", "tcp://b2"))) == Bye("standby", "", "tcp://b2")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "steal"},
        {"type": "hello"},
        {"type": "welcome", "time": 1.0},
        {"type": "grant", "id": 1, "replica": "unheard", "time": 1.0},
    ],
    ids=str,
)
def test_what_is_no_message_of_a_broker_is_a_bad_frame(message: Message) -> None:
    ground = Ground().up()
    ground.ask()
    with pytest.raises(BadFrame):
        ground.says(message)


# ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_heartbeat_names_what_was_started() -> None:
    ground = Ground(replace(R1, concurrency=3)).up()
    tickets = [ground.ask() for _ in range(3)]
    for number in (1, 2, 3):
        ground.grants(number)
    ground.take(tickets[0])
    ground.gate.release(ground.take(tickets[1]))
    ground.said()
    assert ground.seat.next_tick == 100.5
    ground.now += 0.5
    assert ground.seat.tick(ground.now)
    assert ground.said() == [{"type": "heartbeat", "held": [1]}]
    ground.says(messages.pulse(ground.time))
    assert ground.seat.next_tick == 101.0


def test_a_broker_that_is_silent_for_a_heartbeat_is_lost() -> None:
    ground = Ground().up()
    ground.now += 0.5
    assert ground.seat.tick(ground.now)
    assert ground.seat.next_tick == 101.5
    ground.now = 101.49
    assert ground.seat.tick(ground.now)
    ground.now = 101.5
    assert not ground.seat.tick(ground.now)


def test_a_broker_that_does_not_answer_the_greeting_is_lost_too() -> None:
    ground = Ground()
    ground.seat.connected("tcp://b1", ground.sent.append, ground.now)
    ground.now = ground.seat.next_tick
    assert not ground.seat.tick(ground.now)


def test_a_client_that_was_paused_reads_before_it_takes_the_broker_for_silent() -> None:
    ground = Ground().up()
    ground.now += 0.5
    ground.seat.tick(ground.now)
    pulse = messages.pulse(ground.time + 0.001)
    ground.now += 3.0
    assert ground.seat.tick(ground.now)
    assert ground.seat.next_tick == ground.now + LATE_SECONDS
    ground.says(pulse)
    assert ground.seat.tick(ground.now)
    assert ground.seat.state is State.UP


def test_a_client_that_was_paused_and_reads_nothing_is_on_its_own() -> None:
    ground = Ground().up()
    ground.now += 0.5
    ground.seat.tick(ground.now)
    ground.now += 3.0
    assert ground.seat.tick(ground.now)
    ground.now += LATE_SECONDS
    assert not ground.seat.tick(ground.now)


# ── a lease's life ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grant_wakes_and_is_started_when_it_is_taken() -> None:
    ground = Ground().up()
    ticket = ground.ask(Ask(tenant="a"), since=95.0, tried=frozenset({"r9"}))
    (ask,) = ground.said()
    assert (ask["id"], ask["within"], ask["waited"], ask["tenant"]) == (1, 30.0, 5.0, "a")
    assert (ask["tried"], ask["again"], "kept" in ask) == (["r9"], True, False)
    assert ground.gate.look(ticket) == ticket.deadline
    ground.grants(1)
    assert (ground.woken, ground.said()) == ([ticket], [])
    lease = ground.take(ticket)
    assert (lease.endpoint, ground.kinds()) == (R1, [("start", 1)])
    assert ground.take(ticket) is lease
    assert ground.said() == []
    ground.gate.reported(lease, LoadReport(None, None, {"vram_mb": 5.0}))
    ground.gate.release(lease)
    assert ground.said() == [{"type": "report", "id": 1, "outcome": "ok", "costs": {"vram_mb": 5.0}}]
    assert not ground.gate.release(lease)
    assert (ground.said(), ground.in_flight, ground.is_empty()) == ([], 0, True)


def test_a_grant_at_a_replica_that_is_not_in_the_set_is_used() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1, endpoint=Endpoint("r9", "http://r9"))
    lease = ground.take(ticket)
    assert lease.endpoint.url == "http://r9"
    ground.gate.release(lease)
    assert [each.id for each in ground.core.statistics(ground.now).replicas] == ["r1"]


def test_a_replica_is_told_once_and_the_last_telling_counts() -> None:
    ground = Ground().up()
    urls = []
    for number, endpoint in enumerate([Endpoint("r9", "http://a"), None, Endpoint("r9", "http://b"), None], start=1):
        ticket = ground.ask()
        ground.says(messages.grant(Grant(number, "r9", ground.time, endpoint)))
        lease = ground.take(ticket)
        urls.append(lease.endpoint.url)
        ground.gate.release(lease)
    assert urls == ["http://a", "http://a", "http://b", "http://b"]


def test_what_was_told_is_forgotten_when_the_broker_forgets_it() -> None:
    ground = Ground().up()
    for number in range(1, MOST_TOLD + 2):
        ground.grants(10**6, endpoint=Endpoint(f"r{number}", "http://r"))
    assert list(ground.seat._known) == [f"r{MOST_TOLD + 1}"]


def test_what_the_broker_found_a_replica_to_take_at_once_is_the_limit_here_when_it_is_lost() -> None:
    ground = Ground(UNDECLARED).up()
    for number, limit in enumerate((4, 1, 3), start=1):
        ticket = ground.ask()
        ground.says(messages.grant(Grant(number, "r1", ground.time, UNDECLARED, limit=limit)))
        ground.take(ticket)
        (found,) = ground.gate.statistics().replicas
        assert (found.in_flight, found.limit, found.is_limit_declared) == (number, limit, False)
    ground.seat.lost(ground.now)
    assert ground.ask().lease is None
    ground.gate.release(next(iter(ground.core.running)))
    assert ground.in_flight == 3, "who waited has the slot"


def test_who_waits_here_has_the_slots_that_the_broker_found() -> None:
    ground = Ground(UNDECLARED).up()
    large = Ask(tenant="x" * 60_000)
    first, second = ground.ask(large), ground.ask(large)
    assert (first.lease is None, second.lease is None) == (False, True)
    ground.ask()
    ground.says(messages.grant(Grant(1, "r1", ground.time, UNDECLARED, limit=4)))
    assert second.lease is not None
    assert second in ground.woken


def test_the_next_broker_is_told_what_the_last_one_found() -> None:
    ground = Ground(UNDECLARED).up()
    ticket = ground.ask()
    ground.says(messages.grant(Grant(1, "r1", ground.time, UNDECLARED, limit=4)))
    ground.take(ticket)
    ground.seat.lost(ground.now)
    ground.said()
    ground.connect()
    assert messages.read_hold(ground.said()[1])[0].limit == 4


@pytest.mark.parametrize("endpoint", [R1, UNDECLARED])
def test_a_limit_that_was_declared_or_asked_for_is_not_the_brokers(endpoint: Endpoint) -> None:
    ground = Ground(endpoint, concurrency=1).up()
    ticket = ground.ask()
    ground.says(messages.grant(Grant(1, "r1", ground.time, endpoint, limit=4)))
    ground.take(ticket)
    assert ground.gate.statistics().replicas[0].limit == 1
    ground.seat.lost(ground.now)
    ground.said()
    ground.connect()
    assert "limit" not in ground.said()[1]["leases"][0]


def test_whoever_gives_up_cancels_and_a_grant_that_crosses_is_not_used() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.said()
    ground.gate.give_up(ticket)
    assert ground.kinds() == [("cancel", 1)]
    ground.grants(1)
    assert (ground.said(), ground.in_flight, ground.is_empty()) == ([], 0, True)


def test_whoever_gives_up_a_grant_gives_it_back() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    ground.said()
    ground.gate.give_up(ticket)
    assert ground.said() == [{"type": "report", "id": 1, "outcome": "failed"}]
    assert (ground.in_flight, ground.is_empty()) == (0, True)


def test_a_deadline_ends_the_wait_here_whatever_the_broker_says() -> None:
    ground = Ground().up()
    ticket = ground.ask(within=2.0)
    ground.said()
    ground.now += 2.0
    with pytest.raises(QueueTimeout):
        ground.gate.look(ticket)
    assert (ground.kinds(), ground.is_empty()) == ([("cancel", 1)], True)
    ground.says(messages.refuse(1, QueueTimeout("late", 2.0)))


@pytest.mark.parametrize("error", [QueueCancelled("an operator"), NoEndpoints("s", "nobody"), BalancerError("closed")])
def test_a_refusal_is_the_callers_error(error: BalancerError) -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.says(messages.refuse(1, error))
    assert ground.woken == [ticket]
    with pytest.raises(type(error), match=str(error)):
        ground.gate.look(ticket)
    assert ground.is_empty()


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (QueueTimeout("late", 2.0), (0, 0, 1)),
        (NoEndpoints("s", "nobody"), (0, 0, 1)),
        (CannotMeetDeadline("soon", 0.0, 2.0), (0, 1, 0)),
        (QueueFull("many"), (1, 0, 0)),
        (QueueCancelled("an operator"), (0, 0, 0)),
    ],
)
def test_a_refusal_counts_as_if_it_had_been_made_here(error: BalancerError, counted: tuple[int, int, int]) -> None:
    ground = Ground().up()
    ground.ask()
    ground.says(messages.refuse(1, error))
    ground.says(messages.refuse(1, error))
    found = ground.gate.statistics()
    assert (found.refused, found.refused_early, found.timed_out) == counted


def test_a_grant_that_is_too_old_is_not_used_and_its_slot_asked_for_anew() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    ground.said()
    ground.now += USED_WITHIN_SECONDS + 0.01
    assert ground.gate.look(ticket) == ticket.deadline
    report, ask = ground.said()
    assert (report["type"], report["id"], report["outcome"]) == ("report", 1, "failed")
    assert (ask["type"], ask["id"], ask["kept"], ask["again"]) == ("ask", 2, True, True)
    assert (ground.in_flight, ground.seat.waiting) == (0, 1)
    ground.grants(2)
    assert ground.take(ticket).endpoint == R1


def test_a_grant_that_was_long_on_its_way_is_as_old_as_the_brokers_clock_says() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    given_at = ground.time
    ground.now += USED_WITHIN_SECONDS + 0.01
    ground.grants(1, at=given_at)
    ground.gate.look(ticket)
    assert ticket.lease is None


def test_clocks_that_drift_apart_are_compared_again() -> None:
    ground = Ground().up()
    drift = 0.0
    while drift < 3.0:
        ground.now += 0.5
        drift += 0.005
        ground.seat.tick(ground.now)
        ground.says(messages.pulse(ground.time + drift))
    ticket = ground.ask()
    number = ground.said()[-1]["id"]
    ground.grants(number, at=ground.time + drift)
    ground.now += USED_WITHIN_SECONDS + 0.01 + 2 * CLOCK_SECONDS * 0.01
    ground.gate.look(ticket)
    assert ticket.lease is None


def test_a_pause_does_not_make_late_grants_look_young() -> None:
    ground = Ground().up()
    ground.now += 0.5
    ground.seat.tick(ground.now)
    pulse = messages.pulse(ground.time + 0.001)
    ground.now += 3.0
    ground.seat.tick(ground.now)
    ground.says(pulse)
    ticket = ground.ask()
    ground.grants(1, at=ground.time - USED_WITHIN_SECONDS - 0.1)
    ground.gate.look(ticket)
    assert ticket.lease is None


def test_a_grant_that_was_taken_back_before_it_was_used_is_asked_for_anew() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    ground.said()
    ground.says(messages.returned(1))
    assert (ticket.lease, ground.in_flight, ground.kinds()) == (None, 0, [("ask", 2)])


def test_a_grant_that_was_taken_back_when_it_was_just_used_goes_on() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    lease = ground.take(ticket)
    ground.said()
    ground.says(messages.returned(1))
    assert (ground.said(), ground.in_flight, lease.is_released) == ([], 1, False)
    ground.now += 0.5
    ground.seat.tick(ground.now)
    assert ground.said() == [{"type": "heartbeat", "held": [1]}]


def test_a_grant_that_comes_after_the_service_was_closed_is_given_back() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.gate.close()
    assert ticket in ground.woken
    ground.said()
    ground.grants(1)
    assert ground.said() == [{"type": "report", "id": 1, "outcome": "failed"}]
    with pytest.raises(BalancerError, match="closed"):
        ground.gate.look(ticket)


def test_what_a_replica_says_of_its_load_is_passed_on_now_and_then() -> None:
    ground = Ground().up()
    ticket = ground.ask()
    ground.grants(1)
    lease = ground.take(ticket)
    ground.said()
    for _ in range(5):
        ground.gate.reported(lease, LoadReport(3))
    assert ground.said() == [{"type": "heard", "id": 1, "in_flight": 3}]
    ground.now += LOAD_EVERY_SECONDS
    ground.gate.reported(lease, LoadReport(4))
    assert ground.said() == [{"type": "heard", "id": 1, "in_flight": 4}]


def test_that_a_replica_answers_is_told_to_a_broker_that_wants_to_know_and_once() -> None:
    ground = Ground().up()
    for number, is_told in ((1, False), (2, True)):
        ticket = ground.ask()
        ground.grants(number, is_told=is_told)
        lease = ground.take(ticket)
        ground.said()
        ground.gate.answered(lease)
        ground.gate.answered(lease)
        assert ground.kinds() == ([("heard", number)] if is_told else [])
        ground.gate.release(lease)
        ground.said()


# ── what cannot be said ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lease_that_was_taken_past_the_broker_is_told_to_it() -> None:
    ground = Ground().up()
    ticket = ground.gate.ask_here(ground.now, Ask(), wake=lambda: None)
    assert ticket.lease is not None
    (hold,) = ground.said()
    assert [each.endpoint for each in messages.read_hold(hold)] == [R1]
    ground.gate.release(ticket.lease)
    assert [kind for kind, _ in ground.kinds()] == ["report"]


@pytest.mark.parametrize(
    "ask",
    [
        Ask(affinity="\u20ac" * 20_000),
        Ask(tenant="t" * 60_000),
        Ask({"é" * 9000: 1.0}),
        Ask(demands={"x" * 50_000: 0}),
        Ask(priority=10**5000),
    ],
    ids=["affinity", "tenant", "features", "demands", "priority"],
)
def test_an_ask_that_fills_a_frame_is_decided_here_and_told_of(ask: Ask) -> None:
    ground = Ground().up()
    ticket = ground.ask(ask)
    assert ground.said() == []
    lease = ground.take(ticket)
    (hold,) = ground.said()
    assert len(frame(hold)) < MOST_BYTES
    ground.gate.release(lease)
    assert ground.is_empty()


def test_an_ask_of_the_longest_texts_that_are_said_fits_into_a_frame() -> None:
    ground = Ground().up()
    for text in ("\u20ac" * 2600, "x" * 16_000, "\0" * 2600, '"' * 16_000, "\U0001f600" * 2600):
        ground.ask(Ask(affinity=text))
        (ask,) = ground.said()
        assert len(frame(ask)) < MOST_BYTES


def test_beyond_what_a_connection_can_have_the_client_decides_itself() -> None:
    ground = Ground(replace(R1, concurrency=5)).up()
    for _ in range(MOST_HELD):
        ground.ask()
    assert (ground.gate.is_shared, len(ground.said())) == (False, MOST_HELD)
    lease = ground.take(ground.ask())
    assert ground.said() == []
    ground.gate.release(lease)
    ground.gate.give_up(next(iter(ground.seat._asked.values())))
    assert ground.gate.is_shared


def test_a_client_with_more_leases_than_a_connection_can_have_tells_of_so_many() -> None:
    ground = Ground(replace(R1, concurrency=10_000))
    for _ in range(MOST_HELD + 10):
        ground.take(ground.ask())
    ground.connect()
    told = [lease for each in ground.said() if each["type"] == "hold" for lease in each["leases"]]
    assert len(told) == MOST_HELD
    ground.now += 0.5
    ground.seat.tick(ground.now)
    (beat,) = ground.said()
    assert len(messages.read_beat(beat)) == MOST_HELD
    assert len(frame(beat)) < MOST_BYTES


def test_an_endless_wait_can_be_said() -> None:
    ground = Ground().up()
    ground.ask(within=float("inf"))
    (ask,) = ground.said()
    assert len(frame(ask)) < 100


# ── waiters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Quick(Seat):
    """A seat whose broker answers before the asking is over, as one in another thread may."""

    def ask(self, ticket: Ticket, now: float) -> None:
        super().ask(ticket, now)
        self.take(messages.grant(Grant(max(self._asked), "r1", now + AHEAD, R1)), now)


@pytest.fixture
def quick() -> Iterator[Ground]:
    ground = Ground()
    ground.gate.detach(ground.seat)
    ground.seat = Quick(ground.core, ServiceKey("account", "s"), "token")
    ground.gate.attach(ground.seat)
    yield ground.up()
    assert ground.is_empty()


def test_a_thread_that_is_granted_a_lease_while_it_asks_starts_it(quick: Ground) -> None:
    lease = ThreadWaiter(quick.gate).acquire(deadline=quick.now + 5.0)
    assert [kind for kind, _ in quick.kinds()] == ["ask", "start"]
    quick.gate.release(lease)


def test_a_task_that_is_granted_a_lease_while_it_asks_starts_it(quick: Ground) -> None:
    lease = asyncio.run(AsyncWaiter(quick.gate).acquire(deadline=quick.now + 5.0))
    assert [kind for kind, _ in quick.kinds()] == ["ask", "start"]
    quick.gate.release(lease, Outcome.FAILED)
