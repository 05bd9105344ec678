"""What client and broker say to each other: builders for whoever sends, checked readers for whoever gets it.

The protocol is written down in ``docs/broker-protocol.md``. Times are seconds from now, since two hosts share no clock;
``time`` is the broker's own, and only ever compared with another ``time`` of the same broker. Unknown fields are passed
over; an unknown type, or a field that is none, is a ``BadFrame``, which ends the connection.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.balancer.ask import Ask, ask_from
from muster.balancer.lease import Outcome
from muster.broker.frames import BadFrame
from muster.errors import (
    BalancerError,
    CannotMeetDeadline,
    InvalidAsk,
    InvalidSpec,
    NeverFits,
    NoEndpoints,
    QueueCancelled,
    QueueFull,
    QueueTimeout,
)
from muster.model.endpoint import Endpoint, ServiceKey, endpoint_from_wire, endpoint_to_wire

VERSION = 1
HEARTBEAT_SECONDS = 1.0
"""Who hears nothing for so long goes on without the other; both say something at least twice as often."""
SILENT_BEATS = 3
"""A client of which nothing was heard for so many heartbeats is gone, and its leases with it."""
START_SECONDS = 2.0
"""A grant that is not started by then goes back."""
MOST_TEXT = 256
MOST_HELD = 4096
"""Asks and leases that one connection can have at once; their numbers fit into a frame."""
HELD_PER_FRAME = 32
"""With an endpoint of some 400 bytes and sixteen features each they fit, too."""
MOST_TOLD = 1024
"""Endpoints that both sides remember on one connection; one more that is new, and both forget those before it."""
MOST_SAID = 1000
"""Characters of a text for people: it may quote what a client sent, which may fill a frame."""
LONGEST_SECONDS = 86400.0 * 30
"""A request that has lasted longer is taken to have lasted so long: what is learned of it is only ever a number."""
LONGEST_WAIT_SECONDS = 86400.0
SHORTEST_BEAT_SECONDS, LONGEST_BEAT_SECONDS = 0.05, 60.0

_SECRET = frozenset({"token"})

Message = dict[str, Any]


# ── what a client says ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that a client has from elsewhere: from before, from another broker, or given by itself.

    ``seconds`` is since when.
    """

    id: int
    endpoint: Endpoint
    ask: Ask
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message. ``client`` is for people; ``purpose`` is ``balance``, or ``inspect`` to look and to cancel."""

    key: ServiceKey
    token: str = field(repr=False)
    client: str = ""
    purpose: str = "balance"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An ask. ``wait_seconds`` bounds the wait for a grant, ``waited_seconds`` is how long the call has lasted.

    ``is_kept``: it has waited elsewhere, or had a grant, and a queue that is full is no reason to lose it.
    """

    id: int
    ask: Ask
    wait_seconds: float
    waited_seconds: float = 0.0
    tried: frozenset[str] = frozenset()
    is_new: bool = True
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a lease."""

    id: int
    outcome: Outcome
    costs: Mapping[str, float]


def hello(asked: Hello) -> Message:
    """Introduce oneself. The token is in it: over TLS, or on one host."""
    return {
        "type": "hello",
        "version": VERSION,
        "token": asked.token,
        "account": asked.key.account,
        "service": asked.key.service,
        "port": asked.key.port,
        "client": asked.client,
        "purpose": asked.purpose,
    }


def hold(held: Iterable[Held]) -> Message:
    """Tell of leases that the broker did not give: they take slots, whatever it thinks of that."""
    leases = [
        {"id": each.id, "seconds": each.seconds, "endpoint": endpoint_to_wire(each.endpoint)} | _said(each.ask, 0.0)
        for each in held
    ]
    return {"type": "hold", "leases": leases}


def ask(wanted: Wanted, now: float) -> Message:
    """Ask for a slot; ``now`` is of the clock that ``answer_by`` is of."""
    within = min(max(0.0, wanted.wait_seconds), LONGEST_WAIT_SECONDS)
    message: Message = {"type": "ask", "id": wanted.id, "within": within, **_said(wanted.ask, now)}
    if wanted.waited_seconds > 0.001:
        message["waited"] = wanted.waited_seconds
    if wanted.tried:
        message["tried"] = sorted(wanted.tried)
    if not wanted.is_new:
        message["again"] = True
    if wanted.is_kept:
        message["kept"] = True
    return message


def start(ask_id: int) -> Message:
    """Say that the request is being sent."""
    return {"type": "start", "id": ask_id}


def heard(ask_id: int, in_flight: int | None = None) -> Message:
    """Say that the replica answers, although the request goes on, and what its ingress counts of everybody's."""
    message: Message = {"type": "heard", "id": ask_id}
    if in_flight is not None:
        message["in_flight"] = in_flight
    return message


def report(ask_id: int, outcome: Outcome, costs: Mapping[str, float] | None = None) -> Message:
    """End a lease, or give a grant back unused; ``costs`` are what it took of budgets."""
    message: Message = {"type": "report", "id": ask_id, "outcome": outcome.value}
    if costs:
        message["costs"] = dict(costs)
    return message


def cancel(ask_id: int) -> Message:
    """Wait no more."""
    return {"type": "cancel", "id": ask_id}


def beat(held: Collection[int]) -> Message:
    """Say that one lives, and name all leases that were started and are held: any other that was started is over."""
    return {"type": "heartbeat", "held": list(held)}


def read_hello(message: Message) -> Hello:
    """Read a client's first message. Raises ``BadFrame``, with the reason ``newer_version`` for one of those."""
    if message["type"] != "hello":
        raise BadFrame(f"the first message is {_shown(message['type'])}, not hello")
    version = _count(message, "version")
    if version != VERSION:
        raise BadFrame(
            f"the client speaks version {version} of the protocol, and this broker version {VERSION}: "
            f"upgrade the {'broker' if version > VERSION else 'client'}",
            "newer_version" if version > VERSION else "older_version",
        )
    purpose = _text(message, "purpose", "balance")
    if purpose not in {"balance", "inspect"}:
        raise BadFrame(f"hello: purpose {purpose!r} is neither balance nor inspect")
    return Hello(
        key=ServiceKey(_text(message, "account"), _text(message, "service"), _count(message, "port")),
        token=_text(message, "token", ""),
        client=_text(message, "client", ""),
        purpose=purpose,
    )


def read_hold(message: Message) -> list[Held]:
    """Read which leases a client has from elsewhere. Raises ``BadFrame``."""
    leases = message.get("leases")
    if not isinstance(leases, list):
        raise BadFrame("hold: leases are no list")
    return [_held(each) for each in leases]


def read_ask(message: Message, now: float) -> Wanted:
    """Read an ask. Raises ``InvalidAsk`` for what is wrong with the request, ``BadFrame`` for anything else."""
    tried = message.get("tried", [])
    if not isinstance(tried, list) or not all(isinstance(each, str) for each in tried):
        raise BadFrame("ask: tried is no list of endpoint ids")
    return Wanted(
        id=_count(message, "id"),
        ask=_read_said(message, now),
        wait_seconds=min(_seconds(message, "within"), LONGEST_WAIT_SECONDS),
        waited_seconds=_lasted(message, "waited"),
        tried=frozenset(tried),
        is_new=message.get("again") is not True,
        is_kept=message.get("kept") is True,
    )


def read_report(message: Message) -> Report:
    """Read the end of a lease. Raises ``BadFrame``."""
    try:
        outcome = Outcome(message.get("outcome"))
    except ValueError:
        raise BadFrame(f"report: outcome {_shown(message.get('outcome'))} is none") from None
    costs = message.get("costs", {})
    if not (isinstance(costs, dict) and all(map(_is_number, costs.values()))):
        raise BadFrame("report: costs are no numbers")
    return Report(_count(message, "id"), outcome, costs)


def read_heard(message: Message) -> tuple[int, int | None]:
    """Read which request is being answered, and what its replica's ingress counts. Raises ``BadFrame``."""
    return _count(message, "id"), None if message.get("in_flight") is None else _count(message, "in_flight")


def read_id(message: Message) -> int:
    """Read which ask ``start`` and ``cancel`` are about."""
    return _count(message, "id")


def read_beat(message: Message) -> frozenset[int]:
    """Read which leases a client holds. Raises ``BadFrame``."""
    held = message.get("held")
    if not isinstance(held, list) or len(held) > MOST_HELD or not all(type(each) is int for each in held):
        raise BadFrame(f"heartbeat: held is no list of at most {MOST_HELD} numbers")
    return frozenset(held)


# ── what a broker says ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Welcome:
    """``ready_seconds``: by then everybody who holds a lease has said so; until then go on by yourself."""

    broker: str
    time: float
    ready_seconds: float = 0.0
    heartbeat_seconds: float = HEARTBEAT_SECONDS


@dataclass(frozen=True, slots=True)
class Grant:
    """A slot. ``endpoint`` is told once on a connection, afterwards ``replica`` (its id) stands for it.

    ``time`` is when it was given; ``is_told`` asks for ``heard``, since others have failed there.
    """

    id: int
    replica: str
    time: float
    endpoint: Endpoint | None = None
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Bye:
    """The last message: why there is no more. ``url`` is where to go instead, if that is known."""

    reason: str
    message: str
    url: str = ""


def welcome(told: Welcome) -> Message:
    """Let a client in."""
    return {
        "type": "welcome",
        "version": VERSION,
        "broker": told.broker,
        "time": told.time,
        "ready": told.ready_seconds,
        "heartbeat": told.heartbeat_seconds,
    }


def grant(given: Grant) -> Message:
    """Give a slot."""
    message: Message = {"type": "grant", "id": given.id, "replica": given.replica, "time": given.time}
    if given.endpoint is not None:
        message["endpoint"] = endpoint_to_wire(given.endpoint)
    if given.is_told:
        message["tell"] = True
    return message


def refuse(ask_id: int, error: BalancerError | InvalidAsk) -> Message:
    """Say why an ask gets nothing."""
    text = str(error)[:MOST_SAID]
    message: Message = {"type": "refuse", "id": ask_id, "reason": _reason_of(error), "message": text}
    if isinstance(error, QueueTimeout):
        message["waited"] = error.waited_seconds
    if isinstance(error, CannotMeetDeadline):
        message["expected"] = error.expected_seconds
    return message


def returned(ask_id: int) -> Message:
    """Say that a grant was not started in time and has gone to somebody else."""
    return {"type": "returned", "id": ask_id}


def pulse(time: float) -> Message:
    """Say that the broker lives."""
    return {"type": "heartbeat", "time": time}


def bye(said: Bye) -> Message:
    """Take leave."""
    return {"type": "bye", "reason": said.reason, "message": said.message[:MOST_SAID], "url": said.url}


def read_welcome(message: Message) -> Welcome:
    """Read it. Raises ``BadFrame``."""
    return Welcome(
        broker=_text(message, "broker", ""),
        time=_seconds(message, "time"),
        ready_seconds=max(0.0, _seconds(message, "ready", 0.0)),
        heartbeat_seconds=min(
            max(SHORTEST_BEAT_SECONDS, _seconds(message, "heartbeat", HEARTBEAT_SECONDS)), LONGEST_BEAT_SECONDS
        ),
    )


def read_grant(message: Message) -> Grant:
    """Read it. Raises ``BadFrame``."""
    endpoint = message.get("endpoint")
    return Grant(
        id=_count(message, "id"),
        replica=_text(message, "replica"),
        time=_seconds(message, "time"),
        endpoint=None if endpoint is None else _endpoint(endpoint),
        is_told=message.get("tell") is True,
    )


def read_refuse(message: Message, service: str) -> tuple[int, BalancerError]:
    """Read whom it is about, and the error that its caller gets. Raises ``BadFrame``."""
    reason, text = _text(message, "reason"), str(message.get("message", ""))
    waited, expected = _seconds(message, "waited", 0.0), _seconds(message, "expected", 0.0)
    error: BalancerError
    match reason:
        case "deadline":
            error = CannotMeetDeadline(text, waited, expected)
        case "timeout":
            error = QueueTimeout(text, waited)
        case "no_endpoints":
            error = NoEndpoints(service, text)
        case _:
            error = _PLAIN.get(reason, BalancerError)(text)
    return _count(message, "id"), error


def read_pulse(message: Message) -> float:
    """Return the broker's time. Raises ``BadFrame``."""
    return _seconds(message, "time")


def read_bye(message: Message) -> Bye:
    """Read it. Raises ``BadFrame``."""
    return Bye(_text(message, "reason"), str(message.get("message", "")), str(message.get("url", "")))


_PLAIN: Mapping[str, type[BalancerError]] = {
    "queue_full": QueueFull,
    "never_fits": NeverFits,
    "cancelled": QueueCancelled,
}
_REASONS: Sequence[tuple[type[Exception], str]] = (
    (InvalidAsk, "invalid"),
    (CannotMeetDeadline, "deadline"),
    (QueueTimeout, "timeout"),
    (NoEndpoints, "no_endpoints"),
    *((kind, reason) for reason, kind in _PLAIN.items()),
)


def _reason_of(error: Exception) -> str:
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "closed")


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _said(said: Ask, now: float) -> Message:
    """Return what a request says of itself, without what it does not say."""
    message: Message = {}
    if said.features is not None:
        message["features"] = dict(said.features)
    if said.demands:
        message["demands"] = dict(said.demands)
    if said.priority:
        message["priority"] = said.priority
    if said.tenant:
        message["tenant"] = said.tenant
    if said.affinity:
        message["affinity"] = said.affinity
    if said.answer_by < math.inf:
        message["deadline"] = said.answer_by - now
    return message


def _read_said(message: Message, now: float) -> Ask:
    return ask_from(message, now)


def _held(value: Any) -> Held:
    if not isinstance(value, dict):
        raise BadFrame("hold: a lease is no object")
    try:
        said = _read_said(value, 0.0)
    except InvalidAsk as error:
        raise BadFrame(f"hold: {error}") from error
    return Held(
        id=_count(value, "id"),
        endpoint=_endpoint(value.get("endpoint")),
        ask=said,
        seconds=_lasted(value, "seconds"),
    )


def _endpoint(value: Any) -> Endpoint:
    try:
        return endpoint_from_wire(value)
    except (InvalidSpec, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFrame(f"not an endpoint: {error!r}") from error


def _text(message: Message, name: str, default: str | None = None) -> str:
    value = message.get(name, default)
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        shown = "" if name in _SECRET else f" {_shown(value)}"
        raise BadFrame(f"{message.get('type', 'held')}: {name}{shown} is no text of at most {MOST_TEXT}")
    return value


def _count(message: Message, name: str) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise BadFrame(f"{message.get('type', 'held')}: {name} {_shown(value)} is no whole number from 0")
    return value


def _seconds(message: Message, name: str, default: float | None = None) -> float:
    value = message.get(name, default)
    if value is None or not _is_number(value):
        raise BadFrame(f"{message.get('type', 'held')}: {name} {_shown(value)} is no number of seconds")
    return float(value)


def _lasted(message: Message, name: str) -> float:
    return min(max(0.0, _seconds(message, name, 0.0)), LONGEST_SECONDS)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
