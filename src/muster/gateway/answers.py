"""What the gateway answers by itself, as values and as bytes.

Which status for which reason. *503*: nothing was sent to a replica, so anybody may send it again, after
``Retry-After``. *502*: it was, or may have been. *504*: its deadline passed after it was sent. *429* is for the limits
of an API key, which the reception decides: a full queue is nobody's own doing. *4xx* else: the request has to change.

    queue_full       503  as many requests wait as may
    queue_timeout    503  no replica was free in the time that the request may wait
    deadline         503  the answer would come too late; 504 where it was sent and none came by then
    no_replica       503  the service is unknown to the registry, or nobody serves it
    unreachable      503  no replica could be connected to
    cancelled        503  an operator took it out of the queue
    closing          503  the gateway ends
    too_many_bodies  503  as many bodies are held to be asked where they go as may
    body_not_kept    503  refused by a replica, and too large to be sent to another one; 502 where a replica broke
    never_fits       422  it demands more than any replica has
    invalid          400  what it says to the balancer makes no sense
    body_too_large   413
    body_timeout     408  next to nothing came of a body that is not all here
    replica_broke    502  the replica closed the connection before it answered
    garbled          502  what it answered is not clearly HTTP/1.1
    not_http         502  the service speaks raw TCP
"""

import json
import math
import time
from email.utils import formatdate
from http import HTTPStatus

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
from muster.gateway.port import Answer, Refused, Told, UnknownService

RETRY_SECONDS = 1.0
"""A queue that was full may have room again, and a set that was empty may not be, in about this time."""
LONGEST_RETRY_SECONDS = 60.0


def overloaded(error: BalancerError) -> Refused:
    """Say why the balancer gave no replica."""
    if isinstance(error, QueueFull):
        return _again(503, "queue_full", str(error))
    if isinstance(error, CannotMeetDeadline):
        return _again(503, "deadline", str(error), error.expected_seconds)
    if isinstance(error, QueueTimeout):
        return _again(503, "queue_timeout", str(error))
    if isinstance(error, UnknownService):
        return Refused(404, "unknown_service", str(error))
    if isinstance(error, NoEndpoints):
        return _again(503, "no_replica", str(error))
    if isinstance(error, NeverFits):
        return Refused(422, "never_fits", str(error))
    if isinstance(error, QueueCancelled):
        return _again(503, "cancelled", str(error))
    return _again(503, "closing", str(error))


def unreachable(error: QueueTimeout, sends: int, detail: str) -> Refused:
    """Say that no replica could be connected to."""
    return _again(503, "unreachable", f"{error}; {sends} attempts did not connect, the last: {detail}")


def refused_until(error: QueueTimeout, sends: int, refusal: str) -> Refused:
    """Say that every replica's ingress refused for as long as the request may wait."""
    return _again(503, "queue_timeout", f"{error}; it was sent {sends} times and refused, the last time: {refusal}")


def invalid(error: InvalidAsk) -> Refused:
    """Say what is wrong with what a request tells the balancer."""
    return Refused(400, "invalid", str(error))


def too_late() -> Refused:
    """Say that a request was sent, and that no answer came before its deadline."""
    return Refused(504, "deadline", "its deadline passed before the replica answered: give more time, or ask for less")


def not_kept(replica: str, refusal: str, kept_bytes: int) -> Refused:
    """Say that a replica refused a request which cannot be sent to another."""
    return _again(
        503,
        "body_not_kept",
        f"replica {replica} refused it ({refusal}), and its body is larger than the {kept_bytes} bytes that are kept to"
        " be sent to another: send it again",
    )


def broke(replica: str, detail: str, *, kept_bytes: int | None = None) -> Refused:
    """Say that a replica broke off; ``kept_bytes`` where that was too little for it to go to another."""
    error = f"replica {replica} broke off before it answered: {detail}"
    if kept_bytes is None:
        return Refused(502, "replica_broke", error)
    error += f"; its body is larger than the {kept_bytes} bytes that are kept to be sent to another"
    return Refused(502, "body_not_kept", error)


def garbled(replica: str, detail: str) -> Refused:
    """Say that a replica does not speak HTTP."""
    return Refused(502, "garbled", f"replica {replica}'s answer is not clearly HTTP/1.1: {detail}")


def not_http(replica: str) -> Refused:
    """Say that a service is not for a gateway of HTTP."""
    return Refused(502, "not_http", f"replica {replica} speaks raw TCP, not HTTP: connect to its address yourself")


def too_large(most_bytes: int) -> Refused:
    """Say that a body is larger than its route allows."""
    return Refused(413, "body_too_large", f"the body is larger than {most_bytes} bytes")


def too_many_bodies() -> Refused:
    """Say that a body cannot be held which would say for whom it is."""
    error = (
        "this gateway holds as many bodies as it may, which say where they go: try again, or name the service by path"
    )
    return _again(503, "too_many_bodies", error)


def body_timeout(seconds: float) -> Refused:
    """Say that a client stopped in the middle of its body."""
    return Refused(408, "body_timeout", f"less than 1 KB came of the rest of the body in {seconds:g} s")


def not_understood(status: int, error: str) -> Refused:
    """Say what is wrong with a message."""
    lines = (
        b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else b""
    )
    return Refused(status, HTTPStatus(status).name.lower(), error, lines=lines)


def answer_bytes(answer: Answer, *, connection: bytes, is_head: bool = False) -> bytes:
    """Return an answer as it is sent; ``connection`` is the line on the connection."""
    body = answer.body if isinstance(answer, Told) else _envelope(answer)
    again = answer.retry_after_seconds
    return b"".join(
        [
            b"HTTP/1.1 %d %b\r\n" % (answer.status, HTTPStatus(answer.status).phrase.encode()),
            b"Date: %b\r\nContent-Type: application/json\r\n" % formatdate(time.time(), usegmt=True).encode(),
            b"Content-Length: %d\r\n" % len(body),
            b"" if again is None else b"Retry-After: %d\r\n" % max(1, math.ceil(again)),
            answer.lines,
            connection,
            b"\r\n",
            b"" if is_head else body,
        ]
    )


def _envelope(answer: Refused) -> bytes:
    said = {"message": answer.error, "type": "muster_gateway", "code": answer.reason}  # as OpenAI's clients read it
    return json.dumps({"error": said, "reason": answer.reason}).encode() + b"\n"


def _again(status: int, reason: str, error: str, seconds: float = RETRY_SECONDS) -> Refused:
    seconds = min(max(seconds, RETRY_SECONDS), LONGEST_RETRY_SECONDS)
    return Refused(status, reason, error, retry_after_seconds=seconds)


def connection_line(*, is_last: bool, is_http_10: bool) -> bytes:
    """Return the field that says whether another request may follow, if it has to be said."""
    if is_last:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if is_http_10 else b""
