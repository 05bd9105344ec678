"""The core: which request gets which replica, and who waits. No I/O, no clock, no randomness of its own.

In: complete endpoint sets (``update``), requests (``acquire``), what replicas report of themselves (``reported``), ends
of requests (``release``), the passing of time (``tick``). Out: tickets, each with a lease or waiting; a waiting one is
woken when it is granted a lease.

The parts, each in a file of its own: who waits and in which order (``queue.py``), which replicas a request may use now
(``eligible.py``), which of them it gets (``chooser.py``, ``explore.py``), what is learned from answers
(``learning.py``), and which requests are refused, since they fit nowhere or would come too late (``admission.py``).

Rules
* A replica holds at most its limit. A request that finds no free slot waits; one that waits only for replicas that it
  may use, or for memory that is not free, does not hold up others, until it is that one's turn (``queue.favoured``):
  then the replica where it will fit first is kept free for it.
* A set replaces the last one; replicas whose id survives keep their load and health. One that left gets nothing new,
  its running requests finish and are counted until then.

Safe for one thread at a time; ``waiting.py`` holds the lock.
"""

import math
from collections.abc import Callable, Collection, Iterable

from muster.balancer.admission import Admission
from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.chooser import Chooser, Randomness
from muster.balancer.eligible import Eligible
from muster.balancer.explore import Exploration
from muster.balancer.learning import Learning
from muster.balancer.lease import Lease, Outcome
from muster.balancer.policy import DEFAULT_POLICY, chooser_named
from muster.balancer.queue import DEFAULT_CAPACITY, WaitingQueue
from muster.balancer.refusal import rest_seconds
from muster.balancer.replica import Replica
from muster.balancer.report import LoadReport
from muster.balancer.statistics import Counts, Statistics, statistics_of
from muster.balancer.ticket import Ticket
from muster.errors import BalancerError, QueueFull
from muster.model.endpoint import Endpoint, EndpointSet

BACKFILL_DEPTH = 64
"""How many requests that cannot be served are looked past for one that can, as batch schedulers bound it."""
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
        self._queue = WaitingQueue(queue_capacity)
        self._learning = Learning(concurrency)
        self._eligible = Eligible()
        self._running: dict[Lease, None] = {}
        self._counts = Counts()
        self._admission = Admission(
            service,
            queue=self._queue,
            eligible=self._eligible,
            learning=self._learning,
            running=self._running,
            counts=self._counts,
            hint_when_unknown=hint_when_unknown,
        )
        self._replicas: dict[str, Replica] = {}
        self._exploration = Exploration(lambda gpu: self._learning.cost.slowness(gpu, ""))
        self._set: EndpointSet | None = None
        self._unmet = 0
        self._timekeeper: Ticket | None = None
        self._next_change = math.inf
        self._next_sweep = 0.0
        self._is_closed = False

    @property
    def endpoints(self) -> EndpointSet | None:
        """The set in use, ``None`` while the service is unknown."""
        return self._set

    @property
    def concurrency(self) -> int | None:
        """The limit of an endpoint that declares none; ``None`` where it is found."""
        return self._learning.default_concurrency

    def limit_undeclared(self, concurrency: int | None, now: float) -> None:
        """Have another such limit."""
        if concurrency != self.concurrency:
            self._learning.give_limit(concurrency, self._eligible.serving)
            self._dispatch(now)

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

        Raises ``QueueFull``; ``QueueTimeout`` for a deadline that has passed; ``CannotMeetDeadline`` when all slots are
        taken and ``answer_by`` could not be met; ``NeverFits`` for demands beyond every budget; ``BalancerError`` when
        closed.
        """
        ticket = self.draft(now, deadline=deadline, tried=tried, wake=wake, ask=ask, since=since)
        self.join(ticket, now)
        return ticket

    def draft(
        self,
        now: float,
        *,
        deadline: float,
        tried: frozenset[str],
        wake: Callable[[], None],
        ask: Ask,
        since: float | None,
    ) -> Ticket:
        """Return a ticket that has asked nobody yet. Raises what ``acquire`` does of one whose time is over."""
        self.require_open()
        ticket = Ticket(now if since is None else since, now, deadline, tried, wake, ask, is_new=since is None)
        if deadline < now or ask.answer_by <= now:
            raise self._admission.timeout(ticket, now, self._set)
        return ticket

    def join(self, ticket: Ticket, now: float, *, is_kept: bool = False) -> None:
        """Give a ticket a lease or a place in the queue; raises as ``acquire`` does.

        ``is_kept``: it was taken in elsewhere, so a queue that is full is no reason to lose it, nor a forecast; and it
        tells nothing of how many come.
        """
        deadline = ticket.deadline
        self._admission.assess(ticket, now, is_new=ticket.is_new and not is_kept)
        if not self._queue and self._grant(ticket, now):
            return
        if deadline <= now:
            raise self._admission.timeout(ticket, now, self._set)
        if self._queue.is_full and not is_kept:
            self._queue.drop_expired(now)
            if self._queue.is_full:
                self._counts.refused += 1
                raise QueueFull(f"{self.service}: {len(self._queue)} requests wait already")
        self._queue.push(ticket)
        self._dispatch(now)
        if ticket.lease is None:
            self._unmet += 1
            too_late = None if is_kept else self._admission.too_late(ticket, now)
            if too_late is not None:
                self.give_up(ticket, now)
                raise too_late

    def adopt(self, endpoint: Endpoint, ask: Ask, now: float, *, asked_at: float, seconds: float = 0.0) -> Lease:
        """Count a lease that somebody else has given, ``seconds`` ago, whatever the limit here says.

        Its replica need not be in the set: then it counts as one that has left. Before the first set it is kept, since
        that set most likely has it. Raises ``BalancerError`` when closed.
        """
        self.require_open()
        replica = self._replicas.get(endpoint.id)
        if replica is None:
            replica = self._replicas[endpoint.id] = Replica(endpoint, now)
            replica.is_leaving = self._set is not None
            self._learning.welcome(replica)
        ticket = Ticket(asked_at, now, math.inf, frozenset(), _nobody, ask)
        ticket.cost = self._learning.cost.work(ask.features)
        ticket.demands = self._learning.demand.complete(ask.demands, ask.features)
        return self._lend(ticket, replica, now, granted_at=now - seconds)

    def found_limit(self, lease: Lease) -> int | None:
        """Return how many were found to be good at once for replicas of its kind, ``None`` where that is given."""
        return self._learning.found_limit(lease.replica)

    def follow_limit(self, lease: Lease, limit: int, now: float, *, is_hint: bool = False) -> None:
        """Take over how many somebody else has found to be good; a hint only where that is more than a start."""
        if self._learning.follow(lease.replica, limit, now, self._eligible.serving, is_hint=is_hint):
            self._dispatch(now)

    def hand_over(self) -> list[Ticket]:
        """Empty the queue, for somebody else who chooses from now on; oldest first."""
        tickets = list(self._queue)
        self._queue.clear()
        return tickets

    def take_over(self, tickets: Iterable[Ticket], now: float) -> None:
        """Fill the queue with what has waited elsewhere and is kept, see ``join``; what cannot wait has an error then.

        All of them at once, since to look after each for whom it could serve takes time that grows with the square.
        """
        for ticket in tickets:
            ticket.credit = 0.0
            try:
                self._admission.assess(ticket, now, is_new=False)
            except BalancerError as error:
                ticket.error = error
                ticket.wake()
            else:
                self._queue.push(ticket)
        self._dispatch(now)
        self._unmet += len(self._queue)

    @property
    def running(self) -> Collection[Lease]:
        """The leases that are out."""
        return self._running.keys()

    @property
    def waiting(self) -> int:
        """How many tickets wait here."""
        return len(self._queue)

    def give_up(self, ticket: Ticket, now: float) -> None:
        """Forget a ticket whose owner no longer waits; a lease that it was just granted goes to the next."""
        was_favoured = ticket is self._queue.favoured
        self._queue.discard(ticket)
        if ticket.lease is not None:
            self.release(ticket.lease, Outcome.FAILED, now)
        elif was_favoured:
            self._dispatch(now)  # others may have what was kept free for it
        elif ticket is self._timekeeper:
            self._schedule(now)

    def sleep_until(self, ticket: Ticket) -> float:
        """Return until when whoever waits may sleep unless it is woken.

        One of them wakes for all when a replica comes back; if each did, a thousand would, and find one slot.
        """
        return min(ticket.deadline, self._next_change) if ticket is self._timekeeper else ticket.deadline

    def time_out(self, ticket: Ticket, now: float) -> BalancerError:
        """Give up a ticket at its deadline and return the error that says why it got nothing."""
        self.require_open()
        self.give_up(ticket, now)
        return self._admission.timeout(ticket, now, self._set)

    def refuse(self, ticket: Ticket, error: BalancerError) -> None:
        """End a ticket that waits elsewhere, with what was said there; it counts as if it had waited here."""
        if not ticket.is_spare:
            self._counts.refuse(error)
        ticket.error = error
        ticket.wake()

    def release(self, lease: Lease, outcome: Outcome, now: float) -> bool:
        """End a lease; ``False`` if it had ended before."""
        if lease.is_released:
            return False
        lease.is_released = True
        replica = lease.replica
        self._note(lease, outcome, now)
        replica.finish(lease.taken)
        del self._running[lease]
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
        """Return the ticket's lease, ``None`` while it waits.

        Raises ``BalancerError`` when the service was closed, and what somebody else said who decided.
        """
        if ticket.lease is None:
            if ticket.error is not None:
                raise ticket.error
            self.require_open()
        return ticket.lease

    def require_open(self) -> None:
        """Raise ``BalancerError`` when the service was closed."""
        if self._is_closed:
            raise BalancerError(f"{self.service}: the service object was closed")

    def statistics(self, now: float) -> Statistics:
        """Return counts as they are now."""
        average = Ticket(now, now, math.inf, frozenset(), _nobody, cost=self._learning.cost.work(None))
        return statistics_of(
            service=self.service,
            fence=self._set.fence if self._set else None,
            replicas=self._replicas.values(),
            queue=self._queue,
            counts=self._counts,
            expected_wait=0.0 if self._eligible.has_room() else self._admission.expected_wait(average, now),
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
        hopeless: set[object] = set()
        barred = None
        favoured = self._queue.favoured
        most_free = self._eligible.most_free()
        for ticket in self._queue.in_order():
            if ticket.deadline <= now:
                continue
            # Whoever avoids the same replicas and demands the same memory has the same chance.
            is_choosy = bool(ticket.tried) or self._eligible.has_budgets
            kind = (ticket.tried, ticket.queued_at, frozenset(ticket.demands.items())) if is_choosy else None
            if kind in hopeless:
                continue
            is_possible = all(amount <= most_free.get(name, math.inf) for name, amount in ticket.demands.items())
            if is_possible and self._grant(ticket, now, barred):
                self._queue.take(ticket)
                served.append(ticket)
                if not self._eligible.has_room():
                    break
                continue
            if not is_choosy:
                break  # nobody has more choice
            hopeless.add(kind)
            if ticket is favoured and not ticket.tried:
                barred = self._eligible.roomiest(ticket.demands)
            if len(hopeless) >= BACKFILL_DEPTH:
                break
        return served

    def _grant(self, ticket: Ticket, now: float, barred: Replica | None = None) -> bool:
        candidates = self._eligible.candidates(ticket, now, barred)
        if not candidates or self._set is None:
            return False
        is_free = ticket.rank <= 0 and ticket.ask.answer_by == math.inf and not ticket.ask.affinity and not ticket.tried
        replica = self._exploration.pick(candidates, now) if is_free else None
        if replica is None:
            replica = self._chooser(candidates, ticket.ask, self._rng)
        ticket.lease = self._lend(ticket, replica, now, granted_at=now)
        return True

    def _lend(self, ticket: Ticket, replica: Replica, now: float, *, granted_at: float) -> Lease:
        is_trial = not replica.health.is_healthy and not replica.health.is_aside(now)
        replica.health.trials += is_trial
        taken = replica.start(ticket.demands)
        self._learning.score(replica)
        self._counts.grant(max(0.0, granted_at - ticket.asked_at))
        lease = Lease(
            replica,
            replica.endpoint,
            replica.health,
            self._set.epoch if self._set else 0,
            granted_at,
            is_trial,
            features=ticket.ask.features,
            expected_seconds=ticket.cost * replica.slowness,
            taken=taken,
            busy_at_grant=replica.busy,
            unmet=self._unmet,
            is_wanted=len(self._queue) > 0,
        )
        self._running[lease] = None
        return lease

    def _schedule(self, now: float) -> None:
        """Compute ``next_change``, and see that one of those who sleep wakes then."""
        before = self._next_change
        self._next_change = self._eligible.next_change(now)
        keeper = self._timekeeper
        if keeper is None or keeper not in self._queue:
            keeper = self._timekeeper = next(iter(self._queue), None)
            before = math.inf
        if keeper is not None and self._next_change < before:
            keeper.wake()

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
            lease.is_wanted = lease.is_wanted or self._unmet > lease.unmet or len(self._queue) > 0
            self._learning.learn(lease, now - lease.granted_at, now, self._eligible.serving)
        if replica.health is not lease.health or replica.is_leaving:
            return
        if outcome in (Outcome.OK, Outcome.UNREAD):
            self._reachable(lease)
            is_turned_down = outcome is Outcome.UNREAD
            self._learning.note_answer(replica, self._eligible.serving, is_turned_down=is_turned_down)
            if not replica.is_closed:
                replica.refuses_until = 0.0  # the slot that this request had is free
        elif outcome is Outcome.UNREACHABLE:
            replica.health.unreachable(lease.granted_at, now)
        elif outcome in (Outcome.ERROR, Outcome.TIMED_OUT):
            replica.health.failed(lease.granted_at, now)
        elif outcome in (Outcome.CLOSED, Outcome.FULL, Outcome.BUSY):
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
        replica.is_closed = outcome is Outcome.CLOSED or (replica.is_closed and replica.refuses_until > now)
        replica.refuses_until = max(replica.refuses_until, now + rest)
        if outcome is Outcome.FULL:
            replica.others = max(replica.others, replica.limit - replica.in_flight + 1)
            replica.reported_at = now


def _nobody() -> None:
    """Wake nobody."""
