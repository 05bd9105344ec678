"""Accounts, tokens, quotas, the rate limit and the audit log, as the API shows them."""

import asyncio
import datetime
import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest

from muster.api.auth import hash_token
from muster.api.rate_limit import TokenBuckets
from muster.model.container import ContainerStatus
from muster.model.event import Cursor
from muster.store.port import Transaction
from tests.compat.world import ADMIN, MEMBER, World, body

ROOT = "/api/v1/muster"


def own(world: World, method: str, path: str, *, status: int = 200, token: str = ADMIN, **json: Any) -> Any:
    options: dict[str, Any] = {"json": json} if json else {}
    response = world.send(method, ROOT + path, token=token, **options)
    assert response.status_code == status, response.text
    return response.json()


def make_token(world: World, account: str = "member", *, token: str = ADMIN, **wanted: Any) -> Any:
    wanted = wanted or {"name": ""}
    return own(world, "POST", f"/accounts/{account}/tokens", status=201, token=token, **wanted)


def audit(world: World, *, token: str = ADMIN, **query: Any) -> list[tuple[str, str]]:
    response = world.send("GET", f"{ROOT}/audit", token=token, params=query)
    assert response.status_code == 200, response.text
    return [(each["action"], each["target"]) for each in response.json()["entries"]]


def later(world: World, seconds: float) -> None:
    class Later:
        def now(self) -> datetime.datetime:
            return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)

        def __getattr__(self, name: str) -> Any:
            return getattr(world.clock, name)

    world.app.state.context = replace(world.app.state.context, clock=Later())


# Tokens


def test_a_member_makes_lists_and_revokes_its_own_tokens(world: World) -> None:
    made = make_token(world, token=MEMBER, name="laptop", expires_in_seconds=3600)
    listed = own(world, "GET", "/accounts/member/tokens", token=MEMBER)["tokens"]
    assert [each["name"] for each in listed] == ["", "laptop"]
    row = listed[1]
    assert (row["id"], row["prefix"]) == (made["id"], made["token"][:8])
    assert (row["last_used_at"], row["is_expired"], row["expires_at"]) == (None, False, made["expires_at"])
    assert own(world, "GET", "/me", token=made["token"])["name"] == "member"
    revoked = own(world, "DELETE", f"/accounts/member/tokens/{made['id']}", token=MEMBER)
    assert revoked["id"] == made["id"]
    assert own(world, "GET", "/me", token=made["token"], status=401)["error"]["code"] == "AuthorizeFailed"
    own(world, "DELETE", f"/accounts/member/tokens/{made['id']}", token=MEMBER, status=404)


def test_unknown_expired_and_revoked_tokens_look_alike(world: World) -> None:
    expired, revoked = make_token(world, expires_in_seconds=1)["token"], make_token(world, name="x")
    own(world, "DELETE", f"/accounts/member/tokens/{revoked['id']}")
    later(world, 2)
    texts = set()
    for token in (expired, revoked["token"], "mst_nobody"):
        error = own(world, "GET", "/me", token=token, status=401)["error"]
        texts.add((error["code"], error["message"]))
        assert world.refused("POST", "/deployment/list", {}, token=token)[0] == "AuthorizeFailed"
    assert texts == {("AuthorizeFailed", "the token is unknown, has expired or was revoked")}
    listed = own(world, "GET", "/accounts/member/tokens")["tokens"]
    assert [each["is_expired"] for each in listed] == [False, True]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/accounts/admin/tokens"), ("POST", "/accounts/admin/tokens"), ("DELETE", "/accounts/admin/tokens/abc")],
)
def test_to_a_member_another_account_looks_unknown(world: World, method: str, path: str) -> None:
    theirs = world.send(method, ROOT + path, token=MEMBER, json={})
    nobodys = world.send(method, ROOT + path.replace("admin", "nobody"), token=MEMBER, json={})
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json()["error"]["message"].replace("admin", "nobody") == nobodys.json()["error"]["message"]


def test_the_last_token_that_lets_an_admin_in_stays(world: World) -> None:
    (only,) = own(world, "GET", "/accounts/admin/tokens")["tokens"]
    expires = make_token(world, "admin", expires_in_seconds=60)
    later(world, 120)
    refused = own(world, "DELETE", f"/accounts/admin/tokens/{only['id']}", status=409)
    assert "last token of an admin" in refused["error"]["message"]
    own(world, "DELETE", f"/accounts/admin/tokens/{expires['id']}")
    make_token(world, "admin")
    own(world, "DELETE", f"/accounts/admin/tokens/{only['id']}")
    own(world, "GET", "/me", status=401)


@pytest.mark.parametrize("wanted", [{"expires_in_seconds": 0}, {"expires_in_seconds": 10**12}, {"name": "x" * 101}])
def test_a_token_that_cannot_be_is_refused(world: World, wanted: dict[str, Any]) -> None:
    own(world, "POST", "/accounts/member/tokens", status=422, **wanted)


def test_a_request_notes_the_use_of_its_token_and_writes_nothing(world: World) -> None:
    own(world, "GET", "/me", token=MEMBER)

    def last_used(tx: Transaction) -> datetime.datetime | None:
        member = tx.accounts.by_name("member")
        assert member is not None
        return tx.accounts.tokens(member.id)[0].last_used_at

    assert world.read(last_used) is None
    world.run(world.app.state.context.uses.flush())
    assert world.read(last_used) is not None


# Rate limit


def limited(world: World, per_second: float, burst: float) -> None:
    limit = TokenBuckets(per_second, burst=burst)
    world.app.state.context = replace(world.app.state.context, limit=limit)


def test_a_token_that_asks_too_often_is_told_so_in_the_words_of_each_path(world: World) -> None:
    limited(world, 0.5, burst=2)
    for _ in range(2):
        world.ok("POST", "/deployment/list", {}, token=MEMBER)
    code, msg = world.refused("POST", "/deployment/list", {}, token=MEMBER)
    assert code == "TooManyRequests"
    assert msg.startswith("请求过于频繁: 每秒最多 0.5 次")
    refused = world.send("GET", f"{ROOT}/me", token=MEMBER)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert refused.json()["error"]["code"] == "TooManyRequests"
    dev = world.send("POST", "/api/v1/dev/deployment/list", token=MEMBER, json={})
    assert (dev.status_code, dev.headers["retry-after"]) == (200, "2")
    assert 1000 < int(dev.headers["retry-after-ms"]) <= 2000
    assert own(world, "GET", "/me")["name"] == "admin", "each token has its own"


def test_unknown_tokens_are_limited_too_and_probes_never_are(world: World) -> None:
    limited(world, 0.5, burst=1)
    assert world.send("GET", f"{ROOT}/me", token="mst_guess").status_code == 401
    assert world.send("GET", f"{ROOT}/me", token="mst_guess").status_code == 429
    for path in ("/healthz", "/readyz", "/metrics") * 5:
        assert world.send("GET", path, token="mst_guess").status_code == 200


# Quotas


def test_a_quota_bounds_what_running_deployments_want_together(world: World) -> None:
    row = own(world, "PUT", "/accounts/member/quota", gpu_num=5, container_num=3)
    assert row["quota"] == {"gpu_num": 5, "container_num": 3, "used_gpu_num": 0, "used_container_num": 0}
    first = world.create(token=MEMBER, replica_num=2, template__gpu_num=2)
    assert own(world, "GET", "/me", token=MEMBER)["quota"]["used_gpu_num"] == 4
    code, msg = world.refused("POST", "/deployment", body(replica_num=1, template__gpu_num=2), token=MEMBER)
    assert code == "BadRequest"
    assert msg == (
        "超出GPU配额: 申请 2, 其他部署已用 4, 配额 5 (quota of GPUs: 2 asked, 4 used by other deployments, 5 allowed)"
    )
    second = world.create(token=MEMBER, replica_num=1, template__gpu_num=1)
    scale = {"deployment_uuid": second, "replica_num": 2}
    assert "配额" in world.refused("PUT", "/deployment/replica_num", scale, token=MEMBER)[1]
    world.ok("PUT", "/deployment/replica_num", {**scale, "replica_num": 0}, token=MEMBER)
    world.ok("PUT", "/deployment/operate", {"deployment_uuid": first, "operate": "stop"}, token=MEMBER)
    world.ok("PUT", "/deployment/replica_num", {**scale, "replica_num": 3}, token=MEMBER)
    assert "容器" in world.refused("PUT", "/deployment/replica_num", {**scale, "replica_num": 4}, token=MEMBER)[1]
    checked = world.send("POST", f"{ROOT}/deployments/check", token=MEMBER, json=body(replica_num=1))
    assert checked.status_code == 409, "a dry run says so too"


def test_a_job_counts_what_runs_at_once_and_an_edit_is_bounded_too(world: World) -> None:
    own(world, "PUT", "/accounts/member/quota", gpu_num=4)
    uuid = world.create(token=MEMBER, deployment_type="Job", replica_num=100, parallelism_num=4)
    edit: dict[str, Any] = {"deployment_uuid": uuid, "container_template": {"gpu_num": 2}}
    assert "配额" in world.refused("PUT", "/deployment", edit, token=MEMBER)[1]
    world.ok("PUT", "/deployment", {**edit, "parallelism_num": 2}, token=MEMBER)


def test_a_quota_that_is_lowered_stops_nothing_and_lets_one_scale_in(world: World) -> None:
    uuid = world.create(token=MEMBER, replica_num=8)
    own(world, "PUT", "/accounts/member/quota", gpu_num=2)
    scale = {"deployment_uuid": uuid, "replica_num": 9}
    assert "配额" in world.refused("PUT", "/deployment/replica_num", scale, token=MEMBER)[1]
    world.ok("PUT", "/deployment/replica_num", {**scale, "replica_num": 6}, token=MEMBER)
    own(world, "PUT", "/accounts/member/quota")
    world.ok("PUT", "/deployment/replica_num", {**scale, "replica_num": 60}, token=MEMBER)


def test_fifty_callers_at_once_never_exceed_a_quota(world: World) -> None:
    own(world, "PUT", "/accounts/member/quota", container_num=7)

    async def all_at_once() -> list[str]:
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://muster") as client:
            calls = (
                client.post("/api/v1/dev/deployment", json=body(replica_num=1), headers={"Authorization": MEMBER})
                for _ in range(50)
            )
            return [each.json()["code"] for each in await asyncio.gather(*calls)]

    codes = world.run(all_at_once())
    assert (codes.count("Success"), codes.count("BadRequest")) == (7, 43)
    assert world.ok("POST", "/deployment/list", {}, token=MEMBER)["result_total"] == 7


# Audit


def test_every_change_of_a_deployment_has_one_entry_and_a_repetition_none(world: World) -> None:
    uuid = world.create(token=MEMBER)
    container = world.up(world.place(uuid))
    stop = {"deployment_container_uuid": container.uuid}
    for _ in range(2):
        world.ok("PUT", "/deployment/container/stop", stop, token=MEMBER)
    world.ok("PUT", "/deployment/replica_num", {"deployment_uuid": uuid, "replica_num": 3}, token=MEMBER)
    for _ in range(2):
        world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"}, token=MEMBER)
    world.ok("DELETE", "/deployment", {"deployment_uuid": uuid}, token=MEMBER)
    world.refused("DELETE", "/deployment", {"deployment_uuid": uuid}, token=MEMBER)
    assert audit(world, token=MEMBER) == [
        ("deployment.delete", uuid),
        ("deployment.stop", uuid),
        ("deployment.scale", uuid),
        ("container.stop", container.uuid),
        ("deployment.create", uuid),
    ]


def test_a_member_reads_about_its_own_things_and_an_admin_about_all(world: World) -> None:
    mine, theirs = world.create(), world.create(token=MEMBER)
    made = make_token(world)
    assert audit(world, token=MEMBER) == [("token.create", made["id"]), ("deployment.create", theirs)]
    assert audit(world) == [("token.create", made["id"]), ("deployment.create", theirs), ("deployment.create", mine)]
    assert audit(world, account="member", target=theirs) == [("deployment.create", theirs)]
    assert audit(world, limit=1, offset=1) == [("deployment.create", theirs)]
    assert world.send("GET", f"{ROOT}/audit", token=MEMBER, params={"account": "admin"}).status_code == 404
    assert world.send("GET", f"{ROOT}/audit", params={"account": "nobody"}).status_code == 404
    entry = own(world, "GET", "/audit?account=member")["entries"][0]
    assert (entry["account"], entry["actor"], entry["token_id"]) == ("member", "admin", hash_token(ADMIN)[:10])


def test_the_other_writes_are_noted_too(world: World) -> None:
    uuid = world.create()
    container = world.up(world.place(uuid))
    image = own(world, "POST", "/images", status=201, name="asr", reference="nginx:1.27")["image"]["image_uuid"]
    own(world, "POST", f"/images/{image}/prewarm", status=202)
    own(world, "PUT", "/registries/lab:5000", username="ann", password="swordfish")
    own(world, "DELETE", "/registries/lab:5000")
    saved = own(world, "POST", "/images/save", status=202, container_uuid=container.uuid, name="trained")["image_uuid"]
    own(world, "DELETE", f"/images/{image}")
    own(world, "POST", "/accounts", status=201, name="carol")
    own(world, "PUT", "/accounts/carol/quota", gpu_num=1)
    params = {"path": "/data/a.txt", "data_center": "lab-a"}
    assert world.send("PUT", f"{ROOT}/files/content", params=params, content=b"x").status_code == 201
    assert world.send("PUT", f"{ROOT}/files", params={**params, "path": "/new"}).status_code == 201
    assert world.send("DELETE", f"{ROOT}/files", params=params).status_code == 200
    ended = world.advance(container, ContainerStatus.SHUTDOWN, is_pooled=True, stopped_at=world.clock.now())
    own(world, "DELETE", f"/pool/{ended.uuid}")
    assert audit(world)[::-1] == [
        ("deployment.create", uuid),
        ("image.bind", image),
        ("image.prewarm", image),
        ("registry.login", "lab:5000"),
        ("registry.logout", "lab:5000"),
        ("image.save", saved),
        ("image.remove", image),
        ("account.create", "carol"),
        ("account.quota", "carol"),
        ("file.write", "/data/a.txt"),
        ("file.folder", "/new"),
        ("file.remove", "/data/a.txt"),
        ("pool.remove", ended.uuid),
    ]


def test_no_secret_gets_into_the_audit_log_the_events_or_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ["canary-env-value", "canary-password", "canary-command", "canary-last-command"]
    env, password, command, last_command = secrets
    uuid = world.create(
        token=MEMBER, template__env_vars={"KEY": env}, template__cmd=f"serve --key {command}", replica_num=1
    )
    world.call(
        "PUT",
        "/deployment",
        {"deployment_uuid": uuid, "container_template": {"env_vars": {"KEY": env + "-2"}, "cmd": f"x {command}-2"}},
        token=MEMBER,
    )
    container = world.up(world.place(uuid))
    stop = {"deployment_container_uuid": container.uuid, "cmd_before_shutdown": last_command}
    world.ok("PUT", "/deployment/container/stop", stop, token=MEMBER)
    own(world, "PUT", "/registries/lab:5000", token=MEMBER, username="ann", password=password)
    made = make_token(world, token=MEMBER, name="laptop")["token"]
    own(world, "GET", "/me", token=made)
    world.send(
        "PUT",
        f"{ROOT}/registries/lab:5000",
        token=MEMBER,
        content=b'{"username": 1, "password": "%s"}' % password.encode(),
    )
    entries = repr(own(world, "GET", "/audit?limit=1000")["entries"])
    events = repr(world.read(lambda tx: list(tx.events.after(Cursor(0)))))
    assert entries.count("'action'") >= 5
    for secret in (*secrets, MEMBER, ADMIN, made):
        assert secret not in entries
        assert secret not in events
        assert secret not in caplog.text
