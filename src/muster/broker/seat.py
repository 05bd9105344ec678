"""One service's asks at a broker, as its client keeps them: the client's decisions, without I/O.

In: tickets of the gate, what the broker says, the passing of time. Out: what is said to the broker; leases and errors
of tickets. It is a ``balancer/remote.py``, and every call to it is made under the gate's lock.

    DOWN ─▸ connected ─▸ GREETED ─▸ welcome ─▸ SETTLING ─▸ ready ─▸ UP ─▸ lost ─▸ DOWN
                                                                    └─ silent for a heartbeat ─▸ DOWN

While it is not UP the core here chooses. Going up, whoever waits here waits there instead, and every lease that is out
is announced (``hold``), so that the broker counts it; going down, whoever waits there waits here, in the order of age,
and leases go on. So nothing a broker does, or does not do, fails a request.

A grant that arrives late is not used: the broker takes it back ``START_SECONDS`` after it gave it, and gives the slot
to somebody else. How old a grant is at most follows from the heartbeats, without clocks that agree: the broker stamped
its time into an answer to what was sent at our time t, so its clock was ahead of ours by no more than stamp - t. The
least of that over the last seconds counts, since clocks do drift.

What cannot be said to a broker is decided here: a lease or an ask beyond ``MOST_HELD``, an ask that fills a frame, and
a priority of more digits than anybody reads.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from muster.balancer.ask import Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.ticket import Ticket
from muster.broker import messages
from muster.broker.frames import BadFrame
from muster.broker.messages import (
    HELD_PER_FRAME,
    MOST_HELD,
    MOST_TOLD,
    START_SECONDS,
    Bye,
    Held,
    Hello,
    Message,
    Wanted,
)
from muster.errors import BalancerError
from muster.model.endpoint import Endpoint, ServiceKey

USED_WITHIN_SECONDS = START_SECONDS / 2
"""Older grants are left to the broker: what is said of their start needs time to arrive, too."""
LOAD_EVERY_SECONDS = 0.25
"""How often a replica's count of everybody's requests is passed on; it tells of those who go past the broker."""
CLOCK_SECONDS = 10.0
"""For how long a comparison of the clocks counts, or twice that; clocks that drift by 100 ppm differ by 2 ms then."""
LATE_SECONDS = 0.1
"""A client that looks for an answer so much too late was paused itself, and the answer may lie unread: it reads first,
for as long again."""
MOST_ASKED_BYTES = 32 * 1024
"""What a request says of itself beyond this fills a frame, so it is decided here."""
MOST_PRIORITY = 2**63
MOST_HELD_BYTES = 1024
"""A lease is announced without features that take more: ``HELD_PER_FRAME`` have to fit into a frame."""


class State(Enum):
    """Where a seat is in its life."""

    DOWN = "no connection"
    GREETED = "hello was said"
    SETTLING = "let in, and the broker still learns who holds what"
    UP = "asks go there"


class Seat:
    """``client`` is for people who look at the broker's queue."""

    def __init__(self, core: Balancer, key: ServiceKey, token: str, client: str = "") -> None:
        self.url = ""
        self._core = core
        self._hello = Hello(key, token, client, concurrency=core.concurrency)
        self._state = State.DOWN
        self._send: Callable[[Message], None] = _nobody_hears
        self._numbers = itertools.count(1)
        self._asked: dict[int, Ticket] = {}
        self._asked_as: dict[Ticket, int] = {}
        self._given: dict[int, Lease] = {}
        self._given_as: dict[Lease, int] = {}
        self._unstarted: dict[int, tuple[Ticket, float]] = {}
        self._costs: dict[Lease, dict[str, float]] = {}
        self._load_sent: dict[str, float] = {}
        self._known: dict[str, Endpoint] = {}
        self._heartbeat_seconds = messages.HEARTBEAT_SECONDS
        self._ahead = self._ahead_before = math.inf
        self._ahead_until = -math.inf
        self._said_at = 0.0
        self._silent_at = math.inf
        self._is_excused = False
        self._beat_at = math.inf
        self._ready_at = math.inf

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    def connected(self, url: str, send: Callable[[Message], None], now: float) -> None:
        """Begin on a new connection."""
        self.url, self._send, self._state = url, send, State.GREETED
        self._ahead = self._ahead_before = math.inf
        self._ahead_until = now + CLOCK_SECONDS
        self._say_and_wait(messages.hello(self._hello), now)

    def take(self, message: Message, now: float) -> Bye | None:
        """Do what the broker says; return its farewell if that is what it is. Raises ``BadFrame``."""
        match message["type"]:
            case "grant":
                self._granted(messages.read_grant(message), now)
            case "refuse":
                self._refused(*messages.read_refuse(message, self._core.service))
            case "returned":
                self._returned(messages.read_id(message), now)
            case "heartbeat":
                self._heard_back(messages.read_pulse(message), now)
                self._beat_at = max(now, self._said_at + self._heartbeat_seconds / 2)
            case "welcome":
                self._welcomed(messages.read_welcome(message), now)
            case "bye":
                return messages.read_bye(message)
            case kind:
                raise BadFrame(f"there is no message {kind[:60]!r} in version {messages.VERSION} of the protocol")
        return None

    @property
    def next_tick(self) -> float:
        """When ``tick`` is worth calling; infinity while there is no connection."""
        if self._state is State.DOWN:
            return math.inf
        return min(self._silent_at, self._beat_at, self._ready_at if self._state is State.SETTLING else math.inf)

    def tick(self, now: float) -> bool:
        """Let time pass; ``False`` when the connection is to be ended: silent for too long, or given up as lost."""
        if self._state is State.DOWN:
            return False
        if now >= self._silent_at:
            if self._is_excused or now < self._silent_at + LATE_SECONDS:
                return False
            self._is_excused, self._silent_at = True, now + LATE_SECONDS
        if self._state is State.SETTLING and now >= self._ready_at:
            self._go_up(now)
        if now >= self._beat_at:
            self._beat_at = math.inf
            self._say_and_wait(messages.beat([each for each in self._given if each not in self._unstarted]), now)
        return True

    def lost(self, now: float) -> None:
        """Go on without the broker: the connection has ended, or is about to."""
        self._state, self._send = State.DOWN, _nobody_hears
        self._given.clear()
        self._given_as.clear()
        self._unstarted.clear()
        self._costs.clear()
        self._load_sent.clear()
        self._known.clear()
        waiting = sorted(self._asked.values(), key=lambda each: each.asked_at)
        self._asked.clear()
        self._asked_as.clear()
        self._core.take_over(waiting, now)

    def closed(self) -> None:
        """Wake whoever waits: the gate was closed."""
        for ticket in self._asked.values():
            ticket.wake()

    # ── what the gate wants ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def is_up(self) -> bool:
        """Whether asks go there."""
        return self._state is State.UP and self._has_room

    @property
    def _has_room(self) -> bool:
        return len(self._asked) + len(self._given) < MOST_HELD

    @property
    def waiting(self) -> int:
        """How many of our tickets wait there."""
        return len(self._asked)

    def ask(self, ticket: Ticket, now: float) -> None:
        """Ask for a lease. Raises as ``Balancer.join`` does where it is not the broker that decides."""
        if self._can_ask(ticket):
            self._ask(ticket, now)
        else:
            self._core.join(ticket, now)

    def _can_ask(self, ticket: Ticket) -> bool:
        said = ticket.ask
        texts = said.tenant, said.affinity, *(said.features or ()), *said.demands, *ticket.tried
        is_short = sum(map(_most_bytes, texts)) <= MOST_ASKED_BYTES and abs(said.priority) < MOST_PRIORITY
        return self._has_room and is_short

    def _ask(self, ticket: Ticket, now: float, *, is_kept: bool = False) -> None:
        number = next(self._numbers)
        self._asked[number] = ticket
        self._asked_as[ticket] = number
        wanted = Wanted(
            number,
            ticket.ask,
            wait_seconds=0.0 if ticket.is_spare else max(0.0, ticket.deadline - now),
            waited_seconds=now - ticket.asked_at,
            tried=ticket.tried,
            is_new=ticket.is_new,
            is_kept=is_kept,
        )
        self._send(messages.ask(wanted, now))

    def give_up(self, ticket: Ticket, now: float) -> None:  # noqa: ARG002 the port's
        """Wait no more for one."""
        number = self._asked_as.pop(ticket, None)
        if number is not None:
            del self._asked[number]
            self._send(messages.cancel(number))

    def begin(self, ticket: Ticket, now: float) -> bool:
        """Say that the lease of a ticket is used from now on, unless its grant is too old."""
        number = self._given_as.get(ticket.lease) if ticket.lease is not None else None
        unstarted = self._unstarted.get(number) if number is not None else None
        if number is None and ticket.lease is not None:
            self.took(ticket.lease, now)
        if number is None or unstarted is None:
            return True
        if self._age(unstarted[1], now) > USED_WITHIN_SECONDS:
            self._send(messages.report(number, Outcome.FAILED))
            self._ask_anew(number, now)
            return False
        del self._unstarted[number]
        self._send(messages.start(number))
        return True

    def took(self, lease: Lease, now: float) -> None:
        """Announce a lease that the core here has given although asks go there."""
        if self._state is State.UP:
            self._announce([lease], now)

    def ended(self, lease: Lease, outcome: Outcome, now: float) -> None:  # noqa: ARG002 the port's
        """Say that a lease has ended."""
        number = self._given_as.pop(lease, None)
        if number is not None:
            del self._given[number]
            self._unstarted.pop(number, None)
            self._send(messages.report(number, outcome, self._costs.pop(lease, None)))

    def reported(self, lease: Lease, report: LoadReport, now: float) -> None:
        """Keep what a request has cost, and pass on what is in flight, now and then."""
        number = self._given_as.get(lease)
        if number is None:
            return
        if report.costs:
            self._costs[lease] = dict(report.costs)
        replica = lease.endpoint.id
        if report.in_flight is not None and now >= self._load_sent.get(replica, -math.inf) + LOAD_EVERY_SECONDS:
            self._load_sent[replica] = now
            self._send(messages.heard(number, report.in_flight))

    def answered(self, lease: Lease, now: float) -> None:  # noqa: ARG002 the port's
        """Pass on that a replica answers where others have failed."""
        number = self._given_as.get(lease)
        if number is not None and lease.is_told:
            lease.is_told = False
            self._send(messages.heard(number))

    # ── what the broker says ─────────────────────────────────────────────────────────────────────────────────────

    def _welcomed(self, told: messages.Welcome, now: float) -> None:
        if self._state is not State.GREETED:
            raise BadFrame("welcome: it was said before")
        self._heard_back(told.time, now)
        self._heartbeat_seconds = told.heartbeat_seconds
        self._state, self._ready_at = State.SETTLING, now + told.ready_seconds
        self._beat_at = now + self._heartbeat_seconds / 2
        self._announce(self._core.running, now)
        if told.ready_seconds <= 0:
            self._go_up(now)

    def _go_up(self, now: float) -> None:
        self._announce(self._core.running, now)
        self._state = State.UP
        kept = []
        for ticket in self._core.hand_over():
            ticket.is_new = False
            if self._can_ask(ticket):
                self._ask(ticket, now, is_kept=True)
            else:
                kept.append(ticket)
        self._core.take_over(kept, now)

    def _announce(self, leases: Iterable[Lease], now: float) -> None:
        """Tell of all leases that the broker does not know."""
        held = []
        for lease in leases:
            if lease not in self._given_as and self._has_room:
                number = next(self._numbers)
                self._given[number], self._given_as[lease] = lease, number
                is_short = sum(map(_most_bytes, lease.features or ())) <= MOST_HELD_BYTES
                said = Ask(features=lease.features if is_short else None, demands=lease.taken)
                limit = self._core.found_limit(lease)
                held.append(Held(number, lease.endpoint, said, now - lease.granted_at, limit))
        for some in _batches(held):
            self._send(messages.hold(some))

    def _granted(self, grant: messages.Grant, now: float) -> None:
        if grant.endpoint is not None:
            if len(self._known) >= MOST_TOLD and grant.replica not in self._known:
                self._known.clear()
                self._load_sent.clear()
            self._known[grant.replica] = grant.endpoint
        endpoint = self._known.get(grant.replica)
        if endpoint is None:
            raise BadFrame(f"grant: replica {grant.replica!r} was never told")
        ticket = self._asked.pop(grant.id, None)
        if ticket is None:
            return  # given up, and the cancel is on its way
        del self._asked_as[ticket]
        try:
            lease = self._core.adopt(endpoint, ticket.ask, now, asked_at=ticket.asked_at)
        except BalancerError as error:  # closed
            self._send(messages.report(grant.id, Outcome.FAILED))
            ticket.error = error
        else:
            if grant.limit is not None:
                self._core.follow_limit(lease, grant.limit, now)
            lease.is_told = grant.is_told
            ticket.lease = lease
            self._given[grant.id], self._given_as[lease] = lease, grant.id
            self._unstarted[grant.id] = ticket, grant.time
        ticket.wake()

    def _refused(self, number: int, error: BalancerError) -> None:
        ticket = self._asked.pop(number, None)
        if ticket is not None:
            del self._asked_as[ticket]
            self._core.refuse(ticket, error)

    def _returned(self, number: int, now: float) -> None:
        if number in self._unstarted:
            self._ask_anew(number, now)  # otherwise it is in use, and what was said of that arrives there soon

    def _ask_anew(self, number: int, now: float) -> None:
        ticket, _ = self._unstarted.pop(number)
        lease = self._given.pop(number)
        del self._given_as[lease]
        ticket.lease = None
        self._core.release(lease, Outcome.FAILED, now)
        if ticket.deadline > now:
            ticket.is_new = False
            self._ask(ticket, now, is_kept=True)
        ticket.wake()

    # ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────

    def _say_and_wait(self, message: Message, now: float) -> None:
        self._said_at, self._silent_at = now, now + self._heartbeat_seconds
        self._send(message)

    def _heard_back(self, time: float, now: float) -> None:
        self._silent_at, self._is_excused = math.inf, False
        if now >= self._ahead_until:
            self._ahead, self._ahead_before = math.inf, self._ahead
            self._ahead_until = now + CLOCK_SECONDS
        self._ahead = min(self._ahead, time - self._said_at)

    def _age(self, given_at: float, now: float) -> float:
        """Return how long ago the broker's clock showed ``given_at``, at most."""
        return now + min(self._ahead, self._ahead_before) - given_at


def _most_bytes(text: str) -> int:
    """Return how many a text and a number take in a frame at most."""
    return 24 + len(text) * (2 if text.isascii() and text.isprintable() else 12)


def _batches(held: list[Held]) -> Iterator[list[Held]]:
    for at in range(0, len(held), HELD_PER_FRAME):
        yield held[at : at + HELD_PER_FRAME]


def _nobody_hears(message: Message) -> None:
    """Say it to nobody."""
