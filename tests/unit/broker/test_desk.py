"""The broker's decisions, message by message: two clients, a replica or two, and a clock that is set by hand."""

import datetime
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Outcome
from muster.broker import messages
from muster.broker.connection import MOST_UNREAD_BYTES
from muster.broker.desk import LATE_SECONDS, MOST_OVER, MOST_UNSTARTED, Desk
from muster.broker.frames import BadFrame, frame
from muster.broker.messages import MOST_HELD, MOST_TOLD, START_SECONDS, Bye, Held, Hello, Message, Wanted
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey

HELLO = Hello(ServiceKey("account", "s"), "token", "client")
PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
R1 = Endpoint("r1", "http://r1", concurrency=1)
UNDECLARED = Endpoint("r1", "http://r1")


class Client:
    """A visitor: what it was told since it last looked."""

    def __init__(
        self, ground: "Ground", client: str = "", purpose: str = "balance", concurrency: int | None = None
    ) -> None:
        self.ground = ground
        self.said: list[Message] = []
        self.is_closed = False
        ground.desk.join(self, replace(HELLO, client=client, purpose=purpose, concurrency=concurrency))

    def send(self, message: Message) -> None:
        self.said.append(message)

    def close(self) -> None:
        self.is_closed = True

    def says(self, message: Message) -> list[Message]:
        self.ground.desk.take(self, message)
        return self.told()

    def asks(self, number: int, within: float = 30.0, ask: Ask | None = None, **rest: float | bool) -> list[Message]:
        return self.says(messages.ask(Wanted(number, ask or Ask(), within), self.ground.now) | rest)

    def told(self) -> list[Message]:
        said, self.said = self.said, []
        return said

    def kinds(self) -> list[tuple[str, int]]:
        return [(each["type"], each.get("id", 0)) for each in self.told()]


class Ground:
    def __init__(
        self, *endpoints: Endpoint, settle_seconds: float = 0.0, capacity: int = 100, has_set: bool = True
    ) -> None:
        self.now = 100.0
        self.core = Balancer("s", random.Random(1), queue_capacity=capacity)
        self.desk = Desk(self.core, broker="b1", monotonic=lambda: self.now, settle_seconds=settle_seconds)
        self.revision = 0
        if has_set:
            self.publish(*endpoints or (R1,))

    def publish(self, *endpoints: Endpoint) -> None:
        self.revision += 1
        self.desk.update(EndpointSet(1, self.revision, endpoints, PUBLISHED_AT))

    def client(self, name: str = "") -> Client:
        found = Client(self, name)
        found.told()
        return found

    def wait(self, seconds: float) -> None:
        """Let time pass, and tick whenever it is due, as a timer would."""
        until = self.now + seconds
        while (due := self.desk.next_tick) <= until:
            self.now = max(self.now, due)
            self.desk.tick()
            assert self.desk.next_tick > self.now
        self.now = until

    @property
    def in_flight(self) -> int:
        return self.core.statistics(self.now).in_flight

    @property
    def waiting(self) -> int:
        return self.core.statistics(self.now).waiting


def types(said: Iterable[Message]) -> list[str]:
    return [each["type"] for each in said]


# ── a lease's life ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lease_is_asked_for_granted_started_and_reported() -> None:
    ground = Ground()
    client = ground.client()
    (grant,) = client.asks(1)
    assert (grant["type"], grant["id"], grant["replica"], grant["time"]) == ("grant", 1, "r1", 100.0)
    assert client.says(messages.start(1)) == []
    ground.wait(1000.0)
    assert ground.in_flight == 1
    assert client.says(messages.report(1, Outcome.OK)) == []
    assert (ground.in_flight, ground.desk.next_tick) == (0, float("inf"))


def test_what_ends_goes_to_whoever_has_waited_longest_whichever_client_it_is() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    one.says(messages.start(1))
    ground.now += 1.0
    assert other.asks(1) == []
    ground.now += 1.0
    assert one.asks(2) == []
    assert one.says(messages.report(1, Outcome.OK)) == []
    assert other.kinds() == [("grant", 1)]


def test_a_call_that_has_lasted_longer_elsewhere_goes_first() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    one.asks(2)
    other.asks(1, waited=5.0)
    one.says(messages.report(1, Outcome.OK))
    assert (one.kinds(), other.kinds()) == ([], [("grant", 1)])


def test_a_grant_that_is_not_started_returns_to_the_queue() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    other.asks(1)
    ground.wait(START_SECONDS - 0.01)
    assert (one.kinds(), other.kinds()) == ([], [])
    ground.wait(0.02)
    assert (one.kinds(), other.kinds()) == ([("returned", 1)], [("grant", 1)])
    assert ground.in_flight == 1


def test_one_that_is_started_when_it_was_just_taken_back_is_counted_all_the_same() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    other.asks(1)
    ground.wait(START_SECONDS + 0.01)
    one.says(messages.start(1))
    assert ground.in_flight == 2
    one.says(messages.beat([1]))
    one.says(messages.beat([1]))
    assert ground.in_flight == 2
    one.says(messages.report(1, Outcome.OK))
    assert ground.in_flight == 1
    other.says(messages.report(1, Outcome.OK))
    assert ground.in_flight == 0


def test_what_was_taken_back_is_forgotten_when_its_client_must_have_heard_so() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(1)
    ground.wait(START_SECONDS + 0.01)
    client.says(messages.beat([]))
    client.says(messages.beat([]))
    client.says(messages.start(1))
    assert ground.in_flight == 0


def test_what_was_taken_back_is_remembered_until_its_client_must_have_heard_so() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(1)
    ground.wait(START_SECONDS + 0.01)
    client.says(messages.beat([]))
    client.says(messages.start(1))
    assert ground.in_flight == 1


def test_a_number_that_is_used_again_after_it_was_taken_back_is_another_lease() -> None:
    ground = Ground(replace(R1, concurrency=2))
    client = ground.client()
    client.asks(1)
    ground.wait(START_SECONDS + 0.01)
    assert client.kinds() == [("returned", 1)]
    client.asks(1)
    client.says(messages.start(1))
    assert ground.in_flight == 1
    client.says(messages.report(1, Outcome.OK))
    client.says(messages.start(1))
    assert ground.in_flight == 0


def test_a_broker_that_was_paused_reads_before_it_takes_anything_back() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    other.asks(1)
    ground.now += START_SECONDS + 0.9
    ground.desk.tick()
    assert ground.desk.next_tick == ground.now + LATE_SECONDS
    one.says(messages.start(1))
    ground.wait(10.0)
    assert (one.kinds(), other.kinds(), ground.in_flight) == ([], [], 1)


def test_a_broker_that_was_paused_takes_back_what_was_not_started_all_the_same() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(1)
    ground.now += START_SECONDS + 0.9
    ground.wait(LATE_SECONDS + 0.01)
    assert client.kinds() == [("grant", 1), ("returned", 1)][1:]


def test_a_lease_that_its_client_does_not_name_any_more_is_over() -> None:
    ground = Ground(replace(R1, concurrency=3))
    client = ground.client()
    for number in (1, 2, 3):
        client.asks(number)
    client.says(messages.start(1))
    client.says(messages.start(2))
    (pulse,) = client.says(messages.beat([1]))
    assert pulse == {"type": "heartbeat", "time": ground.now}
    assert ground.in_flight == 2, "1 is named, 3 has not been started"
    client.says(messages.report(2, Outcome.OK))
    assert ground.in_flight == 2


def test_a_report_of_what_is_unknown_is_passed_over() -> None:
    ground = Ground()
    client = ground.client()
    for message in (messages.report(7, Outcome.OK), messages.start(7), messages.cancel(7), messages.heard(7, 3)):
        assert client.says(message) == []
    assert ground.in_flight == 0


def test_nobody_ends_the_lease_of_another_client() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    other.says(messages.report(1, Outcome.OK))
    other.says(messages.cancel(1))
    other.says(messages.beat([]))
    assert ground.in_flight == 1


def test_whoever_waits_no_more_leaves_the_queue() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(1)
    client.asks(2)
    client.says(messages.cancel(2))
    assert ground.waiting == 0
    assert client.says(messages.report(1, Outcome.OK)) == []


def test_a_cancel_that_crosses_its_grant_gives_it_back() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.asks(1)
    other.asks(1)
    one.says(messages.cancel(1))
    assert other.kinds() == [("grant", 1)]


def test_a_client_that_leaves_leaves_nothing() -> None:
    ground = Ground(replace(R1, concurrency=2))
    one, other = ground.client(), ground.client()
    one.asks(1)
    one.says(messages.start(1))
    one.asks(2)
    one.asks(3)
    other.asks(1)
    ground.desk.leave(one)
    ground.desk.leave(one)
    assert (other.kinds(), ground.in_flight, ground.waiting) == ([("grant", 1)], 1, 0)
    assert ground.desk.visitors == 1


def test_what_one_says_that_has_left_is_passed_over() -> None:
    ground = Ground()
    client = ground.client()
    ground.desk.leave(client)
    assert client.asks(1) == []
    assert ground.in_flight == 0


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_ask_is_refused_at_its_deadline() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(1)
    client.says(messages.start(1))
    client.asks(2, within=3.0)
    ground.wait(2.9)
    assert client.told() == []
    ground.wait(0.2)
    (refusal,) = client.told()
    assert (refusal["type"], refusal["id"], refusal["reason"]) == ("refuse", 2, "timeout")
    assert refusal["waited"] == pytest.approx(3.0)
    assert ground.waiting == 0


def test_what_was_kept_free_for_an_ask_is_granted_in_the_moment_of_its_deadline() -> None:
    ground = Ground(replace(R1, concurrency=8, budgets={"vram_mb": 16}))
    client = ground.client()
    client.asks(1, within=1000.0, ask=Ask(demands={"vram_mb": 8}))
    client.says(messages.start(1))
    client.asks(2, within=20.0, ask=Ask(demands={"vram_mb": 16}))
    number = 3
    while client.asks(number, ask=Ask(demands={"vram_mb": 1})):
        client.says(messages.report(number, Outcome.FAILED))
        number += 1
    ground.wait(20.0)
    assert client.kinds() == [("refuse", 2), ("grant", number)]


@pytest.mark.parametrize(("within", "deadline"), [(-1.0, None), (5.0, -0.5), (-1e308, None), (5.0, 0.0)])
def test_an_ask_whose_time_is_over_is_refused_at_once(within: float, deadline: float | None) -> None:
    ground = Ground()
    client = ground.client()
    message = {"type": "ask", "id": 1, "within": within} | ({} if deadline is None else {"deadline": deadline})
    (refusal,) = client.says(message)
    assert (refusal["type"], refusal["reason"]) == ("refuse", "timeout")


def test_an_ask_without_time_gets_what_is_free() -> None:
    ground = Ground()
    client = ground.client()
    assert types(client.asks(1, within=0.0)) == ["grant"]
    assert types(client.asks(2, within=0.0)) == ["refuse"]


def test_a_wrong_ask_is_refused_and_the_connection_goes_on() -> None:
    ground = Ground()
    client = ground.client()
    (refusal,) = client.says({"type": "ask", "id": 1, "within": 1.0, "features": {"pixels": "many"}})
    assert (refusal["reason"], "features.pixels" in refusal["message"]) == ("invalid", True)
    assert types(client.asks(1)) == ["grant"]


def test_a_demand_that_fits_nowhere_is_refused() -> None:
    ground = Ground(replace(R1, budgets={"vram_mb": 1000}))
    (refusal,) = ground.client().asks(1, ask=Ask(demands={"vram_mb": 2000}))
    assert refusal["reason"] == "never_fits"


def test_a_full_queue_refuses_what_is_new_and_not_what_was_taken_in_elsewhere() -> None:
    ground = Ground(capacity=1)
    client = ground.client()
    client.asks(1)
    client.asks(2)
    assert client.asks(3)[0]["reason"] == "queue_full"
    assert client.asks(4, kept=True) == []
    assert ground.waiting == 2


def test_a_client_has_so_many_asks_and_leases_at_most() -> None:
    ground = Ground(replace(R1, concurrency=10), capacity=10**6)
    client = ground.client()
    for number in range(MOST_HELD):
        client.asks(number)
    client.told()
    (refusal,) = client.asks(MOST_HELD)
    assert (refusal["reason"], str(MOST_HELD) in refusal["message"]) == ("queue_full", True)
    client.says(messages.cancel(MOST_HELD - 1))
    assert client.asks(MOST_HELD) == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "steal", "id": 1},
        {"type": "hello", "version": 1},
        {"type": "ask", "id": 1, "within": 1.0},
        {"type": "hold", "leases": [{"id": 1, "endpoint": {"id": "r1", "url": "http://r1"}}]},
        {"type": "evict"},
        {"type": "evict", "all": False},
        {"type": "evict", "all": 0},
        {"type": "evict", "all": "yes"},
        {"type": "evict", "older_than": "1"},
        {"type": "evict", "older_than": True},
    ],
    ids=str,
)
def test_what_is_no_message_ends_the_connection(message: Message) -> None:
    ground = Ground()
    client, other = ground.client(), ground.client()
    client.asks(1)
    other.asks(1)
    with pytest.raises(BadFrame):
        client.says(message)
    ground.desk.leave(client)
    assert other.kinds() == [("grant", 1)]


def test_a_client_that_talks_and_never_starts_is_sent_away() -> None:
    ground = Ground()
    client = ground.client()
    for number in range(MOST_UNSTARTED):
        assert not client.is_closed
        client.asks(number)
        ground.wait(0.5)
        client.says(messages.beat([]))
        ground.wait(START_SECONDS)
    assert client.is_closed
    (*_, returned, bye) = client.told()
    assert (returned["type"], bye["type"], bye["reason"]) == ("returned", "bye", "never_starts")
    assert "say start when a request is sent" in bye["message"]
    assert (ground.desk.visitors, ground.in_flight) == (0, 0)


def test_a_client_that_starts_now_and_then_is_not_sent_away() -> None:
    ground = Ground()
    client = ground.client()
    for number in range(3 * MOST_UNSTARTED):
        client.asks(number)
        if number % (MOST_UNSTARTED - 1) == 0:
            client.says(messages.start(number))
            client.says(messages.report(number, Outcome.OK))
        ground.wait(START_SECONDS + 0.01)
    assert not client.is_closed


def test_a_client_that_says_nothing_is_not_blamed_for_what_it_does_not_start() -> None:
    ground = Ground(replace(R1, concurrency=20))
    client = ground.client()
    for number in range(20):
        client.asks(number)
    ground.wait(START_SECONDS + 0.01)
    assert [kind for kind, _ in client.kinds()] == ["returned"] * 20
    assert (client.is_closed, ground.in_flight) == (False, 0)


# ── leases from elsewhere, and a desk that has just opened ───────────────────────────────────────────────────────────


def holds(*numbers: int, endpoint: Endpoint = R1, seconds: float = 1.0) -> Message:
    return messages.hold(Held(number, endpoint, Ask(), seconds) for number in numbers)


def test_a_desk_that_has_just_opened_grants_nothing_until_everybody_has_said_what_is_held() -> None:
    ground = Ground(settle_seconds=1.0)
    one, other = Client(ground), Client(ground)
    (welcome,) = one.told()
    other.told()
    assert (welcome["type"], welcome["ready"], welcome["time"]) == ("welcome", 1.0, 100.0)
    assert one.asks(1) == []
    ground.now += 0.5
    assert other.says(holds(5)) == []
    ground.wait(0.6)
    assert (one.kinds(), ground.in_flight) == ([], 1)
    other.says(messages.report(5, Outcome.OK))
    assert one.kinds() == [("grant", 1)]


def test_of_the_sets_that_come_meanwhile_the_newest_counts() -> None:
    ground = Ground(settle_seconds=1.0)
    ground.publish(replace(R1, concurrency=3))
    assert not ground.desk.update(EndpointSet(1, 1, (), PUBLISHED_AT))
    assert ground.desk.endpoints is not None
    assert ground.desk.endpoints.revision == 2
    client = ground.client()
    ground.wait(1.1)
    assert [types(client.asks(number)) for number in range(4)] == [["grant"]] * 3 + [[]]


def test_a_client_that_comes_later_is_ready_at_once() -> None:
    ground = Ground(settle_seconds=1.0)
    ground.wait(0.25)
    assert Client(ground).told()[0]["ready"] == pytest.approx(0.75)
    ground.wait(1.0)
    assert Client(ground).told()[0]["ready"] == 0.0


@pytest.mark.parametrize("settle_seconds", [0.0, 1.0])
def test_a_desk_that_knows_of_no_set_welcomes_nobody_but_who_looks(settle_seconds: float) -> None:
    ground = Ground(has_set=False, settle_seconds=settle_seconds)
    client, inspector = Client(ground), Client(ground, purpose="inspect")
    assert (types(client.told()), types(inspector.told())) == ([], ["welcome"])
    ground.wait(2.0)
    ground.publish(R1)
    ground.publish(R1)
    (welcome,) = client.told()
    assert (welcome["type"], welcome["ready"]) == ("welcome", settle_seconds)
    ground.wait(settle_seconds)
    assert types(client.asks(1)) == ["grant"]
    assert inspector.told() == []


def test_held_leases_take_slots_even_beyond_the_limit_and_end_like_any() -> None:
    ground = Ground()
    one, other = ground.client(), ground.client()
    one.says(holds(1, 2))
    assert (ground.in_flight, other.asks(1)) == (2, [])
    one.says(messages.report(1, Outcome.OK))
    assert other.told() == []
    one.says(messages.beat([]))
    assert (ground.in_flight, other.kinds()) == (1, [("grant", 1)])


def test_a_lease_of_a_replica_that_has_left_is_counted_and_then_forgotten() -> None:
    ground = Ground()
    client = ground.client()
    client.says(holds(1, endpoint=Endpoint("r9", "http://r9")))
    assert [each.id for each in ground.core.statistics(ground.now).replicas] == ["r1", "r9"]
    client.says(messages.report(1, Outcome.OK))
    assert [each.id for each in ground.core.statistics(ground.now).replicas] == ["r1"]


def holds_limit(number: int, limit: int, endpoint: Endpoint = UNDECLARED) -> Message:
    return messages.hold([Held(number, endpoint, Ask(), limit=limit)])


def test_a_grant_tells_what_was_found_where_a_replica_declares_none() -> None:
    assert "limit" not in Ground().client().asks(1)[0]
    ground = Ground(UNDECLARED)
    client = ground.client()
    running = [grant for number in range(100) for grant in client.asks(number, within=1000.0)]
    told = []
    while running:
        told += [each["limit"] for each in running]
        ground.now += 1.0
        running = [grant for each in running for grant in client.says(messages.report(each["id"], Outcome.OK))]
    assert len(told) == 100
    assert sorted(set(told)) == [1, 2, 4, 8]


def test_a_desk_that_knows_nothing_begins_with_what_its_clients_have_found() -> None:
    ground = Ground(UNDECLARED, settle_seconds=1.0)
    one, other = ground.client(), ground.client()
    one.says(holds_limit(1, 4))
    other.says(holds_limit(1, 16))
    one.says(holds_limit(2, 8))
    ground.wait(1.0)
    assert other.asks(2)[0]["limit"] == 16


def test_a_desk_that_has_found_a_limit_knows_better_than_who_comes() -> None:
    ground = Ground(UNDECLARED)
    client = ground.client()
    client.says(holds_limit(1, 16))
    client.says(holds_limit(2, 64))
    assert client.asks(3)[0]["limit"] == 16


def test_a_limit_that_a_client_asks_for_where_none_is_declared_is_everybodys_while_it_is_there() -> None:
    """It knows what the replicas stand; the least counts of several."""
    ground = Ground(UNDECLARED)
    one = ground.client()
    careful, more_so = Client(ground, concurrency=3), Client(ground, concurrency=2)
    assert [types(one.asks(number)) for number in range(6)] == [["grant"]] * 2 + [[]] * 4
    ground.desk.leave(more_so)
    assert one.kinds() == [("grant", 2)]
    ground.desk.leave(careful)
    one.says(messages.report(0, Outcome.FAILED))
    assert (one.kinds(), ground.core.statistics(ground.now).replicas[0].limit) == ([], 1)


def test_a_limit_that_is_declared_is_not_the_clients_to_choose() -> None:
    ground = Ground(replace(R1, concurrency=2))
    careful = Client(ground, concurrency=1)
    careful.told()
    assert [types(careful.asks(number)) for number in range(3)] == [["grant"], ["grant"], []]


def test_what_a_client_has_found_gives_no_slot_that_it_has_taken_itself() -> None:
    ground = Ground(UNDECLARED)
    one, other = ground.client(), ground.client()
    one.asks(1)
    one.says(messages.start(1))
    one.asks(2)
    other.says(messages.hold(Held(number, UNDECLARED, Ask(), limit=3) for number in (1, 2)))
    assert (one.kinds(), ground.in_flight) == ([], 3)
    other.says(messages.report(1, Outcome.OK))
    assert one.kinds() == [("grant", 2)]


def test_a_declared_limit_is_no_clients_to_tell() -> None:
    ground = Ground()
    client = ground.client()
    client.says(holds_limit(1, 16, R1))
    assert client.asks(2) == []


def test_more_leases_than_one_connection_can_have_are_too_many() -> None:
    ground = Ground()
    client = ground.client()
    client.says(holds(*range(MOST_HELD)))
    with pytest.raises(BadFrame, match=f"more than {MOST_HELD}"):
        client.says(holds(MOST_HELD))
    ground.desk.leave(client)
    assert ground.in_flight == 0


# ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_endpoint_is_told_once_and_again_when_it_has_changed_or_changed_back() -> None:
    ground = Ground()
    client = ground.client()

    def told(number: int) -> str | None:
        (grant,) = client.asks(number)
        client.says(messages.report(number, Outcome.OK))
        endpoint = grant.get("endpoint")
        return None if endpoint is None else endpoint["url"]

    assert [told(1), told(2)] == ["http://r1", None]
    ground.publish(replace(R1, url="http://elsewhere"))
    assert [told(3), told(4)] == ["http://elsewhere", None]
    ground.publish(R1)
    assert [told(5), told(6)] == ["http://r1", None]


def test_what_was_told_is_forgotten_by_both_when_it_is_too_much() -> None:
    ground = Ground()
    client = ground.client()
    for number in range(MOST_TOLD + 1):
        ground.publish(Endpoint(f"r{number}", "http://r", concurrency=1))
        (grant,) = client.asks(number)
        assert "endpoint" in grant
        client.says(messages.report(number, Outcome.OK))
    ground.publish(Endpoint("r0", "http://r", concurrency=1))
    assert "endpoint" in client.asks(-1 + 2**40)[0]


def test_what_a_replica_says_of_itself_counts_for_all_clients() -> None:
    ground = Ground(replace(R1, concurrency=4), Endpoint("r2", "http://r2", concurrency=4))
    one, other = ground.client(), ground.client()
    (grant,) = one.asks(1)
    busy = grant["replica"]
    one.says(messages.heard(1, 4))
    replicas = {each.id: each.others for each in ground.core.statistics(ground.now).replicas}
    assert replicas[busy] == 3
    assert other.asks(1)[0]["replica"] != busy


def test_who_failed_is_asked_about_and_back_when_it_answers() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(1)
    client.says(messages.report(1, Outcome.UNREACHABLE))
    ground.wait(60.0)
    (grant,) = client.asks(9)
    assert grant["tell"] is True
    client.says(messages.start(9))
    client.says(messages.heard(9))
    client.says(messages.report(9, Outcome.OK))
    assert "tell" not in client.asks(10)[0]


def test_what_requests_cost_is_learned() -> None:
    ground = Ground(replace(R1, budgets={"vram_mb": 1000}))
    client = ground.client()
    for number in range(30):
        client.asks(number)
        client.says(messages.report(number, Outcome.OK, {"vram_mb": 300.0}))
    client.asks(99)
    (replica,) = ground.core.statistics(ground.now).replicas
    assert 300 <= replica.budgets["vram_mb"][0] < 500


# ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────────


def queue() -> tuple[Ground, Client, Client]:
    ground = Ground()
    one, other = ground.client("one"), ground.client("other")
    one.asks(1)
    one.asks(2, ask=Ask(tenant="a", priority=3))
    ground.now += 1.0
    other.asks(3, ask=Ask(tenant="b"), within=10.0)
    ground.now += 1.0
    return ground, one, other


def test_who_waits_is_shown_oldest_first() -> None:
    ground, one, _ = queue()
    (shown,) = one.says({"type": "show"})
    assert (shown["type"], shown["clients"], shown["waiting"]) == ("queue", 2, 2)
    assert shown["statistics"]["in_flight"] == 1
    first, second = shown["asks"]
    assert (first["client"], first["tenant"], first["priority"], first["waited"]) == ("one", "a", 3, 2.0)
    assert (second["client"], second["waited"], second["left"]) == ("other", 1.0, 9.0)
    assert first["ask"] != second["ask"]
    assert ground.desk.show() == shown


@pytest.mark.parametrize(
    ("conditions", "count"),
    [
        ({"all": True}, 2),
        ({"tenant": "b"}, 1),
        ({"tenant": "c"}, 0),
        ({"older_than": 1.5}, 1),
        ({"older_than": 0}, 2),
        ({"tenant": "b", "older_than": 1.5}, 0),
        ({"all": True, "tenant": "a"}, 1),
        ({"ask": 3}, 1),
        ({"ask": 99}, 0),
    ],
    ids=str,
)
def test_asks_are_taken_out_by_whoever_operates(conditions: Message, count: int) -> None:
    ground, one, other = queue()
    inspector = ground.client()
    assert inspector.says({"type": "evict", **conditions}) == [{"type": "evicted", "count": count}]
    told = one.told() + other.told()
    assert [each["reason"] for each in told] == ["cancelled"] * count
    assert all("an operator took the request out of the queue after" in each["message"] for each in told)
    assert ground.waiting == 2 - count


def test_a_desk_that_closes_takes_leave_and_gives_nobody_what_another_one_uses() -> None:
    ground, one, other = queue()
    one.says(messages.start(1))
    ground.desk.close(Bye("standby", "another broker serves", "tcp://b2"))
    assert [types(each.told()) for each in (one, other)] == [["bye"], ["bye"]]
    assert (one.is_closed, other.is_closed, ground.desk.visitors) == (True, True, 0)
    assert (ground.in_flight, ground.waiting) == (0, 0)


def test_deadlines_of_what_is_over_are_not_kept() -> None:
    ground = Ground()
    client = ground.client()
    client.asks(0)
    client.says(messages.start(0))
    for number in range(1, 1000):
        client.asks(number, within=1000.0 + number % 7)
        client.says(messages.cancel(number))
    assert len(ground.desk._deadlines) <= MOST_OVER + 1


@pytest.mark.parametrize("text", ["t", "é", "\x00"])
def test_a_queue_is_shown_whatever_its_clients_and_tenants_call_themselves(text: str) -> None:
    """What is longer would be cut off, and people would see nothing."""
    ground = Ground(capacity=4000)
    client = ground.client(text * 256)
    for number in range(2000):
        client.asks(number, ask=Ask(tenant=text * 1000 + str(number)))
    (shown,) = client.says({"type": "show"})
    assert len(frame(shown)) < MOST_UNREAD_BYTES
    assert (shown["statistics"]["waiting"], shown["waiting"]) == (1999, 1999)
    assert len(shown["asks"]) == len(shown["statistics"]["tenants"]) == 1000
    oldest = shown["asks"][0], shown["statistics"]["tenants"][0]
    assert oldest[0]["tenant"] == oldest[1]["tenant"] == (text * 1000)[: 256 if text == "t" else 42]
