"""What a broker says to its clients: builders for the broker, checked readers for the client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from muster.broker.protocol import (
    HEARTBEAT_SECONDS,
    LONGEST_BEAT_SECONDS,
    MOST_SAID,
    SHORTEST_BEAT_SECONDS,
    VERSION,
    Message,
    read_count,
    read_count_if_told,
    read_endpoint,
    read_seconds,
    read_text,
)
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
from muster.model.endpoint import Endpoint, endpoint_to_wire


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

    ``time`` is when it was given; ``limit`` is how many the broker has found to be good there at once, where the
    replica declares no concurrency; ``is_told`` asks for ``heard``, since others have failed there.
    """

    id: int
    replica: str
    time: float
    endpoint: Endpoint | None = None
    limit: int | None = None
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
    if given.limit is not None:
        message["limit"] = given.limit
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
        broker=read_text(message, "broker", ""),
        time=read_seconds(message, "time"),
        ready_seconds=max(0.0, read_seconds(message, "ready", 0.0)),
        heartbeat_seconds=min(
            max(SHORTEST_BEAT_SECONDS, read_seconds(message, "heartbeat", HEARTBEAT_SECONDS)), LONGEST_BEAT_SECONDS
        ),
    )


def read_grant(message: Message) -> Grant:
    """Read it. Raises ``BadFrame``."""
    endpoint = message.get("endpoint")
    return Grant(
        id=read_count(message, "id"),
        replica=read_text(message, "replica"),
        time=read_seconds(message, "time"),
        endpoint=None if endpoint is None else read_endpoint(endpoint),
        limit=read_count_if_told(message, "limit"),
        is_told=message.get("tell") is True,
    )


def read_refuse(message: Message, service: str) -> tuple[int, BalancerError]:
    """Read whom it is about, and the error that its caller gets. Raises ``BadFrame``."""
    reason, text = read_text(message, "reason"), str(message.get("message", ""))
    waited, expected = read_seconds(message, "waited", 0.0), read_seconds(message, "expected", 0.0)
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
    return read_count(message, "id"), error


def read_pulse(message: Message) -> float:
    """Return the broker's time. Raises ``BadFrame``."""
    return read_seconds(message, "time")


def read_bye(message: Message) -> Bye:
    """Read it. Raises ``BadFrame``."""
    return Bye(read_text(message, "reason"), str(message.get("message", "")), str(message.get("url", "")))


_PLAIN: Mapping[str, type[BalancerError]] = {
    "queue_full": QueueFull,
    "never_fits": NeverFits,
    "cancelled": QueueCancelled,
}
REASONS: Sequence[tuple[type[Exception], str]] = (
    (InvalidAsk, "invalid"),
    (CannotMeetDeadline, "deadline"),
    (QueueTimeout, "timeout"),
    (NoEndpoints, "no_endpoints"),
    *((kind, reason) for reason, kind in _PLAIN.items()),
)


def _reason_of(error: Exception) -> str:
    return next((reason for kind, reason in REASONS if isinstance(error, kind)), "closed")
