"""One kept-alive connection to a replica: sends requests one after another, reads each answer as it comes.

In: requests, already written. Out: what the replica answers, to a ``User``: heads, payload, the end, or what broke it.
It decides nothing; whose it is and when it ends is up to ``pools.py`` and ``forward.py``.

A head and what came of its body with it are handed over before ``flush``, so that both go to the client in one write,
and so that bytes which turn out to be no HTTP have not been passed on as half an answer.
"""

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from muster.gateway.port import Limits
from muster.gateway.sockets import keep_alive
from muster.http1.bodies import CloseReader, ResponseBody
from muster.http1.head_parser import BadMessage, HeadParser
from muster.http1.response_head import SWITCHING, ResponseHead, read_response

if TYPE_CHECKING:
    from muster.balancer.waiting import Gate

HIGH_WATER_BYTES = 64 * 1024
"""A transport that holds more than this asks the other side to pause."""


class User(Protocol):
    """Whose request is on a connection."""

    method: bytes

    def interim(self, head: ResponseHead) -> None:
        """Take a head that another one follows."""

    def begun(self, head: ResponseHead) -> None:
        """Take the head of the answer."""

    def switched(self, head: ResponseHead) -> None:
        """Take that raw bytes follow. Raises ``BadMessage`` if nobody asked for that."""

    def payload(self, pieces: list[bytes], body: ResponseBody) -> None:
        """Take some of the body, which is over if ``body.is_over``."""

    def raw(self, data: bytes) -> None:
        """Take raw bytes."""

    def flush(self) -> None:
        """Pass on what was taken: all of it is well-formed."""

    def over(self) -> None:
        """Take that the answer is complete; the connection is no longer used for it."""

    def garbled(self, detail: str) -> None:
        """Take that what comes is no HTTP, and let go of the connection."""

    def ended(self) -> bool:
        """Take that no more raw bytes will come; tell whether the other direction goes on."""

    def lost(self, exc: Exception | None) -> None:
        """Take that the connection has ended before the answer did."""

    def regulate(self) -> None:
        """Look at ``is_paused``."""


class Keeper(Protocol):
    """Where a connection goes that is free for the next request."""

    def keep(self, link: "Link") -> None:
        """Keep it."""

    def forget(self, link: "Link") -> None:
        """Keep it no longer: it has ended."""


class Link(asyncio.Protocol):
    """One connection to a replica. ``is_heard``: a byte of the answer under way has come."""

    __slots__ = (
        "_body",
        "_heads",
        "_is_persistent",
        "_is_raw",
        "_keeper",
        "_most_trailer_bytes",
        "_transport",
        "_user",
        "gate",
        "has_ended",
        "idle_since",
        "is_heard",
        "is_paused",
        "is_reused",
        "url",
    )

    _transport: asyncio.Transport

    def __init__(self, keeper: Keeper, gate: "Gate", url: str, limits: Limits) -> None:
        self.gate = gate
        self.url = url
        self.is_paused = False
        self.is_reused = False
        self.is_heard = False
        self.has_ended = False
        self.idle_since = 0.0
        self._keeper = keeper
        self._heads = HeadParser(is_request=False, most_bytes=limits.head_bytes, most_fields=limits.head_fields)
        self._most_trailer_bytes = limits.head_bytes
        self._user: User | None = None
        self._body: ResponseBody | None = None
        self._is_persistent = True
        self._is_raw = False

    @property
    def is_closing(self) -> bool:
        """Whether it takes nothing any more."""
        return self.has_ended or self._transport.is_closing()

    def begin(self, user: User, request: list[bytes]) -> None:
        """Send a request's head, and what there is of its body, in one write."""
        self._user = user
        self.is_heard = False
        self._transport.write(request[0] if len(request) == 1 else b"".join(request))

    def send(self, pieces: list[bytes]) -> None:
        """Send more, unless it has just ended."""
        if self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif pieces:
            self._transport.writelines(pieces)

    def send_end(self) -> None:
        """Send that nothing more comes, where that can be said."""
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        """Take no more from the replica."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the replica again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def release(self, *, is_whole: bool, now: float) -> None:
        """Be free for the next request, if that can be; ``is_whole``: all of the last one was sent."""
        if self._user is not None or not is_whole or not self._is_persistent or self.is_closing:
            self.abort()
            return
        self.is_reused = True
        self.idle_since = now
        self.resume_reading()
        self._keeper.keep(self)

    def close(self) -> None:
        """End the connection once everything written is sent; nothing is heard of it any more."""
        self._user = None
        self._heads.close()
        self._transport.close()

    def abort(self) -> None:
        """End the connection now; nothing is heard of it any more."""
        self._user = None
        self._heads.close()
        self._transport.abort()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are not of its class
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        keep_alive(transport)  # or a request would wait for ever for a replica whose host has vanished

    def data_received(self, data: bytes) -> None:
        """Read what the replica sends and hand it on."""
        user = self._user
        if user is None:  # Nobody asked: whatever it is, it must not be taken for the next answer.
            self._is_persistent = False
            self._keeper.forget(self)
            self.abort()
            return
        self.is_heard = True
        if self._is_raw:
            user.raw(data)
            return
        try:
            is_over = self._read(user, data)
        except BadMessage as error:
            user.garbled(error.message)
            return
        user.flush()
        if is_over and self._user is user:
            self._body = None
            self._user = None
            user.over()

    def eof_received(self) -> bool:
        """Keep the connection half open if it is one of raw bytes."""
        self.has_ended = True
        if self._user is None:
            self._keeper.forget(self)
        return self._user is not None and self._is_raw and self._user.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say what that means for the request."""
        self._heads.close()
        user, self._user = self._user, None
        body, self._body = self._body, None
        self._is_persistent = False
        if user is None:
            self._keeper.forget(self)
        elif exc is None and isinstance(body, CloseReader):
            body.is_over = True
            user.payload([], body)
            user.flush()
            user.over()
        else:
            user.lost(exc)

    def pause_writing(self) -> None:
        """Have no more sent for now."""
        self.is_paused = True
        if self._user is not None:
            self._user.regulate()

    def resume_writing(self) -> None:
        """Have more sent."""
        self.is_paused = False
        if self._user is not None:
            self._user.regulate()

    # Reading an answer.

    def _read(self, user: User, data: bytes) -> bool:
        """Hand on what ``data`` holds; tell whether the answer is over."""
        while self._body is None:
            end = self._heads.feed(data)
            if end < 0:
                return False
            head = read_response(self._heads.start_line, self._heads.fields, user.method, self._most_trailer_bytes)
            data = b"" if end == len(data) else data[end:]
            if head.status == SWITCHING:
                user.switched(head)
                self._is_raw = True
                self._is_persistent = False
                if data:
                    user.raw(data)
                return False
            if head.is_interim:
                user.interim(head)
                if not data or self._user is not user:
                    return False
                continue
            self._is_persistent = head.is_persistent
            user.begun(head)
            if head.body is None:
                self._is_persistent = self._is_persistent and not data
                return True
            self._body = head.body
        if not data:
            return False
        body = self._body
        pieces: list[bytes] = []
        used = body.take(data, pieces)
        user.payload(pieces, body)
        if body.is_over and used < len(data):  # It has said more than it was asked for.
            self._is_persistent = False
        return body.is_over
