"""One service's queue and leases, for all clients that are connected: the broker's decisions, without I/O.

In: what visitors (connections) say, endpoint sets, the passing of time. Out: what is said to visitors. The core is the
SDK's own (``balancer/balancer.py``), so order, fairness, learning and refusals are those of a single client that makes
everybody's requests.

A lease is in exactly one of these states, and leaves the table by exactly one way::

    asked ─▸ granted ─┬─ started ─┬─ reported
                      │           ├─ not named in a heartbeat: its client has forgotten it
                      │           └─ its visitor left, or was silent for too long (``server.py``)
                      └─ not started within ``START_SECONDS``: taken back, the slot goes to the next, the client is told

So whatever a client does, its slots are free again a few seconds later. One that starts a grant just when it was taken
back is counted all the same (``_late``): it does use the replica, whose own ingress holds the limit.

A desk grants nothing for ``settle_seconds`` from its first set on: clients that hold leases of its predecessor, or have
given themselves some, come back within that and say so (``hold``). They do not wait for it; nobody does. Before it
knows of a set it welcomes nobody who balances: they may know of one, and are better off by themselves.
"""

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable

from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.statistics import Statistics
from muster.balancer.ticket import Ticket
from muster.broker import messages
from muster.broker.frames import BadFrame
from muster.broker.messages import (
    HEARTBEAT_SECONDS,
    MOST_HELD,
    MOST_TOLD,
    START_SECONDS,
    Bye,
    Grant,
    Held,
    Hello,
    Message,
    Welcome,
)
from muster.broker.queue_view import evicted, meant, queue
from muster.broker.visit import Asked, Given, Visit, Visitor
from muster.errors import BalancerError, InvalidAsk, QueueFull
from muster.model.endpoint import EndpointSet

MOST_UNSTARTED = 8
"""Grants in a row that a client which talks does not start: each kept a slot idle for two seconds. Then it has to go.

One that says nothing meanwhile may be paused, and is judged by its silence (``server.py``).
"""
LATE_SECONDS = 0.1
"""A broker that looks at a due grant so much too late was paused itself, and ``start`` may lie unread: it reads first,
for as long again."""
MOST_OVER = 64
"""Deadlines of asks that are over may be kept in any number up to this, and up to those of asks that are not."""


class Desk:
    """``broker`` names this life of the broker, for clients that come back."""

    def __init__(
        self,
        core: Balancer,
        *,
        broker: str,
        monotonic: Callable[[], float] = time.monotonic,
        settle_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.service = core.service
        self._core = core
        self._broker = broker
        self._monotonic = monotonic
        self._settle_seconds = settle_seconds
        self._settled_at = math.inf
        self._is_settled = settle_seconds <= 0
        self._pending: EndpointSet | None = None
        self._visits: dict[Visitor, Visit] = {}
        self._woken: list[Asked] = []
        self._deadlines: list[tuple[float, int, Asked]] = []
        self._unstarted: deque[tuple[float, Given]] = deque()
        self._reads_until = -math.inf
        self._numbers = itertools.count(1)

    @property
    def visitors(self) -> int:
        """How many are connected."""
        return len(self._visits)

    @property
    def endpoints(self) -> EndpointSet | None:
        """The newest set, in use or waiting for the desk to settle."""
        return self._pending or self._core.endpoints

    def update(self, endpoints: EndpointSet, *, is_other_target: bool = False) -> bool:
        """Take over a set, see ``Balancer.update``."""
        if not self._is_settled:
            present = self._pending
            if present is not None and endpoints.fence <= present.fence and not is_other_target:
                return False
            self._pending = endpoints
            if present is None:
                self._settled_at = self._monotonic() + self._settle_seconds
            self._welcome_all()
            return True
        is_news = self._core.update(endpoints, self._monotonic(), is_other_target=is_other_target)
        self._welcome_all()
        self._flush()
        return is_news

    def statistics(self) -> Statistics:
        """Return counts as they are now."""
        return self._core.statistics(self._monotonic())

    # ── visitors ─────────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, visitor: Visitor, hello: Hello) -> None:
        """Let a client in; it is welcome when there is a set, or when it only looks."""
        visit = self._visits[visitor] = Visit(visitor, hello.client, hello.concurrency)
        if visit.concurrency is not None:
            self._limit_undeclared()
            self._flush()
        if self.endpoints is not None or hello.purpose == "inspect":
            self._welcome(visit)

    def _limit_undeclared(self) -> None:
        """Hold replicas that declare no limit to the least that somebody asks for who is here."""
        told = [each.concurrency for each in self._visits.values() if each.concurrency is not None]
        self._core.limit_undeclared(min(told, default=None), self._monotonic())

    def _welcome(self, visit: Visit) -> None:
        visit.is_welcome = True
        now = self._monotonic()
        ready_seconds = max(0.0, self._settled_at - now) if self._pending is not None else 0.0
        visit.visitor.send(messages.welcome(Welcome(self._broker, now, ready_seconds)))

    def _welcome_all(self) -> None:
        for visit in self._visits.values():
            if not visit.is_welcome:
                self._welcome(visit)

    def take(self, visitor: Visitor, message: Message) -> None:
        """Do what a visitor says. Raises ``BadFrame``: nobody can go on with it then, so it has to ``leave``.

        What one says that has left, or was dismissed, is passed over.
        """
        visit = self._visits.get(visitor)
        if visit is None:
            return
        visit.heard_at = self._monotonic()
        match message["type"]:
            case "ask":
                self._ask(visit, message)
            case "start":
                self._start(visit, messages.read_id(message))
            case "report":
                self._report(visit, messages.read_report(message))
            case "cancel":
                self._cancel(visit, messages.read_id(message))
            case "heartbeat":
                self._beat(visit, messages.read_beat(message))
            case "heard":
                self._heard(visit, *messages.read_heard(message))
            case "hold":
                self._hold(visit, message)
            case "show":
                visitor.send(self.show())
            case "evict":
                visitor.send({"type": "evicted", "count": self.evict(message)})
            case kind:
                raise BadFrame(f"there is no message {kind[:60]!r} in version {messages.VERSION} of the protocol")
        self._flush()

    def leave(self, visitor: Visitor) -> None:
        """Forget a client: what it holds is free."""
        visit = self._visits.pop(visitor, None)
        if visit is None:
            return
        now = self._monotonic()
        self._forget_asks(visit, now)
        for given in list(visit.given.values()):
            self._end(given, Outcome.FAILED, now)
        if visit.concurrency is not None:
            self._limit_undeclared()
        self._flush()

    def close(self, said: Bye) -> None:
        """Take leave of everybody; nobody gets what another one held, since those requests go on."""
        now = self._monotonic()
        for visit in self._visits.values():
            self._forget_asks(visit, now)
        for visitor in list(self._visits):
            self._dismiss(visitor, said)

    def _forget_asks(self, visit: Visit, now: float) -> None:
        for asked in visit.asked.values():
            self._core.give_up(asked.ticket, now)
        visit.asked.clear()

    def _dismiss(self, visitor: Visitor, said: Bye) -> None:
        visitor.send(messages.bye(said))
        self.leave(visitor)
        visitor.close()

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def next_tick(self) -> float:
        """When ``tick`` is worth calling although nothing happened; infinity when never."""
        while self._deadlines and not self._deadlines[0][2].is_waiting:
            heapq.heappop(self._deadlines)
        while self._unstarted and (self._unstarted[0][1].is_started or self._unstarted[0][1].is_over):
            self._unstarted.popleft()
        return min(
            self._core.next_change if self._core.waiting else math.inf,
            self._deadlines[0][0] if self._deadlines else math.inf,
            max(self._unstarted[0][0] + START_SECONDS, self._reads_until) if self._unstarted else math.inf,
            math.inf if self._is_settled else self._settled_at,
        )

    def tick(self) -> None:
        """Let time pass."""
        now = self._monotonic()
        if not self._is_settled and now >= self._settled_at:
            self._is_settled = True
            if self._pending is not None:
                self._core.update(self._pending, now)
                self._pending = None
        self._take_back_due(now)
        self._core.tick(now)
        self._flush()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, asked = heapq.heappop(self._deadlines)
            if asked.is_waiting:
                del asked.visit.asked[asked.id]
                self._refuse(asked.visit, asked.id, self._core.time_out(asked.ticket, now))
        self._flush()

    def _take_back_due(self, now: float) -> None:
        while self._unstarted and self._unstarted[0][0] + START_SECONDS <= now:
            given_at, given = self._unstarted[0]
            if not given.is_started and not given.is_over:
                due_at = given_at + START_SECONDS
                if now - due_at > LATE_SECONDS and self._reads_until < due_at:
                    self._reads_until = now + LATE_SECONDS
                if now < self._reads_until:
                    return
                self._unstarted.popleft()
                self._take_back(given, given_at, now)
            else:
                self._unstarted.popleft()

    # ── what visitors say ────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, visit: Visit, message: Message) -> None:
        now = self._monotonic()
        ask_id = messages.read_id(message)
        if ask_id in visit.asked or ask_id in visit.given:
            raise BadFrame(f"ask: {ask_id} is in use: count up")
        visit.late.pop(ask_id, None)  # it knows, or it would not use the number again
        visit.later.pop(ask_id, None)
        try:
            wanted = messages.read_ask(message, now)
        except InvalidAsk as error:
            self._refuse(visit, ask_id, error)
            return
        if len(visit.asked) + len(visit.given) >= MOST_HELD:
            self._refuse(
                visit, ask_id, QueueFull(f"{self.service}: one client has at most {MOST_HELD} asks and leases")
            )
            return
        asked = Asked(visit, ask_id, next(self._numbers), _NO_TICKET)
        try:
            asked.ticket = self._core.draft(
                now,
                deadline=now + wanted.wait_seconds,
                tried=wanted.tried,
                wake=lambda: self._woken.append(asked),
                ask=wanted.ask,
                since=now - wanted.waited_seconds,
            )
            asked.ticket.is_new = wanted.is_new
            self._core.join(asked.ticket, now, is_kept=wanted.is_kept)
        except BalancerError as error:
            self._refuse(visit, ask_id, error)
            return
        if asked.ticket.lease is not None:
            self._give(asked, asked.ticket.lease, now)
        else:
            visit.asked[ask_id] = asked
            if len(self._deadlines) > 2 * self._core.waiting + MOST_OVER:
                self._deadlines = [each for each in self._deadlines if each[2].is_waiting]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (asked.ticket.deadline, asked.number, asked))

    def _start(self, visit: Visit, ask_id: int) -> None:
        given = visit.given.get(ask_id)
        visit.never_started = 0
        if given is not None:
            given.is_started = True
            return
        late = visit.late.pop(ask_id, None) or visit.later.pop(ask_id, None)
        if late is not None:
            self._take_in(visit, Held(ask_id, late.lease.endpoint, late.ask))

    def _report(self, visit: Visit, said: messages.Report) -> None:
        given = visit.given.get(said.id)
        if given is None:
            return  # it was taken back, or ended by a heartbeat
        now = self._monotonic()
        if said.costs:
            self._core.reported(given.lease, LoadReport(None, costs=said.costs), now)
        self._end(given, said.outcome, now)

    def _cancel(self, visit: Visit, ask_id: int) -> None:
        now = self._monotonic()
        asked = visit.asked.pop(ask_id, None)
        if asked is not None:
            self._core.give_up(asked.ticket, now)
        elif (given := visit.given.get(ask_id)) is not None:  # the grant was on its way
            self._end(given, Outcome.FAILED, now)

    def _beat(self, visit: Visit, held: frozenset[int]) -> None:
        now = self._monotonic()
        visit.visitor.send(messages.pulse(now))
        for given in [each for ask_id, each in visit.given.items() if each.is_started and ask_id not in held]:
            self._end(given, Outcome.FAILED, now)
        visit.late, visit.later = {}, visit.late

    def _heard(self, visit: Visit, ask_id: int, in_flight: int | None) -> None:
        given = visit.given.get(ask_id)
        if given is None:
            return
        now = self._monotonic()
        if in_flight is not None:
            self._core.reported(given.lease, LoadReport(in_flight), now)
        self._core.answered(given.lease, now)

    def _hold(self, visit: Visit, message: Message) -> None:
        leases = messages.read_hold(message)
        for held in leases:
            if held.id in visit.asked or held.id in visit.given:
                raise BadFrame(f"hold: {held.id} is in use")
            if len(visit.given) >= MOST_HELD:
                raise BadFrame(f"hold: more than {MOST_HELD} leases")
            self._take_in(visit, held)
        for held in leases:  # when all have their slots, since more may be granted then
            if held.limit is not None and held.id in visit.given:
                self._core.follow_limit(visit.given[held.id].lease, held.limit, self._monotonic(), is_hint=True)

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _flush(self) -> None:
        """Tell whom the core has granted something; waking others is only a sign to look at ``next_tick``."""
        while self._woken:
            woken, self._woken = self._woken, []
            now = self._monotonic()
            for asked in woken:
                lease = asked.ticket.lease
                if lease is not None and asked.is_waiting:
                    del asked.visit.asked[asked.id]
                    self._give(asked, lease, now)

    def _give(self, asked: Asked, lease: Lease, now: float) -> None:
        visit = asked.visit
        given = Given(visit, asked.id, lease, asked.ticket.ask, is_started=False)
        visit.given[asked.id] = given
        self._unstarted.append((now, given))
        endpoint = lease.endpoint
        is_known = visit.told.get(endpoint.id) == endpoint
        if not is_known:
            if len(visit.told) >= MOST_TOLD and endpoint.id not in visit.told:
                visit.told.clear()
            visit.told[endpoint.id] = endpoint
        said = Grant(
            asked.id,
            endpoint.id,
            now,
            None if is_known else endpoint,
            limit=self._core.found_limit(lease),
            is_told=lease.health.failures > 0,
        )
        visit.visitor.send(messages.grant(said))

    def _take_in(self, visit: Visit, held: Held) -> None:
        now = self._monotonic()
        try:
            lease = self._core.adopt(held.endpoint, held.ask, now, asked_at=now - held.seconds, seconds=held.seconds)
        except BalancerError:
            return  # closing
        visit.given[held.id] = Given(visit, held.id, lease, held.ask, is_started=True)

    def _take_back(self, given: Given, given_at: float, now: float) -> None:
        self._end(given, Outcome.FAILED, now)
        visit = given.visit
        visit.late[given.id] = given
        if len(visit.late) > MOST_HELD:
            del visit.late[next(iter(visit.late))]
        visit.visitor.send(messages.returned(given.id))
        visit.never_started += visit.heard_at > given_at
        if visit.never_started >= MOST_UNSTARTED:
            said = (
                f"the last {MOST_UNSTARTED} grants were not started within {START_SECONDS:g} s each: "
                "say start when a request is sent, or ask only for what will be sent"
            )
            self._dismiss(visit.visitor, Bye("never_starts", said))

    def _end(self, given: Given, outcome: Outcome, now: float) -> None:
        given.is_over = True
        given.visit.given.pop(given.id, None)
        self._core.release(given.lease, outcome, now)

    def _refuse(self, visit: Visit, ask_id: int, error: BalancerError | InvalidAsk) -> None:
        visit.visitor.send(messages.refuse(ask_id, error))

    # ── for people (``queue_view.py``) ───────────────────────────────────────────────────────────────────────────

    def show(self) -> Message:
        """Return who waits, and what the core shows of itself."""
        now = self._monotonic()
        return queue(self._waiting(), self._core.statistics(now), clients=len(self._visits), now=now)

    def evict(self, message: Message) -> int:
        """Take asks out of the queue, and tell their clients; return how many. Raises ``BadFrame``."""
        now = self._monotonic()
        gone = meant(self._waiting(), message, now)
        for asked in gone:
            del asked.visit.asked[asked.id]
            self._core.give_up(asked.ticket, now)
            self._refuse(asked.visit, asked.id, evicted(self.service, asked, now))
        return len(gone)

    def _waiting(self) -> list[Asked]:
        return [asked for visit in self._visits.values() for asked in visit.asked.values()]


def _nobody() -> None:
    """Wake nobody."""


_NO_TICKET = Ticket(0.0, 0.0, 0.0, frozenset(), _nobody)
