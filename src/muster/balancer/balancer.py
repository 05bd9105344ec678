"""The core: which request gets which replica, and who waits. No I/O, no clock, no randomness of its own.

In: complete endpoint sets (``update``), requests (``acquire``), what replicas report of themselves (``reported``), ends
of requests (``release``), the passing of time (``tick``). Out: tickets, each with a lease or waiting; a waiting one is
woken when it is granted a lease.

The parts, each in a file of its own: who waits and in which order (``queue.py``), which replicas a request may use now
(``eligible.py``), which of them it gets (``chooser.py``, ``explore.py``), what is learned from answers
(``learning.py``), and which requests are refused because they would come too late (``forecast.py``).

Rules
* A replica holds at most its limit. A request that finds no free slot waits; one that waits only for replicas that it
  may use, or for memory that is not free, does not hold up others, until it is that one's turn (``queue.favoured``):
  then the replica where it will fit first is kept free for it.
* A set replaces the last one; replicas whose id survives keep their load and health. One that left gets nothing new,
  its running requests finish and are counted until then.

Safe for one thread at a time; ``waiting.py`` holds the lock.
"""

import math
from collections.abc import Callable

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.chooser import Chooser, Randomness
from muster.balancer.eligible import Eligible
from muster.balancer.explore import Exploration
from muster.balancer.forecast import DOUBT, FEWEST, Arrivals, expected_wait
from muster.balancer.learning import Learning
from muster.balancer.lease import Lease, Outcome
from muster.balancer.policy import DEFAULT_POLICY, chooser_named
from muster.balancer.queue import DEFAULT_CAPACITY, WaitingQueue, rank_of
from muster.balancer.refusal import rest_seconds
from muster.balancer.replica import Replica
from muster.balancer.report import LoadReport
from muster.balancer.statistics import Counts, Statistics, statistics_of
from muster.balancer.ticket import Ticket
from muster.errors import BalancerError, CannotMeetDeadline, NeverFits, NoEndpoints, QueueFull, QueueTimeout
from muster.model.endpoint import EndpointSet

BACKFILL_DEPTH = 64
"""How many requests that cannot be served are looked past for one that can, as batch schedulers bound it."""
URGENCY = 0.2
"""A request is as urgent as one that takes this part of the time that its deadline leaves."""
SWEEP_SECONDS = 1.0


class Balancer:
    """The state of one service. ``concurrency`` is the limit of an endpoint that declares none; ``None``: find it."""

    def __init__(
        self,
        service: str,
        rng: Randomness,
        *,
        chooser: Chooser | None = None,
        concurrency: int | None = None,
        queue_capacity: int = DEFAULT_CAPACITY,
        hint_when_unknown: Callable[[], str] = str,
    ) -> None:
        self.service = service
        self._rng = rng
        self._chooser = chooser or chooser_named(DEFAULT_POLICY)
        self._hint_when_unknown = hint_when_unknown
        self._queue = WaitingQueue(queue_capacity)
        self._learning = Learning(concurrency)
        self._arrivals = Arrivals()
        self._eligible = Eligible()
        self._replicas: dict[str, Replica] = {}
        self._exploration = Exploration(lambda gpu: self._learning.cost.slowness(gpu, ""))
        self._set: EndpointSet | None = None
        self._counts = Counts()
        self._next_change = math.inf
        self._next_sweep = 0.0
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
                replica = Replica(endpoint, now)
            else:
                replica.renew(endpoint)
            self._learning.welcome(replica)
            self._replicas[endpoint.id] = replica
        self._eligible.renew(tuple(self._replicas.values()))
        for endpoint_id, replica in before.items():
            if replica.in_flight:
                replica.is_leaving = True
                self._replicas[endpoint_id] = replica
            else:
                self._learning.cost.forget(endpoint_id)
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
        since: float | None = None,
    ) -> Ticket:
        """Ask for a lease: the ticket has one at once, or waits until ``deadline`` at most.

        ``since`` is when the call began, for a request that goes again: it keeps its place among those that wait.

        Raises ``QueueFull``; ``QueueTimeout`` for a deadline that has passed and ``CannotMeetDeadline`` for one that
        could not be met; ``NeverFits`` for demands beyond every budget; ``BalancerError`` when closed.
        """
        self.require_open()
        ticket = self._assess(Ticket(now if since is None else since, deadline, tried, wake, ask), now)
        if not self._eligible.could_fit(ask.demands):
            raise self._never_fits(ask)
        if not self._eligible.could_fit(ticket.demands):
            ticket.demands = self._eligible.largest()  # as much as is expected nobody has, so it runs alone
        if not self._queue and self._grant(ticket, now):
            return ticket
        if self._queue.is_full:
            self._queue.drop_expired(now)
            if self._queue.is_full:
                self._counts.refused += 1
                raise QueueFull(f"{self.service}: {len(self._queue)} requests wait already")
        self._refuse_if_late(ticket, now)
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
        replica = lease.replica
        self._note(lease, outcome, now)
        replica.finish(lease.taken)
        self._counts.end(lease, outcome, now)
        if lease.is_trial:
            lease.health.trials -= 1
        if replica.is_leaving and not replica.in_flight:
            del self._replicas[replica.endpoint.id]
            self._learning.cost.forget(replica.endpoint.id)
        self._learning.score(replica)
        self._dispatch(now)
        return True

    def reported(self, lease: Lease, report: LoadReport, now: float) -> None:
        """Take over what the replica's ingress says in an answer, or a refusal, to a request that has not ended."""
        replica = lease.replica
        if report.costs:
            self._learning.demand.observe(lease.features, report.costs, replica.endpoint.budgets)
        if report.in_flight is not None:
            replica.others = max(0, report.in_flight - replica.in_flight)
            replica.reported_at = now
            self._learning.score(replica)

    def answered(self, lease: Lease, now: float) -> None:
        """Note that the replica answers while the request still runs: a long one must not delay its return."""
        if lease.replica.health.failures and not lease.is_released:
            self._reachable(lease)
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
        average = Ticket(now, math.inf, frozenset(), _nobody, cost=self._learning.cost.work(None))
        return statistics_of(
            service=self.service,
            fence=self._set.fence if self._set else None,
            replicas=self._replicas.values(),
            queue=self._queue,
            counts=self._counts,
            expected_wait=0.0 if self._eligible.has_room() else self._expected_wait(average, now),
            cost=self._learning.cost.statistics(),
            now=now,
        )

    # ── granting ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, now: float) -> None:
        """Grant what can be granted, in the queue's order, and say when to look again."""
        if now >= self._next_sweep:
            self._sweep(now)
        if self._queue and self._eligible.has_room():
            for ticket in self._served(now):
                ticket.wake()
        self._schedule(now)

    def _served(self, now: float) -> list[Ticket]:
        served: list[Ticket] = []
        hopeless: set[tuple[frozenset[str], frozenset[tuple[str, int]]]] = set()
        barred = None
        favoured = self._queue.favoured
        for ticket in self._queue.in_order():
            if ticket.deadline <= now:
                continue
            # Whoever avoids the same replicas and demands the same memory has the same chance.
            kind = ticket.tried, frozenset(ticket.demands.items())
            if kind in hopeless:
                continue
            if self._grant(ticket, now, barred):
                self._queue.take(ticket)
                served.append(ticket)
                if not self._eligible.has_room():
                    break
                continue
            hopeless.add(kind)
            if ticket is favoured and not ticket.tried:
                barred = self._eligible.roomiest(ticket.demands)
            if len(hopeless) >= BACKFILL_DEPTH:
                break
        return served

    def _grant(self, ticket: Ticket, now: float, barred: Replica | None = None) -> bool:
        candidates = self._eligible.candidates(ticket.tried, ticket.demands, now, barred)
        if not candidates or self._set is None:
            return False
        is_free = ticket.rank <= 0 and not ticket.ask.affinity and not ticket.tried
        replica = self._exploration.pick(candidates) if is_free else None
        if replica is None:
            replica = self._chooser(candidates, ticket.ask, self._rng)
        is_trial = not replica.health.is_healthy and not replica.health.is_aside(now)
        replica.health.trials += is_trial
        taken = replica.start(ticket.demands)
        self._learning.score(replica)
        self._counts.grant(now - ticket.asked_at)
        ticket.lease = Lease(
            replica,
            replica.endpoint,
            replica.health,
            self._set.epoch,
            now,
            is_trial,
            features=ticket.ask.features,
            expected_seconds=ticket.cost * replica.slowness,
            taken=taken,
            busy_at_grant=replica.busy,
            is_wanted=len(self._queue) > 0,
        )
        return True

    def _schedule(self, now: float) -> None:
        """Compute ``next_change``; whoever sleeps has to know when it comes nearer."""
        before = self._next_change
        self._next_change = self._eligible.next_change(now)
        if self._next_change < before:
            for ticket in self._queue:
                ticket.wake()

    def _sweep(self, now: float) -> None:
        """Forget what other clients had when nobody said so lately, and look for who has not been used for long."""
        self._next_sweep = now + SWEEP_SECONDS
        oldest = now - max(SWEEP_SECONDS, 2 * self._learning.cost.work(None))
        for replica in self._eligible.serving:
            if replica.others and replica.reported_at < oldest:
                replica.others = 0
                self._learning.score(replica)
        self._exploration.look(self._eligible.serving, now)

    # ── learning ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _note(self, lease: Lease, outcome: Outcome, now: float) -> None:
        replica = lease.replica
        if outcome is Outcome.OK:
            lease.is_wanted = lease.is_wanted or len(self._queue) > 0
            self._learning.learn(lease, now - lease.granted_at, now, self._eligible.serving)
        if replica.health is not lease.health or replica.is_leaving:
            return
        if outcome in (Outcome.OK, Outcome.UNREAD):
            self._reachable(lease)
            if not replica.is_closed:
                replica.refuses_until = 0.0  # the slot that this request had is free
        elif outcome is Outcome.UNREACHABLE:
            replica.health.unreachable(lease.granted_at, now)
        elif outcome is Outcome.ERROR:
            replica.health.failed(lease.granted_at, now)
        elif outcome in (Outcome.CLOSED, Outcome.FULL):
            self._refused(replica, outcome, now)
        self._eligible.check(replica)

    def _reachable(self, lease: Lease) -> None:
        if not lease.is_answered:
            lease.is_answered = True  # one request is one observation, however often it is reported
            lease.replica.health.reachable(lease.granted_at, lease.replica.limit)
            self._eligible.check(lease.replica)

    def _refused(self, replica: Replica, outcome: Outcome, now: float) -> None:
        seconds = self._learning.cost.work(None) * replica.slowness
        rest = rest_seconds(outcome, seconds=seconds, limit=replica.limit, chance=self._rng.randrange(1024) / 1024)
        replica.refuses_until = max(replica.refuses_until, now + rest)
        replica.is_closed = replica.is_closed or outcome is Outcome.CLOSED
        if outcome is Outcome.FULL:
            replica.others = max(replica.others, replica.limit - replica.in_flight + 1)
            replica.reported_at = now

    # ── deadlines ────────────────────────────────────────────────────────────────────────────────────────────────

    def _assess(self, ticket: Ticket, now: float) -> Ticket:
        """Say what it costs, where it stands in the queue, and when it must have started."""
        ask = ticket.ask
        if min(ticket.deadline, ask.answer_by) <= now:
            raise self._timeout(ticket, now)
        typical = self._learning.cost.work(None)
        ticket.cost = typical if ask.features is None else self._learning.cost.work(ask.features)
        ticket.demands = self._learning.demand.complete(ask.demands, ask.features)
        ticket.rank = 0 if ask.features is None else rank_of(ticket.cost / typical)
        if ask.answer_by < math.inf:
            left = ask.answer_by - now
            ticket.rank = min(ticket.rank, rank_of(URGENCY * left / typical))
            if self._learning.answered >= FEWEST:
                fastest = min((each.slowness for each in self._eligible.serving), default=1.0)
                needed = ticket.cost * fastest
                if DOUBT * needed >= left:
                    raise self._late(needed, needed, left)
                left -= DOUBT * needed
            ticket.deadline = min(ticket.deadline, now + left)
        self._arrivals.note(ticket, now)
        return ticket

    def _refuse_if_late(self, ticket: Ticket, now: float) -> None:
        if self._learning.answered < FEWEST or not self._eligible.serving:
            return
        wait = self._expected_wait(ticket, now)
        if DOUBT * wait > ticket.deadline - now and wait < math.inf:
            raise self._late(ticket.cost, wait + ticket.cost, ticket.deadline - now)

    def _expected_wait(self, ticket: Ticket, now: float) -> float:
        ahead, older = self._queue.ahead_of(ticket)
        usable = [each for each in self._eligible.serving if not each.health.is_aside(now)]
        return expected_wait(
            ahead=ahead,
            older=older,
            overtaking=self._arrivals.overtaking(ticket, self._queue.tenants_beside(ticket), now),
            turn=self._learning.cost.work(None),
            capacity=sum(each.limit / each.slowness for each in usable),
        )

    def _late(self, needs: float, expected: float, left: float) -> CannotMeetDeadline:
        self._counts.refused_early += 1
        return CannotMeetDeadline(
            f"{self.service}: would be answered in about {expected:.1f} s (it takes {needs:.1f} s itself), and has "
            f"{left:.1f} s: refused at once ({len(self._eligible.serving)} replicas, {len(self._queue)} waiting)",
            0.0,
            expected,
        )

    def _timeout(self, ticket: Ticket, now: float) -> BalancerError:
        self._counts.timed_out += 1
        waited = now - ticket.asked_at
        if self._set is None:
            return NoEndpoints(
                self.service, f"{self.service}: unknown service {self._hint_when_unknown()} (waited {waited:.1f} s)"
            )
        if not self._eligible.serving:
            since = self._set.published_at.isoformat(timespec="seconds")
            return NoEndpoints(
                self.service, f"{self.service}: nobody serves it (empty since {since}); waited {waited:.1f} s"
            )
        return QueueTimeout(
            f"{self.service}: no replica was free within {waited:.1f} s ({len(self._eligible.serving)} replicas, "
            f"{self._counts.in_flight} requests in flight, {len(self._queue)} waiting)",
            waited,
        )

    def _never_fits(self, ask: Ask) -> NeverFits:
        largest = {
            name: max(each.endpoint.budgets.get(name, 0) for each in self._eligible.serving) for name in ask.demands
        }
        wanted = ", ".join(
            f"{name} {amount} (the largest replica has {largest[name]})"
            for name, amount in ask.demands.items()
            if amount > largest[name]
        )
        return NeverFits(f"{self.service}: the request demands {wanted or dict(ask.demands)}: ask for less")


def _nobody() -> None:
    """Wake nobody."""
