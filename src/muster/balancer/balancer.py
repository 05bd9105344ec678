"""The core: which request gets which replica, and who waits. No I/O, no clock, no randomness of its own.

In: complete endpoint sets (``update``), requests (``acquire``), ends of requests (``release``), the passing of time
(``tick``). Out: tickets, each with a lease or waiting; a waiting one is woken when it is granted a lease.

Rules
* A replica holds at most its limit. A request that finds no free slot waits, first come first served; one that waits
  only for replicas that it may use does not hold up others.
* A set replaces the last one; replicas whose id survives keep their load and health. One that left gets nothing new,
  its running requests finish and are counted until then.
* A replica that cannot be reached is aside (``eject.py``). When hardly anybody is left (``PANIC_SHARE``), health is
  ignored: that everybody died at once is less likely than that the observer is cut off. Limits hold all the same, so
  the few healthy ones cannot be overrun, which is why the share can be far below Envoy's 50 %.
* A replica whose ingress refused gets nothing for a while (``refusal.py``). Nothing is held against it, and panic does
  not send anything there either: it would only refuse again.
* A retry avoids the replicas that it has tried while others exist. When it has tried all of them, it uses any that is
  not aside; when all are aside it waits for the first to return, or for another set.

Safe for one thread at a time; ``waiting.py`` holds the lock.
"""

import math
from collections.abc import Callable, Sequence

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.chooser import Chooser, Randomness, by_size
from muster.balancer.lease import Lease, Outcome
from muster.balancer.limit import DEFAULT_CONCURRENCY
from muster.balancer.queue import DEFAULT_CAPACITY, Ticket, WaitingQueue
from muster.balancer.refusal import REST_SECONDS
from muster.balancer.replica import Replica
from muster.balancer.statistics import ReplicaStatistics, Statistics
from muster.errors import BalancerError, NoEndpoints, QueueFull, QueueTimeout
from muster.model.endpoint import EndpointSet

PANIC_SHARE = 0.1
"""Health is ignored when less than a tenth of the replicas is healthy; with ten or fewer: when none is."""


class Balancer:
    """The state of one service."""

    def __init__(
        self,
        service: str,
        rng: Randomness,
        *,
        chooser: Chooser = by_size,
        concurrency: int = DEFAULT_CONCURRENCY,
        queue_capacity: int = DEFAULT_CAPACITY,
        hint_when_unknown: Callable[[], str] = str,
    ) -> None:
        self.service = service
        self._rng = rng
        self._chooser = chooser
        self._concurrency = concurrency
        self._hint_when_unknown = hint_when_unknown
        self._queue = WaitingQueue(queue_capacity)
        self._replicas: dict[str, Replica] = {}
        self._serving: tuple[Replica, ...] = ()
        self._troubled: set[Replica] = set()
        self._refusing: set[Replica] = set()
        self._set: EndpointSet | None = None
        self._in_flight = self._granted = self._refused = self._timed_out = 0
        self._next_change = math.inf
        self._is_closed = False

    @property
    def endpoints(self) -> EndpointSet | None:
        """The set in use, ``None`` while the service is unknown."""
        return self._set

    @property
    def next_change(self) -> float:
        """When ``tick`` is worth calling although nothing happened; infinity when never."""
        return self._next_change

    def update(self, endpoints: EndpointSet, now: float, *, is_other_target: bool = False) -> bool:
        """Take over a set; one that is not newer is ignored, unless the alias it came by moved to another service."""
        if self._set is not None and endpoints.fence <= self._set.fence and not is_other_target:
            return False
        self._set = endpoints
        before, self._replicas = self._replicas, {}
        for endpoint in endpoints.endpoints:
            replica = before.pop(endpoint.id, None)
            if replica is None:
                replica = Replica(endpoint, self._concurrency)
            else:
                replica.renew(endpoint, self._concurrency)
            self._replicas[endpoint.id] = replica
        self._serving = tuple(self._replicas.values())
        for endpoint_id, replica in before.items():
            if replica.load.value:
                replica.is_leaving = True
                self._replicas[endpoint_id] = replica
        self._troubled = {replica for replica in self._serving if not replica.health.is_healthy}
        self._refusing = set()
        self._dispatch(now)
        return True

    def acquire(
        self,
        now: float,
        *,
        deadline: float,
        tried: frozenset[str] = frozenset(),
        wake: Callable[[], None],
        ask: Ask = NOTHING_SAID,
    ) -> Ticket:
        """Ask for a lease: the ticket has one at once, or waits.

        Raises ``QueueFull``, ``QueueTimeout`` for a deadline that has passed, ``BalancerError`` when closed.
        """
        self.require_open()
        ticket = Ticket(now, deadline, tried, wake, ask)
        if deadline <= now:
            raise self._timeout(ticket, now)
        if not self._queue and self._grant(ticket, now):
            return ticket
        if self._queue.is_full:
            self._queue.drop_expired(now)
            if self._queue.is_full:
                self._refused += 1
                raise QueueFull(f"{self.service}: {len(self._queue)} requests wait already")
        self._queue.push(ticket)
        self._dispatch(now)
        return ticket

    def give_up(self, ticket: Ticket, now: float) -> None:
        """Forget a ticket whose owner no longer waits; a lease that it was just granted goes to the next."""
        self._queue.discard(ticket)
        if ticket.lease is not None:
            self.release(ticket.lease, Outcome.FAILED, now)

    def time_out(self, ticket: Ticket, now: float) -> BalancerError:
        """Give up a ticket at its deadline and return the error that says why it got nothing."""
        self.require_open()
        self.give_up(ticket, now)
        return self._timeout(ticket, now)

    def release(self, lease: Lease, outcome: Outcome, now: float) -> bool:
        """End a lease; ``False`` if it had ended before."""
        if lease.is_released:
            return False
        lease.is_released = True
        self._note(lease, outcome, now)
        replica = lease.replica
        replica.load.finish()
        self._in_flight -= 1
        if lease.is_trial:
            lease.health.trials -= 1
        if replica.is_leaving and not replica.load.value:
            del self._replicas[replica.endpoint.id]
        self._dispatch(now)
        return True

    def answered(self, lease: Lease, now: float) -> None:
        """Note that the replica answers while the request still runs: a long one must not delay its return."""
        if lease.replica.health.failures and not lease.is_released:
            self._note(lease, Outcome.OK, now)
            self._dispatch(now)

    def tick(self, now: float) -> None:
        """Let time pass: replicas whose time aside is over are tried again."""
        if now >= self._next_change:
            self._dispatch(now)

    def close(self) -> None:
        """Wake whoever waits and refuse from now on; leases that are out may still be released."""
        self._is_closed = True
        for ticket in self._queue:
            ticket.wake()
        self._queue.clear()

    def check(self, ticket: Ticket) -> Lease | None:
        """Return the ticket's lease, ``None`` while it waits. Raises ``BalancerError`` when the service was closed."""
        if ticket.lease is None:
            self.require_open()
        return ticket.lease

    def require_open(self) -> None:
        """Raise ``BalancerError`` when the service was closed."""
        if self._is_closed:
            raise BalancerError(f"{self.service}: the service object was closed")

    def statistics(self, now: float) -> Statistics:
        """Return counts as they are now."""
        return Statistics(
            service=self.service,
            fence=self._set.fence if self._set else None,
            replicas=tuple(
                ReplicaStatistics(
                    id=endpoint_id,
                    url=each.endpoint.url,
                    gpu=each.endpoint.gpu_name,
                    in_flight=each.load.value,
                    others=0,
                    limit=each.limit,
                    is_limit_declared=each.endpoint.concurrency is not None,
                    served=each.served,
                    slowness=1.0,
                    budgets={},
                    is_leaving=each.is_leaving,
                    aside_seconds=max(0.0, _free_at(each, now) - now),
                    why="",
                )
                for endpoint_id, each in self._replicas.items()
            ),
            in_flight=self._in_flight,
            waiting=len(self._queue),
            granted=self._granted,
            released=self._granted - self._in_flight,
            refused=self._refused,
            refused_early=0,
            timed_out=self._timed_out,
            answered=0,
            resent=0,
            waited_seconds=0.0,
            busy_seconds=0.0,
            expected_wait_seconds=0.0,
            tenants=(),
            cost=None,
        )

    def _dispatch(self, now: float) -> None:
        """Grant what can be granted, oldest first, and say when to look again."""
        granted = []
        hopeless: set[frozenset[str]] = set()
        for ticket in self._queue:
            if ticket.deadline <= now or ticket.tried in hopeless:
                continue
            if self._grant(ticket, now):
                granted.append(ticket)
            elif ticket.tried:
                hopeless.add(ticket.tried)  # whoever avoids the same replicas has the same chance
            else:
                break  # whoever avoids some has no more choice than one who avoids none
        for ticket in granted:
            self._queue.discard(ticket)
            ticket.wake()
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        """Compute ``next_change``; whoever sleeps has to know when it comes nearer."""
        before = self._next_change
        self._refusing = {each for each in self._refusing if each.refuses_until > now}
        changes = (_free_at(each, now) for each in self._troubled | self._refusing)
        self._next_change = min((change for change in changes if change > now), default=math.inf)
        if self._next_change < before:
            for ticket in self._queue:
                ticket.wake()

    def _grant(self, ticket: Ticket, now: float) -> bool:
        candidates = self._candidates(ticket.tried, now)
        if not candidates or self._set is None:
            return False
        replica = self._chooser(candidates, self._rng)
        is_trial = not replica.health.is_healthy and not replica.health.is_aside(now)
        replica.load.start()
        replica.served += 1
        replica.health.trials += is_trial
        self._in_flight += 1
        self._granted += 1
        ticket.lease = Lease(replica, replica.endpoint, replica.health, self._set.epoch, now, is_trial)
        return True

    def _candidates(self, tried: frozenset[str], now: float) -> Sequence[Replica]:
        """Return the replicas with room that this request may use."""
        serving = self._serving
        if self._refusing:
            serving = tuple(each for each in serving if each.refuses_until <= now)
        if not self._troubled and not tried:
            return [each for each in serving if each.load.value < each.limit]
        fresh = [each for each in serving if each.endpoint.id not in tried]
        if self._troubled and not _is_panic(serving):
            fresh = [each for each in fresh if not each.health.is_aside(now)]
            admitted = [each for each in fresh if each.health.admits(now)]
        else:
            admitted = fresh
        if not fresh:
            fresh = [each for each in serving if not each.health.is_aside(now)]
            admitted = [each for each in fresh if each.health.admits(now)]
        return [each for each in admitted if each.load.value < each.limit]

    def _note(self, lease: Lease, outcome: Outcome, now: float) -> None:
        replica = lease.replica
        if replica.health is not lease.health or replica.is_leaving:
            return
        if outcome is Outcome.UNREACHABLE:
            replica.health.unreachable(lease.granted_at, now)
            self._troubled.add(replica)
        elif outcome in REST_SECONDS:
            replica.refuses_until = max(replica.refuses_until, now + REST_SECONDS[outcome])
            self._refusing.add(replica)
        elif outcome is Outcome.OK and not lease.is_answered:
            lease.is_answered = True  # one request is one observation, however often it is reported
            if replica.health.reachable(lease.granted_at, replica.limit):
                self._troubled.discard(replica)

    def _timeout(self, ticket: Ticket, now: float) -> BalancerError:
        self._timed_out += 1
        waited = now - ticket.asked_at
        if self._set is None:
            return NoEndpoints(
                self.service, f"{self.service}: unknown service {self._hint_when_unknown()} (waited {waited:.1f} s)"
            )
        if not self._serving:
            since = self._set.published_at.isoformat(timespec="seconds")
            return NoEndpoints(
                self.service, f"{self.service}: nobody serves it (empty since {since}); waited {waited:.1f} s"
            )
        return QueueTimeout(
            f"{self.service}: no replica was free within {waited:.1f} s "
            f"({len(self._serving)} replicas, {self._in_flight} requests in flight, {len(self._queue)} waiting)",
            waited,
        )


def _is_panic(serving: Sequence[Replica]) -> bool:
    healthy = sum(each.health.is_healthy for each in serving)
    return healthy < math.ceil(len(serving) * PANIC_SHARE)


def _free_at(replica: Replica, now: float) -> float:
    """Return when a replica may get something again, as far as is known; a time that has passed: now."""
    aside_until = replica.health.aside_until if replica.health.is_aside(now) else 0.0
    return max(aside_until, replica.refuses_until)
