"""One request on one connection to a replica: what comes back is judged and passed on, piece by piece, by callbacks.

In: what ``upstream.Link`` reads. Out: the answer, written to the client's connection; and, once, how it ended, for the
task that waits (``forward.py``). Each time a request is sent it is another exchange, so nothing of an answer that came
to nothing is left for the next one; what outlives it is in ``Request``.

An answer is committed with the first byte that the client gets of it: from then on it cannot go elsewhere, and if it
breaks, it breaks off.
"""

import asyncio
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from muster.balancer.hold import DONE
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import load_of
from muster.balancer.waiting import Gate
from muster.gateway.answers import connection_line
from muster.gateway.attempt import Attempts, Break
from muster.gateway.port import Passage
from muster.gateway.upload import is_ours
from muster.gateway.upstream import Link
from muster.gateway.visit import Visit
from muster.http1.bodies import ChunkedReader, CloseReader, LengthReader, ResponseBody, chunk, last_chunk
from muster.http1.head_parser import BadMessage
from muster.http1.response_head import OURS, ResponseHead, forwarded_response

if TYPE_CHECKING:
    from muster.gateway.connection import Connection

_CONTINUE = 100
_OURS = b"x-muster-"
_READ_WHOLE_UP_TO_BYTES = 64 * 1024
"""An idempotent request's answer of known size is held back until it is whole, so that a break in it is repaired too.
The SDK does so up to 1 MiB in the memory of one caller; here it is that of all."""


class End(Enum):
    """How an exchange ended, or a send that came to none."""

    OVER = "the answer is complete"
    ELSEWHERE = "the ingress sent nothing, or got no answer, or nobody could connect: it goes again"
    NOT_KEPT = "the ingress sent nothing, and too much was sent to it to go again"
    BROKE = "the connection ended before the answer did"
    GARBLED = "what comes is no HTTP"
    LATE = "the deadline passed"
    NEVER = "it cannot be sent at all"


@dataclass(slots=True, eq=False)
class Request:
    """One request that was let in, over all its sends. ``until`` bounds when it may begin once more."""

    client: "Connection"
    visit: Visit
    passage: Passage
    attempts: Attempts
    until: float = 0.0


class Exchange:
    """One send. ``outcome`` is what the answer says of its replica, once it has been read to its end."""

    __slots__ = (
        "_is_body_over",
        "_is_chunking",
        "_is_discarding",
        "_is_gathering",
        "_last",
        "_lease",
        "_loop",
        "_out",
        "_request",
        "_status",
        "detail",
        "ending",
        "is_committed",
        "is_last",
        "is_over",
        "is_spliced",
        "link",
        "method",
        "outcome",
    )

    def __init__(self, request: Request, lease: Lease, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.method = request.visit.head.method
        self.link: Link | None = link
        self.ending: asyncio.Future[End] = loop.create_future()
        self.outcome: Outcome | None = None
        self.detail = ""
        self.is_committed = False
        self.is_last = False
        self.is_over = False
        self.is_spliced = False
        self._request = request
        self._lease = lease
        self._loop = loop
        self._status = 0
        self._out: list[bytes] = []
        self._last = b""
        self._is_chunking = False
        self._is_gathering = False
        self._is_discarding = False
        self._is_body_over = False
        request.visit.record.bytes_out = 0

    @property
    def outcome_so_far(self) -> Outcome:
        """What is to be said of the replica when its answer is over, or when nobody reads on."""
        outcome = self.outcome or Outcome.FAILED
        if outcome is not Outcome.OK:
            return outcome
        if self.is_spliced:  # how long two programs talk is no measure of the work
            return Outcome.UNREAD
        return outcome if self.is_over or self._last.rstrip().endswith(DONE) else Outcome.UNREAD

    def drop(self) -> None:
        """Let go of the connection, if it is still held: it cannot be used again."""
        link, self.link = self.link, None
        if link is not None:
            link.abort()

    def leave(self) -> None:
        """Let go of a connection of raw bytes whose client has ended: what it said last is still to be said."""
        link, self.link = self.link, None
        if link is not None:
            link.close()
            self.is_over = True

    def end(self, end: End) -> None:
        """Say how it ended; what comes later is not heard."""
        if not self.ending.done():
            self.ending.set_result(end)

    # Called by the connection to the replica.

    def interim(self, head: ResponseHead) -> None:
        """Pass on that more will come, but tell to continue once."""
        request = self._request
        if head.status == _CONTINUE:
            if request.visit.is_continued:
                return
            request.visit.is_continued = True
            request.client.note_body()
        if not request.visit.head.is_http_10:
            _strip(head)
            request.client.write([forwarded_response(head, b"", b"")])

    def begun(self, head: ResponseHead) -> None:
        """Judge an answer: it is passed on, or the request goes elsewhere."""
        lease, gate, attempts = self._lease, self._request.passage.gate, self._request.attempts
        outcome = self.outcome = attempts.answered(lease.endpoint.id, head)
        load = b""
        if head.load:
            load = b"TEXT " + head.load
            report = load_of(load.decode("latin-1"))
            if report is not None:
                gate.reported(lease, report)
        if outcome is Outcome.OK or outcome is Outcome.UNREAD:
            gate.answered(lease)
        elif attempts.is_wanting and self._goes_elsewhere(gate):
            return
        self._begin_answer(head, load)

    def switched(self, head: ResponseHead) -> None:
        """From now on pass on raw bytes both ways; what the client sent ahead goes first."""
        request, lease = self._request, self._lease
        if not request.visit.head.upgrade or not head.upgrade:
            raise BadMessage(502, "it switches to a protocol that nobody asked for")
        self.outcome = request.attempts.answered(lease.endpoint.id, head)
        request.passage.gate.answered(lease)
        about = b"Connection: Upgrade\r\nUpgrade: %b\r\n%b" % (head.upgrade, _replica_line(lease.endpoint.id))
        _strip(head)
        self._out.append(forwarded_response(head, head.load and b"TEXT " + head.load, about))
        self._status = head.status
        self._commit()
        request.visit.record.is_upgraded = self.is_spliced = self.is_last = True
        self._loop.call_soon(request.client.take_more)

    def payload(self, pieces: list[bytes], body: ResponseBody) -> None:
        """Take some of the answer's body."""
        if self._is_discarding:
            return
        self._is_body_over = body.is_over
        if not isinstance(body, LengthReader):
            for piece in pieces:
                self._last = (self._last + piece[-32:])[-32:]
        self._request.visit.record.bytes_out += sum(map(len, pieces))
        if self._is_chunking:
            chunk(pieces)
            if isinstance(body, ChunkedReader) and body.is_over:
                pieces.append(last_chunk([each for each in body.trailers if not is_ours(each[0])], OURS))
        self._out += pieces

    def raw(self, data: bytes) -> None:
        """Pass on raw bytes."""
        self._request.visit.record.bytes_out += len(data)
        self._request.client.write([data])

    def flush(self) -> None:
        """Pass on what was taken, unless it is to be whole first."""
        if self._out and (self._is_body_over or not self._is_gathering):
            self._commit()

    def over(self) -> None:
        """Give the connection back."""
        link, self.link = self.link, None
        if link is not None:
            link.release(is_whole=self._request.visit.upload.is_complete, now=self._loop.time())
        if not self._is_discarding:
            self.is_over = True
        self.end(End.OVER)

    def garbled(self, detail: str) -> None:
        """Let go of a connection on which no HTTP is spoken."""
        self.detail = detail
        self.drop()
        self.end(End.GARBLED)

    def ended(self) -> bool:
        """Tell a client of raw bytes that no more will come; tell whether it can still send."""
        return self._request.client.send_end()

    def lost(self, exc: Exception | None) -> None:
        """Take that the connection is gone."""
        self.link = None
        self.detail = str(exc) if exc is not None and str(exc) else "it closed the connection"
        if self.is_spliced and exc is None:
            self.is_over = True
            self.end(End.OVER)
        else:
            self.end(End.BROKE)

    def regulate(self) -> None:
        """Have the client send no more than the replica takes."""
        self._request.client.regulate()

    # Passing on.

    def _goes_elsewhere(self, gate: Gate) -> bool:
        attempts, is_kept = self._request.attempts, self._request.visit.upload.is_kept
        is_in_time = gate.monotonic() < self._request.until
        self._is_discarding = True
        if is_kept and attempts.may_go_again(gate.may_resend, is_in_time=is_in_time):
            self.end(End.ELSEWHERE)
        elif attempts.refusal or attempts.last_break is Break.UNREACHABLE:
            self.end(End.NOT_KEPT)
        else:
            self._is_discarding = False
        return self._is_discarding

    def _begin_answer(self, head: ResponseHead, load: bytes) -> None:
        request, visit = self._request, self._request.visit
        body, is_http_10 = head.body, visit.head.is_http_10
        self._status = head.status
        self._is_chunking = isinstance(body, ChunkedReader) and not is_http_10
        self._is_gathering = (
            request.attempts.is_idempotent
            and isinstance(body, LengthReader)
            and body.left <= _READ_WHOLE_UP_TO_BYTES
            and visit.upload.is_kept
        )
        self.is_last = (
            request.client.is_leaving
            or isinstance(body, CloseReader)
            or (is_http_10 and isinstance(body, ChunkedReader))  # HTTP/1.0 knows no chunks: closing is the end
            or not visit.head.is_persistent
            or not visit.upload.is_complete  # the next request can only follow a whole one, and this may never be
        )
        about = connection_line(is_last=self.is_last, is_http_10=is_http_10)
        if self._is_chunking:
            about += b"Transfer-Encoding: chunked\r\n"
        _strip(head)
        self._out.append(forwarded_response(head, load, about + _replica_line(self._lease.endpoint.id)))

    def _commit(self) -> None:
        if not self.is_committed:
            self.is_committed = True
            self._request.visit.record.status = self._status
            self._request.visit.forget()
        self._request.client.write(self._out)
        self._out = []


def _strip(head: ResponseHead) -> None:
    """Take out what only the gateway says."""
    for line in head.lines:
        if line[:9].lower() == _OURS:
            head.lines = [each for each in head.lines if each[:9].lower() != _OURS]
            return


@lru_cache(maxsize=4096)
def _replica_line(replica: str) -> bytes:
    """Return the field that names who answered; an id is a uuid, but comes from a registry."""
    return b"X-Muster-Replica: %b\r\n" % "".join(c if " " < c <= "~" else "_" for c in replica).encode()
