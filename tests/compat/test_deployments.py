"""Create, list, scale, stop and delete, as AutoDL's clients call them."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from muster.model.deployment import DeploymentStatus, HealthCheck, PortProtocol, ReuseScope
from muster.model.ids import DeploymentId
from muster.model.quantity import Range
from tests.compat.world import GIB, MEMBER, World, body

WRONG = "RequestParameterIsWrong"


def spec_of(world: World, uuid: str) -> Any:
    deployment = world.read(lambda tx: tx.deployments.get(DeploymentId(uuid)))
    assert deployment is not None
    return deployment.spec


def test_create_answers_a_uuid_of_ten_hex_and_stores_what_was_asked(world: World) -> None:
    uuid = world.create()
    assert re.fullmatch(r"[0-9a-f]{10}", uuid)
    spec = spec_of(world, uuid)
    assert (spec.name, spec.replica_num, spec.cmd) == ("asr", 2, "python serve.py")
    assert spec.requirements.memory_bytes == Range(GIB, 256 * GIB)
    assert spec.requirements.cuda == Range(118, 128)
    assert spec.requirements.price_milliyuan == Range(10, 9000)
    assert spec.protocols == {6006: PortProtocol.HTTP, 6008: PortProtocol.HTTP}
    assert not spec.reuse_container


REQUIRED = [
    ("name", {"name": ...}),
    ("deployment_type", {"deployment_type": ...}),
    ("replica_num", {"replica_num": ...}),
    ("container_template", {"container_template": ...}),
    ("container_template.gpu_num", {"template__gpu_num": ...}),
    ("container_template.image_uuid", {"template__image_uuid": ...}),
    ("container_template.cmd", {"template__cmd": ...}),
]


@pytest.mark.parametrize(("field", "changes"), REQUIRED, ids=[field for field, _ in REQUIRED])
def test_a_missing_field_is_named(shared: World, field: str, changes: dict[str, Any]) -> None:
    code, msg = shared.refused("POST", "/deployment", body(**changes))
    assert code == WRONG
    assert msg.startswith(f"请求参数错误: {field}: is required")


@pytest.mark.parametrize(("field", "changes"), REQUIRED, ids=[field for field, _ in REQUIRED])
def test_a_required_field_that_is_null_is_missing(shared: World, field: str, changes: dict[str, Any]) -> None:
    nulled = dict.fromkeys(changes)
    assert shared.refused("POST", "/deployment", body(**nulled))[1].startswith(f"请求参数错误: {field}: is required")


OPTIONAL = [
    "dc_list", "region_sign", "gpu_name_set", "cuda_v", "cuda_v_from", "cuda_v_to", "cpu_num_from", "cpu_num_to",
    "memory_size_from", "memory_size_to", "price_from", "price_to", "cmd_before_shutdown", "env_vars",
    "reuse_container", "reuse_container_scope", "service_6006_port_protocol", "service_port_protocol",
]  # fmt: skip


@pytest.mark.parametrize("field", OPTIONAL)
@pytest.mark.parametrize("value", [None, ...], ids=["null", "absent"])
def test_an_optional_field_may_be_null_or_absent(shared: World, field: str, value: Any) -> None:
    assert shared.create(**{f"template__{field}": value})


MISTYPED = [
    ("name", 3, "must be a string"),
    ("name", "", "must not be empty"),
    ("deployment_type", "replicaset", "must be 'ReplicaSet', 'Job' or 'Container'"),
    ("replica_num", "3", "must be an integer"),
    ("replica_num", True, "must be an integer"),
    ("replica_num", 1.5, "must be an integer"),
    ("replica_num", -1, "must be at least 0"),
    ("replica_num", 10**30, "must be at most 10000"),
    ("reuse_container", 1, "must be true or false"),
    ("reuse_container", "true", "must be true or false"),
    ("reuse_container_scope", "mine", "must be 'all', 'deployment' or ''"),
    ("service_6006_port_protocol", "udp", "must be 'http', 'tcp' or ''"),
    ("container_template", [], "must be an object"),
    ("container_template.gpu_num", 0, "must be at least 1"),
    ("container_template.gpu_num", "1", "must be an integer"),
    ("container_template.gpu_name_set", "RTX 4090", "must be a list"),
    ("container_template.gpu_name_set.0", [4090], "must be a string"),
    ("container_template.dc_list", {}, "must be a list"),
    ("container_template.cpu_num_to", 1, "must be at least cpu_num_from (4), got 1"),
    ("container_template.cuda_v_to", 100, "must be at least cuda_v_from (118), got 100"),
    ("container_template.price_to", 5, "must be at least price_from (10), got 5"),
    ("container_template.memory_size_to", 256 * GIB, f"is in GB, {256 * GIB} looks like bytes"),
    ("container_template.memory_size_from", GIB, f"is in GB, {GIB} looks like bytes"),
    ("container_template.price_from", -1, "must be at least 0"),
    ("container_template.image_uuid", 7, "must be a string"),
    ("container_template.cmd", "   ", "must not be empty: its life is the container's life"),
    ("container_template.env_vars", ["A=1"], "must be an object"),
    ("container_template.env_vars.A", {"A": 1}, "must be a string"),
    ("container_template.env_vars", {"A=B": "1"}, "'A=B' is no name of an environment variable"),
    ("container_template.env_vars", {"A B": "1"}, "'A B' is no name of an environment variable"),
    ("container_template.cmd", "x" * 100_000, "must be at most 30000 characters long"),
    ("name", "x" * 256, "must be at most 255 characters long"),
    ("name", "a\nb", "must be one line without control characters, has U+000A at 1"),
    ("name", "\x1b[2J", "must be one line without control characters, has U+001B at 0"),
    ("name", "a\u2028b", "must be one line without control characters, has U+2028 at 1"),
    ("container_template.dc_list.0", ["a\tb"], "must be one line without control characters, has U+0009 at 1"),
    (
        "container_template.cmd",
        "echo \x1b[2J",
        "must not hold control characters other than tabs and line ends (use printf), has U+001B at 5",
    ),
    ("service", 5, "must be an object"),
    ("service.concurrency", {"concurrency": 0}, "must be at least 1, got 0"),
    ("service.drain_seconds", {"drain_seconds": 1e9}, "must be from 0 to 86400, got 1000000000.0"),
    ("service.health_check.port", {"health_check": {"port": 80}}, "must be one of (6006, 6008), got 80"),
    ("service.health_check.path", {"health_check": {"path": "x"}}, "must start with '/', got 'x'"),
]


@pytest.mark.parametrize(("field", "value", "reason"), MISTYPED, ids=[f"{f}={v!r:.20}" for f, v, _ in MISTYPED])
def test_a_wrong_field_is_named_with_what_would_be_right(shared: World, field: str, value: Any, reason: str) -> None:
    asked = body(template__cpu_num_from=4)
    top, _, inner = field.partition(".")
    if top == "container_template" and inner:
        asked["container_template"][inner.partition(".")[0]] = value
    else:
        asked[top] = value
    assert shared.refused("POST", "/deployment", asked) == (WRONG, f"请求参数错误: {field}: {reason}")


@pytest.mark.parametrize("cmd", ["a\tb", "set -e\npython x.py\n", "a\r\nb", "echo 你好 🚀", "x" * 30_000])
def test_a_command_is_kept_as_it_was_written(world: World, cmd: str) -> None:
    assert spec_of(world, world.create(template__cmd=cmd)).cmd == cmd


def test_names_need_not_be_unique_nor_ascii(world: World) -> None:
    uuids = [world.create(name="语音识别 🚀"), world.create(name="语音识别 🚀")]
    rows = world.ok("POST", "/deployment/list", {"name": "语音识别 🚀"})["list"]
    assert [row["uuid"] for row in rows] == uuids[::-1]


def test_unknown_fields_are_ignored(world: World) -> None:
    assert world.create(page=1, surprise={"a": [1]}, template__entrypoint="x")


def test_an_unknown_image_is_refused_as_autodl_does(shared: World) -> None:
    assert shared.refused("POST", "/deployment", body(template__image_uuid="asr:0.3.1")) == ("BadRequest", "镜像不存在")


def test_a_job_needs_parallelism_num(shared: World) -> None:
    code, msg = shared.refused("POST", "/deployment", body(deployment_type="Job"))
    assert (code, msg) == (WRONG, "请求参数错误: parallelism_num: is required for a Job")


def test_cuda_v_alone_is_a_minimum(world: World) -> None:
    uuid = world.create(template__cuda_v=118, template__cuda_v_from=..., template__cuda_v_to=...)
    assert spec_of(world, uuid).requirements.cuda == Range(118)


@pytest.mark.parametrize("kind", ["ReplicaSet", "Container"])
def test_parallelism_num_means_nothing_but_for_a_job(world: World, kind: str) -> None:
    for number in (0, 1, 7):
        uuid = world.create(deployment_type=kind, replica_num=1, parallelism_num=number)
        assert spec_of(world, uuid).parallelism_num == 1


def test_a_container_is_one_whatever_replica_num_says(world: World) -> None:
    for number in (..., 0, 1, 7):
        assert spec_of(world, world.create(deployment_type="Container", replica_num=number)).replica_num == 1


@pytest.mark.parametrize("field", ["replica_num", "parallelism_num"])
def test_a_job_of_nothing_is_refused(shared: World, field: str) -> None:
    asked = body(deployment_type="Job", **{"replica_num": 3, "parallelism_num": 1, field: 0})
    assert shared.refused("POST", "/deployment", asked) == (
        WRONG,
        f"请求参数错误: {field}: must be at least 1 for a Job",
    )


def test_zeros_for_the_range_of_cuda_leave_it_to_cuda_v(world: World) -> None:
    uuid = world.create(template__cuda_v=118, template__cuda_v_from=0, template__cuda_v_to=0)
    assert spec_of(world, uuid).requirements.cuda == Range(118)


def test_empty_names_in_lists_are_none(world: World) -> None:
    needs = spec_of(world, world.create(template__dc_list=["", "lab-a"], template__gpu_name_set=[""])).requirements
    assert (needs.data_centers, needs.gpu_names) == ({"lab-a"}, frozenset())


def test_cuda_v_zero_is_no_constraint(world: World) -> None:
    uuid = world.create(template__cuda_v=0, template__cuda_v_from=..., template__cuda_v_to=...)
    assert spec_of(world, uuid).requirements.cuda == Range()


def test_an_upper_bound_of_zero_is_none(world: World) -> None:
    uuid = world.create(template__cpu_num_to=0, template__memory_size_to=0)
    needs = spec_of(world, uuid).requirements
    assert (needs.cpu_num, needs.memory_bytes) == (Range(1), Range(GIB))


def test_region_sign_is_a_data_center_where_dc_list_is_empty(world: World) -> None:
    alone = world.create(template__dc_list=[], template__region_sign="lab-b")
    both = world.create(template__dc_list=["lab-a"], template__region_sign="lab-b")
    neither = world.create(template__dc_list=[])
    centers = [spec_of(world, each).requirements.data_centers for each in (alone, both, neither)]
    assert centers == [{"lab-b"}, {"lab-a"}, frozenset()]


def test_protocols_and_reuse_are_accepted_in_the_template(world: World) -> None:
    uuid = world.create(
        template__service_6006_port_protocol="tcp",
        template__reuse_container=True,
        template__reuse_container_scope="deployment",
    )
    spec = spec_of(world, uuid)
    assert spec.protocols == {6006: PortProtocol.TCP, 6008: PortProtocol.HTTP}
    assert spec.reuse_container
    assert spec.reuse_scope is ReuseScope.DEPLOYMENT


def test_the_top_level_wins_over_the_template(world: World) -> None:
    uuid = world.create(
        service_6006_port_protocol="http",
        template__service_6006_port_protocol="tcp",
        reuse_container=False,
        template__reuse_container=True,
    )
    assert spec_of(world, uuid).protocols[6006] is PortProtocol.HTTP
    assert not spec_of(world, uuid).reuse_container


def test_service_port_protocol_is_for_both_ports_that_have_no_own(world: World) -> None:
    uuid = world.create(service_port_protocol="tcp", service_6008_port_protocol="http")
    assert spec_of(world, uuid).protocols == {6006: PortProtocol.TCP, 6008: PortProtocol.HTTP}


def test_the_health_check_is_a_connect_unless_said_otherwise(world: World) -> None:
    checks = [
        spec_of(world, world.create(**changes)).service.health_check
        for changes in (
            {},
            {"service": {"health_check": None}},
            {"service": {"health_check": {"path": "/healthz", "port": 6008}}},
        )
    ]
    assert checks == [HealthCheck(), None, HealthCheck(port=6008, path="/healthz")]


def test_only_admins_deploy_where_tenants_are_not_isolated(furnished: Path, tmp_path: Path) -> None:
    shutil.copy(furnished, tmp_path)
    with World(tmp_path, isolates_tenants=False) as world:
        for asked in (body(), {}):  # a right is checked before the parameters
            assert world.refused("POST", "/deployment", asked, token=MEMBER) == ("BadRequest", "无当前资源访问权限")
        assert world.create()


def test_the_list_shows_every_field_that_strict_clients_read(world: World) -> None:
    uuid = world.create(template__env_vars={"A": "1"})
    world.up(world.place(uuid))
    world.place(uuid, gpu=1)
    page = world.ok("POST", "/deployment/list", {"page_index": 1, "page_size": 20})
    (row,) = page.pop("list")
    assert page == {"page_index": 1, "page_size": 20, "offset": 0, "max_page": 1, "result_total": 1, "page": 1}
    assert row["uuid"] == uuid
    assert (row["starting_num"], row["running_num"], row["ready_num"], row["finished_num"]) == (1, 1, 1, 0)
    assert row["price_estimates"] == 1980
    assert row["template"]["memory_size_from"] == GIB
    assert row["template"]["image_name"] == "local"
    assert row["template"]["env_vars"] == {"A": "1"}
    assert row["stopped_at"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+08:00", row["created_at"])


def test_the_list_is_filtered_by_name_status_and_uuid(world: World) -> None:
    first, second = world.create(), world.create(name="ocr")
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": second, "operate": "stop"})

    def listed(**filters: Any) -> list[str]:
        return [row["uuid"] for row in world.ok("POST", "/deployment/list", filters)["list"]]

    assert listed() == [second, first]
    assert listed(name="asr") == [first]
    assert listed(status="stopped") == [second]
    assert listed(deployment_uuid=first) == [first]
    assert listed(name="as") == []
    assert listed(name="", status="", deployment_uuid="") == [second, first]


def test_pages_are_counted_from_one_and_zero_is_one(world: World) -> None:
    uuids = [world.create(name=f"d{number}") for number in range(5)][::-1]

    def page(**asked: Any) -> tuple[list[str], int]:
        data = world.ok("POST", "/deployment/list", asked)
        return [row["uuid"] for row in data["list"]], data["max_page"]

    assert page(page_index=0, page_size=2) == page(page_index=1, page_size=2) == (uuids[:2], 3)
    assert page(page_index=3, page_size=2) == (uuids[4:], 3)
    assert page(page_index=9, page_size=2) == ([], 3)
    assert page(page_index=-4, page_size=-1) == (uuids, 1)
    assert page(page_index=None, page_size=None) == (uuids, 1)
    assert page(page_index=1, page_size=2, offset=3) == (uuids[3:], 3)


def test_the_default_page_has_ten_rows_and_a_page_at_most_a_thousand(world: World) -> None:
    assert world.ok("POST", "/deployment/list")["page_size"] == 10
    assert world.ok("POST", "/deployment/list", {"page_size": 10**6})["page_size"] == 1000


def test_an_empty_list_has_no_pages(world: World) -> None:
    data = world.ok("POST", "/deployment/list", {})
    assert (data["list"], data["max_page"], data["result_total"]) == ([], 0, 0)


def test_the_list_is_also_answered_by_get(world: World) -> None:
    uuid = world.create()
    assert [row["uuid"] for row in world.ok("GET", "/deployment/list")["list"]] == [uuid]


def test_scaling_changes_the_wanted_number_and_answers_the_uuid(world: World) -> None:
    uuid = world.create()
    asked = {"deployment_uuid": uuid, "replica_num": 5}
    assert world.ok("PUT", "/deployment/replica_num", asked) == {"deployment_uuid": uuid}
    assert spec_of(world, uuid).replica_num == 5
    world.ok("PUT", "/deployment/replica_num", {**asked, "replica_num": 0})
    assert spec_of(world, uuid).replica_num == 0


def test_a_stopped_deployment_is_not_scaled(world: World) -> None:
    uuid = world.create()
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"})
    code, msg = world.refused("PUT", "/deployment/replica_num", {"deployment_uuid": uuid, "replica_num": 5})
    assert code == "BadRequest"
    assert "已停止" in msg
    assert spec_of(world, uuid).replica_num == 2


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("key", ["operate", "operation"])
def test_stopping_is_final_and_may_be_repeated(world: World, method: str, key: str) -> None:
    uuid = world.create()
    assert world.ok(method, "/deployment/operate", {"deployment_uuid": uuid, key: "stop"}) is None
    (row,) = world.ok("POST", "/deployment/list")["list"]
    assert row["status"] == "stopped"
    assert row["stopped_at"]
    assert world.ok(method, "/deployment/operate", {"deployment_uuid": uuid, key: "stop"}) is None
    assert world.ok("POST", "/deployment/list")["list"] == [row]


@pytest.mark.parametrize("word", ["start", "", "Stop", "restart"])
def test_there_is_no_way_back_from_stop_nor_any_other_operation(world: World, word: str) -> None:
    asked = {"deployment_uuid": world.create(), "operate": word}
    code, msg = world.refused("PUT", "/deployment/operate", asked)
    assert (code, msg) == (WRONG, f"请求参数错误: operate: must be 'stop' or 'delete', got {word!r}")


@pytest.mark.parametrize("key", ["operate", "operation"])
def test_the_operation_delete_is_the_same_as_delete(world: World, key: str) -> None:
    asked = {"deployment_uuid": world.create(), key: "delete"}
    assert world.ok("PUT", "/deployment/operate", asked) is None
    assert world.ok("POST", "/deployment/list")["list"] == []
    assert world.refused("PUT", "/deployment/operate", asked)[0] == "RecordNotFoundError"


def test_a_deleted_deployment_is_gone_from_everywhere(world: World) -> None:
    uuid = world.create()
    assert world.ok("DELETE", "/deployment", {"deployment_uuid": uuid}) is None
    assert world.ok("POST", "/deployment/list")["list"] == []
    deployment = world.read(lambda tx: tx.deployments.get(DeploymentId(uuid)))
    assert deployment is not None
    assert deployment.status is DeploymentStatus.STOPPED
    assert not deployment.is_wanted
    for method, path, asked in touching(uuid):
        assert world.refused(method, path, asked)[0] == "RecordNotFoundError", path


def test_delete_accepts_the_uuid_in_the_query(world: World) -> None:
    uuid = world.create()
    world.ok("DELETE", f"/deployment?deployment_uuid={uuid}")
    assert world.ok("POST", "/deployment/list")["list"] == []


def touching(uuid: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("PUT", "/deployment/replica_num", {"deployment_uuid": uuid, "replica_num": 9}),
        ("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"}),
        ("DELETE", "/deployment", {"deployment_uuid": uuid}),
        ("POST", "/deployment/container/list", {"deployment_uuid": uuid}),
        ("POST", "/deployment/container/event/list", {"deployment_uuid": uuid}),
    ]


@pytest.mark.parametrize("index", range(5))
def test_another_accounts_deployment_looks_unknown(world: World, index: int) -> None:
    theirs = world.create(token=MEMBER)
    world.place(theirs)
    refusals = []
    for uuid in (theirs, "0123456789"):
        method, path, asked = touching(uuid)[index]
        refusals.append(world.refused(method, path, asked))
    assert refusals[0] == refusals[1] == ("RecordNotFoundError", "未查询到相关部署")
    assert spec_of(world, theirs).replica_num == 2
    assert world.ok("POST", "/deployment/list")["list"] == []
    assert len(world.ok("POST", "/deployment/list", token=MEMBER)["list"]) == 1


@pytest.mark.parametrize("index", range(5))
def test_the_uuid_is_required_and_a_string(world: World, index: int) -> None:
    method, path, asked = touching("x")[index]
    del asked["deployment_uuid"]
    if path != "/deployment/container/list":
        assert world.refused(method, path, asked) == (WRONG, "请求参数错误: deployment_uuid: is required")
    asked["deployment_uuid"] = 5
    assert world.refused(method, path, asked) == (WRONG, "请求参数错误: deployment_uuid: must be a string")
