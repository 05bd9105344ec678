"""Four clients, their brokers and some unlike replicas, for as long as it takes to meet everything that can go wrong.

The world is in ``broker_world.py`` and ``broker_clients.py``. The same things hold in any weather: a broker gives
nothing above a limit, every request ends as it should, and nothing is left when all is quiet. In good weather no
replica ever refuses.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest

from muster.balancer.ask import Ask
from muster.broker.messages import Bye
from muster.errors import QueueTimeout
from tests.simulation.broker_clients import Call, Client, are_all_up, is_empty
from tests.simulation.broker_world import GONE_SECONDS, Guest, Machine, Weather, World

LIMITS = (1, 2, 3, 4)
CALLS_PER_SECOND = 24.0
LONG_PATIENCE = 120.0

FAIR = Weather(every={"pause": 4.0, "grow": 5.0, "limit": 4.0, "cancel": 0.4})
FOUL = Weather(
    slow_seconds=0.9,
    every={
        "pause": 4.0,
        "grow": 5.0,
        "limit": 4.0,
        "cancel": 0.4,
        "die": 30.0,
        "break": 3.0,
        "kill": 20.0,
        "freeze": 10.0,
        "crash": 25.0,
        "evict": 20.0,
        "yield": 40.0,
    },
    brokers=2,
    is_exact=False,
)


class Life:
    """What happens to a world, by chance."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.world = world = World(seed, weather)
        self.rng = world.rng
        self.operations = 0
        self.calls: list[Call] = []
        self.names = iter(range(10**9))
        self.is_ending = False
        for limit in LIMITS:
            self.new_machine(limit)
        world.publish()
        world.brokers[0].serve()
        self.clients = [Client(world, f"c{next(self.names)}") for _ in range(4)]
        self.happenings: dict[str, Callable[[], None]] = {
            "pause": lambda: self.rng.choice(self.clients).freeze(self.rng.uniform(0.0, 2.3)),
            "grow": self.turn_over,
            "limit": self.relimit,
            "cancel": self.cancel,
            "die": self.die,
            "break": self.break_link,
            "kill": self.kill,
            "freeze": lambda: self.rng.choice(world.brokers).freeze(self.rng.uniform(0.1, 6.0)),
            "crash": self.crash,
            "evict": self.evict,
            "yield": self.yield_,
        }
        for name, mean in weather.every.items():
            self._repeat(self.happenings[name], mean)
        self._repeat(self.burst, 0.0)
        self._repeat(self.see_to_brokers, 0.5)

    def _repeat(self, action: Callable[[], None], mean: float) -> None:
        def again() -> None:
            if not self.is_ending:
                self.operations += 1
                action()
                self.world.after(self.rng.expovariate(1.0 / mean) if mean else self._pause, again)

        self.world.after(self.rng.uniform(0.0, mean), again)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    def burst(self) -> None:
        """Some requests at once."""
        number = self.rng.choice([1, 1, 2, 5, 30])
        self._pause = self.rng.expovariate(CALLS_PER_SECOND / number)
        self.operations += number
        for _ in range(number):
            client = self.rng.choice(self.clients)
            client.do(lambda client=client: self.calls.append(self._call(client)))  # type: ignore[misc]

    def _call(self, client: Client) -> Call:
        rng = self.rng
        steps = rng.lognormvariate(0.0, 0.6)
        ask = Ask(
            features={"steps": steps} if rng.random() < 0.5 else None,
            priority=rng.choice([0, 0, 0, 0, 1, -1]),
            tenant=rng.choice(["", "a", "b"]),
            affinity=rng.choice(["", "", "", "session"]),
            answer_by=client.monotonic() + rng.choice([0.3, 2.0, 5.0]) if rng.random() < 0.15 else math.inf,
        )
        patience = rng.choice([0.1, 1.0]) if rng.random() < 0.1 else LONG_PATIENCE
        return client.call(ask, patience, 0.2 * steps * rng.uniform(0.8, 1.2))

    def cancel(self) -> None:
        client = self.rng.choice(self.clients)
        if client.calls:
            call = self.rng.choice(list(client.calls))
            client.do(call.cancel)

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────────

    def new_machine(self, limit: int) -> None:
        name = f"r{next(self.names)}"
        slowness = self.rng.choice([0.7, 1.0, 1.5])
        is_declared = self.world.weather.is_exact or self.rng.random() < 0.7
        self.world.machines[name] = Machine(self.world, name, limit, slowness, is_declared=is_declared)

    def turn_over(self) -> None:
        """One comes, and one goes: from the set first, from the world when all that was sent to it has ended."""
        listed = [each for each in self.world.machines.values() if each.is_listed]
        going = self.rng.choice(listed)
        going.is_listed = False
        self.new_machine(going.full)
        self.world.publish()
        self.world.after(60.0, partial(self._remove, going))

    def _remove(self, machine: Machine) -> None:
        del self.world.machines[machine.name]

    def relimit(self) -> None:
        """A limit falls and rises again: the ingress takes less only after everybody knows, or at once."""
        machine = self.rng.choice([each for each in self.world.machines.values() if each.is_listed])
        told = machine.told
        if told == machine.limit > 1:
            machine.told -= 1
            self.world.publish()
            if not self.world.weather.is_exact:
                machine.limit -= 1
            self.world.after(15.0, lambda: self._restore(machine, told))

    def _restore(self, machine: Machine, told: int) -> None:
        machine.told = machine.limit = told
        self.world.publish()

    def crash(self) -> None:
        """One breaks, with all that it does; the set says so soon."""
        machine = self.rng.choice([each for each in self.world.machines.values() if each.is_listed])
        machine.is_alive = False
        broken, machine.running = machine.running, {}
        for call in broken:
            assert isinstance(call, Call)
            call.broken()
        self.world.after(0.3, lambda: self._replace(machine))

    def _replace(self, machine: Machine) -> None:
        if machine.is_listed:
            machine.is_listed = False
            self.new_machine(machine.full)
            self.world.publish()

    # ── clients and brokers ──────────────────────────────────────────────────────────────────────────────────────

    def die(self) -> None:
        client = self.rng.choice(self.clients)
        if client.is_frozen:
            return
        end = client.end
        client.die()
        self.clients.remove(client)
        self.clients.append(Client(self.world, f"c{next(self.names)}"))
        if end is not None:
            peers = [Guest(each, end.wire.ends[each]) for each in self.world.brokers if each in end.wire.ends]
            for guest in peers:
                self.world.after(GONE_SECONDS, partial(self._is_gone, guest, self.world.now))

    def _is_gone(self, guest: Guest, died_at: float) -> None:
        host = guest.broker
        if host.desk is not None and not host.is_frozen and not host.is_dead and host.thawed_at < died_at:
            assert guest not in host.desk._visits, "a dead client holds leases"
            self.world.met["seen to be gone"] += 1

    def break_link(self) -> None:
        client = self.rng.choice(self.clients)
        if client.end is not None:
            self.world.met["link broken"] += 1
            client.end.wire.break_(self.rng.choice([0.01, 5.0]))

    def kill(self) -> None:
        broker = self.rng.choice(self.world.brokers)
        if not broker.is_dead:
            broker.kill()

    def yield_(self) -> None:
        """A broker gives its service up; its clients are told."""
        for broker in self.world.brokers:
            broker.do(lambda broker=broker: broker.stop(Bye("standby", "")))  # type: ignore[misc]

    def see_to_brokers(self) -> None:
        """As the registry does: one that serves is left alone, else another one does; of two one gives up."""
        brokers = self.world.brokers
        serving = [each for each in brokers if each.desk is not None and not each.is_frozen]
        if len(serving) > 1:
            self.world.met["two served"] += 1
            serving[0].do(lambda: serving[0].stop(Bye("standby", "")))
        elif not serving:
            able = [each for each in brokers if not each.is_frozen]
            if able and self.rng.random() < 0.5:
                self.rng.choice(able).serve()
                self.world.met["desk opened"] += 1

    def evict(self) -> None:
        for broker in self.world.brokers:
            if broker.desk is not None and not broker.is_frozen:
                self.world.met["evicted"] += broker.desk.evict({"tenant": "a", "older_than": 0.5})

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, operations: int) -> None:
        while self.operations < operations:
            self.world.run_until(self.world.now + 1.0)
            self.check()

    def check(self) -> None:
        for client in self.clients:
            found = client.core.statistics(client.monotonic())
            assert all(each.in_flight >= 0 for each in found.replicas)
            asked = client.seat._asked
            assert len(asked) + found.waiting <= len(client.calls)
            assert found.in_flight <= len(client.calls)
            self._compare(client)
        for machine in self.world.machines.values():
            assert len(machine.running) <= max(machine.limit, machine.told) or not self.world.weather.is_exact

    def _compare(self, client: Client) -> None:
        """Where nothing is under way, both sides know the same."""
        wire = None if client.end is None else client.end.wire
        if wire is None or wire.is_broken or wire.under_way or not client.seat.is_up:
            return
        (broker,) = (each for each in self.world.brokers if each in wire.ends)
        if broker.desk is None or any(each.is_dead or each.is_frozen for each in wire.ends):
            return
        visit = broker.desk._visits[Guest(broker, wire.ends[broker])]
        assert set(visit.asked) == set(client.seat._asked)
        assert set(visit.given) == set(client.seat._given)
        started = {number for number, given in visit.given.items() if given.is_started}
        assert started == client.seat._given.keys() - client.seat._unstarted.keys()
        self.world.met["books compared"] += 1

    def settle(self) -> None:
        """Let all end, and look at what is left."""
        self.is_ending = True
        for _ in range(int(2 * LONG_PATIENCE)):
            self.world.run_until(self.world.now + 1.0)
            if not any(each.desk and not each.is_frozen for each in self.world.brokers):
                self.world.brokers[0].serve()
        left = [call for call in self.calls if not call.is_over]
        assert not left
        assert are_all_up(self.clients)
        for client in self.clients:
            found = client.core.statistics(client.monotonic())
            assert (found.in_flight, found.waiting) == (0, 0)
            assert is_empty(client.seat)
        for broker in self.world.brokers:
            if broker.desk is not None and broker.core is not None:
                found = broker.core.statistics(broker.monotonic())
                assert (found.in_flight, found.waiting) == (0, 0)
                desk = broker.desk
                for visit in desk._visits.values():
                    assert not any((visit.asked, visit.given, visit.late, visit.later))
                assert not desk._unstarted
                assert len(desk._deadlines) <= 65
                assert not any(each.ticket.lease for each in desk._woken)
        assert not any(machine.running for machine in self.world.machines.values())


def test_in_fair_weather_no_replica_ever_refuses() -> None:
    life = Life(1, FAIR)
    life.world.run_until(5.0)
    assert are_all_up(life.clients)
    settled = life.world.met["full"]
    life.run(10_000)
    met = life.world.met
    assert met["full"] == settled
    assert met["given up as silent"] == met["link broken"] == 0
    life.settle()
    assert met["Client frozen"] > 5
    assert met["books compared"] > 300
    assert met["answered"] > 5000


def run_foul(seed: int, operations: int) -> None:
    life = Life(seed, FOUL)
    life.run(operations)
    life.settle()
    met = life.world.met
    everything = {"answered", "cancelled", "died", "QueueTimeout", "link broken", "broker killed", "desk opened"}
    everything |= {"Client frozen", "Broker frozen", "silent", "given up as silent", "standby", "full", "evicted"}
    assert everything <= set(met), "something never happened"
    assert met["books compared"] > operations / 100
    patient = [call for call in life.calls if call.ask.answer_by == math.inf and call.deadline - call.since > 100]
    assert not [call.error for call in patient if isinstance(call.error, QueueTimeout)]


def test_whatever_becomes_of_brokers_and_clients_requests_end_and_nothing_is_left() -> None:
    run_foul(2, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_after_a_hundred_thousand_operations_in_foul_weather_nothing_is_left(seed: int) -> None:
    run_foul(seed, 100_000)


# ── one thing at a time ──────────────────────────────────────────────────────────────────────────────────────────────


def small_world(
    limits: dict[str, int], clients: int, *, is_declared: bool = True, concurrency: int | None = None
) -> tuple[World, list[Client]]:
    """A world without troubles, whose clients are all attached."""
    world = World(1, Weather(slow_seconds=0.003))
    for name, limit in limits.items():
        world.machines[name] = Machine(world, name, limit, 1.0, is_declared=is_declared)
    world.publish()
    world.brokers[0].serve()
    found = [Client(world, f"c{number}", concurrency) for number in range(clients)]
    world.run_until(3.0)
    assert are_all_up(found)
    return world, found


def test_whoever_asked_first_is_served_first_whichever_client_it_came_by() -> None:
    world, clients = small_world({"r": 2}, 4)
    calls: list[Call] = []
    for number in range(200):
        client = world.rng.choice(clients)
        world.after(number * 0.01, lambda client=client: client.do(lambda: calls.append(client.call(seconds=0.1))))  # type: ignore[misc]
    world.run_until(30.0)
    assert [call.is_over for call in calls] == [True] * 200
    order = sorted(range(200), key=lambda number: calls[number].started_at)
    assert max(abs(place - number) for place, number in enumerate(order)) <= 2
    assert world.met["full"] == 0


def test_a_call_that_waits_at_a_broker_which_dies_is_served_at_once_where_a_replica_is_free() -> None:
    world, (one, other) = small_world({"r": 1}, 2)
    first = one.call(seconds=100.0)
    world.run_until(4.0)
    second = other.call(seconds=1.0)
    world.run_until(5.0)
    assert (second.sends, other.seat.waiting, other.core.waiting) == (0, 1, 0)
    first.cancel()
    world.brokers[0].kill()
    world.run_until(5.02)
    assert (second.sends, other.seat.is_up) == (1, False)


def test_calls_that_wait_here_wait_at_the_broker_as_soon_as_it_is_back() -> None:
    world, (one, other) = small_world({"r": 1}, 2)
    world.brokers[0].kill()
    held = one.call(seconds=20.0)
    world.run_until(4.0)
    calls = [other.call(), other.call(), one.call()]
    world.run_until(6.0)
    assert (one.core.waiting, other.core.waiting) == (1, 2)
    world.brokers[0].serve()
    world.run_until(10.0)
    assert (one.core.waiting, other.core.waiting, one.seat.waiting, other.seat.waiting) == (0, 0, 1, 2)
    core = world.brokers[0].core
    assert core is not None
    found = core.statistics(world.brokers[0].monotonic())
    assert (found.in_flight, found.waiting) == (1, 3)
    full = world.met["full"]
    world.run_until(40.0)
    assert held.is_over
    assert [call.error for call in calls] == [None] * 3
    assert [call.is_over for call in calls] == [True] * 3
    assert world.met["full"] == full


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_a_dead_or_frozen_client_held_is_free_within_three_seconds(is_frozen: bool) -> None:
    world, (one, other) = small_world({"r": 1}, 2)
    one.call(seconds=100.0)
    world.run_until(4.0)
    waiting = other.call(seconds=0.1)
    world.run_until(5.0)
    assert waiting.sends == 0
    if is_frozen:
        one.freeze(100.0)
        for call in one.calls:
            call._stop()  # its requests break, and it does not see that
    else:
        one.die()
        assert one.end is not None
        one.end.wire.is_broken = True  # and the network says nothing
    world.run_until(5.0 + GONE_SECONDS + 0.1)
    assert waiting.sends == 1


def test_a_grant_that_came_while_its_client_was_paused_is_not_used() -> None:
    world, (one, other) = small_world({"r": 1}, 2)
    first = one.call(seconds=1.0)
    world.run_until(3.5)
    second = other.call(seconds=1.0)
    world.run_until(3.9)
    other.freeze(2.4)
    third = one.call(seconds=3.0)
    world.run_until(20.0)
    assert first.started_at < third.started_at < second.started_at
    assert third.started_at < 4.1 + 2.1
    assert (world.met["full"], second.sends, world.met["silent"]) == (0, 1, 0)


def answered_between(world: World, moment: float, until: float) -> int:
    world.run_until(moment)
    before = world.met["answered"]
    world.run_until(until)
    return world.met["answered"] - before


def test_what_a_broker_found_that_a_replica_takes_at_once_outlives_it() -> None:
    """Its clients go on with it, and so does the next broker, which has it from them."""
    world, clients = small_world({"r": 8}, 2, is_declared=False)
    for number in range(32 * 30):  # 32 a second; the replica answers 40
        client = clients[number % 2]
        world.after(number / 32, lambda client=client: client.do(lambda: client.call(seconds=0.2)))  # type: ignore[misc]
    assert answered_between(world, 18.0, 20.0) == pytest.approx(64, abs=4)
    assert [each.core.statistics(each.monotonic()).replicas[0].limit for each in clients] == [8, 8]
    world.brokers[0].kill()
    assert answered_between(world, 20.0, 23.0) == pytest.approx(96, abs=4)
    world.brokers[0].serve()
    assert answered_between(world, 24.0, 27.0) == pytest.approx(96, abs=4)
    assert are_all_up(clients)
    assert world.machines["r"].most <= 16, "each client alone may have as many there as the broker had"


def test_a_limit_that_a_client_asks_for_holds_at_the_broker_too() -> None:
    world, clients = small_world({"r": 8}, 2, is_declared=False, concurrency=2)
    for number in range(15 * 20):
        client = clients[number % 2]
        world.after(number / 15, lambda client=client: client.do(lambda: client.call(seconds=0.2)))  # type: ignore[misc]
    world.run_until(20.0)
    assert world.machines["r"].most == 2
    assert world.met["answered"] > 150
