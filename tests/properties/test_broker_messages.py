"""The broker's wire under anything that anybody may send: messages, or one error that ends the connection."""

import contextlib
import math
import random
import struct
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Outcome
from muster.broker import messages
from muster.broker.desk import Desk
from muster.broker.frames import BadFrame, FrameReader, frame
from muster.broker.messages import Grant, Held, Hello, Message, Report, Wanted, Welcome
from muster.broker.seat import Seat
from muster.errors import InvalidAsk
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from tests.simulation.broker_world import PUBLISHED_AT

TEXTS = st.text(max_size=20)
SECONDS = st.floats(0.0, 1e6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
IDS = st.integers(0, 2**63 - 1)
NAMES = st.text(min_size=1, max_size=8)
ASKS = st.builds(
    Ask,
    features=st.none() | st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=4),
    demands=st.dictionaries(NAMES, st.integers(0, 2**40), max_size=3),
    priority=st.integers(-(2**70), 2**70),
    tenant=TEXTS,
    affinity=TEXTS,
    answer_by=st.just(math.inf),
)
ENDPOINTS = st.builds(
    Endpoint,
    id=NAMES,
    url=TEXTS,
    data_center=TEXTS,
    gpu_name=TEXTS,
    gpu_num=st.integers(0, 8),
    concurrency=st.none() | st.integers(1, 100),
    budgets=st.dictionaries(NAMES, st.integers(0, 2**40), max_size=2),
)


def sent(message: Message) -> Message:
    (found,) = FrameReader(2**24).feed(frame(message))
    return found


@given(
    st.builds(Hello, st.builds(ServiceKey, TEXTS, TEXTS, IDS), TEXTS, TEXTS, st.sampled_from(["balance", "inspect"]))
)
def test_a_hello_is_read_as_it_was_said(said: Hello) -> None:
    assert messages.read_hello(sent(messages.hello(said))) == said


@given(
    st.builds(
        Wanted,
        IDS,
        ASKS,
        SECONDS.map(lambda each: min(each, 86400.0)),
        SECONDS.map(lambda each: each + 1.0),
        st.frozensets(TEXTS, max_size=4),
        st.booleans(),
        st.booleans(),
    )
)
def test_an_ask_is_read_as_it_was_said(said: Wanted) -> None:
    assert messages.read_ask(sent(messages.ask(said, 5.0)), 7.0) == said


@given(
    st.lists(
        st.builds(
            Held,
            IDS,
            ENDPOINTS,
            st.builds(Ask, features=st.none(), demands=st.dictionaries(NAMES, st.integers(0, 9), max_size=2)),
            SECONDS,
            st.none() | IDS,
        ),
        max_size=4,
    )
)
def test_held_leases_are_read_as_they_were_said(said: list[Held]) -> None:
    assert messages.read_hold(sent(messages.hold(said))) == said


@given(st.builds(Report, IDS, st.sampled_from(Outcome), st.dictionaries(NAMES, NUMBERS, max_size=3)))
def test_a_report_is_read_as_it_was_said(said: Report) -> None:
    assert messages.read_report(sent(messages.report(said.id, said.outcome, said.costs))) == said


@given(
    st.builds(Welcome, TEXTS, NUMBERS, SECONDS, st.floats(0.05, 60.0)),
    st.builds(Grant, IDS, TEXTS, NUMBERS, st.none() | ENDPOINTS, st.none() | IDS, st.booleans()),
    st.sets(st.integers(0, 2**63 - 1), max_size=50),
)
def test_what_a_broker_says_is_read_as_it_was_said(welcome: Welcome, grant: Grant, held: set[int]) -> None:
    assert messages.read_welcome(sent(messages.welcome(welcome))) == welcome
    assert messages.read_grant(sent(messages.grant(grant))) == grant
    assert messages.read_beat(sent(messages.beat(held))) == held


@given(st.lists(st.dictionaries(NAMES, NUMBERS | TEXTS, max_size=3), max_size=8), st.data())
def test_frames_are_the_same_wherever_they_are_cut(bodies: list[dict[str, Any]], data: st.DataObject) -> None:
    said = [{**body, "type": "x"} for body in bodies]
    raw = b"".join(map(frame, said))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    reader, found = FrameReader(), []
    for begin, end in pairwise([0, *cuts, len(raw)]):
        found += reader.feed(raw[begin:end])
    assert found == said


@given(st.lists(st.binary(max_size=40) | st.binary(max_size=60).map(lambda body: struct.pack(">I", len(body)) + body)))
def test_any_bytes_are_frames_or_a_bad_one(pieces: list[bytes]) -> None:
    reader = FrameReader()
    with contextlib.suppress(BadFrame):
        for piece in pieces:
            assert all(isinstance(each["type"], str) for each in reader.feed(piece))


# ── the desk and the seat under anything ─────────────────────────────────────────────────────────────────────────────

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e308, -1e308, 10**400, -1, 0, 2**63, "", None, True, [], {}]
)
JSON = st.recursive(
    ODD | NUMBERS | TEXTS | st.integers() | st.sampled_from(["\ud800", "r1", "ok", "full"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SMALL_IDS = st.integers(1, 4)
FEATURES = st.dictionaries(st.sampled_from("ab"), NUMBERS, max_size=2)
DEMANDS = st.dictionaries(st.just("vram_mb"), st.integers(0, 60), max_size=1)
SAID: dict[str, st.SearchStrategy[Any]] = {
    "features": FEATURES,
    "demands": DEMANDS,
    "priority": st.integers(-1, 1),
    "tenant": st.sampled_from(["", "a"]),
    "affinity": st.sampled_from(["", "a"]),
    "deadline": st.floats(-0.1, 10.0),
}
ENDPOINT = st.fixed_dictionaries(
    {"id": st.sampled_from(["r1", "r2", "r9"]), "url": TEXTS},
    optional={"concurrency": st.integers(1, 2), "budgets": DEMANDS},
)


def fields(*names: str, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    known: dict[str, st.SearchStrategy[Any]] = {"id": SMALL_IDS, "time": st.floats(0.0, 9.0), "replica": st.just("r1")}
    return st.fixed_dictionaries({name: known[name] for name in names}, optional=others)


TO_DESK = {
    "ask": st.tuples(
        fields("id", waited=SECONDS, tried=st.lists(st.sampled_from(["r1", "r2"])), kept=st.booleans(), **SAID),
        st.fixed_dictionaries({"within": st.floats(-0.1, 5.0)}),
    ).map(lambda parts: {**parts[0], **parts[1]}),
    "start": fields("id"),
    "report": st.tuples(
        fields("id", costs=st.dictionaries(st.just("vram_mb"), NUMBERS)),
        st.fixed_dictionaries({"outcome": st.sampled_from([each.value for each in Outcome])}),
    ).map(lambda parts: {**parts[0], **parts[1]}),
    "cancel": fields("id"),
    "heartbeat": st.fixed_dictionaries({"held": st.lists(SMALL_IDS, max_size=4)}),
    "heard": fields("id", in_flight=st.integers(0, 2**63 - 1)),
    "hold": st.fixed_dictionaries(
        {
            "leases": st.lists(
                st.fixed_dictionaries(
                    {"id": st.integers(5, 9), "endpoint": ENDPOINT}, optional={"seconds": SECONDS, "limit": IDS, **SAID}
                ),
                max_size=2,
                unique_by=lambda each: each["id"],
            )
        }
    ),
    "show": fields(),
    "evict": st.fixed_dictionaries({"all": st.booleans(), "older_than": st.floats(0.0, 2.0)}),
}
TO_SEAT = {
    "grant": fields("id", "replica", "time", endpoint=ENDPOINT, limit=IDS, tell=st.booleans()),
    "refuse": st.tuples(
        fields("id"), st.fixed_dictionaries({"reason": st.sampled_from(["timeout", "no_endpoints"])})
    ).map(lambda parts: {**parts[0], **parts[1]}),
    "returned": fields("id"),
    "heartbeat": fields("time"),
    "welcome": fields("time"),
    "bye": st.fixed_dictionaries({"reason": st.just("standby")}),
}


def said_to(kinds: dict[str, st.SearchStrategy[Message]]) -> st.SearchStrategy[Message]:
    """Messages that are right; and some of which a field is not."""
    names = ["ask" if "ask" in kinds else "grant", *kinds]
    right = st.sampled_from(names).flatmap(lambda kind: kinds[kind].map(lambda rest: {**rest, "type": kind}))
    wrong = st.builds(
        lambda message, name, value: {**message, name: value},
        right,
        st.sampled_from(["id", "within", "waited", "held", "time", "replica", "endpoint", "leases", "seconds", *SAID]),
        JSON,
    )
    return st.integers(0, 9).flatmap(lambda die: right if die else wrong) | st.just({"type": "?"})


class Heard:
    """A visitor: everything it is told can be framed."""

    def __init__(self) -> None:
        self.is_closed = False

    def send(self, message: Message) -> None:
        frame(message)

    def close(self) -> None:
        self.is_closed = True


def endpoints() -> EndpointSet:
    present = tuple(Endpoint(name, f"http://{name}", concurrency=1, budgets={"vram_mb": 50}) for name in ("r1", "r2"))
    return EndpointSet(1, 1, present, PUBLISHED_AT)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 2), said_to(TO_DESK), st.sampled_from([0.0, 0.0, 0.5, 3.0])), max_size=25))
def test_whatever_is_said_to_a_desk_it_answers_or_it_is_a_bad_frame(said: list[tuple[int, Message, float]]) -> None:
    now = 100.0
    core = Balancer("s", random.Random(1))
    desk = Desk(core, broker="b", monotonic=lambda: now, settle_seconds=0.0)
    desk.update(endpoints())
    visitors = [Heard() for _ in range(3)]
    hello = Hello(ServiceKey("a", "s"), "t")
    for visitor in visitors:
        desk.join(visitor, hello)
    for number, message, seconds in said:
        try:
            desk.take(visitors[number], message)
        except BadFrame:
            desk.leave(visitors[number])
            desk.join(visitors[number], hello)
        now += seconds
        if desk.next_tick <= now:
            desk.tick()
        assert desk.next_tick > now - 1.0
    for visitor in visitors:
        desk.leave(visitor)
    found = desk.statistics()
    assert (found.in_flight, found.waiting, desk.visitors) == (0, 0, 0)


@settings(max_examples=300)
@given(st.lists(st.tuples(said_to(TO_SEAT), st.sampled_from([0.0, 0.0, 0.3, 2.0])), max_size=20))
def test_whatever_is_said_to_a_seat_it_takes_or_it_is_a_bad_frame(said: list[tuple[Message, float]]) -> None:
    now = 100.0
    core = Balancer("s", random.Random(1))
    core.update(endpoints(), now)
    seat = Seat(core, ServiceKey("a", "s"), "t")
    tickets = []

    def begin() -> None:
        seat.connected("tcp://b", Heard().send, now)
        seat.take({"type": "welcome", "time": 5.0}, now)
        assert seat.is_up
        for _ in range(3):
            ticket = core.draft(now, deadline=now + 60.0, tried=frozenset(), wake=lambda: None, ask=Ask(), since=None)
            seat.ask(ticket, now)
            tickets.append(ticket)

    begin()
    for message, seconds in said:
        is_over = False
        try:
            is_over = seat.take(message, now) is not None
        except BadFrame:
            is_over = True
        now += seconds
        if is_over or not seat.tick(now):
            seat.lost(now)
            begin()
    seat.lost(now)
    for ticket in tickets:
        if ticket.lease is not None:
            core.release(ticket.lease, Outcome.OK, now)
        core.give_up(ticket, now)
    found = core.statistics(now)
    assert (found.in_flight, found.waiting) == (0, 0)


@given(said_to(TO_DESK))
def test_an_ask_is_read_or_wrong(message: Message) -> None:
    with contextlib.suppress(BadFrame, InvalidAsk):
        messages.read_ask(message, 5.0)
