"""What the ingress answers by itself, as values and as bytes.

Three kinds. *Refused*: nothing was sent to the container, so any request may be sent elsewhere (``REFUSED_HEADER``,
``Retry-After``). *Failed*: it was, or may have been, sent (``ERROR_HEADER``). *Not understood*: the client's own
mistake, with neither header. All have the same JSON body, ``{"error": text, "reason": word}``.
"""

import json
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum
from http import HTTPStatus

from muster.model.routes import ERROR_HEADER, LOAD_HEADER, REFUSED_HEADER, Refusal


class Failure(StrEnum):
    """What went wrong behind the ingress: the values of ``ERROR_HEADER``."""

    CLOSED = "closed"
    """The container closed the connection before the head of its response."""
    GARBLED = "garbled"
    """What it sent is not clearly a response of HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the ingress's own. ``lines`` are its fields beside those that every answer has."""

    status: int
    reason: str
    error: str
    lines: bytes = b""


_REFUSED = {
    Refusal.DRAINING: "the container is being stopped and takes no new requests",
    Refusal.OVER_CAPACITY: "the container has as many requests in flight as it was declared to take",
    Refusal.ENDED: "the container has ended",
    Refusal.NOT_STARTED: "the container has not started yet",
    Refusal.UNREACHABLE: "the container could not be connected to: does its command listen on this port?",
}
_FAILED = {
    Failure.CLOSED: "the container closed the connection before it answered",
    Failure.GARBLED: "the container's answer is not clearly HTTP/1.1",
}


def refused(refusal: Refusal, message: str = "") -> Answer:
    """Say that nothing was sent; ``message`` says it better where somebody knows better."""
    lines = f"{REFUSED_HEADER}: {refusal.value}\r\nRetry-After: 1\r\n"
    return Answer(503, refusal.value, message or _REFUSED[refusal], lines.encode())


def failed(failure: Failure, detail: str = "") -> Answer:
    """Say what went wrong after a request was, or may have been, sent."""
    error = f"{_FAILED[failure]}: {detail}" if detail else _FAILED[failure]
    return Answer(502, failure.value, error, f"{ERROR_HEADER}: {failure.value}\r\n".encode())


def not_understood(status: int, error: str) -> Answer:
    """Say what is wrong with a request."""
    lines = (
        b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" if status == HTTPStatus.METHOD_NOT_ALLOWED else b""
    )
    return Answer(status, HTTPStatus(status).name.lower(), error, lines)


UNKNOWN_NAME = not_understood(421, "no container has this name here")


def answer_bytes(answer: Answer, *, connection: bytes, load: bytes = b"", is_head: bool = False) -> bytes:
    """Return an answer as it is sent; ``connection`` is the line on the connection, ``load`` of ``LOAD_HEADER``."""
    body = json.dumps({"error": answer.error, "reason": answer.reason}).encode() + b"\n"
    return b"".join(
        [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n".encode(),
            f"Date: {formatdate(usegmt=True)}\r\nContent-Type: application/json\r\n".encode(),
            b"Content-Length: %d\r\n" % len(body),
            answer.lines,
            f"{LOAD_HEADER}: ".encode() + load + b"\r\n" if load else b"",
            connection,
            b"\r\n",
            b"" if is_head else body,
        ]
    )
