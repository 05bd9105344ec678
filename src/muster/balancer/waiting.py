"""Who waits for a lease, and how: tasks of event loops, and threads, over the same core.

``Gate`` is the core with its lock and its clock, and with a broker's client if there is one (``remote.py``). The lock
is held for microseconds and never across a wait, so an event loop may take it. Both waiters run the same three steps:
ask; sleep until woken, until the core's next change or the deadline; look again. A wake carries nothing, so a spurious
one does no harm. The time-outs of sleeping waiters are the only timers, so nothing runs when nobody waits.

A broker's client lives in one event loop, and the others that use the gate must not depend on that: who waits elsewhere
wakes now and then to see that it is still attended to.

Whoever stops waiting (cancelled, interrupted) gives its ticket up, and with it a lease that was granted just then.
"""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.balancer import Balancer
from muster.balancer.budget import RetryBudget
from muster.balancer.lease import Lease, Outcome
from muster.balancer.queue import DEFAULT_WAIT_SECONDS
from muster.balancer.remote import Remote
from muster.balancer.report import LoadReport
from muster.balancer.statistics import Statistics
from muster.balancer.ticket import Ticket
from muster.errors import BalancerError, QueueTimeout
from muster.model.endpoint import EndpointSet
from muster.model.url import shown

UNATTENDED_SECONDS = 1.0
"""So much later than it should have been looked after, a remote's event loop has ended, or is held up."""

T = TypeVar("T")


class Gate:
    """One service's balancer, safe for tasks and threads."""

    def __init__(
        self,
        core: Balancer,
        *,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = core.service
        self.wait_seconds = wait_seconds
        self.monotonic = monotonic
        self._core = core
        self._budget = RetryBudget()
        self._resent = 0
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], None]] = set()
        self._remote: Remote | None = None
        self._attending: asyncio.AbstractEventLoop | None = None
        self._is_unattended = False

    def attach(self, remote: Remote, attending: asyncio.AbstractEventLoop | None = None) -> bool:
        """Let somebody else choose whenever it is up; ``False`` if there is another one that is attended to.

        ``attending`` is the event loop that looks after it.
        """
        with self._lock:
            now = self.monotonic()
            self._look_after(now)
            if self._remote is not None and self._remote is not remote:
                has_ended = self._attending is not None and self._attending.is_closed()
                if not (has_ended or self._is_unattended):
                    return False
                self._remote.lost(now)
            self._remote, self._attending, self._is_unattended = remote, attending, False
            return True

    def detach(self, remote: Remote) -> None:
        """Choose by oneself from now on; it must be down."""
        with self._lock:
            if self._remote is remote:
                self._remote = self._attending = None

    def attended_until(self, here: asyncio.AbstractEventLoop | None) -> float:
        """Return until when who waits ``here`` may rely on the remote's event loop; infinity on that loop itself."""
        remote, attending = self._remote, self._attending
        if remote is None or attending is None or attending is here:
            return math.inf
        return remote.next_tick + UNATTENDED_SECONDS

    def _look_after(self, now: float) -> None:
        """Go on without a remote that nobody looks after; its own event loop, if that runs again, does so itself."""
        remote, attending = self._remote, self._attending
        if remote is None or attending is None or now < remote.next_tick + UNATTENDED_SECONDS:
            return
        if _here() is not attending:
            self._is_unattended = True
            remote.lost(now)

    def with_core(self, work: Callable[[Balancer, float], T]) -> T:
        """Do something under the lock, for whoever is attached."""
        with self._lock:
            return work(self._core, self.monotonic())

    @property
    def is_shared(self) -> bool:
        """Whether somebody else chooses now."""
        return self._remote is not None and self._remote.is_up

    @property
    def endpoints(self) -> EndpointSet | None:
        """The set in use."""
        return self._core.endpoints

    def update(self, endpoints: EndpointSet, *, is_other_target: bool = False) -> bool:
        """Take over a set, see ``Balancer.update``."""
        with self._lock:
            is_news = self._core.update(endpoints, self.monotonic(), is_other_target=is_other_target)
            listeners = tuple(self._listeners) if is_news else ()
        for listener in listeners:
            listener()
        return is_news

    def release(self, lease: Lease, outcome: Outcome = Outcome.OK) -> bool:
        """End a lease; ``False`` if it had ended before."""
        with self._lock:
            now = self.monotonic()
            is_first = self._core.release(lease, outcome, now)
            if is_first and self._remote is not None:
                self._remote.ended(lease, outcome, now)
            return is_first

    def answered(self, lease: Lease) -> None:
        """Note that the replica answers, before the lease ends."""
        if lease.health.failures or lease.is_told:
            with self._lock:
                now = self.monotonic()
                self._core.answered(lease, now)
                if self._remote is not None:
                    self._remote.answered(lease, now)

    def reported(self, lease: Lease, report: LoadReport) -> None:
        """Take over what the replica's ingress says of its load, before the lease ends."""
        with self._lock:
            now = self.monotonic()
            self._core.reported(lease, report, now)
            if self._remote is not None:
                self._remote.reported(lease, report, now)

    def statistics(self) -> Statistics:
        """Return counts as they are now."""
        with self._lock:
            found = self._core.statistics(self.monotonic())._replace(resent=self._resent)
            if self._remote is not None and self._remote.is_up:
                found = found._replace(broker=self._remote.url, waiting=found.waiting + self._remote.waiting)
            return found

    def close(self) -> None:
        """Fail whoever waits, and refuse from now on."""
        with self._lock:
            self._core.close()
            if self._remote is not None:
                self._remote.closed()
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener()

    def count_call(self) -> float:
        """Count a call for the retry budget; return when it came."""
        with self._lock:
            now = self.monotonic()
            self._budget.deposit(now)
            return now

    def may_resend(self) -> bool:
        """Take a token of the retry budget, or say that there is none."""
        with self._lock:
            may = self._budget.withdraw(self.monotonic())
            self._resent += may
            return may

    def ask(
        self, deadline: float, tried: frozenset[str], wake: Callable[[], None], ask: Ask, since: float | None
    ) -> Ticket:
        """Step one of a waiter. A lease that the ticket has is taken by ``look``, which tells whoever gave it."""
        return self._ask(deadline, tried, wake, ask, since)

    def ask_spare(
        self, deadline: float, tried: frozenset[str], wake: Callable[[], None], ask: Ask, since: float | None
    ) -> Ticket:
        """Step one of who takes what is free at once, while somebody else chooses: that one keeps no place for it."""
        return self._ask(deadline, tried, wake, ask, since, is_spare=True)

    def _ask(
        self,
        deadline: float,
        tried: frozenset[str],
        wake: Callable[[], None],
        ask: Ask,
        since: float | None,
        *,
        is_spare: bool = False,
    ) -> Ticket:
        with self._lock:
            now = self.monotonic()
            self._look_after(now)
            ticket = self._core.draft(now, deadline=deadline, tried=tried, wake=wake, ask=ask, since=since)
            ticket.is_spare = is_spare
            if self._remote is not None and self._remote.is_up:
                self._remote.ask(ticket, now)
            else:
                self._core.join(ticket, now)
            return ticket

    def ask_here(self, deadline: float, ask: Ask, *, wake: Callable[[], None]) -> Ticket:
        """Ask the core itself, which answers at once, even while somebody else chooses."""
        with self._lock:
            now = self.monotonic()
            ticket = self._core.acquire(now, deadline=deadline, wake=wake, ask=ask)
            if ticket.lease is not None and self._remote is not None:
                self._remote.took(ticket.lease, now)
            return ticket

    def look(self, ticket: Ticket) -> Lease | float:
        """Step three: return the lease, or until when to sleep. Raises what the core says at the deadline."""
        with self._lock:
            now = self.monotonic()
            self._look_after(now)
            self._core.tick(now)
            lease = self._core.check(ticket)
            if lease is not None and (self._remote is None or self._remote.begin(ticket, now)):
                return lease
            if now >= ticket.deadline:
                raise self._late(ticket, now)
            return self._core.sleep_until(ticket)

    def _late(self, ticket: Ticket, now: float) -> BalancerError:
        remote = self._remote
        if remote is None:
            return self._core.time_out(ticket, now)
        before = remote.waiting
        remote.give_up(ticket, now)
        error = self._core.time_out(ticket, now)
        if remote.waiting == before or not isinstance(error, QueueTimeout):
            return error  # it did not wait there
        waited = now - ticket.asked_at
        said = f"no replica was free within {waited:.1f} s; the broker at {shown(remote.url)} chooses"
        return QueueTimeout(f"{self.service}: {said}, and {remote.waiting} more of our requests wait there", waited)

    def give_up(self, ticket: Ticket) -> None:
        """Stop waiting."""
        with self._lock:
            now = self.monotonic()
            self._core.give_up(ticket, now)
            if self._remote is not None:
                if ticket.lease is not None:
                    self._remote.ended(ticket.lease, Outcome.FAILED, now)
                self._remote.give_up(ticket, now)

    async def wait_for_endpoints(self, at_least: int, timeout_seconds: float) -> bool:
        """Return whether the set came to hold ``at_least`` endpoints in time."""
        bell = _Bell(asyncio.get_running_loop())
        deadline = self.monotonic() + timeout_seconds
        with self._lock:
            self._listeners.add(bell.ring)
        try:
            while self.endpoints is None or len(self.endpoints.endpoints) < at_least:
                self._core.require_open()
                if not await bell.sleep(deadline - self.monotonic()):
                    return False
        finally:
            with self._lock:
                self._listeners.discard(bell.ring)
        return True


def _here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class AsyncWaiter:
    """Acquires leases for tasks."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def acquire(
        self,
        *,
        deadline: float,
        tried: frozenset[str] = frozenset(),
        ask: Ask = NOTHING_SAID,
        since: float | None = None,
    ) -> Lease:
        """Return a lease, waiting until ``deadline`` (of the gate's clock) for one.

        Raises ``QueueFull``, ``QueueTimeout``, ``NoEndpoints``; ``BalancerError`` when the service is closed.
        """
        bell = _Bell(asyncio.get_running_loop())
        return await self._wait(self._gate.ask(deadline, tried, bell.ring, ask, since), bell)

    async def acquire_spare(
        self, *, seconds: float, deadline: float, tried: frozenset[str], ask: Ask, since: float
    ) -> Lease | None:
        """Return a lease of what is free at once, if whoever chooses says so within ``seconds``.

        Raises as ``acquire`` does.
        """
        bell = _Bell(asyncio.get_running_loop())
        ticket = self._gate.ask_spare(deadline, tried, bell.ring, ask, since)
        try:
            async with asyncio.timeout(seconds):
                return await self._wait(ticket, bell)
        except TimeoutError:
            return None

    async def _wait(self, ticket: Ticket, bell: "_Bell") -> Lease:
        loop = asyncio.get_running_loop()
        try:
            while not isinstance(found := self._gate.look(ticket), Lease):
                until = min(found, self._gate.attended_until(loop))
                await bell.sleep(until - self._gate.monotonic())
        except BaseException:
            self._gate.give_up(ticket)
            raise
        return found


class ThreadWaiter:
    """Acquires leases for threads."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def acquire(
        self,
        *,
        deadline: float,
        tried: frozenset[str] = frozenset(),
        ask: Ask = NOTHING_SAID,
        since: float | None = None,
    ) -> Lease:
        """Return a lease, blocking until ``deadline`` (of the gate's clock) for one; raises as ``AsyncWaiter`` does."""
        woken = threading.Event()
        ticket = self._gate.ask(deadline, tried, woken.set, ask, since)
        try:
            while not isinstance(found := self._gate.look(ticket), Lease):
                until = min(found, self._gate.attended_until(None))
                woken.wait(max(0.0, min(until - self._gate.monotonic(), threading.TIMEOUT_MAX)))
                woken.clear()
        except BaseException:
            self._gate.give_up(ticket)
            raise
        return found


class _Bell:
    """Wakes one task, from any thread; a ring while nobody sleeps ends the next sleep at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._has_rung = False
        self._sleeper: asyncio.Future[bool] | None = None

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended, and who slept there
            if threading.get_ident() == self._thread:
                self._ring()
            else:
                self._loop.call_soon_threadsafe(self._ring)

    async def sleep(self, seconds: float) -> bool:
        """Return ``True`` when rung, ``False`` when the time is over."""
        if self._has_rung:
            self._has_rung = False
            return True
        self._sleeper = self._loop.create_future()
        timer = (
            None if math.isinf(seconds) else self._loop.call_later(max(0.0, seconds), _resolve, self._sleeper, False)
        )
        try:
            return await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()

    def _ring(self) -> None:
        if self._sleeper is None:
            self._has_rung = True
        else:
            _resolve(self._sleeper, True)


def _resolve(future: "asyncio.Future[bool]", result: bool) -> None:
    if not future.done():
        future.set_result(result)
