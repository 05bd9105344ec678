"""Two clients that know nothing of Muster, over HTTP: only the address and the token are ours.

One is as old as AutoDL's elastic deployment, the other as strict as a client can be. No loops run behind the API: the
tests play them.
"""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from muster.model.container import ContainerStatus, Reason
from tests.compat.clients import strict
from tests.compat.clients.old import OldClient, Refused
from tests.compat.clients.strict import StrictClient
from tests.compat.world import ADMIN, MACHINES, MEMBER, World, body
from tests.unit.api.served import Server, on_stage


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def live(server: Server, furnished: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copy(furnished, tmp_path)
    with on_stage(server, tmp_path) as world:
        yield world


@pytest.fixture
def old(server: Server, live: World) -> Iterator[OldClient]:
    with OldClient(server.url, MEMBER) as client:
        yield client


@pytest.fixture
def client(server: Server, live: World) -> Iterator[StrictClient]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=10) as http:
        yield StrictClient(http, ADMIN)


def test_an_old_client_deploys_serves_scales_and_cleans_up(live: World, old: OldClient) -> None:
    assert old.balance() == 0
    assert old.idle() == {"RTX 4090": 8, "L20": 2}
    uuid = old.create("asr", old.image("local"), "RTX 4090", replicas=3)
    containers = [live.up(live.place(uuid, gpu=gpu)) for gpu in range(3)]
    assert old.services(uuid) == [("127.0.0.1", 40001)] * 3, "page by page"
    assert old.idle()["RTX 4090"] == 5
    assert old.latest(uuid)[:2] == (containers[-1].uuid, "running")

    old.stop(str(containers[0].uuid), keeps_number=True)
    assert old.deployment("asr")["replica_num"] == 3
    old.stop(str(containers[1].uuid), keeps_number=False)
    assert old.deployment("asr")["replica_num"] == 2
    assert old.latest(uuid)[:2] == (containers[1].uuid, "shutting_down")
    old.scale(uuid, 0)
    assert old.deployment("asr")["status"] == "running"

    old.block(str(containers[2].uuid), 90)
    assert old.blocked() == [MACHINES[0].id]

    old.operate(uuid, "stop")
    assert old.deployment("asr")["status"] == "stopped"
    with pytest.raises(Refused, match="已停止") as refused:
        old.scale(uuid, 2)
    assert refused.value.code == "BadRequest"
    old.delete(uuid)
    with pytest.raises(LookupError):
        old.deployment("asr")
    with pytest.raises(Refused, match="未查询到相关部署"):
        old.operate(uuid, "stop")


def test_an_old_client_is_told_what_was_wrong_although_it_looks_at_the_status_first(old: OldClient) -> None:
    with pytest.raises(Refused, match="镜像不存在"):
        old.create("asr", "asr:0.3.1", "RTX 4090", replicas=1)
    with pytest.raises(Refused, match="replica_num: must be at least 0"):
        old.create("asr", old.image("local"), "RTX 4090", replicas=-1)
    with pytest.raises(Refused, match="must be 'stop' or 'delete'"):
        old.operate("0123456789", "start")


def test_what_an_old_client_asked_for_is_understood(live: World, old: OldClient) -> None:
    old.create("asr", old.image("local"), "RTX 4090", replicas=1)
    row = old.deployment("asr")
    assert row["parallelism_num"] == 1
    template = row["template"]
    assert (template["cuda_v"], template["cuda_v_from"], template["cuda_v_to"]) == (113, 113, 0)
    assert (template["dc_list"], template["region_sign"]) == ([], "")
    assert template["memory_size_from"] == 2**30


def at_every_step(live: World, uuid: str) -> Iterator[str]:
    """Bring one container from its placement to its release."""
    container = live.place(uuid)
    yield "placed"
    live.up(container)
    yield "up"
    live.advance(container, ContainerStatus.SHUTTING_DOWN, is_ready=False, reason=Reason.COMPLETED)
    yield "stopping"
    live.advance(container, ContainerStatus.SHUTDOWN, stopped_at=live.clock.now(), exit_code=0)
    yield "down"
    live.advance(container, ContainerStatus.SHUTDOWN, released_at=live.clock.now())
    yield "released"


@pytest.mark.parametrize(
    "asked",
    [
        body(template__cuda_v_to=..., template__dc_list=[]),
        body(deployment_type="Job", replica_num=3, parallelism_num=2, service_6008_port_protocol="tcp"),
        body(deployment_type="Container", replica_num=..., template__cuda_v=118, template__env_vars={"A": "1"}),
    ],
    ids=lambda asked: str(asked["deployment_type"]),
)
def test_every_list_satisfies_a_strict_client_at_every_step_of_a_containers_life(
    live: World, client: StrictClient, asked: dict[str, Any]
) -> None:
    uuid = client.create(asked)
    assert client.containers(uuid).list == []
    assert client.events(uuid) == []
    for step in at_every_step(live, uuid):
        (deployment,) = client.deployments(deployment_uuid=uuid, status="running").list
        assert deployment.finished_num == int(step in {"down", "released"})
        (container,) = client.containers(uuid, released=step == "released").list
        assert client.events(uuid, container.uuid)[0].status == container.status
    body_of = {"deployment_uuid": uuid, "operate": "stop"}
    assert client.ask(None, "PUT", "v1/dev/deployment/operate", body_of) is None
    assert client.deployments(status="stopped").list[0].stopped_at
    assert client.ask(None, "DELETE", "v1/dev/deployment", {"deployment_uuid": uuid}) is None


def test_every_other_call_satisfies_a_strict_client(live: World, client: StrictClient) -> None:
    uuid = client.create(body())
    container = live.up(live.place(uuid)).uuid
    scaled = {"deployment_uuid": uuid, "replica_num": 5}
    assert client.ask(strict.Uuid, "PUT", "v1/dev/deployment/replica_num", scaled).deployment_uuid == uuid
    assert client.ask(list[strict.Blocked], "GET", "v1/dev/deployment/blacklist") == []
    asked = {"deployment_container_uuid": container, "expire_in_minutes": 90, "comment": "slow disk"}
    client.ask(None, "POST", "v1/dev/deployment/blacklist", asked)
    (blocked,) = client.ask(list[strict.Blocked], "GET", "v1/dev/deployment/blacklist")
    assert blocked.msg == "slow disk"
    stock = client.ask(
        list[dict[str, strict.Stock]], "POST", "v1/dev/machine/region/gpu_stock", {"region_sign": "lab-a"}
    )
    assert [list(entry) for entry in stock] == [["RTX 4090"]]
    assert client.ask(dict[str, strict.NamedStock], "GET", "v1/dev/machine/gpu_stock")["L20"].gpu_name == "L20"
    assert client.ask(list[strict.Package], "GET", f"v1/dev/deployment/ddp/overview?deployment_uuid={uuid}") == []
    assert client.ask(strict.Wallet, "POST", "v1/dev/wallet/balance").assets == 0
    assert client.ask(strict.Page[strict.BaseImage], "POST", "v2/image/list", {}).result_total == 1
    live.run(
        live._http.post(
            "/api/v1/muster/images", json={"name": "asr:0.3.1", "reference": "x:1"}, headers={"Authorization": ADMIN}
        )
    )
    (image,) = client.ask(strict.Page[strict.PrivateImage], "POST", "v1/dev/image/private/list", {}).list
    assert (image.name, image.image_name) == ("asr:0.3.1", "asr:0.3.1")
    mount = {"data_center": "lab-a", "mountable": -1}
    assert client.ask(None, "POST", "v1/dev/exclusive_nfs/mount", mount) is None
    stop = {"deployment_container_uuid": container, "decrease_one_replica_num": True, "no_cache": False}
    assert client.ask(None, "PUT", "v1/dev/deployment/container/stop", stop) is None
    assert client.deployments().list[0].replica_num == 4


def test_every_refusal_satisfies_a_strict_client(live: World, client: StrictClient) -> None:
    told = [
        client.refusal("POST", "v1/dev/deployment", {}),
        client.refusal("PUT", "v1/dev/deployment/operate", {"deployment_uuid": "0123456789", "operate": "stop"}),
        client.refusal("POST", "v1/dev/exclusive_nfs/mount", {"data_center": "lab-a", "mountable": 1}),
    ]
    assert [each.code for each in told] == ["RequestParameterIsWrong", "RecordNotFoundError", "BadRequest"]


@pytest.mark.parametrize("size", [(1 << 20) + 1, 10 << 20])
def test_who_sends_too_much_is_told_so_and_may_go_on(server: Server, live: World, size: int) -> None:
    with httpx.Client(base_url=server.url, headers={"Authorization": ADMIN}, trust_env=False) as http:
        answer = http.post("/api/v1/dev/deployment", content=b'{"name": "' + b"x" * size).json()
        assert answer["msg"] == "请求参数错误: body: must not be larger than 1048576 bytes"
        assert http.post("/api/v1/dev/deployment/list").json()["code"] == "Success"


def test_a_sender_that_goes_away_leaves_no_traceback(
    server: Server, live: World, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /api/v1/dev/deployment HTTP/1.1\r\nHost: x\r\nAuthorization: {ADMIN}\r\nContent-Length: 1000\r\n\r\n{{"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode())
    with httpx.Client(base_url=server.url, headers={"Authorization": ADMIN}, trust_env=False) as http:
        for _ in range(20):
            assert http.post("/api/v1/dev/deployment/list").json()["code"] == "Success"
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []
