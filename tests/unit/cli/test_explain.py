"""``muster explain`` against a real server: what a person reads, and what a program does."""

import json
import os
from collections.abc import Iterator

import pytest

from muster.cli.main import run
from muster.client import Client
from tests.compat.world import body
from tests.unit.cli.served import ADMIN, Served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def server(shared: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    return shared


def wanting(server: Served, name: str, **changes: object) -> str:
    """Create a deployment with one container that waits."""
    with Client(server.url, ADMIN) as client:
        uuid = client.create_deployment(body(name=name, replica_num=1, **changes))
    server.want(uuid)
    return uuid


def test_a_person_is_told_why_and_what_would_help(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    uuid = wanting(server, "dear", template__price_to=1500)
    assert run(["explain", "dear"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"dear {uuid}: 1 of 1 containers fit on no machine"
    assert lines[1].startswith("planner: 1 wanted: 0 running")
    assert lines[3].startswith("1 container: no machine fits: 2 considered; ")
    assert [line.split() for line in lines[4:8]] == [
        ["REJECTED", "BY", "MACHINES"],
        ["gpu_name", "1"],
        ["price", "1"],
        ["in", "all", "2"],
    ]
    assert lines[8].split("  ")[0] == "IT WOULD FIT WITH"
    assert lines[9].startswith("price_to 1980 instead of 1500")
    assert lines[9].endswith("muster apply -f FILE")


def test_where_no_single_change_helps_that_is_said(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    wanting(server, "hopeless", template__price_to=15, template__gpu_name_set=["H20"])
    assert run(["explain", "hopeless"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("no single change makes it fit; a000000001 lacks least")


def test_a_program_gets_every_field(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    uuid = wanting(server, "json", template__gpu_num=128)
    assert run(["explain", uuid, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["deployment_uuid"] == uuid
    assert found["unfit"][0]["rejected"] == {"gpu_name": 1, "gpu_num": 1}
    assert found["unfit"][0]["remedies"][0]["change"] == {"gpu_num": 4}


def test_what_is_not_there_cannot_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "nothing"]) == 1
    assert "nothing" in capsys.readouterr().err


def test_a_client_asks_where_new_ones_would_go(server: Served) -> None:
    with Client(server.url, ADMIN) as client:
        found = client.explanations.of_new(body(replica_num=2, template__gpu_num=2))
    assert found.text == "all 2 containers fit now"
    assert [(each.machine_id, each.containers) for each in found.placed] == [("a000000001", ((0, 1), (2, 3)))]
