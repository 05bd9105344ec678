"""One request that was let in: wait for a lease, send it, pass the answer on, or go elsewhere.

    acquire ▸ connection (kept or new) ▸ exchange ─┬─ an answer ▸ passed on, piece by piece ▸ over
       ▴                                           ├─ wanting: refused, broken ──┐ attempt.py
       └──────────── pause, if nobody connects ◂───┴─────────────────────────────┘

A task walks this line and sleeps while the callbacks of an ``Exchange`` pass the answer on: no task wakes for a piece
of a stream. What becomes of the request is read from its state and not from how the task ended, since a client may go
in the very moment in which its answer is complete.

Whatever happens, ``_settle`` runs once: the lease ends, the key's limits get their own back, and the client's
connection tells the record and goes on to its next request, or ends. An answer that has begun and cannot go on is
broken off.
"""

import asyncio
import math
import random
from typing import TYPE_CHECKING

from muster.balancer.explicit import wait_until
from muster.balancer.lease import Lease, Outcome
from muster.balancer.waiting import AsyncWaiter, Gate
from muster.errors import BalancerError, InvalidAsk, QueueTimeout
from muster.gateway import answers
from muster.gateway.attempt import Attempts, Break
from muster.gateway.exchange import End, Exchange, Request
from muster.gateway.pools import address_of
from muster.gateway.port import Passage, Refused
from muster.gateway.request import Outgoing
from muster.gateway.shared import Shared
from muster.gateway.upstream import Link
from muster.gateway.visit import Visit
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint

if TYPE_CHECKING:
    from muster.gateway.connection import Connection

_LONGEST_TIMER_SECONDS = 1e9
"""Thirty years: loops count in milliseconds, and cannot count to what a client may write."""


class Forward:
    """One request under way. ``is_sinking``: what comes of its body is sent on.

    ``is_last``: the client's connection ends with it; ``is_reset``: by breaking off.
    """

    __slots__ = (
        "_answer",
        "_detail",
        "_exchange",
        "_is_gone",
        "_is_late",
        "_is_running",
        "_is_settled",
        "_late_timer",
        "_lease",
        "_outgoing",
        "_request",
        "_shared",
        "_task",
        "is_last",
        "is_reset",
        "is_sinking",
        "visit",
    )

    def __init__(
        self,
        client: "Connection",
        shared: Shared,
        visit: Visit,
        passage: Passage,
    ) -> None:
        self.is_sinking = False
        self.is_last = False
        self.is_reset = False
        self.visit = visit
        self._request = Request(client, visit, passage, Attempts(visit.head.method, passage.options))
        self._outgoing = Outgoing(visit.head, passage, client.peer, client.about)
        self._shared = shared
        self._lease: Lease | None = None
        self._exchange: Exchange | None = None
        """The last one, and what became of it."""
        self._answer: Refused | None = None
        self._detail = ""
        self._late_timer: asyncio.TimerHandle | None = None
        self._is_gone = False
        self._is_late = False
        self._is_running = False
        self._is_settled = False
        self._task = shared.loop.create_task(self._run())

    @property
    def is_over(self) -> bool:
        """Whether all of the answer has been handed to the client's connection."""
        return self._exchange is not None and self._exchange.is_over

    @property
    def is_spliced(self) -> bool:
        """Whether raw bytes are passed on both ways."""
        return self._exchange is not None and self._exchange.is_spliced

    @property
    def is_stuck(self) -> bool:
        """Whether the replica takes no more for now."""
        link = self._link
        return link is not None and link.is_paused

    @property
    def awaits_body(self) -> bool:
        """Whether the client is to send the rest of the body.

        One that waits to be told to continue is not waited for any longer: a slot is held meanwhile.
        """
        return self.is_sinking and not self.visit.upload.is_complete

    # Called by the client's connection.

    def send(self, pieces: list[bytes]) -> None:
        """Send more of the body, or raw bytes."""
        if (link := self._link) is not None:
            link.send(pieces)
        if self.is_spliced:
            self.visit.record.bytes_in += sum(map(len, pieces))

    def send_end(self) -> bool:
        """Send that the client sends no more raw bytes; tell whether it can still be sent to."""
        link = self._link
        if link is None:
            return False
        link.send_end()
        return not link.has_ended

    def pause(self) -> None:
        """Take no more from the replica than the client takes."""
        if (link := self._link) is not None:
            link.pause_reading()

    def resume(self) -> None:
        """Take from the replica again."""
        if (link := self._link) is not None:
            link.resume_reading()

    def stop(self, answer: Refused) -> None:
        """End it with an answer of ours, or break off if one has begun: the request is wrong, or never comes."""
        self._answer = answer
        self._cancel()

    def gone(self, exc: Exception | None) -> None:
        """End it: nobody is there to be answered."""
        self._is_gone = True
        if self._exchange is not None and self._exchange.is_spliced and exc is None:
            self._exchange.leave()
        self._cancel()

    @property
    def _link(self) -> Link | None:
        return self._exchange.link if self._exchange is not None else None

    def _cancel(self) -> None:
        if not self._is_running:  # a task that is cancelled before its first step runs none of its code
            self._settle()
        self._task.cancel()

    # The task.

    async def _run(self) -> None:
        self._is_running = True
        try:
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
        request = self._request
        gate, options, attempts = request.passage.gate, request.passage.options, request.attempts
        since = gate.count_call()
        until = request.until = wait_until(gate, options)
        if not math.isinf(options.ask.answer_by):
            seconds = min(options.ask.answer_by - since, _LONGEST_TIMER_SECONDS)
            self._late_timer = self._shared.loop.call_later(seconds, self._late)
        waiter = AsyncWaiter(gate)
        while True:
            asked_at = gate.monotonic()
            try:
                lease = self._lease = await waiter.acquire(
                    deadline=until, tried=attempts.tried, ask=options.ask, since=since if attempts.sends else None
                )
            finally:
                self.visit.record.queue_seconds += gate.monotonic() - asked_at
            end = await self._send(gate, lease)
            if end is End.OVER:
                return None
            answer = self._judge(end, lease.endpoint.id, is_in_time=gate.monotonic() < until)
            if answer is not None or self.is_reset:
                return answer
            if pause := attempts.pause_seconds(random.random()):  # noqa: S311 - spreads load, hides nothing
                await asyncio.sleep(min(pause, max(0.0, until - gate.monotonic())))

    async def _send(self, gate: Gate, lease: Lease) -> End:
        """Send to one replica; a kept connection that closes under a request that may be repeated is replaced."""
        endpoint, request = lease.endpoint, self._request
        request.attempts.sends += 1
        self.visit.record.attempts += 1
        self.visit.record.replica = endpoint.id
        self._exchange = None
        if endpoint.protocol is not PortProtocol.HTTP:
            return End.NEVER
        link = self._shared.pools.take(gate, endpoint, is_repeatable=request.attempts.is_idempotent)
        while True:
            if link is None:
                found = await self._connect(gate, endpoint)
                if isinstance(found, End):
                    return found
                link = found
            if self._is_late:
                link.abort()
                self._release(Outcome.FAILED)
                return End.LATE
            exchange = self._exchange = Exchange(request, lease, link, self._shared.loop)
            end = await self._pass_on(exchange, link, endpoint)
            is_stale = end is End.BROKE and link.is_reused and not link.is_heard
            if not (is_stale and request.attempts.is_idempotent and self.visit.upload.is_kept):
                return end
            link = None

    async def _connect(self, gate: Gate, endpoint: Endpoint) -> Link | End:
        """Return a new connection; without one nothing was sent, and the lease is over."""
        seconds, answer_by = self._shared.hall.limits.connect_seconds, self._request.passage.options.ask.answer_by
        try:
            link = await self._shared.pools.connect(gate, endpoint, min(seconds, answer_by - gate.monotonic()))
            if not link.is_closing:
                return link
            self._detail = "it closed the connection at once"
        except (OSError, ValueError) as error:
            self._detail = str(error) or type(error).__name__
            if isinstance(error, TimeoutError) and gate.monotonic() >= answer_by:
                self._release(Outcome.FAILED)  # so little time says nothing of the replica
                return End.LATE
        self._release(self._request.attempts.broke(endpoint.id, Break.UNREACHABLE))
        return End.ELSEWHERE

    async def _pass_on(self, exchange: Exchange, link: Link, endpoint: Endpoint) -> End:
        """Send over one connection, and sleep until callbacks tell how that ends."""
        upload = self.visit.upload
        expects_continue = not (self.visit.is_continued or upload.is_complete)
        head = self._outgoing.to(address_of(endpoint.url), expects_continue=expects_continue)
        link.begin(exchange, [head, *upload.so_far()])
        if not upload.is_complete:
            self.is_sinking = True
            self._request.client.take_more()
        try:
            return await exchange.ending
        finally:
            self.is_sinking = False
            exchange.drop()

    def _late(self) -> None:
        self._is_late = True
        if self._exchange is not None:
            self._exchange.end(End.LATE)

    # What is concluded.

    def _judge(self, end: End, replica: str, *, is_in_time: bool) -> Refused | None:
        """End the lease; return an answer of ours, or ``None`` to go again or, with ``is_reset``, to break off."""
        attempts, upload, exchange = self._request.attempts, self.visit.upload, self._exchange
        if end is End.NEVER:
            return answers.not_http(replica)
        if end is End.LATE:
            if exchange is not None and exchange.outcome is None:
                self._release(attempts.broke(replica, Break.TIMED_OUT))
            return answers.too_late() if not self._breaks_off("deadline") else None
        if exchange is None:
            return None
        if end is End.ELSEWHERE or end is End.NOT_KEPT:
            self._release(exchange.outcome)
            if end is End.ELSEWHERE:
                return None
            return answers.not_kept(replica, attempts.refusal or "unreachable", upload.most_kept_bytes)
        self._release(attempts.broke(replica, Break.BROKEN))
        if self._breaks_off("replica_broke"):
            return None
        if upload.is_kept and attempts.may_go_again(self._request.passage.gate.may_resend, is_in_time=is_in_time):
            return None
        if end is End.GARBLED:
            return answers.garbled(replica, exchange.detail)
        is_lacking = attempts.is_idempotent and not upload.is_kept
        return answers.broke(replica, exchange.detail, kept_bytes=upload.most_kept_bytes if is_lacking else None)

    def _breaks_off(self, reason: str) -> bool:
        """Tell whether an answer has begun, which cannot be taken back."""
        if self._exchange is None or not self._exchange.is_committed:
            return False
        self.visit.record.reason = reason
        self.is_reset = True
        return True

    def _without_lease(self, error: BalancerError) -> Refused:
        """Say why there was no replica, or no other one."""
        attempts = self._request.attempts
        if isinstance(error, QueueTimeout) and attempts.last_break is Break.UNREACHABLE:
            return answers.unreachable(error, attempts.sends, self._detail or "its ingress could not reach it")
        if isinstance(error, QueueTimeout) and attempts.refusal:
            return answers.refused_until(error, attempts.sends, attempts.refusal)
        return answers.overloaded(error)

    def _release(self, outcome: Outcome | None) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            self._request.passage.gate.release(lease, outcome or Outcome.FAILED)

    def _settle(self) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        if self._late_timer is not None:
            self._late_timer.cancel()
        exchange, answer, record = self._exchange, self._answer, self.visit.record
        if exchange is not None:
            exchange.drop()
            self._release(exchange.outcome_so_far)
            self.is_last = exchange.is_last
        self._release(Outcome.FAILED)
        self._request.passage.leave()
        if self.is_over:
            answer = None
        else:
            is_committed = exchange is not None and exchange.is_committed
            self.is_last = True
            self.is_reset = is_committed or answer is None
            if answer is not None:
                record.reason = answer.reason
            elif self._is_gone:
                record.reason = "client_gone"
            if not is_committed:
                record.bytes_out = 0  # what an exchange held back, nobody has seen
                if answer is not None and not self._is_gone:
                    record.status = answer.status
        self._request.client.settled(self, None if self.is_reset else answer)
