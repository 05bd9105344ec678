"""What all of AutoDL's paths have in common: token, envelope, body, and what an unknown path says."""

import datetime
import re
from typing import Any

import pytest

from muster.model.blacklist import BlacklistEntry
from muster.model.ids import MachineId
from muster.model.machine import Drain
from muster.store.port import Transaction
from tests.compat.world import ADMIN, BODY, MACHINES, MEMBER, World

DENIED = ("AuthorizeFailed", "登录超时，请重新登录")
WRONG = "RequestParameterIsWrong"

AUTODL = [
    ("POST", "/api/v1/dev/deployment"),
    ("DELETE", "/api/v1/dev/deployment"),
    ("POST", "/api/v1/dev/deployment/list"),
    ("GET", "/api/v1/dev/deployment/list"),
    ("POST", "/api/v1/dev/deployment/container/list"),
    ("POST", "/api/v1/dev/deployment/container/event/list"),
    ("PUT", "/api/v1/dev/deployment/container/stop"),
    ("POST", "/api/v1/dev/deployment/container/stop"),
    ("PUT", "/api/v1/dev/deployment/replica_num"),
    ("PUT", "/api/v1/dev/deployment/operate"),
    ("POST", "/api/v1/dev/deployment/operate"),
    ("POST", "/api/v1/dev/image/private/list"),
    ("POST", "/api/v2/image/list"),
    ("POST", "/api/v1/dev/machine/region/gpu_stock"),
    ("GET", "/api/v1/dev/machine/gpu_stock"),
    ("POST", "/api/v1/dev/deployment/blacklist"),
    ("GET", "/api/v1/dev/deployment/blacklist"),
    ("POST", "/api/v1/dev/deployment/blacklist/list"),
    ("POST", "/api/v1/dev/deployment/scheduling/blacklist"),
    ("GET", "/api/v1/dev/deployment/scheduling/blacklist"),
    ("GET", "/api/v1/dev/deployment/ddp/overview"),
    ("POST", "/api/v1/dev/wallet/balance"),
    ("POST", "/api/v1/dev/exclusive_nfs/mount"),
]
BODILESS = {"/api/v1/dev/deployment/blacklist/list", "/api/v1/dev/wallet/balance"}
"""Nothing is read there, so it does not matter what is sent."""
WITH_BODY = [(method, path) for method, path in AUTODL if method != "GET" and path not in BODILESS]


@pytest.mark.parametrize(("method", "path"), AUTODL)
@pytest.mark.parametrize("token", ["", "mst_wrong", "Bearer", "Bearer mst_wrong", "\t"])
def test_without_a_valid_token_nothing_is_told(shared: World, method: str, path: str, token: str) -> None:
    response = shared.send(method, path, token=token, json={} if method != "GET" else None)
    assert response.status_code == 200
    envelope = response.json()
    assert (envelope["code"], envelope["msg"], envelope["data"]) == (*DENIED, None)


@pytest.mark.parametrize("header", [ADMIN, f"Bearer {ADMIN}", f"bearer  {ADMIN} ", f" {ADMIN}"])
def test_the_token_is_accepted_raw_and_as_bearer(shared: World, header: str) -> None:
    assert shared.ok("POST", "/deployment/list", {}, token=header)["list"] == []


def test_the_envelope_has_autodls_keys_in_its_order(shared: World) -> None:
    response = shared.send("POST", "/api/v1/dev/deployment/list")
    assert re.match(r'\{"code":"Success","data":\{.*\},"msg":"","request_id":"[0-9a-f]{32}"\}$', response.text)
    refusal = shared.send("POST", "/api/v1/dev/deployment", json={})
    assert list(refusal.json()) == ["code", "data", "msg", "request_id", "message"]
    assert refusal.json()["request_id"] != response.json()["request_id"]
    assert "请求参数错误" in refusal.text, "Chinese is not escaped"


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b"3",
        b'"x"',
        b"null",
        b'{"page_index": NaN}',
        b'{"page_index": Infinity}',
        b'{"page_index": 1e999}',
        b'{"page_index": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
        b"\xff\xfe",
        b'{"name": "\\ud800"}',
        b'{"name": "a\\u0000b"}',
        b'{"\\u0000": 1}',
        b'{"name": "' + b"x" * (1 << 20) + b'"}',
        b'{"name": "' + b"x" * (10 << 20) + b'"}',
    ],
    ids=lambda raw: raw[:16].decode("latin1"),
)
def test_a_body_that_is_no_decent_json_object_is_refused(shared: World, method: str, path: str, raw: bytes) -> None:
    response = shared.send(method, path, content=raw)
    assert response.status_code == 200
    assert response.json()["code"] == WRONG
    assert response.json()["msg"].startswith("请求参数错误: body: ")


@pytest.mark.parametrize("raw", [b"", b"  \n", b"{}"])
@pytest.mark.parametrize("path", ["deployment/list", "image/private/list", "machine/region/gpu_stock"])
def test_an_empty_body_is_an_empty_object(shared: World, path: str, raw: bytes) -> None:
    assert shared.send("POST", f"/api/v1/dev/{path}", content=raw).json()["code"] == "Success"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json", "x"])
def test_the_content_type_does_not_matter(shared: World, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = shared.send("POST", "/api/v1/dev/deployment/list", content=b'{"page_size": 3}', headers=headers)
    assert response.json()["data"]["page_size"] == 3


@pytest.mark.parametrize(
    "path", ["/api/v1/dev/image/list", "/api/v1/dev/nothing", "/api/v3/x", "/api", "/api/v1/dev/deployment/blacklist/x"]
)
def test_an_unknown_path_is_a_404_in_the_envelope(shared: World, path: str) -> None:
    response = shared.send("POST", path)
    assert response.status_code == 404
    assert list(response.json()) == ["code", "data", "msg", "request_id", "message"]
    assert response.json()["code"] != "Success"
    assert path in response.json()["msg"]


def test_a_known_path_with_a_wrong_method_is_a_405_in_the_envelope(shared: World) -> None:
    response = shared.send("PATCH", "/api/v1/dev/deployment")
    assert response.status_code == 405
    assert response.json()["code"] == "MethodNotAllowed"


def test_a_defect_of_ours_is_an_internal_error_with_a_request_id_to_look_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.run(world.store.aclose())
    assert world.refused("POST", "/deployment/list", {})[0] == "InternalError"
    world.app.state.context = None
    envelope = world.call("POST", "/deployment/list", {})
    assert envelope["code"] == "InternalError"
    assert envelope["request_id"] in envelope["msg"]
    assert envelope["request_id"] in caplog.text
    assert "assert" not in envelope["msg"].lower()


def test_base_images_are_listed_with_the_fields_of_the_private_cloud(shared: World) -> None:
    data = shared.send("POST", "/api/v2/image/list", json={"page_index": 1, "page_size": 100}).json()["data"]
    (row,) = data["list"]
    assert (row["image_uuid"], row["name"]) == (BODY["container_template"]["image_uuid"], "local")
    assert set(row) == {"image_uuid", "name", "url", "cuda_version", "chip_corp", "cpu_arch"}
    assert (data["max_page"], data["result_total"]) == (1, 1)


def test_private_images_do_not_contain_the_platforms(shared: World) -> None:
    assert shared.ok("POST", "/image/private/list", {"page_index": 1, "page_size": 10})["list"] == []


STOCK: list[tuple[dict[str, Any], list[tuple[str, int, int]]]] = [
    ({}, [("L20", 2, 2), ("RTX 4090", 7, 8)]),
    ({"region_sign": "lab-a"}, [("RTX 4090", 7, 8)]),
    ({"dc_list": ["lab-b"]}, [("L20", 2, 2)]),
    ({"dc_list": ["lab-b"], "region_sign": "lab-a"}, [("L20", 2, 2), ("RTX 4090", 7, 8)]),
    ({"region_sign": "lab-z"}, []),
    ({"gpu_name_set": ["L20"], "region_sign": None}, [("L20", 2, 2)]),
    ({"cuda_v": 128}, [("RTX 4090", 7, 8)]),
    ({"cuda_v_from": 118, "cuda_v_to": 124}, [("L20", 2, 2)]),
    ({"price_from": 0, "price_to": 2000}, [("RTX 4090", 7, 8)]),
    ({"memory_size_from": 65}, []),
]


def test_stock_is_counted_by_model(world: World) -> None:
    world.place(world.create(token=MEMBER))
    for asked, expected in STOCK:
        data = world.ok("POST", "/machine/region/gpu_stock", asked)
        counted = [(name, row["idle_gpu_num"], row["total_gpu_num"]) for entry in data for name, row in entry.items()]
        assert counted == expected, asked
        assert all(len(entry) == 1 for entry in data)


def test_a_machine_whose_engine_does_not_answer_has_nothing_idle(world: World) -> None:
    world.write(lambda tx: tx.machines.set_problem(MACHINES[0].id, "engine_unavailable: no answer"))
    row = world.ok("GET", "/machine/gpu_stock")["RTX 4090"]
    assert (row["idle_gpu_num"], row["total_gpu_num"]) == (4, 8)


def test_all_stock_is_one_object_keyed_by_model(shared: World) -> None:
    assert shared.ok("GET", "/machine/gpu_stock") == {
        name: {
            "gpu_name": name,
            "idle_gpu_num": number,
            "total_gpu_num": number,
            "chip_corp": "nvidia",
            "cpu_arch": "x86",
            "fits": fits,
        }
        for name, number, fits in (
            ("RTX 4090", 8, {"1": 8, "2": 4, "4": 2, "8": 0}),
            ("L20", 2, {"1": 2, "2": 1, "4": 0, "8": 0}),
        )
    }


def test_what_fits_is_counted_machine_by_machine_and_only_where_the_caller_may_go(world: World) -> None:
    def fits() -> dict[str, int]:
        found: dict[str, int] = world.ok("GET", "/machine/gpu_stock")["RTX 4090"]["fits"]
        return found

    first, second = MACHINES[0].id, MACHINES[1].id
    world.place(world.create(token=MEMBER))
    assert fits() == {"1": 7, "2": 3, "4": 1, "8": 0}
    world.write(lambda tx: tx.machines.set_placing(second, is_cordoned=True, drain=Drain.NONE))
    assert fits() == {"1": 3, "2": 1, "4": 0, "8": 0}
    world.write(lambda tx: tx.machines.set_placing(second, is_cordoned=False, drain=Drain.NONE))
    ban(world, "member", first)
    assert fits() == {"1": 7, "2": 3, "4": 1, "8": 0}, "another account's ban is its own affair"
    ban(world, "admin", first)
    assert fits() == {"1": 4, "2": 2, "4": 1, "8": 0}
    row = world.ok("GET", "/machine/gpu_stock")["RTX 4090"]
    assert (row["idle_gpu_num"], row["total_gpu_num"]) == (4, 8)


def ban(world: World, account_name: str, machine_id: MachineId) -> None:
    now = world.clock.now()
    later = now + datetime.timedelta(hours=1)

    def work(tx: Transaction) -> None:
        account = tx.accounts.by_name(account_name)
        assert account is not None
        tx.blacklist.put(BlacklistEntry(account.id, machine_id, "lab-a", "", now, now, later))

    world.write(work)
