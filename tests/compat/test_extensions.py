"""Our own paths: plain REST with status codes."""

import datetime
import json
import re
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from muster.model.container import Reason, StopRequest
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.model.event import EventKind
from muster.planner.lifecycle import begin_stop
from muster.scheduler.inventory import Inventory
from muster.scheduler.place import Request, Unplaceable, place
from tests.compat.world import ADMIN, MACHINES, MEMBER, World, body, record

ROOT = "/api/v1/muster"

OURS = [
    ("GET", "/me"),
    ("GET", "/machines"),
    ("GET", "/accounts"),
    ("POST", "/accounts"),
    ("POST", "/accounts/admin/tokens"),
    ("POST", "/deployments/check"),
    ("GET", "/deployments/0123456789"),
    ("GET", "/deployments/0123456789/containers"),
    ("GET", "/containers/x/logs"),
    ("GET", "/events"),
    ("GET", "/endpoints?service=asr"),
    ("GET", "/endpoints/keys"),
    ("GET", "/endpoints/watch?service=asr"),
    ("GET", "/services"),
    ("GET", "/services/changes"),
    ("GET", "/services/0123456789"),
]


def get(world: World, path: str, *, token: str = ADMIN, status: int = 200) -> Any:
    response = world.send("GET", ROOT + path, token=token)
    assert response.status_code == status, response.text
    return response.json()


def post(world: World, path: str, content: Any = None, *, token: str = ADMIN, status: int = 200) -> Any:
    response = world.send("POST", ROOT + path, token=token, json=content)
    assert response.status_code == status, response.text
    return response.json()


def error(answer: Any) -> tuple[str, str, str]:
    assert set(answer) == {"error"}
    assert re.fullmatch(r"[0-9a-f]{32}", answer["error"]["request_id"])
    return answer["error"]["code"], answer["error"]["message"], answer["error"]["field"]


@pytest.mark.parametrize(("method", "path"), OURS)
def test_without_a_valid_token_it_is_a_401(shared: World, method: str, path: str) -> None:
    for token in ("", "wrong"):
        response = shared.send(method, ROOT + path, token=token)
        assert response.status_code == 401
        assert error(response.json())[0] == "AuthorizeFailed"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/accounts"), ("POST", "/accounts"), ("PUT", "/accounts/member/quota")]
)
def test_accounts_are_for_admins_only(world: World, method: str, path: str) -> None:
    response = world.send(method, ROOT + path, token=MEMBER, json={"name": "mine", "role": "admin"})
    assert response.status_code == 403
    assert [account["name"] for account in get(world, "/accounts")["accounts"]] == ["member", "admin"]


def test_a_new_account_acts_with_the_token_that_is_shown_once(world: World) -> None:
    created = post(world, "/accounts", {"name": "team-a"}, status=201)
    assert (created["name"], created["role"]) == ("team-a", "member")
    token = post(world, "/accounts/team-a/tokens", status=201)["token"]
    assert re.fullmatch(r"mst_[0-9A-Za-z]{40}", token)
    assert get(world, "/me", token=token) == created
    assert post(world, "/accounts/team-a/tokens", status=201)["token"] != token
    assert get(world, "/me", token=token)["name"] == "team-a", "the first token still works"


def test_an_account_name_is_taken_once(world: World) -> None:
    post(world, "/accounts", {"name": "team-a"}, status=201)
    assert error(post(world, "/accounts", {"name": "team-a"}, status=409))[0] == "BadRequest"


@pytest.mark.parametrize("name", ["", "A", "a/b", "a b", "x" * 64, "-a", "a\n"])
def test_an_account_name_is_fit_for_paths_and_keys(shared: World, name: str) -> None:
    assert error(post(shared, "/accounts", {"name": name}, status=422))[2] == "name"


def test_a_token_for_an_unknown_account_is_a_404(shared: World) -> None:
    assert error(post(shared, "/accounts/nobody/tokens", status=404))[0] == "RecordNotFoundError"


def test_machines_show_which_gpus_are_taken(world: World) -> None:
    world.place(world.create(), MACHINES[0], gpu=2)
    machines = get(world, "/machines", token=MEMBER)["machines"]
    assert [(each["machine_id"], each["claimed_gpus"]) for each in machines] == [
        (MACHINES[0].id, [2]),
        (MACHINES[1].id, []),
        (MACHINES[2].id, []),
    ]
    assert machines[2]["gpu_name"] == "L20"
    assert machines[2]["memory_size"] == 128 * 2**30
    assert machines[2]["cuda_v"] == 124
    assert {each["problem"] for each in machines} == {""}


def test_machines_show_whose_engine_cannot_be_used(world: World) -> None:
    world.write(lambda tx: tx.machines.set_problem(MACHINES[1].id, "engine_unavailable: no answer"))
    machines = get(world, "/machines", token=MEMBER)["machines"]
    assert [each["problem"] for each in machines] == ["", "engine_unavailable: no answer", ""]


def test_a_check_spells_out_every_default_and_creates_nothing(world: World) -> None:
    minimal = body(template__gpu_name_set=..., template__dc_list=..., template__cuda_v_to=...)
    spec = post(world, "/deployments/check", minimal)["spec"]
    assert spec["container_template"]["gpu_name_set"] == []
    assert (spec["container_template"]["cuda_v_from"], spec["container_template"]["cuda_v_to"]) == (118, 0)
    assert spec["container_template"]["memory_size_to"] == 256
    assert spec["service"]["health_check"]["port"] == 6006
    assert world.ok("POST", "/deployment/list")["list"] == []


def test_a_spec_is_its_own_check(shared: World) -> None:
    asked = body(
        reuse_container=True,
        service_6008_port_protocol="tcp",
        template__env_vars={"B": "2", "A": "1"},
        service={"concurrency": 8, "drain_seconds": 5, "health_check": None, "budgets": {"tokens": 4096}},
    )
    spec = post(shared, "/deployments/check", asked)["spec"]
    assert post(shared, "/deployments/check", spec)["spec"] == spec
    assert spec["service"]["health_check"] is None


def test_a_check_refuses_what_create_refuses(shared: World) -> None:
    answer = post(shared, "/deployments/check", body(template__gpu_num=0), status=422)
    assert error(answer) == (
        "RequestParameterIsWrong",
        "container_template.gpu_num: must be at least 1",
        "container_template.gpu_num",
    )
    assert error(post(shared, "/deployments/check", body(template__image_uuid="x"), status=422))[0] == "BadRequest"


def test_the_detail_says_why_a_container_has_no_machine(world: World) -> None:
    uuid = world.create(template__gpu_name_set=["A100"])
    waiting, unseen = world.want(uuid), world.want(uuid)
    deployment = world.read(lambda tx: tx.deployments.get(waiting.deployment_id))
    assert deployment is not None
    (outcome,) = place([Request(waiting.id, deployment.spec.requirements)], Inventory.of(MACHINES, {})).outcomes
    assert isinstance(outcome, Unplaceable)
    world.explanations[waiting.id] = outcome.explanation
    world.place(uuid)
    detail = get(world, f"/deployments/{uuid}")
    assert {each["id"]: each["explanation"] for each in detail["unplaced"]} == {
        waiting.id: outcome.explanation.sentence(),
        unseen.id: "not looked at yet",
    }
    assert "no machine fits" in outcome.explanation.sentence()
    assert detail["spec"]["container_template"]["gpu_name_set"] == ["A100"]
    assert detail["starting_num"] == 1
    assert detail["version"] == "v1"


def test_containers_of_a_deployment_are_listed_oldest_first(world: World) -> None:
    uuid = world.create()
    world.want(uuid)
    placed = [world.up(world.place(uuid, gpu=gpu)) for gpu in range(2)]
    rows = get(world, f"/deployments/{uuid}/containers")["containers"]
    assert [row["uuid"] for row in rows] == [each.uuid for each in placed]
    assert rows[0]["is_ready"]


@pytest.mark.parametrize(
    "path", ["/deployments/{0}", "/deployments/{0}/containers", "/events?deployment_uuid={0}", "/services/{0}"]
)
def test_another_accounts_deployment_is_a_404(world: World, path: str) -> None:
    theirs = world.create(token=MEMBER)
    refusals = [error(get(world, path.format(uuid), status=404))[0] for uuid in (theirs, "0123456789")]
    assert refusals == ["RecordNotFoundError"] * 2


def test_logs_come_from_the_containers_own_run(world: World) -> None:
    container = world.up(world.place(world.create()))
    path = f"{ROOT}/containers/{container.uuid}/logs"
    response = world.send("GET", f"{path}?tail=5&follow=true")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == f"{container.id} {MACHINES[0].id} tail=5 follow=True\n"
    assert world.send("GET", path).text.endswith("tail=None follow=False\n")
    assert world.send("GET", path, token=MEMBER).status_code == 404
    assert world.send("GET", f"{path}?tail=-1").status_code == 422
    assert world.send("GET", f"{path}?follow=perhaps").status_code == 422


def test_logs_begin_at_a_time_or_so_long_ago(world: World) -> None:
    path = f"{ROOT}/containers/{world.up(world.place(world.create())).uuid}/logs"
    assert " since=2026-03-02T02:00:00+00:00 " in world.send("GET", f"{path}?since=2026-03-02T10:00:00%2B08:00").text
    before = world.clock.now() - datetime.timedelta(minutes=10)
    told = re.search(r"since=(\S+)", world.send("GET", f"{path}?since=10m").text)
    assert told is not None
    assert before <= datetime.datetime.fromisoformat(told[1]) <= world.clock.now() - datetime.timedelta(minutes=10)
    refused = get(world, f"/containers/{path.split('/')[-2]}/logs?since=yesterday", status=422)
    assert error(refused)[2] == "since"
    world.access.capabilities = replace(world.access.capabilities, dates_logs=False)
    refused = get(world, f"/containers/{path.split('/')[-2]}/logs?since=10m", status=409)
    assert "does not date" in error(refused)[1]
    assert world.send("GET", path).status_code == 200


def lines(world: World, query: str, *, token: str = ADMIN) -> list[dict[str, Any]]:
    response = world.send("GET", f"{ROOT}/events?follow=false{query}", token=token)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_events_after_a_cursor_are_oldest_first_and_of_the_account_only(world: World) -> None:
    world.place(world.create(token=MEMBER), gpu=3)
    uuid = world.create()
    container = world.up(world.place(uuid))
    events = lines(world, "&after=0")
    assert [each["status"] for each in events] == ["creating", "created", "starting", "oss_merged", "running"]
    assert {each["deployment_container_uuid"] for each in events} == {container.uuid}
    assert {each["kind"] for each in events} == {"status"}
    assert lines(world, f"&after={events[2]['id']}") == events[3:]
    assert lines(world, f"&after={events[-1]['id']}") == []
    assert lines(world, "") == [], "without a cursor it starts now"
    assert len(lines(world, "&after=0", token=MEMBER)) == 1


def test_readiness_is_in_the_stream_and_not_in_autodls_list(world: World) -> None:
    uuid = world.create()
    container = world.place(uuid)
    now = world.clock.now()
    world.write(lambda tx: record(tx, container, now, EventKind.READY))
    world.write(lambda tx: record(tx, container, now, EventKind.UNREADY))
    assert [each["kind"] for each in lines(world, "&after=0")] == ["status", "ready", "unready"]
    listed = world.ok("POST", "/deployment/container/event/list", {"deployment_uuid": uuid})
    assert [each["kind"] for each in listed["list"]] == ["status"]


def test_events_of_one_deployment_are_filtered(world: World) -> None:
    first, second = world.create(), world.create()
    world.place(first)
    world.place(second, gpu=1)
    assert {each["deployment_uuid"] for each in lines(world, f"&after=0&deployment_uuid={second}")} == {second}


def test_a_cursor_of_another_log_is_gone(shared: World) -> None:
    code, message, _ = error(get(shared, "/events?after=999", status=410))
    assert code == "CursorExpired"
    assert "999" in message


@pytest.mark.parametrize("query", ["after=x", "after=-1", "after=99999999999999999999", "follow=2"])
def test_a_wrong_query_is_named(shared: World, query: str) -> None:
    code, _, field = error(get(shared, f"/events?{query}", status=422))
    assert (code, field) == ("RequestParameterIsWrong", query.partition("=")[0])


def test_endpoints_are_what_the_registry_holds_for_the_account(world: World) -> None:
    published = EndpointSet(
        epoch=1,
        revision=2,
        endpoints=(Endpoint("c1", "http://127.0.0.1:40001", PortProtocol.HTTP, budgets=MappingProxyType({})),),
        published_at=datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC),
    )
    key = ServiceKey("admin", "7c41f09ae2", 6006)
    world.run(world.registry.publish(key, published))
    world.run(world.registry.link(ServiceKey("admin", "asr", 6006), key))
    for service in ("7c41f09ae2", "asr"):
        response = world.send("GET", f"{ROOT}/endpoints?service={service}")
        assert EndpointSet.from_json(response.content) == published
    assert get(world, "/endpoints?service=asr&port=6008", status=404)
    assert get(world, "/endpoints?service=asr", token=MEMBER, status=404)
    assert error(get(world, "/endpoints", status=422))[2] == "service"


def test_health_needs_no_token_and_tells_alive_from_ready(world: World) -> None:
    world.is_ready = False
    answers = [world.send("GET", path, token="") for path in ("/healthz", "/readyz")]
    assert [(each.status_code, each.json()["status"]) for each in answers] == [(200, "ok"), (503, "starting")]
    world.is_ready = True
    assert world.send("GET", "/readyz", token="").status_code == 200


def test_an_unknown_path_of_ours_is_a_plain_404(shared: World) -> None:
    assert error(get(shared, "/nothing", status=404))[0] == "NotFound"


def test_a_container_that_is_given_up_is_not_unplaced(world: World) -> None:
    uuid = world.create()
    kept, given_up = world.want(uuid), world.want(uuid)
    stopping, _ = begin_stop(given_up, StopRequest(Reason.SCALED_IN, world.clock.now()))
    world.write(lambda tx: tx.containers.update(stopping))
    assert [each["id"] for each in get(world, f"/deployments/{uuid}")["unplaced"]] == [kept.id]
