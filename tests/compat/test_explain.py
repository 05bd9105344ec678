"""Why containers wait, where new ones would go, and that what is said to help does help."""

import datetime
from typing import Any

import pytest

from muster.model.blacklist import BlacklistEntry
from muster.model.container import ContainerStatus, Reason
from muster.model.ids import DeploymentId, MachineId
from muster.model.machine import Drain
from muster.store.port import Transaction
from tests.compat.world import ADMIN, MACHINES, MEMBER, World, body

FIRST, SECOND, THIRD = (machine.id for machine in MACHINES)


def explained(world: World, uuid: str) -> Any:
    response = world.send("GET", f"/api/v1/muster/deployments/{uuid}/explain")
    assert response.status_code == 200, response.text
    return response.json()


def would_be(world: World, asked: Any, *, token: str = ADMIN) -> Any:
    response = world.send("POST", "/api/v1/muster/explain", json=asked, token=token)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_container_that_fits_nowhere_is_explained_with_what_would_help(world: World) -> None:
    uuid = world.create(template__gpu_num=8, template__dc_list=[])
    waiting = {world.want(uuid).id, world.want(uuid).id}
    found = explained(world, uuid)
    assert found["text"] == "2 of 2 containers fit on no machine"
    (unfit,) = found["unfit"]
    assert set(unfit["container_ids"]) == waiting
    assert unfit["container_num"] == 2
    assert unfit["considered"] == sum(each["machine_num"] for each in unfit["rejected"]) == 3
    assert unfit["rejected"] == [{"rule": "gpu_name", "machine_num": 1}, {"rule": "gpu_num", "machine_num": 2}]
    assert unfit["nearest"]["machine_id"] == FIRST
    (remedy,) = unfit["remedies"]
    assert remedy == {
        "field": "gpu_num",
        "now": 8,
        "instead": 4,
        "text": "gpu_num 4 instead of 8",
        "machine_num": 2,
        "machine_id": None,
        "change": {"gpu_num": 4},
    }


CHANGES = [
    {"template__gpu_num": 8},
    {"template__gpu_name_set": ["H20"]},
    {"template__dc_list": ["lab-z"]},
    {"template__price_to": 1500},
    {"template__price_from": 3000},
    {"template__cuda_v_from": 129, "template__cuda_v_to": 130},
    {"template__cpu_num_from": 20, "template__cpu_num_to": 64},
    {"template__memory_size_from": 100},
    {"template__memory_size_to": 10},
    {"template__gpu_name_set": ["L20"]},
]


@pytest.mark.parametrize("changes", CHANGES, ids=",".join)
def test_sending_the_change_of_a_remedy_makes_it_fit(shared: World, changes: dict[str, Any]) -> None:
    asked = body(replica_num=1, **changes)
    (unfit,) = would_be(shared, asked)["unfit"]
    assert unfit["remedies"]
    for remedy in unfit["remedies"]:
        better = {**asked, "container_template": {**asked["container_template"], **remedy["change"]}}
        answer = would_be(shared, better)
        assert (answer["unfit"], len(answer["placed"])) == ([], 1), remedy


def test_where_two_fields_forbid_it_nothing_is_offered(shared: World) -> None:
    (unfit,) = would_be(shared, body(template__gpu_name_set=["H20"], template__price_to=20))["unfit"]
    assert unfit["remedies"] == []
    assert [miss["rule"] for miss in unfit["nearest"]["misses"]] == ["gpu_name", "price"]


def test_a_deployment_that_is_not_created_goes_where_it_would(world: World) -> None:
    world.place(world.create(token=MEMBER))
    answer = would_be(world, body(replica_num=3, template__gpu_num=2))
    assert answer["text"] == "all 3 containers fit now"
    assert {row["machine_id"]: row["containers"] for row in answer["placed"]} == {
        FIRST: [[1, 2]],
        SECOND: [[0, 1], [2, 3]],
    }
    assert world.ok("POST", "/deployment/list")["result_total"] == 0, "nothing was created"
    answer = would_be(world, body(replica_num=4, template__gpu_num=2))
    assert answer["text"].startswith("3 of 4 containers fit now, 1 would wait: no machine fits")
    (wait,) = [each for each in answer["unfit"][0]["remedies"] if each["field"] == "wait"]
    assert wait["text"] == f"wait: 1 more GPU free on {FIRST}"
    (number,) = [each for each in answer["unfit"][0]["remedies"] if each["field"] == "gpu_num"]
    assert number["change"] == {"gpu_num": 1}


def test_what_others_wait_for_is_taken_first(world: World) -> None:
    uuid = world.create(template__gpu_num=4)
    world.want(uuid)
    world.want(uuid)
    assert explained(world, uuid)["text"] == "2 containers are about to be placed"
    assert would_be(world, body(replica_num=1))["placed"] == []


def test_a_ban_a_cordon_and_a_broken_engine_are_told_with_who_can_help(world: World) -> None:
    ban(world, FIRST)
    world.write(lambda tx: tx.machines.set_placing(SECOND, is_cordoned=True, drain=Drain.NONE))
    asked = body(replica_num=1)
    (unfit,) = would_be(world, asked)["unfit"]
    assert {(each["field"], each["text"], each["machine_id"]) for each in unfit["remedies"]} == {
        ("blacklist", f"take {FIRST} off the blacklist", FIRST),
        ("wait", f"wait: the operator's cordon of {SECOND} taken back", SECOND),
    }
    world.write(lambda tx: tx.machines.set_placing(SECOND, is_cordoned=False, drain=Drain.NONE))
    world.write(lambda tx: tx.machines.set_problem(SECOND, "engine_unavailable: no answer"))
    (unfit,) = would_be(world, asked)["unfit"]
    assert f"wait: the engine of {SECOND} answering again" in [each["text"] for each in unfit["remedies"]]


def test_a_deployment_without_a_waiting_container_says_so_and_what_the_planner_sees(world: World) -> None:
    uuid = world.create(replica_num=1)
    world.up(world.place(uuid))
    found = explained(world, uuid)
    assert (found["text"], found["unfit"], found["placing_num"]) == ("nothing waits for a machine", [], 0)
    assert found["planned"]["running"] == found["planned"]["wanted"] == 1
    assert found["planned"]["text"].startswith("1 wanted: 1 running")
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"})
    assert explained(world, uuid)["text"] == "it is stopped: no container of it is wanted"


def test_a_start_that_is_put_off_is_explained_by_the_planner(world: World) -> None:
    uuid = world.create(replica_num=1)
    container = world.up(world.place(uuid))
    now = world.clock.now()
    world.advance(container, ContainerStatus.SHUTTING_DOWN)
    world.advance(container, ContainerStatus.SHUTDOWN, reason=Reason.ERROR, exit_code=1, stopped_at=now)
    found = explained(world, uuid)
    assert found["text"].startswith("nothing waits for a machine, but its containers die young")
    assert datetime.datetime.fromisoformat(found["planned"]["backoff_until"]) <= now + datetime.timedelta(seconds=2)
    assert "containers die young, next start not before" in found["planned"]["text"]


def test_another_accounts_deployment_is_not_explained(world: World) -> None:
    uuid = world.create(token=MEMBER)
    assert world.send("GET", f"/api/v1/muster/deployments/{uuid}/explain").status_code == 404
    assert world.send("GET", "/api/v1/muster/deployments/nothing/explain").status_code == 404
    assert world.send("POST", "/api/v1/muster/explain", json={}).status_code == 422
    assert world.read(lambda tx: tx.deployments.get(DeploymentId(uuid))) is not None


def ban(world: World, machine_id: MachineId) -> None:
    now = world.clock.now()
    later = now + datetime.timedelta(hours=1)

    def work(tx: Transaction) -> None:
        account = tx.accounts.by_name("admin")
        assert account is not None
        tx.blacklist.put(BlacklistEntry(account.id, machine_id, "lab-a", "", now, now, later))

    world.write(work)
