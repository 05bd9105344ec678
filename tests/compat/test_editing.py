"""Edits and rollouts on the wire: what changes, what stays, what becomes a version, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from muster.model.account import Quota
from muster.model.container import Container
from muster.model.deployment import Deployment
from muster.model.ids import ContainerId, DeploymentId
from muster.store.port import Transaction, Window
from tests.compat.world import BODY, MEMBER, World


def edit(world: World, uuid: str, **changes: Any) -> Any:
    return world.ok("PUT", "/deployment", {"deployment_uuid": uuid, **changes})


def ours(world: World, method: str, path: str, content: Any = None) -> Any:
    response = world.send(method, f"/api/v1/muster/deployments/{path}", content=json.dumps(content or {}).encode())
    assert response.status_code == 200, response.text
    return response.json()


def spec(world: World, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = ours(world, "GET", uuid)["spec"]
    return found


def prove(world: World, uuid: str) -> None:
    """Let the present version be good, as the loop would."""
    deployment = stored(world, uuid)
    world.write(lambda tx: tx.deployments.update(replace(deployment, stable_version=deployment.version)))


def stored(world: World, uuid: str) -> Deployment:
    found = world.read(lambda tx: tx.deployments.get(DeploymentId(uuid)))
    assert found is not None
    return found


def test_one_field_changes_and_all_others_stay(world: World) -> None:
    uuid = world.create(container_template={**BODY["container_template"], "env_vars": {"A": "1"}})
    before = spec(world, uuid)
    edited = edit(world, uuid, container_template={"cmd": "python other.py"})
    assert edited["changed"] == ["container_template.cmd"]
    assert (edited["version"], edited["is_new_version"]) == ("v2", True)
    after = spec(world, uuid)
    assert after["container_template"].pop("cmd") == "python other.py"
    before["container_template"].pop("cmd")
    assert after == before


@pytest.mark.parametrize(
    ("changes", "is_new"),
    [
        ({"container_template": {"cmd": "x"}}, True),
        ({"container_template": {"env_vars": {"A": "2"}}}, True),
        ({"container_template": {"gpu_num": 2}}, True),
        ({"service_6008_port_protocol": "tcp"}, True),
        ({"container_template": {"service_6008_port_protocol": "tcp"}}, True),
        ({"service_port_protocol": "tcp"}, True),
        ({"container_template": {"cuda_v": 120}}, True),
        ({"container_template": {"region_sign": "lab-b"}}, True),
        ({"container_template": {"memory_size_from": 2}}, True),
        ({"replica_num": 7}, False),
        ({"reuse_container": True}, False),
        ({"container_template": {"reuse_container_scope": "deployment"}}, False),
        ({"container_template": {"cmd_before_shutdown": "sync"}}, False),
        ({"container_template": {"image_pull": "always"}}, False),
        ({"service": {"concurrency": 4, "drain_seconds": 1}}, False),
        ({"service": {"health_check": None}}, False),
        ({"service": {"health_check": {"path": "/healthz"}}}, False),
        ({"service": {"ready_within_seconds": 30}}, False),
    ],
)
def test_only_what_containers_are_made_of_or_where_they_may_be_is_a_new_version(
    world: World, changes: dict[str, Any], is_new: bool
) -> None:
    uuid = world.create()
    edited = edit(world, uuid, **changes)
    assert edited["changed"]
    assert (edited["version"], edited["is_new_version"]) == (("v2", True) if is_new else ("v1", False))
    assert edit(world, uuid, **changes)["changed"] == [], "the same again changes nothing"


def test_aliases_and_units_mean_what_they_mean_on_create(world: World) -> None:
    uuid = world.create()
    edit(world, uuid, container_template={"cuda_v": 120, "region_sign": "lab-b", "memory_size_from": 4})
    template = spec(world, uuid)["container_template"]
    assert (template["cuda_v_from"], template["cuda_v_to"], template["dc_list"]) == (120, 0, ["lab-b"])
    row = world.ok("POST", "/deployment/list", {})["list"][0]
    assert row["template"]["memory_size_from"] == 4 << 30


def test_fields_of_service_change_one_by_one_and_null_means_none(world: World) -> None:
    uuid = world.create(service={"concurrency": 4, "health_check": {"path": "/a", "interval_seconds": 1}})
    edit(world, uuid, service={"concurrency": None, "health_check": {"path": "/b"}})
    service = spec(world, uuid)["service"]
    assert service["concurrency"] is None
    assert (service["health_check"]["path"], service["health_check"]["interval_seconds"]) == ("/b", 1)
    edit(world, uuid, service={"health_check": None})
    assert spec(world, uuid)["service"]["health_check"] is None


def test_a_version_of_the_callers_own_makes_every_container_anew(world: World) -> None:
    uuid = world.create()
    edited = edit(world, uuid, version="2026-11")
    assert (edited["version"], edited["is_new_version"], edited["changed"]) == ("2026-11", True, [])
    assert edit(world, uuid, version="2026-11")["is_new_version"] is False, "asked again, it is there"
    code, msg = world.refused("PUT", "/deployment", {"deployment_uuid": uuid, "version": "v1"})
    assert code == "BadRequest"
    assert "v1" in msg
    assert edit(world, uuid, container_template={"cmd": "x"})["version"] == "v3", "versions are counted, named or not"
    versions = ours(world, "GET", f"{uuid}/versions")["versions"]
    assert [each["version"] for each in versions] == ["v3", "2026-11", "v1"]
    assert [each["is_wanted"] for each in versions] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "other"}, "name"),
        ({"deployment_type": "Job"}, "deployment_type"),
        ({"container_template": {"gpu_num": 0}}, "container_template.gpu_num"),
        ({"container_template": {"gpu_num": "2"}}, "container_template.gpu_num"),
        ({"container_template": {"cpu_num_from": 100}}, "container_template.cpu_num_to"),
        ({"container_template": {"memory_size_from": 1 << 30}}, "container_template.memory_size_from"),
        ({"container_template": {"cmd": " "}}, "container_template.cmd"),
        ({"container_template": []}, "container_template"),
        ({"service": {"concurrency": 0}}, "service.concurrency"),
        ({"service": {"ready_within_seconds": 0}}, "service.ready_within_seconds"),
        ({"version": "a b"}, "version"),
        ({"replica_num": -1}, "replica_num"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field_and_changes_nothing(
    world: World, changes: dict[str, Any], field: str
) -> None:
    uuid = world.create()
    before = stored(world, uuid)
    code, msg = world.refused("PUT", "/deployment", {"deployment_uuid": uuid, **changes})
    assert (code, msg.startswith(f"请求参数错误: {field}: ")) == ("RequestParameterIsWrong", True), msg
    assert stored(world, uuid) == before


def test_a_field_that_was_allowed_once_is_refused_by_its_name_until_it_is_given_anew(world: World) -> None:
    uuid = world.create()
    old = stored(world, uuid)
    world.write(lambda tx: tx.deployments.update(replace(old, spec=replace(old.spec, cmd="echo \x07"))))
    code, msg = world.refused("PUT", "/deployment", {"deployment_uuid": uuid, "replica_num": 1})
    assert (code, "container_template.cmd: as it is now" in msg) == ("RequestParameterIsWrong", True)
    assert edit(world, uuid, container_template={"cmd": "echo"})["changed"] == ["container_template.cmd"]


def test_an_unknown_image_a_stopped_deployment_and_a_foreign_one_are_refused(world: World) -> None:
    uuid = world.create()
    change = {"deployment_uuid": uuid, "container_template": {"image_uuid": "image-0000000000"}}
    assert world.refused("PUT", "/deployment", change) == ("BadRequest", "镜像不存在")
    code, _ = world.refused("PUT", "/deployment", {"deployment_uuid": uuid, "replica_num": 1}, token=MEMBER)
    assert code == "RecordNotFoundError"
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"})
    code, _ = world.refused("PUT", "/deployment", {"deployment_uuid": uuid, "replica_num": 1})
    assert code == "BadRequest"


def test_the_version_that_serves_is_kept_and_without_one_there_is_nothing_to_keep(world: World) -> None:
    uuid = world.create()
    container = world.up(world.place(uuid))
    edit(world, uuid, container_template={"cmd": "b"})
    assert stored(world, uuid).stable_version == "v1"
    edit(world, uuid, container_template={"cmd": "c"})
    assert (stored(world, uuid).stable_version, stored(world, uuid).version) == ("v1", "v3")
    world.write(lambda tx: tx.containers.update(replace(world_row(tx, container.id), is_ready=False)))
    edit(world, uuid, container_template={"cmd": "sleep infinity"})
    assert stored(world, uuid).stable_version is None


def test_containers_show_the_version_that_they_run_not_the_one_that_is_wanted(world: World) -> None:
    uuid = world.create(service_6006_port_protocol="http")
    world.up(world.place(uuid))
    edit(world, uuid, service_6006_port_protocol="tcp")
    (row,) = world.ok("POST", "/deployment/container/list", {"deployment_uuid": uuid})["list"]
    assert row["version"] == "v1"
    assert row["info"]["service_6006_port_url"].startswith("http://")


def test_a_rollout_is_told_held_resumed_and_taken_back(world: World) -> None:
    uuid = world.create(replica_num=1)
    world.up(world.place(uuid))
    edit(world, uuid, container_template={"cmd": "b"})
    status = ours(world, "GET", f"{uuid}/rollout")
    assert (status["state"], status["version"], status["stable_version"]) == ("progressing", "v2", "v1")
    assert (status["wanted_num"], status["updated_num"], status["outdated_num"]) == (1, 0, 1)
    paused = ours(world, "POST", f"{uuid}/rollout/pause")
    assert (paused["state"], paused["is_paused"]) == ("paused", True)
    assert (paused["updated_num"], paused["outdated_num"]) == (0, 1)
    assert ours(world, "POST", f"{uuid}/rollout/pause") == paused
    assert ours(world, "POST", f"{uuid}/rollout/resume")["state"] == "progressing"
    undone = ours(world, "POST", f"{uuid}/rollout/undo")
    assert (undone["version"], undone["changed"]) == ("v1", ["container_template.cmd"])
    status = ours(world, "GET", f"{uuid}/rollout")
    assert (status["state"], status["outdated_num"]) == ("complete", 0)
    assert ours(world, "POST", f"{uuid}/rollout/undo", {"version": "v2"})["version"] == "v2"


@pytest.mark.parametrize("way", ["resume", "another version", "a field of the version"])
def test_a_failed_rollout_tells_why_and_is_tried_again_by_resume_or_an_edit(world: World, way: str) -> None:
    uuid = world.create(replica_num=1)
    world.up(world.place(uuid))
    edit(world, uuid, container_template={"cmd": "b"})
    failed = replace(stored(world, uuid), failure="3 containers of v2 died young")
    world.write(lambda tx: tx.deployments.update(failed))
    status = ours(world, "GET", f"{uuid}/rollout")
    assert (status["state"], status["updated_num"]) == ("failed", 0)
    assert status["message"] == (
        "v2 has failed: 3 containers of v2 died young; v1 is kept (undo goes back to it, resume tries again)"
    )
    if way == "resume":
        ours(world, "POST", f"{uuid}/rollout/resume")
    elif way == "another version":
        edit(world, uuid, container_template={"cmd": "c"})
    else:
        edit(world, uuid, service={"health_check": None})
    assert ours(world, "GET", f"{uuid}/rollout")["state"] == "progressing"
    assert stored(world, uuid).edited_at > failed.edited_at


def test_an_undo_goes_to_no_version_that_never_proved_itself(world: World) -> None:
    uuid = world.create(replica_num=1)
    prove(world, uuid)
    edit(world, uuid, container_template={"cmd": "bad"})
    edit(world, uuid, container_template={"cmd": "good"})
    prove(world, uuid)
    assert ours(world, "GET", f"{uuid}/rollout")["undo_version"] == "v1"
    versions = ours(world, "GET", f"{uuid}/versions")["versions"]
    assert [(each["version"], each["was_good"]) for each in versions] == [("v3", True), ("v2", False), ("v1", True)]
    assert ours(world, "POST", f"{uuid}/rollout/undo")["version"] == "v1"
    assert ours(world, "GET", f"{uuid}/rollout")["undo_version"] == "v3"


def test_a_job_has_no_rollout_and_an_edit_that_is_held_back_says_so(world: World) -> None:
    job = world.create(deployment_type="Job", parallelism_num=1)
    response = world.send("GET", f"/api/v1/muster/deployments/{job}/rollout")
    assert (response.status_code, "has no rollout" in response.text) == (409, True)
    uuid = world.create()
    ours(world, "POST", f"{uuid}/rollout/pause")
    assert edit(world, uuid, container_template={"cmd": "b"})["is_paused"] is True


def test_without_replicas_nothing_is_under_way(world: World) -> None:
    uuid = world.create(replica_num=0)
    status = ours(world, "GET", f"{uuid}/rollout")
    assert (status["state"], "0 replicas" in status["message"]) == ("complete", True)


def test_what_was_undone_is_complete_only_when_its_containers_are_back(world: World) -> None:
    uuid = world.create(replica_num=1)
    world.up(world.place(uuid))
    edit(world, uuid, container_template={"cmd": "b"})
    replaced = world.up(world.place(uuid, gpu=1))
    assert replaced.version == "v2"
    ours(world, "POST", f"{uuid}/rollout/undo")
    status = ours(world, "GET", f"{uuid}/rollout")
    assert (status["state"], status["outdated_num"]) == ("progressing", 1)
    assert "v1 is being rolled out" in status["message"]


def test_what_cannot_be_undone_or_held_is_refused(world: World) -> None:
    uuid = world.create()
    response = world.send("POST", f"/api/v1/muster/deployments/{uuid}/rollout/undo")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "BadRequest")
    content = json.dumps({"version": "v9"}).encode()
    response = world.send("POST", f"/api/v1/muster/deployments/{uuid}/rollout/undo", content=content)
    assert response.status_code == 404
    job = world.create(deployment_type="Job", parallelism_num=1)
    assert world.send("POST", f"/api/v1/muster/deployments/{job}/rollout/pause").status_code == 409
    assert world.send("GET", f"/api/v1/muster/deployments/{uuid}/rollout", token=MEMBER).status_code == 404


def test_an_edit_or_an_undo_may_not_want_more_than_the_quota(world: World) -> None:
    uuid = world.create(replica_num=2, container_template={**BODY["container_template"], "gpu_num": 2})
    edit(world, uuid, container_template={"gpu_num": 1})
    account = stored(world, uuid).account_id
    world.write(lambda tx: tx.accounts.set_quota(account, Quota(gpu_num=3)))
    change = {"deployment_uuid": uuid, "container_template": {"gpu_num": 2}}
    code, msg = world.refused("PUT", "/deployment", change)
    assert (code, "4" in msg, "3" in msg) == ("BadRequest", True, True)
    response = world.send("POST", f"/api/v1/muster/deployments/{uuid}/rollout/undo")
    assert response.status_code == 409
    assert stored(world, uuid).version == "v2"


def test_edits_are_audited_by_field_and_never_by_value(world: World) -> None:
    uuid = world.create()
    edit(world, uuid, container_template={"env_vars": {"TOKEN": "sesame"}}, replica_num=3)
    entries = world.read(lambda tx: tx.audit.find(None, Window(), target=uuid)).items
    (entry,) = [each for each in entries if each.action == "deployment.edit"]
    assert "container_template.env_vars" in entry.detail
    assert "replica_num" in entry.detail
    assert "sesame" not in entry.detail


def world_row(tx: Transaction, container_id: ContainerId) -> Container:
    found = tx.containers.get(container_id)
    assert found is not None
    return found
