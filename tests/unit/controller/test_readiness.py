"""What readiness costs, and when it looks again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from muster.controller.probe import Verdict
from muster.controller.readiness import ReadinessReconciler
from muster.controller.traffic import STALE_SECONDS, Traffic
from muster.model.container import Address, Container
from muster.model.deployment import HealthCheck
from muster.model.event import Cursor, EventKind
from muster.model.ids import ContainerUuid
from muster.model.routes import ContainerLoad, LoadReport
from muster.store.port import Changes, Store, Transaction
from muster.testing.harness import Harness

T = TypeVar("T")


class ToldProber:
    """Answers what it is told to."""

    answer = Verdict.PASSED

    async def probe(self, address: Address, check: HealthCheck) -> Verdict:
        del address, check
        return self.answer


class CountingStore:
    """A store that counts its reads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    async def read(self, work: Callable[[Transaction], T]) -> T:
        self.reads += 1
        return await self._store.read(work)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._store.write(work)

    def on_commit(self, listener: Callable[[Changes], None]) -> None:
        self._store.on_commit(listener)

    async def aclose(self) -> None:
        await self._store.aclose()


class World:
    """One running container of a harness, and a readiness reconciler of the test's own beside it."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        uuid = harness.create()
        harness.settle()
        self.container: Container = harness.running(uuid)[0]
        harness._life.end()  # from here on nobody probes but the test
        self.store = CountingStore(harness._store)
        self.prober = ToldProber()
        self.readiness = ReadinessReconciler(self.store, harness.clock, self.prober)

    def seconds_to_next(self) -> float | None:
        due = self.harness.do(self.readiness.reconcile(self.container.id))
        return None if due is None else (due - self.harness.clock.now()).total_seconds()

    def is_ready(self) -> bool:
        (now,) = self.harness.running()
        return now.is_ready


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Harness(tmp_path) as harness:
        yield World(harness)


def test_a_probe_at_rest_reads_nothing_of_the_store(world: World) -> None:
    world.seconds_to_next()
    before = world.store.reads
    for _ in range(10):
        assert world.seconds_to_next() == HealthCheck().interval_seconds
    assert world.store.reads == before


@pytest.mark.parametrize("how", ["a commit", "a full pass"])
def test_what_is_remembered_is_loaded_anew_after(world: World, how: str) -> None:
    world.seconds_to_next()
    world.harness.stop_container(world.container)
    assert world.seconds_to_next() is not None
    if how == "a commit":
        world.readiness.forget(world.container.id)
    else:
        world.harness.do(world.readiness.keys())
    assert world.seconds_to_next() is None


def test_a_load_that_a_commit_overtakes_is_not_remembered(world: World) -> None:
    read = world.store.read

    async def overtaken(work: Callable[[Transaction], T]) -> T:
        result = await read(work)
        world.readiness.forget(world.container.id)
        return result

    world.store.read = overtaken  # type: ignore[method-assign]
    world.seconds_to_next()
    world.store.read = read  # type: ignore[method-assign]
    before = world.store.reads
    world.seconds_to_next()
    assert world.store.reads == before + 1


def test_what_never_becomes_ready_is_probed_ever_less_often(world: World) -> None:
    world.prober.answer = Verdict.FAILED
    for _ in range(HealthCheck().unhealthy_after):
        world.seconds_to_next()
    assert not world.is_ready()
    world.readiness.forget(world.container.id)
    waits = [world.seconds_to_next() or 0 for _ in range(60)]
    assert waits == sorted(waits)
    assert waits[0] < 0.2
    assert waits[-1] == HealthCheck().interval_seconds


def test_a_full_pass_asks_for_no_probe_before_it_is_due(world: World) -> None:
    key = world.container.id
    assert key in world.harness.do(world.readiness.keys())
    world.seconds_to_next()
    assert key not in world.harness.do(world.readiness.keys())
    world.harness.do(world.harness.clock.sleep(HealthCheck().interval_seconds + 0.1))
    assert key in world.harness.do(world.readiness.keys())


# Busy is not dead, and open is not alive.


class Told(Traffic):
    """Traffic of one container, as a test says."""

    def say(self, uuid: ContainerUuid | None, **load: float) -> None:
        assert uuid is not None
        told = ContainerLoad(uuid, is_refusing=False, **load)  # type: ignore[arg-type]
        self.put(LoadReport("test", 1, 1, (told,)))


@pytest.fixture
def loaded(world: World) -> tuple[World, Told]:
    world.seconds_to_next()
    told = Told(world.harness.clock)
    world.readiness = ReadinessReconciler(world.store, world.harness.clock, world.prober, told)
    return world, told


def test_a_slow_probe_of_a_busy_container_says_nothing(loaded: tuple[World, Told]) -> None:
    world, told = loaded
    world.prober.answer = Verdict.SLOW
    for _ in range(10):
        told.say(world.container.uuid, in_flight=1)
        world.seconds_to_next()
    assert world.is_ready()
    told.say(world.container.uuid, in_flight=0)
    for _ in range(3):
        world.seconds_to_next()
    assert not world.is_ready(), "with nobody in, slow is dead"


def test_a_refused_probe_of_a_busy_container_counts(loaded: tuple[World, Told]) -> None:
    world, told = loaded
    world.prober.answer = Verdict.FAILED
    for _ in range(3):
        told.say(world.container.uuid, in_flight=5)
        world.seconds_to_next()
    assert not world.is_ready()


def test_what_is_stale_is_not_believed(loaded: tuple[World, Told]) -> None:
    world, told = loaded
    told.say(world.container.uuid, in_flight=1)
    world.harness.advance(STALE_SECONDS + 0.1)
    world.prober.answer = Verdict.SLOW
    for _ in range(3):
        world.seconds_to_next()
    assert not world.is_ready()


def test_an_open_port_that_answers_nobody_is_not_ready_and_says_why(loaded: tuple[World, Told]) -> None:
    world, told = loaded
    told.say(world.container.uuid, in_flight=2, quiet_seconds=599)
    world.seconds_to_next()
    assert world.is_ready()
    told.say(world.container.uuid, in_flight=2, quiet_seconds=601)
    world.seconds_to_next()
    assert not world.is_ready()
    last = world.harness.read(lambda tx: tx.events.after(Cursor(0)))[-1]
    assert (last.kind, last.message) == (
        EventKind.UNREADY,
        "its port is open, but it has answered nobody for 601 s, while 2 wait",
    )
    told.say(world.container.uuid, in_flight=1, quiet_seconds=0)
    world.readiness.forget(world.container.id)
    world.seconds_to_next()
    assert world.is_ready(), "it answered"


def test_what_is_slow_by_nature_is_given_four_times_its_longest_answer(loaded: tuple[World, Told]) -> None:
    world, told = loaded
    told.say(world.container.uuid, in_flight=1, quiet_seconds=3000, longest_seconds=900)
    world.seconds_to_next()
    assert world.is_ready()
    told.say(world.container.uuid, in_flight=1, quiet_seconds=3601, longest_seconds=900)
    world.seconds_to_next()
    assert not world.is_ready()
