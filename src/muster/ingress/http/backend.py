"""The side of the container: one connection, which carries one client's requests one after another.

In: requests from ``ClientSide``, already rewritten. Out: what the container answers, read head by head and piece by
piece, rewritten, and handed to the client's side as it comes; and what ended it. It decides nothing about the client.

A kept connection may be closed by the container in the very moment in which it is used again. ``takes`` says when the
risk may be run.
"""

import asyncio
from typing import TYPE_CHECKING, cast

from muster.http1.bodies import ChunkedReader, CloseReader, ResponseBody, chunk, last_chunk
from muster.http1.head_parser import BadMessage, HeadParser
from muster.http1.response_head import OURS, SWITCHING, ResponseHead, forwarded_response, read_response
from muster.ingress.http.exchange import Exchange
from muster.model.container import Address

if TYPE_CHECKING:
    from muster.ingress.http.client import ClientSide

HIGH_WATER_BYTES = 64 * 1024
"""A transport that holds more than this asks the other side to pause."""

_SAFELY_IDLE_SECONDS = 1.0
"""A request that must not be sent twice takes a kept connection only if it was in use this long ago. Servers close
kept connections after two seconds (gunicorn) to two minutes without a request, so one that closes in this very moment
was idle for longer. A new connection to a container costs a tenth of a millisecond."""


class BackendSide(asyncio.Protocol):
    """One connection to a container, owned by one client's connection."""

    def __init__(
        self, client: "ClientSide", exchange: Exchange, address: Address, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.address = address
        self.name = (f"[{address.host}]" if ":" in address.host else address.host).encode() + b":%d" % address.port
        self.is_paused = False
        self.is_reused = False
        self.has_ended = False
        """It will send nothing more, but may still take."""
        self._client = client
        self._loop = loop
        self._transport: asyncio.Transport
        limits = client.limits
        self._heads = HeadParser(is_request=False, most_bytes=limits.head_bytes, most_fields=limits.head_fields)
        self._exchange: Exchange | None = exchange
        self._body: ResponseBody | None = None
        self._is_chunking = False
        self._is_persistent = True
        self._idle_since = 0.0

    def takes(self, address: Address, exchange: Exchange, now: float) -> bool:
        """Tell whether a request had better go over this connection than over a new one."""
        if not self._is_persistent or self.address != address or self._transport.is_closing():
            return False
        return exchange.head.is_repeatable or now - self._idle_since <= _SAFELY_IDLE_SECONDS

    def begin(self, exchange: Exchange, head: bytes) -> None:
        """Send the head of a request."""
        self._exchange = exchange
        self._transport.write(head)

    def send(self, pieces: list[bytes]) -> None:
        """Send more of the request."""
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    def send_end(self) -> None:
        """Send that nothing more comes."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        """Take no more from the container."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the container again."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def release(self, now: float, *, is_whole: bool) -> bool:
        """Be free for the next request, if that can be; ``is_whole``: all of the last one was sent."""
        self._exchange = None
        if not (is_whole and self._is_persistent):
            self.abort()
            return False
        self.is_reused = True
        self._idle_since = now
        return True

    def close(self) -> None:
        """End the connection once everything written is sent."""
        self._transport.close()

    def abort(self) -> None:
        """End the connection now; nothing is heard of it any more."""
        self._exchange = None
        self._heads.close()
        self._transport.abort()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's are not of its class
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if self._exchange is not None:
            self._client.backend_connected(self, self._exchange)

    def data_received(self, data: bytes) -> None:
        """Read what the container sends and hand it on."""
        exchange = self._exchange
        if exchange is None:  # Nobody asked: whatever it is, it must not be taken for the next answer.
            self._is_persistent = False
            self.abort()
            return
        exchange.visit.heard(self._loop.time())
        if exchange.is_spliced:
            self._client.deliver([data])
            return
        exchange.is_heard = True
        status = exchange.status
        pieces: list[bytes] = []
        try:
            is_over = self._read(exchange, data, pieces)
        except BadMessage as error:
            exchange.status = status  # of what was begun in this read, nothing was handed on
            self._client.backend_garbled(exchange, error.message)
            return
        if pieces:
            self._client.deliver(pieces)
        if is_over:
            self._body = None
            self._client.answer_over(exchange)

    def eof_received(self) -> bool:
        """Keep the connection half open if it is one of raw bytes."""
        self.has_ended = True
        exchange = self._exchange
        return exchange is not None and exchange.is_spliced and self._client.backend_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the client's side what that means for the request."""
        self._heads.close()
        exchange, self._exchange = self._exchange, None
        is_over = exc is None and isinstance(self._body, CloseReader)
        self._body = None
        self._client.backend_lost(self, exchange, exc, is_over=is_over)

    def pause_writing(self) -> None:
        """Have the client send no more for now."""
        self.is_paused = True
        self._client.regulate()

    def resume_writing(self) -> None:
        """Have the client go on."""
        self.is_paused = False
        self._client.regulate()

    # Reading an answer.

    def _read(self, exchange: Exchange, data: bytes, pieces: list[bytes]) -> bool:
        """Append what goes to the client; tell whether the answer is over."""
        while self._body is None:
            end = self._heads.feed(data)
            if end < 0:
                return False
            head = read_response(
                self._heads.start_line, self._heads.fields, exchange.head.method, self._client.limits.head_bytes
            )
            data = data[end:]
            if head.status == SWITCHING:
                self._switch(exchange, head, data, pieces)
                return False
            if head.is_interim:
                if not exchange.head.is_http_10:
                    pieces.append(forwarded_response(head, b"", b""))
                if not data:
                    return False
                continue
            self._begin(exchange, head, pieces)
            if head.body is None:
                self._is_persistent = self._is_persistent and not data
                return True
        return self._take(self._body, data, pieces) if data else False

    def _begin(self, exchange: Exchange, head: ResponseHead, pieces: list[bytes]) -> None:
        about, self._is_chunking = exchange.begin_answer(head, is_leaving=self._client.is_leaving)
        pieces.append(forwarded_response(head, exchange.load(head.load), about))
        self._is_persistent = head.is_persistent
        self._body = head.body

    def _take(self, body: ResponseBody, data: bytes, pieces: list[bytes]) -> bool:
        payload: list[bytes] = []
        used = body.take(data, payload)
        if self._is_chunking:
            chunk(payload)
        pieces += payload
        if not body.is_over:
            return False
        if self._is_chunking and isinstance(body, ChunkedReader):
            pieces.append(last_chunk(body.trailers, OURS))
        if used < len(data):  # It has said more than it was asked for.
            self._is_persistent = False
        return True

    def _switch(self, exchange: Exchange, head: ResponseHead, data: bytes, pieces: list[bytes]) -> None:
        if not exchange.head.upgrade or not head.upgrade:
            raise BadMessage(502, "it switches to a protocol that nobody asked for")
        exchange.status = head.status
        about = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
        pieces.append(forwarded_response(head, exchange.load(head.load), about))
        if data:
            pieces.append(data)
        self._is_persistent = False
        self._client.splice(exchange)
