"""Brokers, their clients and the replicas behind them, in virtual time: the real desk, seat, gate and core, no sockets.

Events are run in the order of time, and the same seed gives the same life. Every host has a clock of its own, and can
be frozen: what reaches it meanwhile waits until it goes on, and then its timers may be first or last. Connections carry
frames, cut into pieces, in order, each direction with its own delays; one that breaks loses what is under way, and one
side may learn of it much later than the other, or only from the silence.

A replica is as its ingress makes it: what is above the limit is refused at once, and sent nowhere.
"""

import abc
import datetime
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from muster.balancer.balancer import Balancer
from muster.broker import messages
from muster.broker.desk import Desk
from muster.broker.frames import FrameReader, frame
from muster.broker.messages import HEARTBEAT_SECONDS, SILENT_BEATS, Bye, Message
from muster.model.endpoint import Endpoint, EndpointSet

PUBLISHED_AT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
LOOK_SECONDS = 0.25
"""How often a broker looks for clients that say nothing."""
SILENT_SECONDS = SILENT_BEATS * HEARTBEAT_SECONDS
GONE_SECONDS = SILENT_SECONDS + 2 * LOOK_SECONDS
FOREVER = 1e9


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is. ``slow_seconds`` is what one message in fifty takes, at most; ``every`` maps troubles to means."""

    slow_seconds: float = 0.4
    every: dict[str, float] = field(default_factory=dict)
    brokers: int = 1
    is_exact: bool = True
    """Every replica declares its limit, and that falls only after the set has said so."""


class World:
    """Time, chance, replicas, brokers."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.rng = random.Random(seed)
        self.weather = weather
        self.now = 0.0
        self.met: Counter[str] = Counter()
        self.machines: dict[str, Machine] = {}
        self.hosts: list[Host] = []
        self.revision = 0
        self.set = EndpointSet(1, 0, (), PUBLISHED_AT)
        self.on_set: list[Callable[[EndpointSet], None]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.brokers = [Broker(self, f"b{number}") for number in range(weather.brokers)]

    def at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(moment, self.now), next(self._order), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + seconds, action)

    def run_until(self, moment: float) -> None:
        while self._events and self._events[0][0] <= moment:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = max(self.now, moment)

    def delay(self) -> float:
        if self.rng.random() < 0.02:
            return self.rng.uniform(0.0, self.weather.slow_seconds)
        return self.rng.uniform(0.0002, 0.003)

    def publish(self) -> None:
        """Tell everybody of the machines that serve, each some time soon."""
        self.revision += 1
        present = tuple(each.endpoint for each in self.machines.values() if each.is_listed)
        self.set = EndpointSet(1, self.revision, present, PUBLISHED_AT)
        for told in list(self.on_set):
            self.after(self.rng.uniform(0.001, 0.2), lambda told=told, news=self.set: told(news))  # type: ignore[misc]


class Machine:
    """A replica behind its ingress. One that declares no limit refuses nobody: who finds no slot waits inside."""

    def __init__(self, world: World, name: str, limit: int, slowness: float, *, is_declared: bool = True) -> None:
        self.world = world
        self.name = name
        self.full = self.limit = self.told = limit
        self.slowness = slowness
        self.is_declared = is_declared
        self._free_at = [0.0] * limit
        self.is_listed = self.is_alive = True
        self.running: dict[object, None] = {}
        self.most = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, f"http://{self.name}", concurrency=self.told if self.is_declared else None)

    def start(self, request: object) -> bool:
        """Begin, unless it is full."""
        if self.is_declared and len(self.running) >= self.limit:
            self.world.met["full"] += 1
            return False
        self.running[request] = None
        self.most = max(self.most, len(self.running))
        return True

    def takes(self, seconds: float) -> float:
        """Return when a request that begins now will be answered, from now on."""
        if self.is_declared:
            return seconds * self.slowness
        ends_at = max(self.world.now, self._free_at[0]) + seconds * self.slowness
        heapq.heapreplace(self._free_at, ends_at)
        return ends_at - self.world.now


class Host(abc.ABC):
    """A process: its clock, its pauses, its timer."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.offset = world.rng.uniform(0.0, 1e5)
        self.is_dead = False
        self.is_frozen = False
        self.thawed_at = -FOREVER
        self._held: list[Callable[[], None]] = []
        self._tick_at = FOREVER
        world.hosts.append(self)

    def monotonic(self) -> float:
        return self.world.now + self.offset

    def do(self, action: Callable[[], None]) -> None:
        """Run something here, as soon as the process runs; never, if it is dead."""
        if self.is_dead:
            return
        if self.is_frozen:
            self._held.append(action)
            return
        action()
        self.rearm()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.after(seconds, lambda: self.do(action))

    def freeze(self, seconds: float) -> None:
        if self.is_dead or self.is_frozen:
            return
        self.world.met[f"{type(self).__name__} frozen"] += 1
        self.is_frozen = True
        self.world.after(seconds, self._thaw)

    def _thaw(self) -> None:
        if self.is_dead:
            return
        self.is_frozen, self.thawed_at = False, self.world.now
        held, self._held = self._held, []
        if self.world.rng.random() < 0.5:
            held.insert(0, self.tick)
        for action in held:
            self.do(action)
        self.do(self.tick)

    @abc.abstractmethod
    def next_tick(self) -> float:
        """When ``tick`` is due, by the host's clock."""

    @abc.abstractmethod
    def tick(self) -> None:
        """Let time pass."""

    def rearm(self) -> None:
        due_at = self.next_tick()
        if due_at < self._tick_at:
            self._tick_at = due_at
            self.world.at(due_at - self.offset + 1e-7, lambda: self._ring(due_at))

    def _ring(self, due_at: float) -> None:
        if self._tick_at == due_at:
            self._tick_at = FOREVER
            self.do(self.tick)


class Wire:
    """One connection between a client's host and a broker's."""

    def __init__(self, world: World, client: Host, broker: "Broker") -> None:
        self.world = world
        self.is_broken = False
        self.under_way = 0
        self.ends = {client: End(self, client, broker), broker: End(self, broker, client)}

    def break_(self, seconds: float = 0.0) -> None:
        """Carry nothing any more; each side learns of it within so many seconds."""
        if not self.is_broken:
            self.is_broken = True
            for end in self.ends.values():
                end.host.later(self.world.rng.uniform(0.0, seconds), end.lost)


class End:
    """One side of a connection: it sends, and is told what arrives. A broker's is a visitor of its desk."""

    def __init__(self, wire: Wire, host: Host, peer: Host) -> None:
        self.wire = wire
        self.host = host
        self.on_message: Callable[[Message], None] = _ignore
        self.on_lost: Callable[[], None] = _nothing
        self.is_over = False
        self._peer = peer
        self._reader = FrameReader()
        self._arrives_at = 0.0

    def send(self, message: Message) -> None:
        data, rng = frame(message), self.wire.world.rng
        cut = rng.randrange(len(data)) if rng.random() < 0.05 else 0
        for piece in filter(None, (data[:cut], data[cut:])):
            self._carry(lambda piece=piece: self.wire.ends[self._peer].receive(piece))  # type: ignore[misc]

    def close(self) -> None:
        """Take leave after what was sent."""
        self.is_over = True
        self._carry(self.wire.ends[self._peer].lost)

    def _carry(self, action: Callable[[], None]) -> None:
        world = self.wire.world
        self._arrives_at = max(self._arrives_at + 1e-6, world.now + world.delay())
        self.wire.under_way += 1
        world.at(self._arrives_at, partial(self._arrive, action))

    def _arrive(self, action: Callable[[], None]) -> None:
        self.wire.under_way -= 1
        if not self.wire.is_broken:
            self._peer.do(action)

    def receive(self, data: bytes) -> None:
        if not self.is_over:
            for message in self._reader.feed(data):
                if not self.is_over:
                    self.on_message(message)

    def lost(self) -> None:
        """Hear that it has ended."""
        if not self.is_over:
            self.is_over = True
            self.on_lost()


class Broker(Host):
    """A broker's process: a desk while it serves, and the connections of its visitors."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.desk: Desk | None = None
        self.core: Balancer | None = None
        self.heard_at: dict[End, float] = {}
        self.lives = 0
        self._look_at = FOREVER

    def serve(self, settle_seconds: float = HEARTBEAT_SECONDS) -> None:
        """Open a new desk."""
        self.is_dead = False
        self.lives += 1
        self.core = Balancer("s", random.Random(f"{self.name}/{self.lives}"), queue_capacity=10_000)
        self.desk = Desk(self.core, broker=self.name, monotonic=self.monotonic, settle_seconds=settle_seconds)
        self.world.on_set.append(self._update)
        self._update(self.world.set)
        self._look_at = self.monotonic() + LOOK_SECONDS
        self.rearm()

    def _update(self, news: EndpointSet) -> None:
        self.do(partial(self._take_over, news))

    def _take_over(self, news: EndpointSet) -> None:
        if self.desk is not None:
            self.desk.update(news)

    def stop(self, said: Bye) -> None:
        """Give the service up, in good order."""
        if self.desk is not None:
            self.desk.close(said)
            self._forget()

    def kill(self) -> None:
        """Die at once: the system closes the connections."""
        self.world.met["broker killed"] += 1
        self.is_dead, self.is_frozen = True, False
        self._held.clear()
        self._tick_at = FOREVER
        for end in list(self.heard_at):
            end.wire.break_(0.01)
        self._forget()

    def _forget(self) -> None:
        self.desk = self.core = None
        self.heard_at.clear()
        self._look_at = FOREVER
        if self._update in self.world.on_set:
            self.world.on_set.remove(self._update)

    def accept(self, end: End) -> None:
        """Take a new connection."""
        end.on_message = lambda message: self._take(end, message)
        end.on_lost = lambda: self._left(end)
        self.heard_at[end] = self.monotonic()

    def send(self, end: End, message: Message) -> None:
        """Look at what the desk says, before it goes out."""
        if message["type"] == "grant":
            assert self.core is not None
            replica = self.core._replicas[message["replica"]]
            assert replica.in_flight <= replica.limit, "a grant above the limit"
            assert not replica.is_leaving, "a grant at a replica that has left"
        if not end.is_over:
            end.send(message)

    def _take(self, end: End, message: Message) -> None:
        self.heard_at[end] = self.monotonic()
        if message["type"] != "hello":
            if self.desk is not None:
                self.desk.take(Guest.of(self, end), message)
        elif self.desk is None:
            end.send(messages.bye(Bye("standby", "another broker serves")))
            end.close()
            self.heard_at.pop(end, None)
        else:
            self.desk.join(Guest.of(self, end), messages.read_hello(message))

    def _left(self, end: End) -> None:
        self.heard_at.pop(end, None)
        if self.desk is not None:
            self.desk.leave(Guest.of(self, end))

    def next_tick(self) -> float:
        return FOREVER if self.desk is None else min(self.desk.next_tick, self._look_at)

    def tick(self) -> None:
        if self.desk is None:
            return
        self.desk.tick()
        now = self.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            for end in [each for each, heard_at in self.heard_at.items() if now - heard_at > SILENT_SECONDS]:
                self.world.met["silent"] += 1
                self._left(end)
                end.close()


@dataclass(frozen=True, slots=True)
class Guest:
    """A visitor."""

    broker: Broker
    end: End

    @staticmethod
    def of(broker: Broker, end: End) -> "Guest":
        return Guest(broker, end)

    def send(self, message: Message) -> None:
        self.broker.send(self.end, message)

    def close(self) -> None:
        self.broker.heard_at.pop(self.end, None)
        if not self.end.is_over:
            self.end.close()


def _ignore(message: Message) -> None:
    """Do nothing with it."""


def _nothing() -> None:
    """Do nothing."""
