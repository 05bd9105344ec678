"""``accounts``, ``tokens`` and ``audit`` against a real server: what they print, change and refuse."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.cli.main import run
from muster.client import Client
from muster.testing.bodies import create_body
from tests.unit.cli.served import ADMIN, Served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def name(shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be a member; returns its name."""
    for variable in [each for each in os.environ if each.startswith("MUSTER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    account = tmp_path.name.replace("_", "-")
    monkeypatch.setenv("MUSTER_TOKEN", shared.account(account))
    return account


def told(*args: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run([*args, "-o", "json"]) == 0
    return json.loads(output.getvalue())


def test_a_member_sees_makes_and_revokes_its_tokens(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = told("tokens", "create", "laptop", "--expires", "90d")
    assert made["account"] == name
    own, laptop = told("tokens", "list")
    assert (own["name"], laptop["name"], laptop["is_expired"]) == ("", "laptop", False)
    assert run(["tokens", "list"]) == 0
    assert "laptop" in capsys.readouterr().out
    monkeypatch.setenv("MUSTER_TOKEN", made["token"])
    assert told("tokens", "revoke", laptop["id"])["token_id"] == laptop["id"]
    assert run(["ps"]) == 1
    assert "is the token right?" in capsys.readouterr().err


@pytest.mark.parametrize("expires", ["soon", "-1d", "5y"])
def test_a_time_that_is_none_is_refused(expires: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens", "create", f"--expires={expires}"]) == 1
    assert "--expires" in capsys.readouterr().err


def test_an_admin_sets_a_quota_and_sees_what_is_used(
    shared: Served, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(shared.url, os.environ["MUSTER_TOKEN"]) as client:
        client.create_deployment(create_body("digits", replica_num=2))
    assert run(["accounts", "quota", name, "--gpus", "3"]) == 1
    capsys.readouterr()
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    changed = told("accounts", "quota", name, "--gpus", "3")
    assert (changed["quota_gpu_num"], changed["quota_container_num"], changed["used_gpu_num"]) == (3, None, 2)
    assert run(["accounts", "list"]) == 0
    line = next(each for each in capsys.readouterr().out.splitlines() if f" {name} " in each)
    assert "2/3" in line
    assert "2/-" in line


def test_the_audit_log_is_ones_own_and_an_admins(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told("tokens", "create", "first")
    told("tokens", "create", "second")
    entries = told("audit")
    assert [each["action"] for each in entries] == ["token.create"] * 2
    assert told("audit", "-n", "1") == entries[:1]
    assert told("audit", "--target", entries[1]["target"]) == entries[1:]
    assert run(["audit", "--account", "admin"]) == 1
    assert capsys.readouterr().err == "error: no account 'admin'\n"
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    assert told("audit", "--account", name) == entries
    assert run(["audit", "--account", name]) == 0
    assert "'second' of account" in capsys.readouterr().out
