"""The side of the client: one connection, its requests one after another, and what becomes of each.

    nothing ▸ a head ▸ gate.enter ─┬─ refused ▸ an answer of our own
                                   └─ Exchange: connect if need be ▸ head, body ▸ the container ▸ its answer ▸ leave

Bytes that cannot be used yet (the next, pipelined request; a body before there is a connection) are held, and when
they are many the client is no longer read. A client that goes away takes its connection to the container with it. An
answer that breaks off in the middle breaks off here too, by a reset, so that nobody can take half an answer for all.

There is one timer for a connection. It is not set anew for every request but looks, when it fires, how things stand.
"""

import asyncio
import socket
import struct
from enum import Enum
from typing import cast

from muster.http1.bodies import ChunkedReader, LengthReader, RequestBody, chunk, last_chunk
from muster.http1.head_parser import BadMessage, HeadParser
from muster.http1.request_head import RequestHead, forwarded_request, read_request
from muster.ingress.gate import Gate
from muster.ingress.http.answers import UNKNOWN_NAME, Answer, Failure, answer_bytes, failed, not_understood, refused
from muster.ingress.http.backend import HIGH_WATER_BYTES, BackendSide
from muster.ingress.http.exchange import Exchange, connection_line, load_of
from muster.ingress.http.listening import Limits, Listening
from muster.model.container import Address
from muster.model.routes import Refusal, RouteState

_MOST_HELD_BYTES = 64 * 1024
_MOST_AT_ONCE = 16
"""Heads of one client, before others have their turn: thousands fit into what is read at once."""
_MOST_DISCARDED_BYTES = 64 * 1024
"""A body up to this is read and thrown away, to keep the connection of a request that was refused."""
_JOINED_BYTES = 16 * 1024
"""Up to this, copying pieces into one costs less than a TLS record for each."""
_RESET = struct.pack("ii", 1, 0)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
"""A client whose host vanished is noticed after two minutes; until then it counts as in flight."""


class _Phase(Enum):
    IDLE = "between requests"
    HEAD = "amid a head"
    EXCHANGE = "a request is under way, or its answer"
    DISCARD = "the body of a request that was answered without it; then the next request"
    LINGER = "answered for the last time; whatever comes is thrown away"
    OVER = "closed"


class ClientSide(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, listening: Listening, loop: asyncio.AbstractEventLoop) -> None:
        limits = listening.limits
        self.limits: Limits = limits
        self._listening = listening
        self._loop = loop
        self._transport: asyncio.Transport
        self._peer = b""
        self._about = b""
        self._phase = _Phase.IDLE
        self._heads = HeadParser(is_request=True, most_bytes=limits.head_bytes, most_fields=limits.head_fields)
        self._held = b""
        self._exchange: Exchange | None = None
        self._answered: Exchange | None = None
        """The exchange whose answer is complete but not yet taken by the client."""
        self._discarded: LengthReader | None = None
        """What is left of a body that nobody wants, if its end is known."""
        self._backend: BackendSide | None = None
        self._connecting: asyncio.Task[None] | None = None
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
    def is_leaving(self) -> bool:
        """Whether the answer that is under way is the last one."""
        return self._listening.guests.are_leaving

    def close(self) -> None:
        """Close the connection, once what was written is sent."""
        self._phase = _Phase.OVER
        self._transport.close()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who it is, and wait for a request."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are not of its class
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._peer = peer[0].removeprefix("::ffff:").encode() if isinstance(peer, tuple) else b"unknown"
        scheme = b"http" if transport.get_extra_info("sslcontext") is None else b"https"
        self._about = b"X-Forwarded-Proto: %b\r\n" % scheme
        if isinstance(here, tuple):
            self._about += b"X-Forwarded-Port: %d\r\n" % here[1]
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self._listening.guests.connections.add(self)
        self._expect_within(self.limits.idle_seconds)

    def data_received(self, data: bytes) -> None:
        """Take what the client sends."""
        if self._held:
            data, self._held = self._held + data, b""
        self._take(data)

    def eof_received(self) -> bool:
        """Take the end of what a client sends for its end, but for raw bytes, which can end one way only."""
        self._has_ended = True
        exchange, backend = self._exchange, self._backend
        if exchange is not None and exchange.is_spliced and backend is not None:
            backend.send_end()
            # TLS connections are closed by the loop whatever is said here.
            return not backend.has_ended and self._transport.can_write_eof()
        if exchange is not None and self._answered is None:
            self._leave(exchange, is_failed=not exchange.is_heard)
            self._drop_backend()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End everything that was for this client."""
        self._phase = _Phase.OVER
        self._listening.guests.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        exchange, backend = self._exchange, self._backend
        if exchange is not None:
            self._leave(exchange, is_failed=not exchange.is_heard)
        if exchange is not None and exchange.is_spliced and exc is None and backend is not None:
            self._backend = None
            backend.close()  # what the client said last is still to be said
        else:
            self._drop_backend()
        self._heads.close()
        self._held = b""

    def pause_writing(self) -> None:
        """Take no more from the container than the client takes."""
        self._is_writable = False
        if self._backend is not None:
            self._backend.pause_reading()

    def resume_writing(self) -> None:
        """Go on where the client did not take any more."""
        self._is_writable = True
        if self._backend is not None:
            self._backend.resume_reading()
        if self._answered is not None:
            self._finish(self._answered)
        elif self._exchange is None:
            self._take_held()

    # Called by the side of the container.

    def backend_connected(self, backend: BackendSide, exchange: Exchange) -> None:
        """Send the request for which the connection was made, if it is still wanted."""
        if self._exchange is not exchange:
            backend.abort()
            return
        self._backend = backend
        self._begin(exchange, backend)
        self._take_held()

    def deliver(self, pieces: list[bytes]) -> None:
        """Send pieces of an answer to the client."""
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif sum(map(len, pieces)) <= _JOINED_BYTES:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def answer_over(self, exchange: Exchange) -> None:
        """Go on to the next request once the client has taken this answer."""
        if self._is_writable:
            self._finish(exchange)
        else:
            self._answered = exchange

    def splice(self, exchange: Exchange) -> None:
        """From now on pass on raw bytes both ways; what the client sent ahead goes first."""
        exchange.is_spliced = True
        self._loop.call_soon(self._take_held)

    def backend_ended(self) -> bool:
        """Tell a client of raw bytes that no more will come; tell whether it can still send."""
        if self._has_ended or not self._transport.can_write_eof():
            self._transport.close()
            return False
        self._transport.write_eof()
        return True

    def backend_garbled(self, exchange: Exchange, detail: str) -> None:
        """Answer for a container that does not speak HTTP."""
        self._drop_backend()
        self._fail(exchange, failed(Failure.GARBLED, detail))

    def backend_lost(
        self, backend: BackendSide, exchange: Exchange | None, exc: Exception | None, *, is_over: bool
    ) -> None:
        """Judge what the end of the connection to the container means."""
        if self._backend is not backend:
            return
        self._backend = None
        if exchange is None or exchange is self._answered or exchange is not self._exchange:
            return
        if exchange.is_spliced:
            if exc is None:
                self._transport.close()
            else:
                self._leave(exchange, is_failed=True)
                self._reset()
        elif is_over:
            self.answer_over(exchange)
        elif backend.is_reused and not exchange.is_heard and exchange.head.is_repeatable and not exchange.is_repeated:
            exchange.is_repeated = True
            self._send(exchange)
        else:
            self._fail(exchange, failed(Failure.CLOSED))

    def regulate(self) -> None:
        """Read from the client only what has somewhere to go."""
        is_full = len(self._held) >= _MOST_HELD_BYTES
        is_stuck = self._exchange is not None and self._backend is not None and self._backend.is_paused
        if self._is_reading == (is_full or is_stuck) and not self._transport.is_closing():
            self._is_reading = not self._is_reading
            (self._transport.resume_reading if self._is_reading else self._transport.pause_reading)()

    # Taking what the client sends.

    def _take_held(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._take(data)
        self.regulate()

    def _go_on(self) -> None:
        self._is_resting = False
        self._take_held()

    def _take(self, data: bytes) -> None:
        heads = 0
        while data:
            exchange = self._exchange
            if exchange is None:
                if self._phase in {_Phase.DISCARD, _Phase.LINGER}:
                    data = self._discard(data)
                elif self._phase is _Phase.OVER:
                    return
                elif not self._is_writable:  # It sends requests, but does not take the answers.
                    break
                elif heads == _MOST_AT_ONCE:
                    if not self._is_resting:
                        self._is_resting = True
                        self._loop.call_soon(self._go_on)
                    break
                else:
                    heads += 1
                    data = self._take_head(data)
            elif exchange.is_spliced and self._backend is not None:
                self._backend.send([data])
                return
            elif exchange.body is not None and exchange.is_sent:
                data = self._take_body(exchange, exchange.body, data)
            else:
                break
        if data:
            self._held = data
            self.regulate()

    def _take_head(self, data: bytes) -> bytes:
        if self._phase is _Phase.IDLE and data.startswith(b"\r\n"):
            data = data[2:]  # Old clients send one after a body: RFC 9112, 2.2.
        try:
            end = self._heads.feed(data)
            if end < 0:
                if self._phase is _Phase.IDLE:
                    self._phase = _Phase.HEAD
                    self._expect_within(self.limits.head_seconds)
                return b""
            head = read_request(self._heads.start_line, self._heads.fields)
        except BadMessage as error:
            self._give_up(not_understood(error.status, error.message))
            return b""
        self._admit(head)
        return data[end:]

    def _take_body(self, exchange: Exchange, body: RequestBody, data: bytes) -> bytes:
        payload: list[bytes] = []
        try:
            used = body.take(data, payload)
        except BadMessage as error:
            self._drop_backend()
            self._fail(exchange, not_understood(error.status, error.message))
            return b""
        if isinstance(body, ChunkedReader):
            chunk(payload)
            if body.is_over:
                payload.append(last_chunk(body.trailers))
        if body.is_over:
            exchange.body = None
        if payload and self._backend is not None:
            self._backend.send(payload)
        return data[used:]

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

    # A request's life.

    def _admit(self, head: RequestHead) -> None:
        now = self._loop.time()
        found = self._listening.resolve(head.host.decode("ascii"))
        if found is None:
            self._listening.on_answer(None, 0, UNKNOWN_NAME.status, 0.0)
            self._say(UNKNOWN_NAME, head, _body_of(head, self.limits))
            return
        gate, container_port = found
        visit = gate.enter(container_port, now)
        if isinstance(visit, Refusal):
            self._listening.on_answer(gate, container_port, 503, 0.0)
            self._refuse(visit, gate, container_port, head, _body_of(head, self.limits))
            return
        self._phase = _Phase.EXCHANGE
        self._due_at = float("inf")
        exchange = Exchange(head, gate, container_port, visit, _body_of(head, self.limits))
        self._exchange = exchange
        self._send(exchange)

    def _send(self, exchange: Exchange) -> None:
        """Send the head over the kept connection if that is good for it, over a new one if not."""
        exchange.is_sent = False
        port = exchange.gate.port(exchange.container_port)
        if port is None or port.backend is None:
            self._unreachable(exchange)
            return
        if self._backend is not None:
            if self._backend.takes(port.backend, exchange, self._loop.time()):
                self._begin(exchange, self._backend)
                return
            self._drop_backend()
        self._connecting = self._loop.create_task(self._connect(exchange, port.backend))

    async def _connect(self, exchange: Exchange, address: Address) -> None:
        """Make a connection to the container; from there ``backend_connected`` goes on."""
        try:
            async with asyncio.timeout(self.limits.connect_seconds):
                await self._loop.create_connection(
                    lambda: BackendSide(self, exchange, address, self._loop), address.host, address.port
                )
        except (OSError, TimeoutError):
            if self._exchange is exchange and not exchange.is_sent:
                self._unreachable(exchange)

    def _begin(self, exchange: Exchange, backend: BackendSide) -> None:
        exchange.is_sent = True
        backend.begin(exchange, forwarded_request(exchange.head, self._peer, self._about, backend.name))

    def _finish(self, exchange: Exchange) -> None:
        """End an exchange whose answer the client has taken."""
        backend, is_whole = self._backend, exchange.body is None
        self._leave(exchange, is_failed=False)
        if backend is not None and not backend.release(self._loop.time(), is_whole=is_whole):
            self._backend = None
        if exchange.is_last:
            self._end(is_whole=is_whole)
        else:
            self._wait()
            self._take_held()
            if self.is_leaving and self.is_idle:  # since before it could be told
                self.close()

    def _leave(self, exchange: Exchange, *, is_failed: bool) -> None:
        now = self._loop.time()
        exchange.visit.leave(now, failed=is_failed)
        self._forget(exchange, exchange.status, now)

    def _forget(self, exchange: Exchange, status: int, now: float) -> None:
        self._exchange = self._answered = None
        self._listening.on_answer(exchange.gate, exchange.container_port, status, now - exchange.visit.begun_at)

    def _unreachable(self, exchange: Exchange) -> None:
        if exchange.is_repeated:  # It was sent before, over a connection that ended without a word.
            self._fail(exchange, failed(Failure.CLOSED))
            return
        exchange.visit.refused(Refusal.UNREACHABLE)
        self._forget(exchange, 503, self._loop.time())
        self._refuse(Refusal.UNREACHABLE, exchange.gate, exchange.container_port, exchange.head, exchange.body)
        self._take_held()

    def _fail(self, exchange: Exchange, answer: Answer) -> None:
        """Break an answer off that has begun, or say in one of our own why there is none."""
        if exchange.status:
            self._leave(exchange, is_failed=True)
            self._reset()
            return
        exchange.status = answer.status
        self._leave(exchange, is_failed=True)
        self._say(answer, exchange.head, exchange.body, load_of(exchange.gate, exchange.container_port))
        self._take_held()

    # Answers of our own.

    def _refuse(
        self, refusal: Refusal, gate: Gate, container_port: int, head: RequestHead, body: RequestBody | None
    ) -> None:
        message = gate.route.message if refusal is Refusal.ENDED else ""
        # A container that takes no more requests takes none from this connection.
        is_last = gate.route.state is not RouteState.ACCEPT
        self._say(refused(refusal, message), head, body, load_of(gate, container_port), is_last=is_last)

    def _say(
        self, answer: Answer, head: RequestHead, body: RequestBody | None, load: bytes = b"", *, is_last: bool = False
    ) -> None:
        """Answer, and go on to the next request if what is left of this one is little."""
        is_short = body is None or (isinstance(body, LengthReader) and body.left <= _MOST_DISCARDED_BYTES)
        # Who expects to be told to continue may send the body now or never: nobody could tell what comes next.
        is_last = (
            is_last
            or self.is_leaving
            or not (head.is_persistent and is_short)
            or (head.expects_continue and body is not None)
        )
        connection = connection_line(is_last=is_last, is_http_10=head.is_http_10)
        is_head = head.method == b"HEAD"
        self._transport.write(answer_bytes(answer, connection=connection, load=load, is_head=is_head))
        self._discarded = body if isinstance(body, LengthReader) else None
        if is_last:
            self._end(is_whole=body is None)
        elif body is not None:
            self._phase = _Phase.DISCARD
            self._due_at = self._loop.time() + self.limits.idle_seconds
        else:
            self._wait()

    def _give_up(self, answer: Answer) -> None:
        """Answer a client that is not understood: where its next request would begin, nobody knows."""
        self._listening.on_answer(None, 0, answer.status, 0.0)
        self._transport.write(answer_bytes(answer, connection=connection_line(is_last=True, is_http_10=False)))
        self._end(is_whole=False)

    # The end of a request, and of the connection.

    def _wait(self) -> None:
        self._phase = _Phase.IDLE
        self._due_at = self._loop.time() + self.limits.idle_seconds

    def _end(self, *, is_whole: bool) -> None:
        """Close after the last answer; if the client may be sending still, not before it could read it."""
        self._drop_backend()
        self._held = b""
        if is_whole:
            self.close()
            return
        self._phase = _Phase.LINGER
        self._expect_within(self.limits.linger_seconds)
        self.regulate()

    def _reset(self) -> None:
        """Break the connection off so that it cannot be taken for its proper end."""
        self._phase = _Phase.OVER
        if isinstance(self._transport.get_extra_info("sockname"), tuple):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _drop_backend(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.abort()

    # The timer.

    def _expect_within(self, seconds: float) -> None:
        self._due_at = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due_at:
            self._set_timer(self._due_at)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        now = self._loop.time()
        if now < self._due_at:
            self._set_timer(min(self._due_at, now + self.limits.idle_seconds))
        elif self._phase is _Phase.HEAD:
            self._give_up(not_understood(408, f"no whole head within {self.limits.head_seconds:g} s"))
        else:
            self.close()


def _body_of(head: RequestHead, limits: Limits) -> RequestBody | None:
    if head.is_chunked:
        return ChunkedReader(limits.head_bytes)
    return LengthReader(head.length) if head.length else None
