"""One request that was let in: wait for a lease, send it, pass the answer on, or go elsewhere.

    acquire ▸ connection (kept or new) ▸ head, body so far ─┬─ an answer ▸ passed on, piece by piece ▸ over
       ▴                                                    ├─ wanting: refused, broken ──┐ attempt.py
       └──────────────── pause, if nobody connects ◂────────┴─────────────────────────────┘

A task walks this line and sleeps at ``_turn`` while callbacks of the connection to the replica (``upstream.User``) pass
the answer on: no task wakes for a piece of a stream. What becomes of the request is read from its state and not from
how the task ended, since a client may go in the very moment in which its answer is complete.

Whatever happens, ``_settle`` runs once: the lease ends, the key's limits get their own back, the record is told, and
the client's connection goes on to its next request, or ends. An answer that has begun and cannot go on is broken off.
"""

import asyncio
import math
import random
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from muster.balancer.explicit import wait_until
from muster.balancer.hold import DONE
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import load_of
from muster.balancer.waiting import AsyncWaiter, Gate
from muster.errors import BalancerError, InvalidAsk, QueueTimeout
from muster.gateway import answers
from muster.gateway.attempt import Attempts, Break
from muster.gateway.pools import Address, address_of
from muster.gateway.port import Passage, Record, Refused
from muster.gateway.request import Outgoing
from muster.gateway.shared import Shared
from muster.gateway.upload import Upload
from muster.gateway.upstream import Link
from muster.http1.bodies import ChunkedReader, CloseReader, LengthReader, ResponseBody, chunk, last_chunk
from muster.http1.head_parser import BadMessage
from muster.http1.request_head import RequestHead
from muster.http1.response_head import OURS, ResponseHead, forwarded_response
from muster.model.deployment import PortProtocol

if TYPE_CHECKING:
    from muster.gateway.connection import Connection

_READ_WHOLE_UP_TO_BYTES = 64 * 1024
"""An idempotent request's answer of known size is held back until it is whole, so that a break in it is repaired too.
The SDK does so up to 1 MiB in the memory of one caller; here it is that of all."""


class _End(Enum):
    OVER = "the answer is complete"
    ELSEWHERE = "the ingress sent nothing, or got no answer: it goes again"
    NOT_KEPT = "the ingress sent nothing, and too much was sent to it to go again"
    BROKE = "the connection ended before the answer did"
    GARBLED = "what comes is no HTTP"
    LATE = "the deadline passed"
    NEVER = "it cannot be sent at all"


class Forward:
    """One request under way. ``is_sinking``: what comes of its body is sent on."""

    __slots__ = (
        "_answer",
        "_attempts",
        "_client",
        "_detail",
        "_head",
        "_is_body_over",
        "_is_chunking",
        "_is_committed",
        "_is_continued",
        "_is_discarding",
        "_is_gathering",
        "_is_gone",
        "_is_over",
        "_is_running",
        "_is_settled",
        "_last",
        "_late_timer",
        "_lease",
        "_link",
        "_out",
        "_outcome",
        "_outgoing",
        "_passage",
        "_record",
        "_shared",
        "_status",
        "_task",
        "_turn",
        "_until",
        "is_last",
        "is_reset",
        "is_sinking",
        "is_spliced",
        "method",
        "upload",
    )

    def __init__(
        self,
        client: "Connection",
        shared: Shared,
        head: RequestHead,
        passage: Passage,
        upload: Upload,
        *,
        record: Record,
        is_continued: bool,
    ) -> None:
        self.method = head.method
        self.upload = upload
        self.is_sinking = False
        self.is_spliced = False
        self.is_last = False
        self.is_reset = False
        self._client = client
        self._shared = shared
        self._head = head
        self._passage = passage
        self._record = record
        self._attempts = Attempts(head.method, passage.options)
        self._outgoing = Outgoing(head, passage, client.peer, client.about)
        self._lease: Lease | None = None
        self._outcome: Outcome | None = None
        """What the answer under way says of its replica, once it has been read to its end."""
        self._link: Link | None = None
        self._turn: asyncio.Future[_End] | None = None
        self._out: list[bytes] = []
        self._status = 0
        self._last = b""
        self._detail = ""
        self._until = 0.0
        self._answer: Refused | None = None
        self._late_timer: asyncio.TimerHandle | None = None
        self._is_continued = is_continued
        self._is_committed = False
        self._is_chunking = False
        self._is_gathering = False
        self._is_discarding = False
        self._is_body_over = False
        self._is_over = False
        self._is_gone = False
        self._is_running = False
        self._is_settled = False
        self._task = shared.loop.create_task(self._run())

    @property
    def is_over(self) -> bool:
        """Whether all of the answer has been handed to the client's connection."""
        return self._is_over

    @property
    def is_waiting(self) -> bool:
        """Whether nothing is being sent to a replica now."""
        return self._turn is None and not self._is_over

    @property
    def is_stuck(self) -> bool:
        """Whether the replica takes no more for now."""
        return self._link is not None and self._link.is_paused

    @property
    def awaits_body(self) -> bool:
        """Whether the client is to send the rest of the body.

        One that waits to be told to continue is not waited for any longer: a slot is held meanwhile.
        """
        return self.is_sinking and not self.upload.is_complete

    # Called by the client's connection.

    def send(self, pieces: list[bytes]) -> None:
        """Send more of the body, or raw bytes."""
        if self._link is not None:
            self._link.send(pieces)
        if self.is_spliced:
            self._record.bytes_in += sum(map(len, pieces))

    def send_end(self) -> bool:
        """Send that the client sends no more raw bytes; tell whether it can still be sent to."""
        link = self._link
        if link is None:
            return False
        link.send_end()
        return not link.has_ended

    def pause(self) -> None:
        """Take no more from the replica than the client takes."""
        if self._link is not None:
            self._link.pause_reading()

    def resume(self) -> None:
        """Take from the replica again."""
        if self._link is not None:
            self._link.resume_reading()

    def stop(self, answer: Refused) -> None:
        """End it with an answer of ours, or break off if one has begun: the request is wrong, or never comes."""
        self._answer = answer
        self._cancel()

    def gone(self, exc: Exception | None) -> None:
        """End it: nobody is there to be answered."""
        self._is_gone = True
        if self.is_spliced and exc is None and self._link is not None:
            self._link.close()  # what the client said last is still to be said
            self._link = None
            self._is_over = True
        self._cancel()

    def _cancel(self) -> None:
        if not self._is_running:  # a task that is cancelled before its first step runs none of its code
            self._settle()
        self._task.cancel()

    # The task.

    async def _run(self) -> None:
        self._is_running = True
        try:
            if not self._is_settled:
                self._answer = await self._carry()
        except asyncio.CancelledError:
            pass  # by ``stop`` or ``gone``, or with the loop; which is told by the state
        except BalancerError as error:
            self._answer = self._without_lease(error)
        except InvalidAsk as error:
            self._answer = answers.invalid(error)
        finally:
            self._settle()

    async def _carry(self) -> Refused | None:
        """Send the request as often as it takes; return an answer of ours if no other one has begun."""
        gate, options, attempts = self._passage.gate, self._passage.options, self._attempts
        since = gate.count_call()
        until = self._until = wait_until(gate, options)
        if not math.isinf(options.ask.answer_by):
            self._late_timer = self._shared.loop.call_later(options.ask.answer_by - since, self._end, _End.LATE)
        waiter = AsyncWaiter(gate)
        while True:
            asked_at = gate.monotonic()
            try:
                lease = self._lease = await waiter.acquire(
                    deadline=until, tried=attempts.tried, ask=options.ask, since=since if attempts.sends else None
                )
            finally:
                self._record.queue_seconds += gate.monotonic() - asked_at
            end = await self._send(gate, lease)
            if end is _End.OVER:
                return None
            answer = self._judge(end, lease.endpoint.id, is_in_time=gate.monotonic() < until)
            if answer is not None or self.is_reset:
                return answer
            if pause := attempts.pause_seconds(random.random()):  # noqa: S311 - spreads load, hides nothing
                await asyncio.sleep(min(pause, max(0.0, until - gate.monotonic())))

    async def _send(self, gate: Gate, lease: Lease) -> _End:
        """Send to one replica; a kept connection that closes under a request that may be repeated is replaced."""
        endpoint, attempts = lease.endpoint, self._attempts
        attempts.sends += 1
        self._record.attempts += 1
        self._record.replica = endpoint.id
        if endpoint.protocol is not PortProtocol.HTTP:
            self._answer = answers.not_http(endpoint.id, endpoint.protocol.value)
            return _End.NEVER
        link = self._shared.pools.take(gate, endpoint, is_repeatable=attempts.is_idempotent)
        while True:
            if link is None:
                try:
                    link = await self._shared.pools.connect(gate, endpoint, self._connect_seconds(gate))
                except (OSError, ValueError) as error:
                    self._outcome = attempts.broke(endpoint.id, Break.UNREACHABLE)
                    self._detail = str(error) or type(error).__name__
                    return _End.ELSEWHERE
                if link.is_closing:  # it accepted, and closed at once: nothing was sent
                    self._outcome = attempts.broke(endpoint.id, Break.UNREACHABLE)
                    self._detail = "it closed the connection at once"
                    return _End.ELSEWHERE
                if gate.monotonic() >= self._passage.options.ask.answer_by:
                    link.abort()
                    self._outcome = Outcome.FAILED
                    return _End.LATE
            end = await self._exchange(link, address_of(endpoint.url))
            is_stale = end is _End.BROKE and link.is_reused and not link.is_heard
            if not (is_stale and attempts.is_idempotent and self.upload.is_kept):
                return end
            link = None

    async def _exchange(self, link: Link, address: Address) -> _End:
        """Send over one connection, and sleep until callbacks tell how that ends."""
        upload = self.upload
        self._outcome = None
        self._out.clear()
        self._last = b""
        self._is_gathering = self._is_discarding = self._is_body_over = False
        self._turn = self._shared.loop.create_future()
        self._link = link
        expects_continue = not (self._is_continued or upload.is_complete)
        link.begin(self, [self._outgoing.to(address, expects_continue=expects_continue), *upload.so_far()])
        if not upload.is_complete:
            self.is_sinking = True
            self._client.take_more()
        try:
            return await self._turn
        finally:
            self.is_sinking = False
            self._turn = None
            if self._link is not None:
                self._link.abort()
                self._link = None

    def _connect_seconds(self, gate: Gate) -> float:
        return min(self._shared.hall.limits.connect_seconds, self._passage.options.ask.answer_by - gate.monotonic())

    # What is concluded.

    def _judge(self, end: _End, replica: str, *, is_in_time: bool) -> Refused | None:
        """End the lease; return an answer of ours, or ``None`` to go again or, with ``is_reset``, to break off."""
        attempts, upload = self._attempts, self.upload
        if end is _End.ELSEWHERE:
            self._release(self._outcome)
            return None
        if end is _End.NEVER:
            return self._answer
        if end is _End.LATE:
            if self._outcome is None:
                self._release(attempts.broke(replica, Break.TIMED_OUT))
            if not self._is_committed:
                return answers.too_late()
            self._break_off("deadline")
            return None
        if end is _End.NOT_KEPT:
            self._release(self._outcome)
            return answers.not_kept(replica, attempts.refusal or "unreachable", upload.most_kept_bytes)
        self._release(attempts.broke(replica, Break.BROKEN))
        if self._is_committed:
            self._break_off("replica_broke")
            return None
        if upload.is_kept and attempts.may_go_again(self._passage.gate.may_resend, is_in_time=is_in_time):
            return None
        if end is _End.GARBLED:
            return answers.garbled(replica, self._detail)
        is_lacking = attempts.is_idempotent and not upload.is_kept
        return answers.broke(replica, self._detail, kept_bytes=upload.most_kept_bytes if is_lacking else None)

    def _break_off(self, reason: str) -> None:
        self._record.reason = reason
        self.is_reset = True

    def _without_lease(self, error: BalancerError) -> Refused:
        """Say why there was no replica, or no other one."""
        attempts = self._attempts
        if isinstance(error, QueueTimeout) and attempts.last_break is Break.UNREACHABLE:
            return answers.unreachable(error, attempts.sends, self._detail)
        if isinstance(error, QueueTimeout) and attempts.refusal:
            return answers.refused_until(error, attempts.sends, attempts.refusal)
        return answers.overloaded(error)

    def _release(self, outcome: Outcome | None) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._passage.gate.release(lease, outcome or Outcome.FAILED)
        self._outcome = None

    def _outcome_so_far(self) -> Outcome:
        """Return what is to be said of the replica when its answer is over, or when nobody reads on."""
        outcome = self._outcome or Outcome.FAILED
        if outcome is not Outcome.OK:
            return outcome
        if self.is_spliced:  # how long two programs talk is no measure of the work
            return Outcome.UNREAD
        return outcome if self._is_over or self._last.rstrip().endswith(DONE) else Outcome.UNREAD

    def _settle(self) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        if self._late_timer is not None:
            self._late_timer.cancel()
        if self._link is not None:
            self._link.abort()
            self._link = None
        self._release(self._outcome_so_far())
        self._passage.leave()
        answer, record = self._answer, self._record
        record.bytes_in += self.upload.size_bytes
        if not self._is_over:
            self.is_last = True
            self.is_reset = self._is_committed or answer is None
            if answer is not None:
                record.reason = answer.reason
            elif self._is_gone:
                record.reason = "client_gone"
            if answer is not None and not self._is_committed and not self._is_gone:
                record.status = answer.status
        self._client.settled(self, record, None if self._is_over or self.is_reset else answer)

    # Called by the connection to the replica.

    def interim(self, head: ResponseHead) -> None:
        """Pass on that more will come, but tell to continue once."""
        if head.status == _CONTINUE:
            if self._is_continued:
                return
            self._is_continued = True
            self._client.note_body()
        if not self._head.is_http_10:
            _strip(head)
            self._client.write([forwarded_response(head, b"", b"")])

    def begun(self, head: ResponseHead) -> None:
        """Judge an answer: it is passed on, or the request goes elsewhere."""
        lease, gate, attempts = self._lease, self._passage.gate, self._attempts
        if lease is None:
            return
        outcome = self._outcome = attempts.answered(lease.endpoint.id, head)
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
        self._begin_answer(head, load, lease.endpoint.id)

    def _goes_elsewhere(self, gate: Gate) -> bool:
        attempts, is_kept = self._attempts, self.upload.is_kept
        is_in_time = gate.monotonic() < self._until
        self._is_discarding = True
        if is_kept and attempts.may_go_again(gate.may_resend, is_in_time=is_in_time):
            self._end(_End.ELSEWHERE)
        elif attempts.refusal or attempts.last_break is Break.UNREACHABLE:
            self._end(_End.NOT_KEPT)
        else:
            self._is_discarding = False
        return self._is_discarding

    def _begin_answer(self, head: ResponseHead, load: bytes, replica: str) -> None:
        body, is_http_10 = head.body, self._head.is_http_10
        self._status = head.status
        self._is_chunking = isinstance(body, ChunkedReader) and not is_http_10
        self._is_gathering = (
            self._attempts.is_idempotent
            and isinstance(body, LengthReader)
            and body.left <= _READ_WHOLE_UP_TO_BYTES
            and self.upload.is_kept
        )
        self.is_last = (
            self._client.is_leaving
            or isinstance(body, CloseReader)
            or (is_http_10 and isinstance(body, ChunkedReader))  # HTTP/1.0 knows no chunks: closing is the end
            or not self._head.is_persistent
            or not self.upload.is_complete  # the next request can only follow a whole one, and this may never be
        )
        about = answers.connection_line(is_last=self.is_last, is_http_10=is_http_10)
        if self._is_chunking:
            about += b"Transfer-Encoding: chunked\r\n"
        _strip(head)
        self._out.append(forwarded_response(head, load, about + _replica_line(replica)))

    def switched(self, head: ResponseHead) -> None:
        """From now on pass on raw bytes both ways; what the client sent ahead goes first."""
        lease = self._lease
        if lease is None or not self._head.upgrade or not head.upgrade:
            raise BadMessage(502, "it switches to a protocol that nobody asked for")
        self._outcome = self._attempts.answered(lease.endpoint.id, head)
        self._passage.gate.answered(lease)
        about = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
        _strip(head)
        self._out.append(
            forwarded_response(head, head.load and b"TEXT " + head.load, about + _replica_line(lease.endpoint.id))
        )
        self._status = head.status
        self._commit()
        self._record.is_upgraded = self.is_spliced = self.is_last = True
        self._shared.loop.call_soon(self._client.take_more)

    def payload(self, pieces: list[bytes], body: ResponseBody) -> None:
        """Take some of the answer's body."""
        if self._is_discarding:
            return
        self._is_body_over = body.is_over
        if not isinstance(body, LengthReader):
            for piece in pieces:
                self._last = (self._last + piece[-32:])[-32:]
        self._record.bytes_out += sum(map(len, pieces))
        if self._is_chunking:
            chunk(pieces)
            if isinstance(body, ChunkedReader) and body.is_over:
                pieces.append(last_chunk(body.trailers, OURS))
        self._out += pieces

    def raw(self, data: bytes) -> None:
        """Pass on raw bytes."""
        self._record.bytes_out += len(data)
        self._client.write([data])

    def flush(self) -> None:
        """Pass on what was taken, unless it is to be whole first."""
        if self._out and (self._is_body_over or not self._is_gathering):
            self._commit()

    def over(self) -> None:
        """Give the connection back; the rest is up to the task."""
        link, self._link = self._link, None
        if link is not None:
            link.release(is_whole=self.upload.is_complete, now=self._shared.loop.time())
        if not self._is_discarding:
            self._is_over = True
        self._end(_End.OVER)

    def garbled(self, detail: str) -> None:
        """Let go of a connection on which no HTTP is spoken."""
        self._detail = detail
        if self._link is not None:
            self._link.abort()
            self._link = None
        self._end(_End.GARBLED)

    def ended(self) -> bool:
        """Tell a client of raw bytes that no more will come; tell whether it can still send."""
        return self._client.send_end()

    def lost(self, exc: Exception | None) -> None:
        """Take that the connection is gone."""
        self._link = None
        self._detail = str(exc) if exc is not None and str(exc) else "it closed the connection"
        if self.is_spliced and exc is None:
            self._is_over = True
            self._end(_End.OVER)
        else:
            self._end(_End.BROKE)

    def regulate(self) -> None:
        """Have the client send no more than the replica takes."""
        self._client.regulate()

    def _commit(self) -> None:
        if not self._is_committed:
            self._is_committed = True
            self._record.status = self._status
            self.upload.forget()
        self._client.write(self._out)
        self._out = []

    def _end(self, end: _End) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(end)


_CONTINUE = 100
_OURS = b"x-muster-"


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
