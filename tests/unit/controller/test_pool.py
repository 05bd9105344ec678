"""What waits for reuse makes room when a disk fills, and not before."""

import datetime
from collections.abc import Coroutine, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from muster import store
from muster.controller.pool import PoolReconciler
from muster.model.account import Role
from muster.model.container import Container, ContainerStatus
from muster.model.ids import ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.quantity import GIB
from muster.model.run import Disk
from muster.store.port import Transaction
from muster.testing.clock import FakeClock, Outstanding, VirtualLoop
from muster.testing.conformance.store.world import a_machine, a_placement, a_spec
from muster.testing.database import empty_database
from muster.testing.executor import InlineExecutor
from muster.testing.fake_engine import FakeEngine, FakeWorld
from muster.testing.harness import OPTIONS, TERMS, Harness

T = TypeVar("T")
DAY = 86400.0
HERE, THERE = "10.0.0.1", "10.0.0.2"
ROOMY = replace(OPTIONS, terms=replace(TERMS, pool_seconds=7 * DAY), keep_free_bytes=10 * GIB)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path, options=ROOMY) as harness:
        yield harness


def set_free(harness: Harness, gigabytes: float) -> None:
    harness.world.disk = Disk(total_bytes=100 * GIB, free_bytes=int(gigabytes * GIB))


def fill_the_pool(harness: Harness, count: int = 3) -> list[Container]:
    """Let containers end one after the other; returns them in that order."""
    uuid = harness.create(replica_num=count, reuse_container=True)
    harness.settle()
    harness.advance(60)
    ended: list[ContainerId] = []
    for left in range(count - 1, -1, -1):
        before = {each.id for each in harness.running(uuid)}
        harness.scale(uuid, left)
        harness.settle()
        ended.extend(before - {each.id for each in harness.running(uuid)})
        harness.advance(60)
    rows = {each.id: each for each in harness.containers(uuid)}
    assert all(rows[each].is_pooled for each in ended)
    return [rows[each] for each in ended]


def pooled(harness: Harness) -> list[Container]:
    """Return the pool, least recently stopped first."""
    return list(reversed(harness.read(lambda tx: tx.containers.pooled())))


def test_with_room_enough_nothing_leaves_the_pool(harness: Harness) -> None:
    ended = fill_the_pool(harness)
    set_free(harness, 10)
    harness.advance(600)
    assert pooled(harness) == ended


def test_a_full_disk_costs_the_least_recently_stopped_first_one_at_a_time(harness: Harness) -> None:
    first, second, third = fill_the_pool(harness)
    set_free(harness, 9.9)
    while harness.world.look(first.id) is not None:
        assert [each.id for each in pooled(harness)[-2:]] == [second.id, third.id], "one that is asked for too early"
        harness.advance(0.2)
    set_free(harness, 10)
    harness.advance(600)
    assert [each.id for each in pooled(harness)] == [second.id, third.id]
    row = harness.read(lambda tx: tx.containers.get(first.id))
    assert row is not None
    assert row.released_at is not None
    assert harness.world.look(second.id) is not None


def test_a_disk_that_stays_full_empties_the_pool_and_that_is_all(harness: Harness) -> None:
    fill_the_pool(harness)
    running = harness.create(replica_num=2, name="tts", reuse_container=False)
    harness.settle()
    set_free(harness, 0)
    harness.advance(600)
    assert pooled(harness) == []
    assert len(harness.running(running)) == 2
    assert harness.world.object_count == 2


def test_a_crash_between_giving_up_and_destroying_loses_no_more_than_one(harness: Harness) -> None:
    first, second, third = fill_the_pool(harness)
    harness.trouble.engine_seconds = 2.0
    set_free(harness, 5)
    while first.id in {each.id for each in pooled(harness)}:
        harness.advance(0.1)
    harness.crash()
    while harness.world.look(first.id) is not None:
        assert [each.id for each in pooled(harness)] == [second.id, third.id]
        harness.advance(0.1)


class Hosts:
    """Two hosts of one machine each, with a pool on either, where nobody destroys what leaves it."""

    def __init__(self, folder: Path) -> None:
        self._loop = VirtualLoop(Outstanding())
        self.clock = FakeClock(self._loop)
        self.store = store.connect(empty_database(folder), executor=InlineExecutor())
        self.engine = DiskOfItsOwn(FakeWorld(self.clock))
        self.pool = PoolReconciler(self.store, self.engine, self.clock, 10 * GIB)

    def close(self) -> None:
        self.do(self.store.aclose())
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def furnish(self, *machine_ids: str) -> None:
        """Put a container of each machine into the pool, in this order of their ends."""

        def work(tx: Transaction) -> None:
            account = tx.accounts.add("ann", Role.MEMBER, self.clock.now())
            deployment = tx.deployments.add(account.id, DeploymentId("d1"), a_spec(), self.clock.now())
            tx.machines.put(a_machine("m1", address=HERE))
            tx.machines.put(a_machine("m2", address=THERE))
            for number, machine_id in enumerate(machine_ids):
                ended_at = self.clock.now() + datetime.timedelta(seconds=number)
                container = tx.containers.add(deployment, ContainerId(f"c{number}"), ended_at)
                tx.containers.update(
                    replace(
                        container,
                        placement=a_placement(0, machine=machine_id),
                        uuid=ContainerUuid(f"u{number}"),
                        status=ContainerStatus.SHUTDOWN,
                        stopped_at=ended_at,
                        is_pooled=True,
                        discard_at=ended_at + datetime.timedelta(days=7),
                    )
                )

        self.do(self.store.write(work))

    def look(self, host: str) -> bool:
        """Look at one host; tell whether it is to be looked at again soon."""
        return self.do(self.pool.reconcile(host)) is not None

    @property
    def left(self) -> list[str]:
        return sorted(each.id for each in self.do(self.store.read(lambda tx: tx.containers.pooled())))


class DiskOfItsOwn(FakeEngine):
    """Machines whose disks are not the same."""

    def __init__(self, world: FakeWorld) -> None:
        super().__init__(world)
        self.free: dict[str, int] = {}

    async def disk(self, machine_id: MachineId) -> Disk:
        return replace(await super().disk(machine_id), free_bytes=self.free.get(machine_id, 100) * GIB)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with closing(Hosts(tmp_path)) as hosts:
        yield hosts


def test_one_hosts_full_disk_costs_nothing_on_another(hosts: Hosts) -> None:
    hosts.furnish("m1", "m2", "m1")
    assert set(hosts.do(hosts.pool.keys())) == {HERE, THERE}
    hosts.engine.free["m2"] = 1
    assert not hosts.look(HERE)
    assert hosts.look(THERE)
    assert hosts.left == ["c0", "c2"]
    assert set(hosts.do(hosts.pool.keys())) == {HERE}


def test_nothing_more_is_given_up_before_the_last_is_destroyed_unless_that_is_stuck(hosts: Hosts) -> None:
    hosts.furnish("m1", "m1", "m1")
    hosts.engine.free["m1"] = 1
    for _ in range(3):
        assert hosts.look(HERE)
        assert hosts.left == ["c1", "c2"]
        hosts.do(hosts.clock.sleep(15))
    hosts.do(hosts.clock.sleep(20))
    assert hosts.look(HERE)
    assert hosts.left == ["c2"]


def test_a_host_without_a_pool_is_left_alone_however_full_it_is(hosts: Hosts) -> None:
    hosts.furnish()
    hosts.engine.free["m1"] = 0
    assert list(hosts.do(hosts.pool.keys())) == []
    assert not hosts.look(HERE)
