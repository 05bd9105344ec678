"""``pool`` and ``stats`` against a real server: what they print, take out and refuse."""

import contextlib
import datetime
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.cli.main import run
from muster.client import Client
from muster.model.container import Reason
from muster.model.ids import ContainerUuid, ImageUuid
from muster.store.port import Transaction
from muster.testing.bodies import create_body
from tests.unit.cli.served import ADMIN, MACHINES, Served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def server(shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    monkeypatch.setenv("MUSTER_TOKEN", shared.account(tmp_path.name))
    return shared


def told(*args: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run([*args, "-o", "json"]) == 0
    return json.loads(output.getvalue())


def deploy(server: Served) -> str:
    with Client(server.url, os.environ["MUSTER_TOKEN"]) as client:
        return client.create_deployment(create_body("digits", replica_num=1, cmd="serve", reuse_container=True))


def pooled(server: Served, deployment_uuid: str, suffix: str) -> str:
    """Bring a container to its end and into the pool."""
    uuid = server.place(deployment_uuid, suffix=suffix, exit_code=0)

    def work(tx: Transaction) -> None:
        row = tx.containers.by_uuid(uuid)
        assert row is not None
        now = server.clock.now()
        tx.containers.update(
            replace(
                row,
                image=ImageUuid("image-1"),
                image_reference="digits:1",
                reason=Reason.SCALED_IN,
                placed_at=now - datetime.timedelta(minutes=10),
                started_at=now - datetime.timedelta(minutes=5),
                stopped_at=now - datetime.timedelta(minutes=3),
                is_pooled=True,
                discard_at=now + datetime.timedelta(days=7),
            )
        )

    server.write(work)
    return uuid


def test_the_pool_is_listed_and_cleared(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pool", "ls"]) == 0
    assert capsys.readouterr().err == "nothing waits for reuse\n"
    deployment = deploy(server)
    first, second = pooled(server, deployment, "0123456789"), pooled(server, deployment, "abcdef0123")
    assert run(["pool", "ls"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split("  ")[0] == "CONTAINER"
    assert "ACCOUNT" not in heading
    line = next(line for line in lines if first in line)
    for word in ("digits", MACHINES[0].id, "lab-a", "RTX 4090", "digits:1", "scaled_in", "3m", "6d"):
        assert word in line
    assert {row["uuid"] for row in told("pool", "ls")} == {first, second}

    assert run(["pool", "rm", first]) == 0
    assert capsys.readouterr().out == f"{first} of digits: its files are being destroyed\n"
    assert [row["uuid"] for row in told("pool", "ls")] == [second]
    assert told("pool", "rm", second[:-3]) == {"action": "remove", "container_uuid": second}
    assert told("pool", "ls") == []


def test_what_is_not_in_the_pool_or_may_mean_two_cannot_be_removed(
    server: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy(server)
    running = server.place(deployment, suffix="9876543210")
    assert run(["pool", "rm", running]) == 1
    assert capsys.readouterr().err == f"error: no container in the pool {str(running)!r}\n"
    both = [pooled(server, deployment, suffix) for suffix in ("1111111111", "1111111112")]
    assert run(["pool", "rm", deployment]) == 1
    assert "may mean 2 containers" in capsys.readouterr().err
    assert {row["uuid"] for row in told("pool", "ls")} == {*both}


def test_only_admins_see_the_pool_of_all_accounts(
    server: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    uuid = pooled(server, deploy(server), "2222222222")
    assert run(["pool", "ls", "--all"]) == 1
    assert run(["stats", "--all"]) == 1
    assert capsys.readouterr().err == "error: only admins may ask about all accounts\n" * 2
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    assert uuid not in [row["uuid"] for row in told("pool", "ls")]
    assert (tmp_path.name, uuid) in [(row["account"], row["uuid"]) for row in told("pool", "ls", "-a")]
    assert run(["pool", "ls", "-a"]) == 0
    assert capsys.readouterr().out.startswith("ACCOUNT")


def test_stats_tell_how_often_reuse_worked_and_what_it_saved(
    server: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stats"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "starts that might have reused a container: 0",
        "starts that did: 0 (0%)",
    ]
    deployment = deploy(server)
    pooled(server, deployment, "3333333333")
    again = pooled(server, deployment, "4444444444")

    def reuse(tx: Transaction) -> None:
        row = tx.containers.by_uuid(ContainerUuid(again))
        assert row is not None
        assert row.started_at is not None
        placed_at = row.started_at - datetime.timedelta(minutes=1)
        tx.containers.update(replace(row, reused_from=ContainerUuid("old"), placed_at=placed_at))

    server.write(reuse)
    assert run(["stats"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "starts that might have reused a container: 2",
        "starts that did: 1 (50%)",
        "saved against fresh starts of the same images: 4 min",
        "containers that wait for reuse: 2",
    ]
    assert told("stats")["reuses"] == 1
