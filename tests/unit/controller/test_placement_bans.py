"""Where nothing new goes: blacklisted, cordoned and drained machines, and when that ends."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.model.account import Role
from muster.model.blacklist import BlacklistEntry
from muster.model.container import Container, Reason
from muster.model.deployment import DeploymentStatus
from muster.model.ids import AccountId, DeploymentId, MachineId
from muster.model.machine import Drain
from muster.testing.harness import Harness, fleet

FIRST, SECOND = (machine.id for machine in fleet(2))


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    """Two machines of two GPUs."""
    with Harness(tmp_path, machines=fleet(2, gpu_num=2)) as harness:
        yield harness


def account(harness: Harness) -> AccountId:
    return harness.read(lambda tx: tx.accounts.all())[0].id


def blacklist(harness: Harness, machine_id: MachineId, *, minutes: float = 60.0) -> None:
    now, owner = harness.clock.now(), account(harness)
    until = now + datetime.timedelta(minutes=minutes)
    harness.write(lambda tx: tx.blacklist.put(BlacklistEntry(owner, machine_id, "lab-a", "", now, now, until)))


def used(harness: Harness, uuid: DeploymentId) -> list[MachineId]:
    return sorted(machine_of(each) for each in harness.running(uuid))


def machine_of(container: Container) -> MachineId:
    assert container.placement is not None
    return container.placement.machine_id


def why(harness: Harness, uuid: DeploymentId) -> str:
    (waiting,) = [each for each in harness.containers(uuid) if each.status is None]
    explanation = harness.explain(waiting.id)
    assert explanation is not None
    return explanation.sentence()


def test_a_blacklisted_machine_gets_nothing_new_and_keeps_what_it_has(harness: Harness) -> None:
    uuid = harness.create(replica_num=1)
    harness.settle()
    assert used(harness, uuid) == [FIRST]
    blacklist(harness, FIRST)
    harness.scale(uuid, 4)
    harness.settle()
    assert used(harness, uuid) == [FIRST, SECOND, SECOND]
    assert "1 is blacklisted" in why(harness, uuid)


def test_what_waits_is_placed_as_soon_as_an_entry_expires(harness: Harness) -> None:
    blacklist(harness, FIRST, minutes=10)
    uuid = harness.create(replica_num=3)
    harness.settle()
    assert used(harness, uuid) == [SECOND, SECOND]
    harness.advance(600.0 - 30.0)
    assert used(harness, uuid) == [SECOND, SECOND]
    harness.advance(31.0)
    assert used(harness, uuid) == [FIRST, SECOND, SECOND]


def test_what_waits_is_placed_as_soon_as_an_entry_is_removed(harness: Harness) -> None:
    blacklist(harness, FIRST)
    uuid = harness.create(replica_num=3)
    harness.settle()
    owner = account(harness)
    harness.write(lambda tx: tx.blacklist.remove(owner, FIRST))
    harness.advance(3.0)  # far less than a full pass
    assert used(harness, uuid) == [FIRST, SECOND, SECOND]


def test_the_entry_of_one_account_is_nothing_to_another(harness: Harness) -> None:
    now = harness.clock.now()
    other = harness.write(lambda tx: tx.accounts.add("other", Role.MEMBER, now)).id
    until = now + datetime.timedelta(hours=1)
    harness.write(lambda tx: tx.blacklist.put(BlacklistEntry(other, FIRST, "lab-a", "", now, now, until)))
    uuid = harness.create(replica_num=4)
    harness.settle()
    assert len(harness.running(uuid)) == 4


def test_a_cordoned_machine_gets_nothing_new_until_it_is_uncordoned(harness: Harness) -> None:
    uuid = harness.create(replica_num=1)
    harness.settle()
    harness.keep_free(FIRST, is_cordoned=True)
    harness.scale(uuid, 4)
    harness.settle()
    assert used(harness, uuid) == [FIRST, SECOND, SECOND]
    assert "1 is cordoned or drained by the operator" in why(harness, uuid)
    harness.keep_free(FIRST)
    harness.advance(3.0)
    assert used(harness, uuid) == [FIRST, FIRST, SECOND, SECOND]


def test_a_drained_machine_is_emptied_and_its_replicas_are_ready_elsewhere_first(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    assert used(harness, uuid) == [FIRST, FIRST]
    harness.keep_free(FIRST, is_cordoned=True, drain=Drain.GENTLE)
    for _ in range(40):
        harness.advance(0.25)
        assert sum(each.is_ready for each in harness.containers(uuid)) >= 2
    harness.settle()
    assert used(harness, uuid) == [SECOND, SECOND]
    ended = [each for each in harness.containers(uuid) if each.is_finished]
    assert {each.reason for each in ended} == {Reason.HOST_DRAINED}


def test_a_gentle_drain_leaves_jobs_to_end_and_a_drain_now_moves_them(harness: Harness) -> None:
    uuid = harness.create(
        replica_num=1, deployment_type="Job", parallelism_num=1, cmd="sleep 300", template={"gpu_num": 2}, gpu_num=2
    )
    harness.advance(5.0)
    assert used(harness, uuid) == [FIRST]
    harness.keep_free(FIRST, is_cordoned=True, drain=Drain.GENTLE)
    harness.advance(60.0)
    assert used(harness, uuid) == [FIRST]
    harness.keep_free(FIRST, is_cordoned=True, drain=Drain.NOW)
    harness.advance(30.0)
    assert used(harness, uuid) == [SECOND]
    harness.advance(400.0)
    deployment = harness.read(lambda tx: tx.deployments.get(uuid))
    assert deployment is not None
    assert deployment.status is DeploymentStatus.STOPPED


def test_what_has_no_room_elsewhere_stays_on_a_machine_that_is_drained(harness: Harness) -> None:
    uuid = harness.create(replica_num=4)
    harness.settle()
    harness.keep_free(FIRST, is_cordoned=True, drain=Drain.GENTLE)
    harness.advance(120.0)
    assert used(harness, uuid) == [FIRST, FIRST, SECOND, SECOND]
    harness.scale(uuid, 2)
    harness.settle()
    assert used(harness, uuid) == [SECOND, SECOND]
