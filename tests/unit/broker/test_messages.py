"""What client and broker say: each message as it is built and read, and what is none."""

import datetime
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest

from muster.balancer.ask import Ask
from muster.balancer.lease import Outcome
from muster.broker import messages
from muster.broker.frames import MOST_BYTES, BadFrame, FrameReader, frame
from muster.broker.messages import HELD_PER_FRAME, Bye, Grant, Held, Hello, Message, Report, Wanted, Welcome
from muster.errors import (
    BalancerError,
    CannotMeetDeadline,
    InvalidAsk,
    NeverFits,
    NoEndpoints,
    QueueCancelled,
    QueueFull,
    QueueTimeout,
)
from muster.model.endpoint import Endpoint, ServiceKey

NOW = 1000.0
ENDPOINT = Endpoint(
    "r1",
    "https://r1.test:20001",
    data_center="lab-a",
    gpu_name="RTX 4090",
    gpu_num=2,
    concurrency=4,
    budgets=MappingProxyType({"vram_mb": 16000}),
    started_at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
)
ASK = Ask({"pixels": 3.5}, {"vram_mb": 2000}, priority=-1, tenant="a", affinity="x", answer_by=NOW + 5.0)


def sent(message: Message) -> Message:
    """Return a message as the other side gets it."""
    (found,) = FrameReader().feed(frame(message))
    return found


def test_a_hello_names_the_service_and_who_asks() -> None:
    said = Hello(ServiceKey("account", "digits", 6006), "token", "host/7", "inspect")
    assert messages.read_hello(sent(messages.hello(said))) == said


@pytest.mark.parametrize(
    ("version", "reason", "advice"),
    [(2, "newer_version", "upgrade the broker"), (0, "older_version", "upgrade the client")],
)
def test_another_version_is_told_which_side_to_upgrade(version: int, reason: str, advice: str) -> None:
    message = messages.hello(Hello(ServiceKey("a", "s"), "t")) | {"version": version}
    with pytest.raises(BadFrame, match=advice) as told:
        messages.read_hello(message)
    assert told.value.reason == reason


def test_an_ask_keeps_everything_but_the_clock() -> None:
    wanted = Wanted(7, ASK, 30.0, 2.5, frozenset({"r1", "r2"}), is_new=False, is_kept=True)
    found = messages.read_ask(sent(messages.ask(wanted, NOW)), 5000.0)
    assert found.ask.answer_by == 5005.0
    assert (found.id, found.wait_seconds, found.waited_seconds) == (7, 30.0, 2.5)
    assert (found.tried, found.is_new, found.is_kept) == (wanted.tried, False, True)
    assert (found.ask.features, found.ask.demands) == (ASK.features, ASK.demands)
    assert (found.ask.priority, found.ask.tenant, found.ask.affinity) == (-1, "a", "x")


def test_an_ask_that_says_nothing_is_short() -> None:
    message = messages.ask(Wanted(7, Ask(), 30.0), NOW)
    assert message == {"type": "ask", "id": 7, "within": 30.0}
    assert messages.read_ask(sent(message), NOW) == Wanted(7, Ask(), 30.0)


@pytest.mark.parametrize("seconds", [math.inf, 1e308])
def test_an_endless_wait_is_a_day(seconds: float) -> None:
    message = sent(messages.ask(Wanted(7, Ask(), seconds), NOW))
    assert messages.read_ask(message, NOW).wait_seconds == 86400.0
    assert messages.read_ask({"id": 7, "within": 1e308}, NOW).wait_seconds == 86400.0


def test_a_call_of_any_age_is_a_month_old_at_most_and_none_is_younger_than_now() -> None:
    assert messages.read_ask({"id": 7, "within": 1, "waited": 1e308}, NOW).waited_seconds == 30 * 86400.0
    assert messages.read_ask({"id": 7, "within": 1, "waited": -1e308}, NOW).waited_seconds == 0.0


@pytest.mark.parametrize("field", ["features", "demands", "priority", "tenant", "affinity", "deadline"])
def test_what_is_wrong_with_a_request_is_its_callers_to_know(field: str) -> None:
    with pytest.raises(InvalidAsk, match=field):
        messages.read_ask({"type": "ask", "id": 1, "within": 1.0, field: ["?"]}, NOW)


LEASES = [Held(number, ENDPOINT, Ask({"pixels": 1.0}, {"vram_mb": 7}), 3.25) for number in range(HELD_PER_FRAME)]


def test_leases_from_elsewhere_are_told_with_their_endpoints() -> None:
    assert messages.read_hold(sent(messages.hold(LEASES))) == LEASES


def test_as_many_as_are_told_at_once_fit_into_a_frame() -> None:
    features = {f"{'f' * 30}{number}": 1 / 3 for number in range(16)}
    held = [Held(2**53, ENDPOINT, Ask(features, {"vram_mb": 16000}), 1234.56789, 1024) for _ in range(HELD_PER_FRAME)]
    assert len(frame(messages.hold(held))) < MOST_BYTES


def test_a_report_says_how_it_ended_and_what_it_took() -> None:
    for outcome in Outcome:
        said = Report(7, outcome, {"vram_mb": 3100.5})
        assert messages.read_report(sent(messages.report(7, outcome, said.costs))) == said
    assert messages.read_report(messages.report(7, Outcome.OK)) == Report(7, Outcome.OK, {})


def test_the_short_ones() -> None:
    assert messages.read_id(sent(messages.start(7))) == 7
    assert messages.read_id(sent(messages.cancel(8))) == 8
    assert messages.read_id(sent(messages.returned(9))) == 9
    assert messages.read_heard(sent(messages.heard(7))) == (7, None)
    assert messages.read_heard(sent(messages.heard(7, 0))) == (7, 0)
    assert messages.read_beat(sent(messages.beat([1, 5]))) == {1, 5}
    assert messages.read_pulse(sent(messages.pulse(12.5))) == 12.5


def test_what_a_broker_says() -> None:
    welcome = Welcome("b1", 5.5, 0.75, 2.0)
    assert messages.read_welcome(sent(messages.welcome(welcome))) == welcome
    for grant in (Grant(7, "r1", 5.5, ENDPOINT, limit=8, is_told=True), Grant(7, "r1", 5.5)):
        assert messages.read_grant(sent(messages.grant(grant))) == grant
    bye = Bye("standby", "another one serves", "tcp://b2:7690")
    assert messages.read_bye(sent(messages.bye(bye))) == bye


@pytest.mark.parametrize(("told", "kept"), [(1e308, 60.0), (0.0, 0.05), (-5.0, 0.05), (0.5, 0.5)])
def test_a_heartbeat_is_neither_never_nor_always(told: float, kept: float) -> None:
    assert messages.read_welcome({"type": "welcome", "time": 1.0, "heartbeat": told}).heartbeat_seconds == kept


ERRORS = [
    CannotMeetDeadline("too late", 1.5, 9.0),
    QueueTimeout("waited", 30.0),
    NoEndpoints("s", "nobody"),
    QueueFull("full"),
    NeverFits("too large"),
    QueueCancelled("an operator"),
    BalancerError("closed"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_refusal_is_the_same_error_at_the_client(error: BalancerError) -> None:
    number, found = messages.read_refuse(sent(messages.refuse(7, error)), "s")
    assert (number, type(found), str(found), vars(found)) == (7, type(error), str(error), vars(error))


def test_a_wrong_ask_is_refused_in_its_own_words() -> None:
    _, found = messages.read_refuse(sent(messages.refuse(7, InvalidAsk("features.x", "'?' is no number"))), "s")
    assert "features.x" in str(found)


def test_a_refusal_that_quotes_what_filled_a_frame_fits_into_one() -> None:
    error = InvalidAsk("features.x", repr(["\u20ac" * 20] * 1000))
    assert len(frame(messages.refuse(7, error))) < 10_000
    assert len(frame(messages.bye(Bye("not_understood", "\u20ac" * 60_000)))) < 10_000


READERS: dict[str, Callable[[Message], Any]] = {
    "hello": messages.read_hello,
    "hold": messages.read_hold,
    "ask": lambda message: messages.read_ask(message, NOW),
    "report": messages.read_report,
    "heard": messages.read_heard,
    "start": messages.read_id,
    "heartbeat": messages.read_beat,
    "welcome": messages.read_welcome,
    "grant": messages.read_grant,
    "refuse": lambda message: messages.read_refuse(message, "s"),
    "bye": messages.read_bye,
}
WRONG = [
    {"type": "start"},
    {"type": "hello", "version": True},
    {"type": "hello", "version": 1, "account": 7},
    {"type": "hello", "version": 1, "account": "a" * 257, "service": "s", "port": 1},
    {"type": "hello", "version": 1, "account": "a", "service": "s", "port": 1, "purpose": "steal"},
    {"type": "hello", "version": 1, "account": "a", "service": "s", "port": 1, "concurrency": -1},
    {"type": "hold", "leases": {}},
    {"type": "hold", "leases": [7]},
    {"type": "hold", "leases": [{"id": 1, "endpoint": None}]},
    {"type": "hold", "leases": [{"id": 1, "endpoint": {"id": "r", "url": "u", "concurrency": 0}}]},
    {"type": "hold", "leases": [{"id": 1, "endpoint": {"id": "r", "url": "u", "started_at": 5}}]},
    {"type": "hold", "leases": [{"id": 1, "endpoint": {"id": "r", "url": "u"}, "features": 7}]},
    {"type": "hold", "leases": [{"id": 1, "endpoint": {"id": "r", "url": "u"}, "limit": -1}]},
    {"type": "ask", "id": 1},
    {"type": "ask", "id": -1, "within": 1},
    {"type": "ask", "id": 2**63, "within": 1},
    {"type": "ask", "id": 1.0, "within": 1},
    {"type": "ask", "id": 1, "within": math.nan},
    {"type": "ask", "id": 1, "within": math.inf},
    {"type": "ask", "id": 1, "within": 10**400},
    {"type": "ask", "id": 1, "within": 1, "tried": "r1"},
    {"type": "ask", "id": 1, "within": 1, "tried": [1]},
    {"type": "report", "id": 1, "outcome": "fine"},
    {"type": "report", "id": 1, "outcome": ["ok"]},
    {"type": "report", "id": 1, "outcome": "ok", "costs": {"vram_mb": math.nan}},
    {"type": "report", "id": 1, "outcome": "ok", "costs": {"vram_mb": True}},
    {"type": "report", "id": 1, "outcome": "ok", "costs": []},
    {"type": "heard", "id": 1, "in_flight": -1},
    {"type": "heartbeat", "held": None},
    {"type": "heartbeat", "held": [True]},
    {"type": "heartbeat", "held": list(range(5000))},
    {"type": "welcome", "time": None},
    {"type": "grant", "id": 1, "replica": 7, "time": 1.0},
    {"type": "grant", "id": 1, "replica": "r", "time": 1.0, "endpoint": []},
    {"type": "grant", "id": 1, "replica": "r", "time": 1.0, "limit": 1.5},
    {"type": "grant", "id": 1, "replica": "r", "time": 1.0, "limit": True},
    {"type": "refuse", "id": 1},
    {"type": "bye"},
]


@pytest.mark.parametrize("message", WRONG, ids=str)
def test_what_is_no_such_message_is_a_bad_frame(message: Message) -> None:
    with pytest.raises(BadFrame):
        READERS[message["type"]](message)


@pytest.mark.parametrize("token", ["s3cret" * 100, ["s3cret"]])
def test_a_token_that_is_none_is_not_quoted(token: object) -> None:
    said = messages.hello(Hello(ServiceKey("admin", "digits"), "s3cret", "web1"))
    with pytest.raises(BadFrame, match="token is no text") as caught:
        messages.read_hello({**said, "token": token})
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(messages.read_hello(said))
