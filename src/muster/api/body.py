"""Request bodies as AutoDL's clients send them, turned into what the routes declare.

In: the raw bytes of a request to a route that declares a body. Out: the same request with a body that is one JSON
object, or ``InvalidSpec``. Clients send no body at all where every field is optional, and often no content type; both
are made good here. Nothing that later code could choke on comes through: no NaN or infinity, no integers of a
thousand digits, no nesting without end, no lone surrogates or NUL characters (neither a database nor a process
environment holds them), and never more than ``MAX_BODY_BYTES``.

This is a route class and not a middleware because only routes with a body need it.
"""

import json
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope

from muster.errors import InvalidSpec

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 64
"""Objects and lists within each other: ours have four, and Python's JSON parser counts on a stack that others share."""
_DISCARDED_BYTES = 64 << 20
"""How much of a body that is too large is read to its end: who is cut off while sending never sees the answer."""


class ObjectBodyRoute(APIRoute):
    """A route whose declared body arrives as one strict JSON object."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_object(request: Request) -> Response:
            raw = await _read(request)
            check_object(raw)
            return await handle(Request(_as_json(request.scope), _replay(raw or b"{}", request.receive)))

        return handle_object


def check_object(raw: bytes) -> None:
    """Raise ``InvalidSpec`` unless ``raw`` is empty or one JSON object that can be stored."""
    if not raw:
        return
    try:
        value = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise InvalidSpec("body", "is nested too deeply") from error
    except ValueError as error:  # not JSON, not UTF-8, or an integer of thousands of digits
        raise InvalidSpec("body", f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidSpec("body", "must be a JSON object")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _refuse_depth(value)
    lowered = raw.lower()
    if b"\\u0000" in lowered or b"\\ud" in lowered:
        _refuse_unstorable(value)


async def _read(request: Request) -> bytes:
    chunks, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MAX_BODY_BYTES:
            chunks += chunk
        elif size > _DISCARDED_BYTES:
            break
    if size > MAX_BODY_BYTES:
        raise InvalidSpec("body", f"must not be larger than {MAX_BODY_BYTES} bytes")
    return bytes(chunks).strip()


def _as_json(scope: Scope) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}


def _replay(raw: bytes, receive: Receive) -> Receive:
    unread: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def replay() -> Message:
        return unread.pop() if unread else await receive()

    return replay


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _refuse_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _members(each)]
        if not level:
            return
    raise InvalidSpec("body", f"is nested more deeply than {MAX_DEPTH} levels")


def _members(value: object) -> Iterable[object]:
    """Return what is directly within a value and may hold more."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (each for each in inside if isinstance(each, dict | list))


def _refuse_unstorable(value: object) -> None:
    """Look through a value without recursion; its depth was already survived by the parser."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            pending += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            pending += each
        elif isinstance(each, str) and ("\0" in each or not each.isascii()):
            _refuse_text(each)


def _refuse_text(text: str) -> None:
    if "\0" in text:
        raise InvalidSpec("body", "holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidSpec("body", "holds half of a surrogate pair") from error
