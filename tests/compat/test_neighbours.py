"""Blacklist, prepaid packages, wallet and dedicated disk: what they answer, and what they leave alone."""

import datetime
from typing import Any

import pytest

from muster.model.container import ContainerStatus, Wanted
from muster.store.port import Window
from tests.compat.world import ADMIN, MACHINES, MEMBER, World

BLACKLIST = "/deployment/blacklist"
OURS = "/api/v1/muster/blacklist"


def blocked(world: World, *, token: str = ADMIN) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = world.ok("GET", BLACKLIST, token=token)
    return rows


def moment(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")


def test_the_machine_of_a_container_is_blacklisted_for_a_day(world: World) -> None:
    assert blocked(world) == []
    container = world.place(world.create(), MACHINES[2])
    assert world.ok("POST", BLACKLIST, {"deployment_container_uuid": container.uuid}) is None
    (row,) = blocked(world)
    assert set(row) == {"created_at", "data_center", "expired_time", "machine_id", "msg", "updated_at"}
    assert (row["machine_id"], row["data_center"], row["msg"]) == (MACHINES[2].id, "lab-b", "")
    assert moment(row["expired_time"]) - moment(row["updated_at"]) == datetime.timedelta(hours=24)
    assert world.row(container).wanted is Wanted.RUN, "what runs there stays"


def test_again_it_starts_anew_but_began_when_it_began(world: World) -> None:
    uuid = world.create()
    containers = [world.place(uuid, gpu=gpu) for gpu in range(2)]
    for container, minutes, comment in zip(containers, (43200, 1), ("slow", "慢"), strict=True):
        asked = {"deployment_container_uuid": container.uuid, "expire_in_minutes": minutes, "comment": comment}
        world.ok("POST", BLACKLIST, asked)
    (row,) = blocked(world)
    assert row["msg"] == "慢"
    assert moment(row["expired_time"]) - moment(row["updated_at"]) == datetime.timedelta(minutes=1)
    assert moment(row["created_at"]) <= moment(row["updated_at"])


def test_a_container_that_has_ended_names_its_machine_too(world: World) -> None:
    now = datetime.datetime.now(datetime.UTC)
    container = world.up(world.place(world.create()))
    ended = {"is_ready": False, "stopped_at": now, "released_at": now}
    world.advance(container, ContainerStatus.SHUTTING_DOWN, ContainerStatus.SHUTDOWN, **ended)
    world.ok("POST", BLACKLIST, {"deployment_container_uuid": container.uuid})
    assert [row["machine_id"] for row in blocked(world)] == [MACHINES[0].id]


@pytest.mark.parametrize("minutes", [0, -1, 43201, 10**9, 1.5, "60", True])
def test_a_time_out_of_range_is_refused(world: World, minutes: Any) -> None:
    asked = {"deployment_container_uuid": world.place(world.create()).uuid, "expire_in_minutes": minutes}
    code, msg = world.refused("POST", BLACKLIST, asked)
    assert code == "RequestParameterIsWrong"
    assert msg.startswith("请求参数错误: expire_in_minutes: must be ")
    assert blocked(world) == []


def test_each_account_has_a_blacklist_of_its_own(world: World) -> None:
    world.ok("POST", BLACKLIST, {"deployment_container_uuid": world.place(world.create()).uuid})
    theirs = world.place(world.create(token=MEMBER), MACHINES[2])
    world.ok("POST", BLACKLIST, {"deployment_container_uuid": theirs.uuid}, token=MEMBER)
    assert [row["machine_id"] for row in blocked(world)] == [MACHINES[0].id]
    assert [row["machine_id"] for row in blocked(world, token=MEMBER)] == [MACHINES[2].id]
    response = world.send("DELETE", f"{OURS}/{MACHINES[2].id}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "RecordNotFoundError")
    assert len(blocked(world, token=MEMBER)) == 1


def test_what_is_over_is_not_listed(world: World) -> None:
    container = world.place(world.create())
    world.ok("POST", BLACKLIST, {"deployment_container_uuid": container.uuid, "expire_in_minutes": 1})
    entry = world.read(lambda tx: tx.blacklist.of(container.account_id, world.clock.now()))[0]
    passed = world.read(lambda tx: tx.blacklist.of(container.account_id, entry.expires_at))
    assert passed == []


def test_a_machine_is_allowed_again_by_its_id(world: World) -> None:
    asked = {"deployment_container_uuid": world.place(world.create()).uuid, "comment": "slow disk"}
    world.ok("POST", BLACKLIST, asked)
    (row,) = world.send("GET", OURS).json()["machines"]
    assert (row["machine_id"], row["comment"]) == (MACHINES[0].id, "slow disk")
    assert set(row) == {"machine_id", "data_center", "comment", "created_at", "updated_at", "expires_at"}
    removed = world.send("DELETE", f"{OURS}/{MACHINES[0].id}")
    assert (removed.status_code, removed.json()) == (200, row)
    assert blocked(world) == []
    assert world.send("DELETE", f"{OURS}/{MACHINES[0].id}").status_code == 404


def test_changes_of_the_blacklist_are_in_the_audit_log(world: World) -> None:
    container = world.place(world.create())
    world.ok("POST", BLACKLIST, {"deployment_container_uuid": container.uuid, "comment": "s3cret"})
    world.send("DELETE", f"{OURS}/{MACHINES[0].id}")
    entries = world.read(lambda tx: tx.audit.find(container.account_id, Window())).items
    told = [(each.action, each.target, each.actor) for each in entries if each.target == MACHINES[0].id]
    assert told == [
        ("machine.unblacklist", MACHINES[0].id, "admin"),
        ("machine.blacklist", MACHINES[0].id, "admin"),
    ]


def test_there_are_no_packages_yet(world: World) -> None:
    assert world.ok("GET", f"/deployment/ddp/overview?deployment_uuid={world.create()}") == []


def test_the_wallet_is_empty_and_complete(world: World) -> None:
    wallet = world.ok("POST", "/wallet/balance")
    money = ["assets", "blocked_asset", "accumulate", "voucher_balance", "total_recharge_asset"]
    coupons = ["available_coupon_num", "to_expire_voucher_num", "certain_conditions_voucher_balance"]
    assert [wallet[name] for name in money + coupons] == [0] * 8
    assert (wallet["remittance_code"], wallet["exclusive_transfer_account"]) == ("", "")
    assert wallet["uid"] == world.send("GET", "/api/v1/muster/me").json()["id"]
    assert moment(wallet["created_at"]) <= moment(wallet["updated_at"])
    assert len(wallet) == 14


def test_there_is_no_dedicated_disk_but_the_ordinary_storage_is_mounted(shared: World) -> None:
    path = "/exclusive_nfs/mount"
    assert shared.ok("POST", path, {"data_center": "lab-a", "mountable": -1}) is None
    code, msg = shared.refused("POST", path, {"data_center": "lab-a", "mountable": 1})
    assert code == "BadRequest"
    assert "no dedicated network disk" in msg
    told = shared.refused("POST", path, {"data_center": "lab-z", "mountable": 1})
    assert told == ("RequestParameterIsWrong", "请求参数错误: data_center: must be one of lab-a, lab-b; got 'lab-z'")
