"""Clients of the brokers in ``broker_world.py``: gate, seat and core as they are, and what waiters and links do around.

A call is a request with all that happens to it: it asks, waits, is sent, is refused and asks again, breaks and asks
again, is answered, is cancelled. It has failed when it ends with an error that nothing of its own explains.
"""

import math
import random
from functools import partial

from muster.balancer.ask import NOTHING_SAID, Ask
from muster.balancer.balancer import Balancer
from muster.balancer.lease import Lease, Outcome
from muster.balancer.report import LoadReport
from muster.balancer.ticket import Ticket
from muster.balancer.waiting import Gate
from muster.broker.messages import Bye, Message
from muster.broker.seat import Seat, State
from muster.errors import BalancerError, CannotMeetDeadline, NoEndpoints, QueueCancelled, QueueTimeout
from muster.model.endpoint import EndpointSet, ServiceKey
from tests.simulation.broker_world import FOREVER, End, Host, Wire, World

KEY = ServiceKey("account", "s", 6006)


class Client(Host):
    """A process of the SDK, or a gateway: they differ in nothing that matters here."""

    def __init__(self, world: World, name: str, concurrency: int | None = None) -> None:
        super().__init__(world, name)
        self.core = Balancer("s", random.Random(name), concurrency=concurrency, queue_capacity=10_000)
        self.gate = Gate(self.core, monotonic=self.monotonic)
        self.seat = Seat(self.core, KEY, "token", name)
        self.gate.attach(self.seat)
        self.calls: dict[Call, None] = {}
        self.end: End | None = None
        self._turn = 0
        world.on_set.append(self._update)
        self.core.update(world.set, self.monotonic())
        self.connect()

    def _update(self, news: EndpointSet) -> None:
        self.do(partial(self._take_over, news))

    def _take_over(self, news: EndpointSet) -> None:
        self.gate.update(news)

    # ── the link ─────────────────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        """Try the next broker."""
        broker = self.world.brokers[self._turn % len(self.world.brokers)]
        self._turn += 1
        if broker.is_dead:
            self._retry()
            return
        wire = Wire(self.world, self, broker)
        self.end = end = wire.ends[self]
        end.on_message = self._take
        end.on_lost = self.lost
        broker.do(lambda: broker.accept(wire.ends[broker]))
        self.seat.connected(broker.name, self._say, self.monotonic())
        self.rearm()

    def _say(self, message: Message) -> None:
        if self.end is not None and not self.end.is_over:
            self.end.send(message)

    def _take(self, message: Message) -> None:
        said = self.seat.take(message, self.monotonic())
        if isinstance(said, Bye):
            self.world.met[said.reason] += 1
            self.hang_up()

    def hang_up(self) -> None:
        """End the connection."""
        if self.end is not None and not self.end.is_over:
            self.end.is_over = True
            self.end.wire.break_(0.01)
        self.lost()

    def lost(self) -> None:
        """Go on without it, and come back."""
        if self.end is not None:
            self.end.is_over, self.end = True, None
            self.seat.lost(self.monotonic())
            self._retry()

    def _retry(self) -> None:
        self.later(self.world.rng.uniform(0.1, 1.0), self.connect)

    def next_tick(self) -> float:
        return min(self.seat.next_tick, FOREVER)

    def tick(self) -> None:
        if not self.seat.tick(self.monotonic()):
            self.world.met["given up as silent"] += 1
            self.hang_up()

    # ── its life ─────────────────────────────────────────────────────────────────────────────────────────────────

    def die(self) -> None:
        """End, with everything that it holds."""
        self.world.met["client died"] += 1
        self.is_dead = True
        self.world.on_set.remove(self._update)
        if self.end is not None:
            self.end.wire.break_(5.0)
        for call in list(self.calls):
            call.vanish()

    def call(self, ask: Ask = NOTHING_SAID, patience: float = 60.0, seconds: float = 0.2) -> "Call":
        """Begin a request."""
        return Call(self, ask, patience, seconds)


class Call:
    """One request. ``error`` is how it ended, ``answered_at`` when it was answered, ``sent`` how often it was sent."""

    def __init__(self, client: Client, ask: Ask, patience: float, seconds: float) -> None:
        self.client = client
        self.world = client.world
        self.ask = ask
        self.seconds = seconds
        self.since = client.monotonic()
        self.deadline = min(self.since + patience, ask.answer_by)
        self.tried: frozenset[str] = frozenset()
        self.ticket: Ticket | None = None
        self.lease: Lease | None = None
        self.error: BalancerError | None = None
        self.is_over = False
        self.started_at = math.inf
        self.sends = 0
        self.full = 0
        self.is_evicted = False
        client.calls[self] = None
        self._ask(is_again=False)

    def _ask(self, *, is_again: bool) -> None:
        gate, since = self.client.gate, self.since if is_again else None
        try:
            self.ticket = gate.ask(self.deadline, self.tried, self._woken, self.ask, since)
        except BalancerError as error:
            self._fail(error)
            return
        self.client.rearm()
        self._look(self.ticket)

    def _woken(self) -> None:
        self.client.later(0.0, partial(self._look, self.ticket))

    def _look(self, ticket: Ticket | None) -> None:
        if self.is_over or self.lease is not None or ticket is None or ticket is not self.ticket:
            return
        gate = self.client.gate
        try:
            found = gate.look(ticket)
        except BalancerError as error:
            gate.give_up(ticket)
            self._fail(error)
            return
        if isinstance(found, Lease):
            self.ticket, self.lease = None, found
            self.client.later(0.0005, partial(self._send, found))
        else:
            self.client.later(found - self.client.monotonic() + 1e-7, partial(self._look, ticket))

    def _send(self, lease: Lease) -> None:
        if self.is_over:
            return
        self.sends += 1
        machine = self.world.machines.get(lease.endpoint.id)
        if machine is None or not machine.is_alive:
            self._again(lease, Outcome.UNREACHABLE)
        elif not machine.start(self):
            self.full += 1
            self._again(lease, Outcome.FULL)
        else:
            self.started_at = min(self.started_at, self.world.now)
            report = LoadReport(len(machine.running), machine.limit, {"vram_mb": 10.0} if self.sends == 1 else {})
            self.client.later(0.001, partial(self._heard, lease, report))
            self.world.after(machine.takes(self.seconds), partial(self._done, lease))

    def _heard(self, lease: Lease, report: LoadReport) -> None:
        if self.lease is lease:
            self.client.gate.reported(lease, report)
            self.client.gate.answered(lease)

    def _done(self, lease: Lease) -> None:
        machine = self.world.machines.get(lease.endpoint.id)
        if machine is None or self not in machine.running or self.lease is not lease:
            return
        del machine.running[self]
        self.client.do(partial(self._answered, lease))

    def _answered(self, lease: Lease) -> None:
        if self.lease is lease:
            self.client.gate.release(lease, Outcome.OK)
            self._over("answered")

    def broken(self) -> None:
        """The replica has died under it."""
        lease = self.lease
        if lease is not None:
            self.client.do(lambda: self._again(lease, Outcome.ERROR) if self.lease is lease else None)

    def _again(self, lease: Lease, outcome: Outcome) -> None:
        self.client.gate.release(lease, outcome)
        self.lease = None
        self.tried |= {lease.endpoint.id}
        self._ask(is_again=True)

    def cancel(self) -> None:
        """Stop, whatever it is doing."""
        if self.is_over:
            return
        self._stop()
        if self.ticket is not None:
            self.client.gate.give_up(self.ticket)
        if self.lease is not None:
            self.client.gate.release(self.lease, Outcome.FAILED)
        self._over("cancelled")

    def vanish(self) -> None:
        """Its client has died."""
        self._stop()
        self._over("died")

    def _stop(self) -> None:
        machine = None if self.lease is None else self.world.machines.get(self.lease.endpoint.id)
        if machine is not None:
            machine.running.pop(self, None)

    def _fail(self, error: BalancerError) -> None:
        self.error = error
        self._over(type(error).__name__)

    def _over(self, word: str) -> None:
        self.is_over, self.ticket, self.lease = True, None, None
        del self.client.calls[self]
        self.world.met[word] += 1
        if self.error is not None:
            assert self._is_explained(self.error), (self.error, self.world.now, self.ask)

    def _is_explained(self, error: BalancerError) -> bool:
        """Whether its own deadline, or an operator, is why."""
        if isinstance(error, QueueCancelled):
            return True
        if isinstance(error, CannotMeetDeadline):
            return self.ask.answer_by < math.inf
        is_late = self.ask.answer_by < math.inf or self.client.monotonic() >= self.deadline - 1e-6
        return isinstance(error, QueueTimeout | NoEndpoints) and is_late


def is_empty(seat: Seat) -> bool:
    """Whether nothing is left in a seat."""
    kept = seat._asked, seat._asked_as, seat._given, seat._given_as, seat._unstarted, seat._costs
    return not any(kept)


def are_all_up(clients: list[Client]) -> bool:
    """Whether all are attached."""
    return all(each.seat.state is State.UP for each in clients)
