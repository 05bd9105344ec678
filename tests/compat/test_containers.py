"""Container list, events and stop, as AutoDL's clients call them."""

import datetime
from typing import Any

import pytest

from muster.model.container import ContainerStatus, Reason, Wanted
from muster.model.ids import DeploymentId
from tests.compat.world import GIB, MACHINES, MEMBER, World

WRONG = "RequestParameterIsWrong"
LIST = "/deployment/container/list"
EVENTS = "/deployment/container/event/list"
STOP = "/deployment/container/stop"


def replica_num(world: World, uuid: str) -> int:
    deployment = world.read(lambda tx: tx.deployments.get(DeploymentId(uuid)))
    assert deployment is not None
    return deployment.spec.replica_num


def test_a_container_on_its_way_up_has_an_info_of_empty_strings(world: World) -> None:
    uuid = world.create()
    container = world.place(uuid)
    (row,) = world.ok("POST", LIST, {"deployment_uuid": uuid})["list"]
    assert (row["uuid"], row["status"], row["version"]) == (container.uuid, "creating", "v1")
    assert row["info"] == {
        "ssh_command": "",
        "root_password": "",
        "service_6006_port_url": "",
        "service_6008_port_url": "",
        "service_url": "",
        "proxy_host": "",
        "custom_port": 0,
    }
    assert (row["started_at"], row["stopped_at"]) == (None, None)
    assert (row["is_ready"], row["reason"], row["message"], row["exit_code"]) == (False, "", "", None)


def test_a_running_container_shows_what_it_got_and_where_it_answers(world: World) -> None:
    uuid = world.create(service_6008_port_protocol="tcp")
    world.up(world.place(uuid))
    (row,) = world.ok("POST", LIST, {"deployment_uuid": uuid})["list"]
    assert (row["gpu_name"], row["gpu_num"], row["cpu_num"]) == ("RTX 4090", 1, 16)
    assert (row["memory_size"], row["price"]) == (64 * GIB, 1980)
    assert (row["data_center"], row["machine_id"]) == ("lab-a", MACHINES[0].id)
    assert row["info"]["service_6006_port_url"] == row["info"]["service_url"] == "http://127.0.0.1:40001"
    assert row["info"]["service_6008_port_url"] == "127.0.0.1:40002"
    assert (row["info"]["proxy_host"], row["info"]["custom_port"]) == ("127.0.0.1", 40001)
    assert datetime.datetime.strptime(row["started_at"], "%Y-%m-%dT%H:%M:%S%z").utcoffset() == datetime.timedelta(
        hours=8
    )
    assert row["is_ready"]


def test_an_unplaced_container_is_neither_shown_nor_counted(world: World) -> None:
    uuid = world.create()
    world.want(uuid)
    assert world.ok("POST", LIST, {"deployment_uuid": uuid})["list"] == []
    (row,) = world.ok("POST", "/deployment/list")["list"]
    assert (row["starting_num"], row["running_num"], row["finished_num"]) == (0, 0, 0)


def test_without_a_deployment_all_containers_of_the_account_are_listed(world: World) -> None:
    ours = [world.place(world.create(), gpu=gpu).uuid for gpu in range(2)]
    world.place(world.create(token=MEMBER), gpu=2)
    assert [row["uuid"] for row in world.ok("POST", LIST)["list"]] == ours[::-1]


FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"small", "big"}),
    ({"status": []}, {"small", "big"}),
    ({"status": [""]}, {"small", "big"}),
    ({"status": ["running"]}, {"small"}),
    ({"status": ["running", "creating"]}, {"small", "big"}),
    ({"gpu_name": "L20"}, {"big"}),
    ({"gpu_name": "", "container_uuid": "", "date_from": "", "date_to": ""}, {"small", "big"}),
    ({"price_from": 2000, "price_to": 3000.5}, {"big"}),
    ({"price_from": 0, "price_to": 0}, {"small", "big"}),
    ({"price_to": 2000}, {"small"}),
    ({"memory_size_from": 64, "memory_size_to": 64}, {"small", "big"}),
    ({"memory_size_from": 65}, set()),
    ({"cpu_num_from": 17}, set()),
    ({"released": True}, set()),
    ({"date_from": "2020-01-01"}, {"small", "big"}),
    ({"date_from": "2020-01-01 10:00:00", "date_to": "2020-01-02"}, set()),
    ({"date_to": "2999-12-31T00:00:00+08:00"}, {"small", "big"}),
    ({"date_from": "2020-01-01T00:00:00Z", "date_to": "2999-12-31T00:00:00-05:00"}, {"small", "big"}),
    ({"date_from": "2020-01-01T00:00:00.123456+05:30", "date_to": "29991231"}, {"small", "big"}),
    ({"container_uuid": "0123456789-0123456789-0123456789"}, set()),
]


def test_containers_are_filtered(world: World) -> None:
    uuid = world.create(template__gpu_name_set=[], template__dc_list=[])
    names = {world.up(world.place(uuid)).uuid: "small", world.place(uuid, MACHINES[2]).uuid: "big"}
    for filters, expected in FILTERS:
        listed = world.ok("POST", LIST, {"deployment_uuid": uuid, **filters})["list"]
        assert {names[row["uuid"]] for row in listed} == expected, filters


MISTYPED = [
    ("status", "running", "must be a list"),
    ("status", ["paused"], "must be among creating"),
    ("released", "false", "must be true or false"),
    ("released", 0, "must be true or false"),
    ("date_from", "yesterday", "must be a time like"),
    ("date_from", "0001-01-01", "must be a time like"),
    ("date_from", "2026-02-30", "must be a time like"),
    ("date_to", "1772413200", "must be a time like"),
    ("date_to", "9999-12-31T23:59:59-08:00", "must be a time like"),
    ("memory_size_from", 64 * GIB, "is in GB"),
    ("price_from", "1", "must be a number"),
    ("price_from", True, "must be a number"),
    ("price_to", -1, "must be at least 0"),
    ("cpu_num_from", 1.5, "must be an integer"),
    ("page_index", "1", "must be an integer"),
    ("page_index", 2**60, "must be at most"),
    ("offset", 10**40, "must be at most"),
    ("deployment_uuid", ["x"], "must be a string"),
]


@pytest.mark.parametrize(("field", "value", "reason"), MISTYPED, ids=[f"{f}={v!r:.20}" for f, v, _ in MISTYPED])
def test_a_wrong_filter_is_named(shared: World, field: str, value: Any, reason: str) -> None:
    code, msg = shared.refused("POST", LIST, {field: value})
    assert code == WRONG
    assert msg.startswith(f"请求参数错误: {field}: {reason}")


def test_a_shut_down_container_stays_listed_until_it_is_released(world: World) -> None:
    uuid = world.create()
    now = datetime.datetime.now(datetime.UTC)
    container = world.advance(
        world.up(world.place(uuid)),
        ContainerStatus.SHUTTING_DOWN,
        ContainerStatus.SHUTDOWN,
        is_ready=False,
        reason=Reason.ERROR,
        message="exit code 3",
        exit_code=3,
        stopped_at=now,
    )
    (row,) = world.ok("POST", LIST, {"deployment_uuid": uuid, "released": False})["list"]
    assert (row["status"], row["reason"], row["message"], row["exit_code"]) == ("shutdown", "error", "exit code 3", 3)
    assert row["stopped_at"]
    world.advance(container, ContainerStatus.SHUTDOWN, released_at=now)
    assert world.ok("POST", LIST, {"deployment_uuid": uuid})["list"] == []
    assert len(world.ok("POST", LIST, {"deployment_uuid": uuid, "released": True})["list"]) == 1


def test_events_are_newest_first_in_lifecycle_order(world: World) -> None:
    uuid = world.create()
    container = world.up(world.place(uuid))
    other = world.place(uuid, gpu=1)
    page = world.ok("POST", EVENTS, {"deployment_uuid": uuid, "page_index": 0, "page_size": 3})
    assert [row["status"] for row in page["list"]] == ["creating", "running", "oss_merged"]
    assert (page["max_page"], page["result_total"]) == (2, 6)
    one = world.ok("POST", EVENTS, {"deployment_uuid": uuid, "deployment_container_uuid": container.uuid})
    assert [row["status"] for row in one["list"]] == ["running", "oss_merged", "starting", "created", "creating"]
    rest = world.ok("POST", EVENTS, {"deployment_uuid": uuid, "page_size": 10, "offset": 5})
    assert [row["status"] for row in rest["list"]] == ["creating"]
    assert rest["offset"] == 5
    assert {row["deployment_container_uuid"] for row in page["list"]} == {container.uuid, other.uuid}


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_stop_writes_intent_status_and_event_and_changes_no_number(world: World, method: str) -> None:
    uuid = world.create()
    container = world.up(world.place(uuid))
    assert world.ok(method, STOP, {"deployment_container_uuid": container.uuid}) is None
    row = world.row(container)
    assert row.wanted is Wanted.STOP
    assert row.stop is not None
    assert row.stop.reason is Reason.STOPPED_BY_USER
    assert (row.stop.no_cache, row.stop.cmd_before_shutdown) == (False, None)
    assert row.status is ContainerStatus.SHUTTING_DOWN
    assert not row.is_ready
    newest = world.ok("POST", EVENTS, {"deployment_uuid": uuid})["list"][0]
    assert (newest["status"], newest["reason"]) == ("shutting_down", "stopped_by_user")
    assert replica_num(world, uuid) == 2


def test_stop_with_decrease_lowers_the_number_once(world: World) -> None:
    uuid = world.create()
    container = world.up(world.place(uuid))
    asked = {"deployment_container_uuid": container.uuid, "decrease_one_replica_num": True}
    world.ok("PUT", STOP, asked)
    world.ok("PUT", STOP, asked)
    assert replica_num(world, uuid) == 1
    assert len(world.ok("POST", EVENTS, {"deployment_uuid": uuid})["list"]) == 6


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"decrease_replica": True}, 1),
        ({"decrease_replica": False}, 2),
        ({"decrease_replica": True, "decrease_one_replica_num": False}, 2),
        ({"decrease_replica": True, "decrease_one_replica_num": None}, 1),
    ],
)
def test_decrease_has_an_older_word(world: World, asked: dict[str, Any], left: int) -> None:
    uuid = world.create()
    world.ok("PUT", STOP, {"deployment_container_uuid": world.place(uuid).uuid, **asked})
    assert replica_num(world, uuid) == left


@pytest.mark.parametrize("said", ["", None, ...])
def test_an_empty_command_before_shutdown_leaves_it_to_the_deployment(world: World, said: Any) -> None:
    container = world.place(world.create(template__cmd_before_shutdown="sync"))
    asked = {} if said is ... else {"cmd_before_shutdown": said}
    world.ok("PUT", STOP, {"deployment_container_uuid": container.uuid, **asked})
    stop = world.row(container).stop
    assert stop is not None
    assert stop.cmd_before_shutdown is None


@pytest.mark.parametrize("end", ["2026-03-02", "20260302", "2026-W10-1"])
def test_a_day_as_an_end_is_the_whole_day_in_the_zone_of_the_answers(world: World, end: str) -> None:
    """And rows stay in the order of their making when the clock goes back."""
    moments = ["2026-03-02T15:59:59+00:00", "2026-03-01T16:00:00+00:00", "2026-03-02T16:00:00+00:00"]
    uuid = world.create(template__dc_list=[])
    made = [world.place(uuid, gpu=gpu, now=datetime.datetime.fromisoformat(at)) for gpu, at in enumerate(moments)]
    asked = {"deployment_uuid": uuid, "date_from": "2026-03-02 00:00:00", "date_to": end}
    listed = [row["uuid"] for row in world.ok("POST", LIST, asked)["list"]]
    assert listed == [made[1].uuid, made[0].uuid]


def test_the_number_never_falls_below_zero(world: World) -> None:
    uuid = world.create(replica_num=0)
    container = world.place(uuid)
    world.ok("PUT", STOP, {"deployment_container_uuid": container.uuid, "decrease_one_replica_num": True})
    assert replica_num(world, uuid) == 0


def test_decrease_of_a_stopped_deployment_only_stops_the_container(world: World) -> None:
    uuid = world.create()
    container = world.place(uuid)
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"})
    world.ok("PUT", STOP, {"deployment_container_uuid": container.uuid, "decrease_one_replica_num": True})
    assert world.row(container).wanted is Wanted.STOP
    assert replica_num(world, uuid) == 2


@pytest.mark.parametrize(
    ("asked", "no_cache"),
    [
        ({}, False),
        ({"no_cache": True}, True),
        ({"cache_container": False}, True),
        ({"cache_container": True}, False),
        ({"no_cache": False, "cache_container": False}, False),
        ({"no_cache": None}, False),
    ],
)
def test_the_reuse_pool_is_left_out_on_request(world: World, asked: dict[str, Any], no_cache: bool) -> None:
    container = world.place(world.create())
    world.ok("PUT", STOP, {"deployment_container_uuid": container.uuid, "cmd_before_shutdown": "sync", **asked})
    stop = world.row(container).stop
    assert stop is not None
    assert (stop.no_cache, stop.cmd_before_shutdown) == (no_cache, "sync")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("deployment_container_uuid", None, "is required"),
        ("deployment_container_uuid", 7, "must be a string"),
        ("decrease_one_replica_num", 1, "must be true or false"),
        ("no_cache", "yes", "must be true or false"),
        ("cmd_before_shutdown", [], "must be a string"),
    ],
)
def test_a_wrong_stop_stops_nothing(world: World, field: str, value: Any, reason: str) -> None:
    container = world.place(world.create())
    code, msg = world.refused("PUT", STOP, {"deployment_container_uuid": container.uuid, field: value})
    assert (code, msg) == (WRONG, f"请求参数错误: {field}: {reason}")
    assert world.row(container).wanted is Wanted.RUN


def test_another_accounts_container_looks_unknown_and_is_left_alone(world: World) -> None:
    container = world.place(world.create(token=MEMBER))
    for uuid in (container.uuid, "0123456789-0123456789-0123456789", "", "x"):
        refusal = world.refused("PUT", STOP, {"deployment_container_uuid": uuid})
        assert refusal == ("RecordNotFoundError", "未查询到相关容器")
    assert world.row(container).wanted is Wanted.RUN
    assert world.ok("POST", LIST, {"container_uuid": container.uuid})["list"] == []


def test_a_filter_by_another_accounts_container_finds_no_events(world: World) -> None:
    container = world.place(world.create(token=MEMBER))
    asked = {"deployment_uuid": world.create(), "deployment_container_uuid": container.uuid}
    assert world.ok("POST", EVENTS, asked)["list"] == []
