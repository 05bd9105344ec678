"""Machines that vanish, and what becomes of their containers: many hosts, one control plane, virtual time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.model.container import Container, ContainerStatus, Reason
from muster.model.endpoint import ServiceKey
from muster.model.event import Cursor, Event, EventKind
from muster.model.ids import DeploymentId, MachineId
from muster.model.machine import MachineState
from muster.testing.faults import CrashPoint
from muster.testing.harness import Harness, fleet

NOTICED = 35.0
"""Seconds until a pass must have seen that a host is gone."""
LOST = 65.0
"""And until it is lost after that."""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path, machines=fleet(11)) as harness:
        yield harness


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Harness]:
    """Ten machines that ten containers fill."""
    with Harness(tmp_path, machines=fleet(10)) as harness:
        yield harness


def machine_of(container: Container) -> MachineId:
    assert container.placement is not None
    return container.placement.machine_id


def state(harness: Harness, machine_id: MachineId) -> MachineState:
    return harness.read(lambda tx: tx.machines.states())[machine_id]


def events(harness: Harness, *kinds: EventKind) -> list[Event]:
    found = harness.read(lambda tx: tx.events.after(Cursor(0), limit=100_000))
    return [event for event in found if event.kind in kinds]


def endpoint_ids(harness: Harness, uuid: DeploymentId) -> set[str]:
    found = harness.do(harness.registry.get(ServiceKey("admin", uuid)))
    return set() if found is None else {endpoint.id for endpoint in found.endpoints}


def up(harness: Harness, replica_num: int = 10) -> tuple[DeploymentId, list[Container]]:
    uuid = harness.create(replica_num=replica_num)
    harness.settle()
    running = harness.running(uuid)
    assert len(running) == replica_num
    return uuid, running


def test_a_machine_that_vanishes_is_replaced_once_and_not_before_its_time(harness: Harness) -> None:
    uuid, running = up(harness)
    victim = running[0]
    harness.world.isolate(machine_of(victim))
    harness.advance(NOTICED)
    since = state(harness, machine_of(victim)).unreachable_since
    assert since is not None
    harness.advance(60.0 - (harness.clock.now() - since).total_seconds() - 1.0)
    assert len(harness.containers(uuid)) == 10
    assert state(harness, machine_of(victim)).lost_at is None
    harness.advance(6.0)
    assert state(harness, machine_of(victim)).lost_at is not None
    harness.settle()
    assert len(harness.containers(uuid)) == 11
    assert len(harness.running(uuid)) == 10
    (ended,) = [each for each in harness.containers(uuid) if each.is_finished]
    assert (ended.id, ended.reason) == (victim.id, Reason.MACHINE_LOST)
    assert endpoint_ids(harness, uuid) == {str(each.uuid) for each in harness.running(uuid)}
    harness.advance(3600.0)
    harness.settle()
    assert len(harness.containers(uuid)) == 11


def test_what_is_lost_is_withdrawn_before_its_substitute_serves(tmp_path: Path) -> None:
    with Harness(tmp_path, machines=fleet(10)) as harness:
        uuid = harness.create(replica_num=10, service={"health_check": None})
        harness.settle()
        victim = harness.running(uuid)[0]
        harness.world.isolate(machine_of(victim))
        harness.advance(NOTICED)
        assert str(victim.uuid) in endpoint_ids(harness, uuid)  # busy is not dead, and unseen is not lost
        harness.advance(LOST)
        assert str(victim.uuid) not in endpoint_ids(harness, uuid)
        assert events(harness, EventKind.UNREADY)[-1].container_id == victim.id


def test_one_that_returns_before_its_substitute_has_a_place_is_adopted(full: Harness) -> None:
    uuid, running = up(full)
    victim = running[0]
    full.world.isolate(machine_of(victim))
    full.advance(NOTICED + LOST)
    full.settle()
    assert len([each for each in full.containers(uuid) if each.status is None]) == 1
    full.heal()
    full.settle()
    assert {each.id for each in full.running(uuid)} == {each.id for each in running}
    assert all(each.is_ready for each in full.running(uuid))
    assert len(full.world.starts(victim.id)) == 1
    assert state(full, machine_of(victim)) == MachineState()


def test_one_that_returns_after_it_was_replaced_is_cleared_before_it_gets_anything(harness: Harness) -> None:
    uuid, running = up(harness)
    victim = running[0]
    harness.world.isolate(machine_of(victim))
    harness.advance(NOTICED + LOST)
    harness.settle()
    harness.scale(uuid, 11)  # waits for the machine
    harness.settle()
    harness.heal()
    harness.settle()  # checks at every step that no GPU is used twice
    assert len(harness.running(uuid)) == 11
    assert victim.id not in harness.world.object_ids
    assert machine_of(victim) in {machine_of(each) for each in harness.running(uuid)}


def test_a_machine_stays_closed_until_what_is_over_there_has_been_removed(harness: Harness) -> None:
    uuid, running = up(harness)
    victim = running[0]
    harness.world.isolate(machine_of(victim))
    harness.advance(NOTICED + LOST)
    harness.settle()
    harness.scale(uuid, 11)
    harness.trouble.engine_seconds = 4.0  # the removal takes a while
    harness.heal()
    closed = 0
    for _ in range(300):
        harness.advance(0.2)
        harness.check()
        if victim.id in harness.world.running():
            assert not state(harness, machine_of(victim)).is_usable
            closed += state(harness, machine_of(victim)).problem == "returning: 1 container is still being removed"
    assert closed > 10
    harness.trouble.heal()
    harness.settle()
    assert len(harness.running(uuid)) == 11


def test_an_admin_may_declare_a_machine_lost_that_the_brake_holds(harness: Harness) -> None:
    uuid, running = up(harness, replica_num=5)
    for each in running:
        harness.world.isolate(machine_of(each))
    harness.advance(300.0)
    assert len(harness.containers(uuid)) == 5
    first = machine_of(running[0])
    harness.write(lambda tx: tx.machines.set_lost(first, harness.clock.now()))
    harness.advance(300.0)
    assert len(harness.containers(uuid)) == 6
    ended = [each.id for each in harness.containers(uuid) if each.is_finished]
    assert ended == [running[0].id]
    harness.heal()
    harness.settle()
    assert {each.id for each in harness.running(uuid)} > {each.id for each in running[1:]}
    assert state(harness, first).lost_at is None


def test_one_that_returns_empty_gets_new_containers(full: Harness) -> None:
    uuid, running = up(full)
    victim = running[0]
    full.world.destroy(machine_of(victim))
    full.advance(NOTICED + LOST)
    full.heal()
    full.settle()
    assert len(full.running(uuid)) == 10
    assert victim.id not in {each.id for each in full.running(uuid)}
    assert len(full.world.running(machine_of(victim))) == 1


def test_many_that_vanish_together_move_nothing_and_raise_one_alarm(harness: Harness) -> None:
    uuid, running = up(harness)
    gone = [each for each in running if int(machine_of(each)) < 6]
    for each in gone:
        harness.world.isolate(machine_of(each))
    harness.advance(600.0)
    harness.crash()
    harness.advance(600.0)
    assert {each.id for each in harness.containers(uuid)} == {each.id for each in running}
    alarms = events(harness, EventKind.ALARM)
    assert sorted(each.container_id for each in alarms) == sorted(each.id for each in gone)
    assert "6 of 11 machines" in alarms[0].message
    assert all(each.stop is None for each in harness.containers(uuid))
    harness.heal()
    harness.settle()
    assert {each.id for each in harness.running(uuid)} == {each.id for each in running}
    assert len(events(harness, EventKind.ALARM)) == len(alarms)


def test_the_brake_lets_go_when_most_are_back_and_the_rest_has_had_its_time(harness: Harness) -> None:
    uuid, running = up(harness, replica_num=6)
    gone = [machine_of(each) for each in running]
    for machine_id in gone:
        harness.world.isolate(machine_id)
    harness.advance(300.0)
    for machine_id in gone[:3]:
        harness.heal(machine_id)
    harness.advance(50.0)
    assert len(harness.containers(uuid)) == 6
    harness.advance(30.0)
    harness.settle()
    assert {machine_of(each) for each in harness.running(uuid)}.isdisjoint(gone[3:])
    assert len(harness.running(uuid)) == 6
    assert {each.id for each in running[:3]} < {each.id for each in harness.running(uuid)}


def test_an_engine_that_is_down_is_no_lost_machine(harness: Harness) -> None:
    uuid, running = up(harness)
    harness.world.cut(machine_of(running[0]))
    harness.advance(3600.0)
    found = state(harness, machine_of(running[0]))
    assert found.problem.startswith("engine_unavailable")
    assert (found.unreachable_since, found.lost_at) == (None, None)
    assert {each.id for each in harness.containers(uuid)} == {each.id for each in running}
    harness.heal()
    harness.settle()
    assert {each.id for each in harness.running(uuid)} == {each.id for each in running}


def test_a_blink_moves_nothing(harness: Harness) -> None:
    uuid, running = up(harness)
    for _ in range(5):
        harness.world.isolate(machine_of(running[0]))
        harness.advance(NOTICED)
        harness.heal()
        harness.advance(5.0)
    harness.settle()
    assert {each.id for each in harness.containers(uuid)} == {each.id for each in running}


def test_what_is_stopped_on_a_lost_machine_comes_to_its_end(harness: Harness) -> None:
    uuid, running = up(harness)
    harness.world.isolate(machine_of(running[0]))
    harness.stop(uuid)
    harness.settle(seconds=600.0)
    harness.advance(NOTICED + LOST)
    ended = harness.containers(uuid)
    assert {each.status for each in ended} == {ContainerStatus.SHUTDOWN}
    assert {each.reason for each in ended} == {Reason.DEPLOYMENT_STOPPED}
    harness.heal()
    harness.settle()
    assert not harness.world.running()


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, 60, 2))
@pytest.mark.parametrize("is_after", [False, True])
def test_a_crash_anywhere_changes_nothing_about_the_outcome(tmp_path: Path, call: int, is_after: bool) -> None:
    with Harness(tmp_path, machines=fleet(5)) as harness:
        uuid, running = up(harness, replica_num=4)
        victim = running[0]
        harness.world.isolate(machine_of(victim))
        harness.advance(NOTICED)
        harness.crash(CrashPoint(call * 3, is_after))
        harness.advance(LOST + 60.0)
        harness.settle()
        assert len(harness.running(uuid)) == 4
        harness.crash(CrashPoint(call, is_after))
        harness.heal()
        harness.settle()
        assert len(harness.running(uuid)) == 4
        assert victim.id not in harness.world.object_ids
        assert len(harness.containers(uuid)) == 5
