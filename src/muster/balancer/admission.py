"""What a request is thought to cost, where that puts it, and whether it is refused; the words for every refusal.

It reads the other parts (queue, replicas, models, what runs) and changes none of them but what came lately
(``forecast.Arrivals``) and the counts of refusals.
"""

import math
from collections.abc import Callable, Collection

from muster.balancer.ask import Ask
from muster.balancer.eligible import Eligible
from muster.balancer.forecast import DOUBT, FEWEST, Arrivals, expected_wait, quick
from muster.balancer.learning import Learning
from muster.balancer.lease import Lease
from muster.balancer.queue import WaitingQueue, rank_of
from muster.balancer.statistics import Counts
from muster.balancer.ticket import Ticket
from muster.errors import BalancerError, CannotMeetDeadline, NeverFits, NoEndpoints, QueueTimeout
from muster.model.endpoint import EndpointSet

URGENCY = 0.2
"""A request is as urgent as one that takes this part of the time that its deadline leaves."""


class Admission:
    """One service's."""

    def __init__(
        self,
        service: str,
        *,
        queue: WaitingQueue,
        eligible: Eligible,
        learning: Learning,
        running: Collection[Lease],
        counts: Counts,
        hint_when_unknown: Callable[[], str],
    ) -> None:
        self._service = service
        self._queue = queue
        self._eligible = eligible
        self._learning = learning
        self._running = running
        self._counts = counts
        self._hint_when_unknown = hint_when_unknown
        self._arrivals = Arrivals()

    def assess(self, ticket: Ticket, now: float, *, is_new: bool) -> None:
        """Say what it costs and holds, where it stands in the queue, and when it must have started.

        ``is_new``: it has not asked before. Raises ``NeverFits``.
        """
        ask, cost = ticket.ask, self._learning.cost
        if not self._eligible.could_fit(ask.demands):
            raise self._never_fits(ask)
        typical = cost.work(None)
        ticket.cost = typical if ask.features is None else cost.work(ask.features)
        ticket.rank = 0 if ask.features is None else rank_of(ticket.cost / typical)
        ticket.demands = self._learning.demand.complete(ask.demands, ask.features)
        if not self._eligible.could_fit(ticket.demands):
            ticket.demands = self._eligible.largest()  # as much as is expected nobody has, so it runs alone
        if ask.answer_by < math.inf:
            ticket.rank = min(ticket.rank, rank_of(URGENCY * (ask.answer_by - now) / typical))
            ticket.deadline = min(ticket.deadline, ask.answer_by)
            if self._learning.answered >= FEWEST:
                fastest = min((each.slowness for each in self._eligible.serving), default=1.0)
                must_start = ask.answer_by - quick(ticket.cost * fastest, cost.spread)
                ticket.deadline = max(now, min(ticket.deadline, must_start))
        if is_new:
            self._arrivals.note(ticket, now)

    def too_late(self, ticket: Ticket, now: float) -> CannotMeetDeadline | None:
        """Return the error for one whose place in the queue comes too late for the answer that it wants, or nothing."""
        if ticket.ask.answer_by == math.inf or self._learning.answered < FEWEST or not self._eligible.serving:
            return None
        wait = self.expected_wait(ticket, now)
        if wait == math.inf or DOUBT * wait < ticket.deadline - now:
            return None
        self._counts.refused_early += 1
        return CannotMeetDeadline(
            f"{self._service}: would be answered in about {wait + ticket.cost:.1f} s, it takes {ticket.cost:.1f} s "
            f"itself, and has {ticket.ask.answer_by - now:.1f} s: refused at once "
            f"({len(self._eligible.serving)} replicas, {len(self._queue)} waiting)",
            now - ticket.asked_at,
            wait + ticket.cost,
        )

    def expected_wait(self, ticket: Ticket, now: float) -> float:
        """Return for how many seconds a request is likely to wait; infinity while nobody serves."""
        ahead, older = self._queue.ahead_of(ticket)
        usable = [each for each in self._eligible.serving if not each.health.is_aside(now)]
        next_end = min((each.granted_at + each.expected_seconds for each in self._running), default=now)
        return max(0.0, next_end - now) + expected_wait(
            ahead=ahead,
            older=older,
            overtaking=self._arrivals.overtaking(ticket, self._queue.tenants_beside(ticket), now),
            capacity=sum(each.limit / each.slowness for each in usable),
        )

    def timeout(self, ticket: Ticket, now: float, endpoints: EndpointSet | None) -> BalancerError:
        """Return the error for one whose deadline has passed: it says why it got nothing."""
        self._counts.timed_out += 1
        waited = now - ticket.asked_at
        if endpoints is None:
            return NoEndpoints(
                self._service, f"{self._service}: unknown service {self._hint_when_unknown()} (waited {waited:.1f} s)"
            )
        if not self._eligible.serving:
            since = endpoints.published_at.isoformat(timespec="seconds")
            return NoEndpoints(
                self._service, f"{self._service}: nobody serves it (empty since {since}); waited {waited:.1f} s"
            )
        return QueueTimeout(
            f"{self._service}: no replica was free within {waited:.1f} s ({len(self._eligible.serving)} replicas, "
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
        return NeverFits(f"{self._service}: the request demands {wanted or dict(ask.demands)}: ask for less")
