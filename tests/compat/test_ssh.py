"""SSH keys of an account, and the gateway's own, over HTTP."""

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import asyncssh

from tests.compat.world import ADMIN, MEMBER, World

ROOT = "/api/v1/muster"


def told(world: World, method: str, path: str, *, token: str = ADMIN, status: int = 200, **json: Any) -> Any:
    options: dict[str, Any] = {"json": json} if json else {}
    response = world.send(method, ROOT + path, token=token, **options)
    assert response.status_code == status, response.text
    return response.json()


def public(comment: str = "ann@laptop") -> str:
    return asyncssh.generate_private_key("ssh-ed25519", comment=comment).export_public_key().decode()


def test_an_account_adds_lists_and_removes_keys_of_its_own(world: World) -> None:
    line = public()
    added = told(world, "POST", "/ssh/keys", status=201, key=line)
    assert added["name"] == "ann@laptop"
    assert added["key"] == line.removesuffix("\n").removesuffix(" ann@laptop")
    assert added["fingerprint"] == asyncssh.import_public_key(line).get_fingerprint()
    named = told(world, "POST", "/ssh/keys", status=201, key=public(), name="desk")
    assert told(world, "GET", "/ssh/keys")["keys"] == [added, named]
    assert told(world, "GET", "/ssh/keys", token=MEMBER)["keys"] == []

    path = f"/ssh/keys/{quote(added['fingerprint'], safe='')}"
    told(world, "DELETE", path, token=MEMBER, status=404)
    assert told(world, "DELETE", path) == added
    assert told(world, "DELETE", path, status=404)["error"]["message"] == f"no SSH key {added['fingerprint']!r}"
    assert told(world, "GET", "/ssh/keys")["keys"] == [named]
    entries = [(each["action"], each["target"]) for each in told(world, "GET", "/audit")["entries"]]
    assert ("ssh_key.add", added["fingerprint"]) in entries
    assert ("ssh_key.remove", added["fingerprint"]) in entries


def test_a_key_is_added_once_and_what_is_none_is_told_why(world: World) -> None:
    line = public()
    told(world, "POST", "/ssh/keys", status=201, key=line)
    assert "is there already" in told(world, "POST", "/ssh/keys", status=409, key=line)["error"]["message"]
    told(world, "POST", "/ssh/keys", status=201, token=MEMBER, key=line)
    error = told(world, "POST", "/ssh/keys", status=422, key="-----BEGIN OPENSSH PRIVATE KEY-----")["error"]
    assert error["field"] == "key"
    assert "private key" in error["message"]


def test_keys_are_bounded(world: World) -> None:
    for number in range(100):
        told(world, "POST", "/ssh/keys", status=201, key=public(str(number)))
    assert "100 keys already" in told(world, "POST", "/ssh/keys", status=409, key=public())["error"]["message"]


def test_the_host_key_is_told_where_there_is_a_gateway(world: World) -> None:
    assert "has no ingress" in told(world, "GET", "/ssh/host-key", status=409)["error"]["message"]
    world.app.state.context = replace(world.app.state.context, host_key=lambda: "ssh-ed25519 AAAA")
    assert told(world, "GET", "/ssh/host-key", token=MEMBER) == {"host_key": "ssh-ed25519 AAAA"}
