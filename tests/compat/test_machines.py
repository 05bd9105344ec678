"""What the list tells of machines, and what admins and accounts may want of them."""

import datetime
from dataclasses import replace
from typing import Any

import pytest

from muster.model.container import ContainerStatus, Reason
from muster.model.ids import MachineId
from muster.model.machine import Drain
from muster.store.port import Window
from tests.compat.world import ADMIN, MACHINES, MEMBER, World

FIRST = MACHINES[0].id
PATH = f"/api/v1/muster/machines/{FIRST}"


def rows(world: World, *, token: str = ADMIN) -> dict[str, dict[str, Any]]:
    response = world.send("GET", "/api/v1/muster/machines", token=token)
    assert response.status_code == 200, response.text
    return {row["machine_id"]: row for row in response.json()["machines"]}


def post(world: World, path: str, body: Any = None, *, token: str = ADMIN, status: int = 200) -> dict[str, Any]:
    response = world.send("POST", path, token=token, json=body or {})
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


def fail(world: World, deployment: str, machine: int, count: int, reason: Reason = Reason.ERROR) -> None:
    """Let so many containers fail on a machine, one after the other, of a version that is known to work."""

    def prove(tx: Any) -> None:
        tx.deployments.update(replace(tx.deployments.get(deployment), stable_version="v1"))

    world.write(prove)
    for _ in range(count):
        placed = world.place(deployment, MACHINES[machine])
        world.advance(
            placed, ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN, reason=reason, stopped_at=world.clock.now()
        )


def test_a_machine_is_usable_until_something_speaks_against_it(world: World) -> None:
    row = rows(world)[FIRST]
    assert (row["state"], row["problem"], row["containers_left"], row["failures"]) == ("usable", "", None, {})
    assert (row["unreachable_since"], row["lost_at"], row["suspect"], row["blacklisted_until"]) == (None,) * 4


def test_a_cordon_and_a_drain_are_shown_and_taken_back(world: World) -> None:
    deployment = world.create()
    world.up(world.place(deployment))
    assert post(world, f"{PATH}/cordon")["state"] == "cordoned"
    drained = post(world, f"{PATH}/drain")
    assert (drained["state"], drained["drain"], drained["containers_left"]) == ("draining", "gentle", 1)
    assert post(world, f"{PATH}/drain", {"now": True})["drain"] == "now"
    assert post(world, f"{PATH}/uncordon")["state"] == "usable"
    assert world.read(lambda tx: tx.machines.states())[FIRST].drain is Drain.NONE


def test_a_machine_that_is_empty_is_drained_at_once(world: World) -> None:
    assert post(world, f"{PATH}/drain")["state"] == "drained"


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain", "lost"])
def test_only_admins_change_machines_and_only_those_there_are(world: World, verb: str) -> None:
    post(world, f"{PATH}/{verb}", token=MEMBER, status=403)
    post(world, f"/api/v1/muster/machines/nothing/{verb}", status=404)
    assert rows(world)[FIRST]["state"] == "usable"


def test_what_an_admin_did_is_in_the_audit_log(world: World) -> None:
    post(world, f"{PATH}/drain", {"now": True})
    post(world, f"{PATH}/uncordon")
    entries = world.read(lambda tx: tx.audit.find(None, Window(0, 10), target=FIRST)).items
    assert [(each.actor, each.action, each.detail) for each in entries] == [
        ("admin", "machine.uncordon", ""),
        ("admin", "machine.drain", "now"),
    ]


def test_a_machine_is_declared_lost_only_while_it_does_not_answer(world: World) -> None:
    assert "answers" in post(world, f"{PATH}/lost", status=409)["error"]["message"]
    since = world.clock.now()

    def vanish(tx: Any) -> None:
        tx.machines.set_problem(FIRST, "unreachable: no answer")
        tx.machines.set_unreachable(FIRST, since)

    world.write(vanish)
    assert rows(world)[FIRST]["state"] == "unreachable"
    assert post(world, f"{PATH}/lost")["state"] == "lost"
    lost_at = rows(world)[FIRST]["lost_at"]
    assert post(world, f"{PATH}/lost")["lost_at"] == lost_at  # again changes nothing


def test_a_host_that_fails_regularly_is_named_with_what_is_common_there(world: World) -> None:
    deployment = world.create()
    fail(world, deployment, 0, 4, Reason.START_FAILED)
    fail(world, deployment, 0, 2)
    found = rows(world)
    assert found[FIRST]["failures"] == {"error": 2, "start_failed": 4}
    suspect = found[FIRST]["suspect"]
    assert (suspect["failure_num"], suspect["reason"], suspect["reason_num"]) == (6, "start_failed", 4)
    assert [each for each in found if found[each]["suspect"]] == [FIRST]


def test_failures_are_the_accounts_own_and_an_admin_sees_all(world: World) -> None:
    fail(world, world.create(), 0, 3)
    fail(world, world.create(token=MEMBER), 1, 3)
    member = rows(world, token=MEMBER)
    assert [member[each.id]["failures"] for each in MACHINES[:2]] == [{}, {"error": 3}]
    admin = rows(world)
    assert [admin[each.id]["failures"] for each in MACHINES[:2]] == [{"error": 3}, {"error": 3}]
    assert not any(row["suspect"] for row in admin.values())


def test_a_command_that_never_worked_accuses_no_host(world: World) -> None:
    uuid = world.create()
    fail(world, uuid, 0, 1)
    world.ok("PUT", "/deployment", {"deployment_uuid": uuid, "container_template": {"cmd": "exit 3"}})
    for _ in range(5):
        placed = world.place(uuid, MACHINES[0])
        assert placed.version == "v2"
        ended = {"reason": Reason.ERROR, "stopped_at": world.clock.now()}
        world.advance(placed, ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN, **ended)
    assert rows(world)[FIRST]["failures"] == {"error": 1}


def test_what_failed_more_than_a_day_ago_does_not_count(world: World) -> None:
    deployment = world.create()
    fail(world, deployment, 0, 3)

    def age(tx: Any) -> None:
        for each in tx.containers.of_deployment(deployment):
            tx.containers.update(replace(each, stopped_at=each.stopped_at - datetime.timedelta(hours=25)))

    world.write(age)
    assert rows(world)[FIRST]["failures"] == {}


def test_an_account_keeps_off_a_machine_by_its_id(world: World) -> None:
    path = f"/api/v1/muster/blacklist/{FIRST}"
    response = world.send("PUT", path, token=MEMBER, json={"expire_in_minutes": 30, "comment": "fails: error"})
    assert response.status_code == 200, response.text
    assert response.json()["machine_id"] == FIRST
    assert rows(world, token=MEMBER)[FIRST]["blacklisted_until"] == response.json()["expires_at"]
    assert rows(world)[FIRST]["blacklisted_until"] is None
    assert world.send("PUT", "/api/v1/muster/blacklist/nothing", json={}).status_code == 404
    assert world.send("DELETE", path, token=MEMBER).status_code == 200
    assert rows(world, token=MEMBER)[FIRST]["blacklisted_until"] is None


@pytest.mark.parametrize("is_cordoned", [True, False])
def test_stock_counts_nothing_idle_where_nothing_may_be_placed(world: World, is_cordoned: bool) -> None:
    drain = Drain.NONE if is_cordoned else Drain.GENTLE
    world.write(lambda tx: tx.machines.set_placing(MachineId(FIRST), is_cordoned=is_cordoned, drain=drain))
    stock = world.ok("GET", "/machine/gpu_stock")["RTX 4090"]
    assert (stock["idle_gpu_num"], stock["total_gpu_num"]) == (4, 8)
