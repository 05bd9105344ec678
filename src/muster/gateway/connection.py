"""The side of the client: one connection, its requests one after another, and what becomes of each.

    nothing ▸ a head ▸ reception ─┬─ refused ▸ an answer of our own
                                  ├─ needs the body ▸ held ▸ reception again
                                  └─ let in ▸ Forward ▸ its answer, or one of our own ▸ the next head

What is decided about a request is in ``visit.py``; here is what comes and goes over its connection.

Bytes that cannot be used yet (a pipelined request; a body before there is a connection to a replica) are held, and when
they are many the client is no longer read. A client that goes away takes its request along at once. An answer that
breaks off in the middle breaks off here too, by a reset, so that nobody takes half an answer for all.

There is one timer for a connection. It is not set anew for every request but looks, when it fires, how things stand.
"""

import asyncio
from enum import Enum
from http import HTTPStatus
from typing import cast

from muster.gateway import answers
from muster.gateway.forward import Forward
from muster.gateway.port import Answer, NeedsBody, Passage, Refused
from muster.gateway.shared import Shared
from muster.gateway.sockets import bound_untaken, break_off, has_gone, keep_alive
from muster.gateway.upstream import HIGH_WATER_BYTES
from muster.gateway.visit import Visit
from muster.http1.bodies import LengthReader
from muster.http1.head_parser import BadMessage, HeadParser
from muster.http1.request_head import read_request

_MOST_HELD_BYTES = 64 * 1024
_MOST_AT_ONCE = 16
"""Heads of one client, before others have their turn: thousands fit into what is read at once."""
_MOST_DISCARDED_BYTES = 64 * 1024
"""A body up to this is read and thrown away, to keep the connection of a request that was refused."""
_SLOWEST_BYTES = 1024
"""Of a body in ``body_seconds``: who sends less would hold a replica's slot for next to nothing."""
_JOINED_BYTES = 16 * 1024
"""Up to this, copying pieces into one costs less than a TLS record for each."""
_LOOK_SECONDS = 1.0
"""A client that is not read, since its body has nowhere to go for now, is looked at this often: has it gone?"""


class _Phase(Enum):
    IDLE = "between requests"
    HEAD = "amid a head"
    VISIT = "a request is under way, or its answer"
    DISCARD = "the body of a request that was answered without it; then the next request"
    LINGER = "answered for the last time; whatever comes is thrown away"
    OVER = "closed"


class Connection(asyncio.Protocol):
    """One client's connection. ``peer`` is its address, ``about`` what replicas are told of it."""

    __slots__ = (
        "_byte_at",
        "_discarded",
        "_due_at",
        "_forward",
        "_has_ended",
        "_heads",
        "_held",
        "_is_reading",
        "_is_resting",
        "_is_writable",
        "_paced_bytes",
        "_phase",
        "_shared",
        "_timer",
        "_transport",
        "_visit",
        "about",
        "peer",
    )

    _transport: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        limits = shared.hall.limits
        self.peer = b""
        self.about = b""
        self._shared = shared
        self._phase = _Phase.IDLE
        self._heads = HeadParser(is_request=True, most_bytes=limits.head_bytes, most_fields=limits.head_fields)
        self._held = b""
        self._visit: Visit | None = None
        """The request that is not over."""
        self._forward: Forward | None = None
        self._byte_at = 0.0
        self._paced_bytes = 0
        """Of a body, since ``_byte_at``."""
        self._discarded: LengthReader | None = None
        """What is left of a body that nobody wants, if its end is known."""
        self._is_reading = True
        self._is_resting = False
        """Whether it goes on with what is held after the others' turn."""
        self._is_writable = True
        self._has_ended = False
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it may be closed without breaking anything off."""
        return self._phase in {_Phase.IDLE, _Phase.OVER}

    @property
    def has_request(self) -> bool:
        """Whether a request is under way."""
        return self._visit is not None

    @property
    def is_leaving(self) -> bool:
        """Whether the answer that is under way is the last one."""
        return self._shared.hall.is_leaving

    def close(self) -> None:
        """Close the connection, once what was written is sent."""
        self._phase = _Phase.OVER
        self._transport.close()

    def abort(self) -> None:
        """Break the connection off so that it cannot be taken for its proper end."""
        self._phase = _Phase.OVER
        break_off(self._transport)

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who it is, and wait for a request."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are not of its class
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.peer = peer[0].removeprefix("::ffff:").encode() if isinstance(peer, tuple) else b"unknown"
        scheme = b"http" if transport.get_extra_info("sslcontext") is None else b"https"
        self.about = b"X-Forwarded-Proto: %b\r\n" % scheme
        if isinstance(here, tuple):
            self.about += b"X-Forwarded-Port: %d\r\n" % here[1]
        limits = self._shared.hall.limits
        keep_alive(transport)
        bound_untaken(transport, limits.body_seconds)
        self._shared.guests.connections.add(self)
        self._expect_within(limits.idle_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        if self._held:
            data, self._held = self._held + data, b""
        self._take(data)

    def eof_received(self) -> bool:
        """Take the end of what a client sends for its end, but for raw bytes, which can end one way only."""
        self._has_ended = True
        forward = self._forward
        if forward is not None and forward.is_spliced:
            # TLS connections are closed by the loop whatever is said here.
            return forward.send_end() and self._transport.can_write_eof()
        if forward is not None and not forward.is_over:
            self._forward = None
            forward.gone(None)
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that was for this client."""
        self._phase = _Phase.OVER
        self._shared.guests.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        forward, self._forward = self._forward, None
        if forward is not None:
            forward.gone(exc)
        elif self._visit is not None:
            self._visit.over(0, "client_gone")
        self._visit = None
        self._heads.close()
        self._held = b""

    def pause_writing(self) -> None:
        """Take no more from the replica than the client takes."""
        self._is_writable = False
        if self._forward is not None:
            self._forward.pause()

    def resume_writing(self) -> None:
        """Go on where the client did not take any more."""
        self._is_writable = True
        if self._forward is not None:
            self._forward.resume()
        else:
            self._next()

    # Called by the request under way.

    def write(self, pieces: list[bytes]) -> None:
        """Send to the client, if it is still there: it may have gone in this very turn of the loop."""
        if self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif sum(map(len, pieces)) <= _JOINED_BYTES:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def send_end(self) -> bool:
        """Send that no more raw bytes come; tell whether the client can still send."""
        if self._has_ended or self._transport.is_closing() or not self._transport.can_write_eof():
            return False
        self._transport.write_eof()
        return True

    def take_more(self) -> None:
        """Take what is held: there is somewhere for it to go."""
        self.note_body()
        if self._held:
            data, self._held = self._held, b""
            self._take(data)
        self.regulate()

    def note_body(self) -> None:
        """Begin to count how long next to nothing comes of a body."""
        self._byte_at = self._shared.loop.time()
        self._paced_bytes = 0

    def regulate(self) -> None:
        """Read from the client only what has somewhere to go."""
        is_full = len(self._held) >= _MOST_HELD_BYTES
        is_stuck = self._forward is not None and self._forward.is_stuck
        if self._is_reading == (is_full or is_stuck) and not self._transport.is_closing():
            self._is_reading = not self._is_reading
            self.note_body()
            if self._is_unseen:
                self._expect_within(_LOOK_SECONDS)
            (self._transport.resume_reading if self._is_reading else self._transport.pause_reading)()

    def settled(self, forward: Forward, answer: Refused | None) -> None:
        """Go on when a request is over: with ``answer`` if it has none yet."""
        visit = forward.visit
        visit.over(visit.record.status, visit.record.reason)
        if self._forward is not forward:
            return  # the client has gone
        self._forward = self._visit = None
        if answer is not None:
            self._say(visit, answer)
        elif forward.is_reset:
            self.abort()
        elif forward.is_last:
            self._end(is_whole=visit.upload.is_complete)
        else:
            self._wait()
        self._next()

    # Taking what the client sends.

    def _next(self) -> None:
        """Take the next request, if it is here and the client has taken the last answer."""
        if self._held:
            data, self._held = self._held, b""
            self._take(data)
        self.regulate()
        if self.is_leaving and self._phase is _Phase.IDLE:  # since before it could be told
            self.close()

    def _go_on(self) -> None:
        self._is_resting = False
        self._next()

    def _take(self, data: bytes) -> None:
        heads = 0
        while data:
            phase, visit = self._phase, self._visit
            if phase is _Phase.OVER:
                return
            if visit is not None:
                used = self._take_body(visit, data)
                if used == 0:
                    break
                data = data[used:]
            elif phase is _Phase.IDLE or phase is _Phase.HEAD:
                if not self._is_writable:  # It sends requests, but does not take the answers.
                    break
                if heads == _MOST_AT_ONCE:
                    if not self._is_resting:
                        self._is_resting = True
                        self._shared.loop.call_soon(self._go_on)
                    break
                heads += 1
                data = self._take_head(data)
            else:
                data = self._discard(data)
        if data:
            self._held = data
            self.regulate()

    def _take_head(self, data: bytes) -> bytes:
        if self._phase is _Phase.IDLE and data.startswith(b"\r\n"):
            data = data[2:]  # Old clients send one after a body: RFC 9112, 2.2.
        try:
            end = self._heads.feed(data)
            if end < 0:
                if self._phase is _Phase.IDLE and data:
                    self._phase = _Phase.HEAD
                    self._expect_within(self._shared.hall.limits.head_seconds)
                return b""
            head = read_request(self._heads.start_line, self._heads.fields)
        except BadMessage as error:
            self._give_up(answers.not_understood(error.status, error.message))
            return b""
        self._phase = _Phase.VISIT
        self._visit = visit = Visit(self._shared, head, self.peer.decode("latin-1"))
        self._ask(visit)
        return data[end:]

    def _take_body(self, visit: Visit, data: bytes) -> int:
        """Take some of the body, or raw bytes; return how much could be used."""
        forward, upload = self._forward, visit.upload
        if forward is not None and forward.is_spliced:
            forward.send([data])
            return len(data)
        if upload.reader is None:
            return 0
        is_sinking = forward is not None and forward.is_sinking
        if forward is not None and not is_sinking:
            room = min(_MOST_HELD_BYTES, upload.most_kept_bytes) - upload.kept_bytes
            if room <= 0:
                return 0
            data = data[:room]
        try:
            used, pieces = upload.take(data)
        except BadMessage as error:
            self._stop(visit, answers.not_understood(error.status, error.message))
            return len(data)
        self._paced_bytes += used
        if self._paced_bytes >= _SLOWEST_BYTES:
            self.note_body()
        if forward is None:
            if (refused := visit.held(used)) is not None:
                self._refuse(visit, refused)
            elif upload.is_complete:
                self._ask(visit)
        elif upload.is_too_large:
            forward.stop(answers.too_large(upload.most_bytes or 0))
        elif is_sinking:
            forward.send(pieces)
        return used

    def _discard(self, data: bytes) -> bytes:
        if self._discarded is None:  # Where it ends is not known; the timer does it.
            return b""
        used = self._discarded.take(data, [])
        if self._discarded.is_over:
            self._discarded = None
            if self._phase is _Phase.LINGER:
                self.close()
            else:
                self._wait()
        return data[used:]

    # What becomes of a request.

    def _ask(self, visit: Visit) -> None:
        decision = visit.ask()
        if isinstance(decision, Passage):
            self._send_on(visit, decision)
        elif isinstance(decision, NeedsBody):
            self._hold(visit)
        else:
            self._refuse(visit, decision)

    def _hold(self, visit: Visit) -> None:
        """Hold the body, until it is all here."""
        if visit.head.expects_continue:
            visit.is_continued = True
            self.write([b"HTTP/1.1 100 Continue\r\n\r\n"])
        self.note_body()
        self._expect_within(self._shared.hall.limits.body_seconds)

    def _send_on(self, visit: Visit, passage: Passage) -> None:
        self._forward = Forward(self, self._shared, visit, passage)
        if not visit.upload.is_complete:
            self._expect_within(self._shared.hall.limits.body_seconds)

    def _refuse(self, visit: Visit, answer: Answer) -> None:
        """Answer a request that was not let in."""
        self._visit = None
        visit.over(answer.status, answer.reason)
        self._say(visit, answer)

    def _stop(self, visit: Visit, answer: Refused) -> None:
        """End a request in the middle of its body."""
        if self._forward is not None:
            self._forward.stop(answer)
        else:
            self._refuse(visit, answer)

    # Answers of our own.

    def _say(self, visit: Visit, answer: Answer) -> None:
        """Answer, and go on to the next request if what is left of this one is little."""
        head, body = visit.head, visit.upload.reader
        is_short = body is None or (isinstance(body, LengthReader) and body.left <= _MOST_DISCARDED_BYTES)
        # Who expects to be told to continue may send the body now or never: nobody could tell what comes next.
        is_last = (
            self.is_leaving
            or answer.status == HTTPStatus.REQUEST_TIMEOUT
            or not (head.is_persistent and is_short)
            or (head.expects_continue and body is not None)
        )
        connection = answers.connection_line(is_last=is_last, is_http_10=head.is_http_10)
        self.write([answers.answer_bytes(answer, connection=connection, is_head=head.method == b"HEAD")])
        self._discarded = body if isinstance(body, LengthReader) else None
        if is_last:
            self._end(is_whole=body is None)
        elif body is not None:
            self._phase = _Phase.DISCARD
            self._due_at = self._shared.loop.time() + self._shared.hall.limits.idle_seconds
        else:
            self._wait()

    def _give_up(self, answer: Refused) -> None:
        """Answer a client that is not understood: where its next request would begin, nobody knows."""
        connection = answers.connection_line(is_last=True, is_http_10=False)
        self.write([answers.answer_bytes(answer, connection=connection)])
        self._discarded = None
        self._end(is_whole=False)

    # The end of a request, and of the connection.

    def _wait(self) -> None:
        self._phase = _Phase.IDLE
        self._due_at = self._shared.loop.time() + self._shared.hall.limits.idle_seconds

    def _end(self, *, is_whole: bool) -> None:
        """Close after the last answer; if the client may be sending still, not before it could read it."""
        self._held = b""
        if is_whole:
            self.close()
            return
        self._phase = _Phase.LINGER
        self._expect_within(self._shared.hall.limits.linger_seconds)
        self.regulate()

    # The timer.

    def _expect_within(self, seconds: float) -> None:
        self._due_at = self._shared.loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due_at:
            self._set_timer(self._due_at)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._shared.loop.call_at(when, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        if self._phase is _Phase.OVER:
            return
        limits = self._shared.hall.limits
        now = self._shared.loop.time()
        if self._visit is not None:
            self._look_at_body(self._visit, now)
        elif now < self._due_at:
            self._set_timer(min(self._due_at, now + limits.idle_seconds))
        elif self._phase is _Phase.HEAD:
            self._give_up(answers.not_understood(408, f"no whole head within {limits.head_seconds:g} s"))
        else:
            self.close()

    @property
    def _is_unseen(self) -> bool:
        """Whether the loop would not tell that the client goes. Raw bytes may end one way, and are still to be read."""
        return not self._is_reading and self._forward is not None and not self._forward.is_spliced

    def _look_at_body(self, visit: Visit, now: float) -> None:
        """End a request whose body does not come; look again later if it does."""
        limits = self._shared.hall.limits
        forward = self._forward
        if forward is not None and self._is_unseen:
            if has_gone(self._transport):
                self._forward = None
                forward.gone(None)
                self.abort()
            else:
                self._set_timer(now + _LOOK_SECONDS)
            return
        is_awaited = self._is_reading and (forward.awaits_body if forward is not None else True)
        if is_awaited and now >= self._byte_at + limits.body_seconds:
            self._set_timer(now + limits.idle_seconds)  # for whatever comes next
            self._stop(visit, answers.body_timeout(limits.body_seconds))
        else:
            due = self._byte_at + limits.body_seconds if is_awaited else now + limits.idle_seconds
            self._set_timer(due)
