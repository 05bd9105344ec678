"""``muster machines``: what is told of them, and that what is wanted of them is done."""

import contextlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from muster.cli.main import run
from muster.model.container import ContainerStatus, Reason
from muster.model.ids import ContainerId, ContainerUuid, DeploymentId, random_hex
from muster.model.machine import Drain, MachineState
from muster.store.port import Transaction
from tests.unit.cli.served import ADMIN, MACHINES, Served

HOST, OTHER = MACHINES[0].id, MACHINES[1].id
FILE = "name: asr\nimage: local\ncmd: serve\nreplicas: 0\ngpu: RTX 4090\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def server(shared: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    monkeypatch.setattr("muster.cli.machines.POLL_SECONDS", 0.01)
    shared.write(_tidy)
    return shared


def _tidy(tx: Transaction) -> None:
    for machine in MACHINES:
        tx.machines.put(machine)
        tx.machines.set_placing(machine.id, is_cordoned=False, drain=Drain.NONE)
        tx.machines.set_lost(machine.id, None)
        tx.machines.set_unreachable(machine.id, None)
        tx.machines.set_problem(machine.id, "")


def told(*args: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run([*args, "-o", "json"]) == 0
    return json.loads(output.getvalue())


def state(server: Served) -> MachineState:
    return server.read(lambda tx: tx.machines.states())[HOST]


def deploy(server: Served, tmp_path: Path) -> str:
    (tmp_path / "app.yml").write_text(FILE, encoding="utf-8")
    return str(told("apply", "-f", str(tmp_path / "app.yml"), "-y")["deployment_uuid"])


def end(server: Served, uuid: str) -> None:
    def work(tx: Transaction) -> None:
        row = tx.containers.by_uuid(uuid)  # type: ignore[arg-type]
        assert row is not None
        tx.containers.update(replace(row, status=ContainerStatus.SHUTDOWN, stopped_at=server.clock.now()))

    server.write(work)


def end_once_drained(server: Served, uuid: str) -> None:
    """End a container as soon as the drain is committed, so that its answer still counts it."""
    deadline = time.monotonic() + 20
    while state(server).drain is Drain.NONE:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    end(server, uuid)


def test_the_bare_word_lists_with_the_options_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert told("machines") == told("machines", "ls")
    assert run(["machines"]) == 0
    assert "usable" in capsys.readouterr().out.splitlines()[1]


def test_a_machine_is_cordoned_and_uncordoned_by_the_beginning_of_its_id(server: Served) -> None:
    assert told("machines", "cordon", HOST[:3])["state"] == "cordoned"
    assert state(server).is_cordoned
    assert told("machines", "uncordon", HOST)["state"] == "usable"
    assert state(server) == MachineState()


def test_a_drain_waits_and_tells_how_many_are_left(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uuid = server.place(deploy(server, tmp_path), suffix="drain00001")
    ending = threading.Thread(target=end_once_drained, args=(server, uuid))
    ending.start()
    assert run(["machines", "drain", HOST]) == 0
    ending.join()
    said = capsys.readouterr()
    assert f"{HOST}: 1 container is still there" in said.err
    assert said.out.splitlines()[-1] == f"{HOST}: is empty and gets nothing new"
    assert state(server).drain is Drain.GENTLE


def test_a_drain_need_not_be_waited_for_and_may_move_jobs(server: Served, tmp_path: Path) -> None:
    uuid = server.place(deploy(server, tmp_path), suffix="drain00002")
    assert told("machines", "drain", HOST, "--now", "--no-wait")["containers_left"] == 1
    assert state(server).drain is Drain.NOW
    end(server, uuid)


def test_a_machine_that_answers_is_not_lost(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["machines", "declare-lost", HOST, "-y"]) == 1
    assert "answers: drain it instead" in capsys.readouterr().err
    server.write(lambda tx: tx.machines.set_problem(HOST, "unreachable: no answer"))
    server.write(lambda tx: tx.machines.set_unreachable(HOST, server.clock.now()))
    assert told("machines", "declare-lost", HOST, "-y")["state"] == "lost"
    assert run(["machines"]) == 0
    assert re.search(r"lost \d+s", capsys.readouterr().out)


def test_a_host_that_fails_is_named_with_the_command_that_keeps_off_it(
    server: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uuid = deploy(server, tmp_path)
    like = replace(MACHINES[0], id=MACHINES[1].id)
    server.write(lambda tx: tx.machines.put(like))
    first = server.place(uuid, suffix="fails00000", exit_code=1)
    placement = server.read(lambda tx: tx.containers.by_uuid(first)).placement  # type: ignore[union-attr]

    def fail(tx: Transaction) -> None:
        deployment = tx.deployments.get(DeploymentId(uuid))
        assert deployment is not None
        now = server.clock.now()
        tx.deployments.update(replace(deployment, stable_version="v1"))  # its command is known to work
        for number in range(4):
            row = tx.containers.add(deployment, ContainerId(random_hex(16)), now)
            ended = replace(
                row, placement=placement, uuid=ContainerUuid(f"{uuid}-{HOST}-{number}"), reason=Reason.START_FAILED
            )
            tx.containers.update(replace(ended, status=ContainerStatus.SHUTDOWN, stopped_at=now))

    server.write(fail)
    assert run(["machines"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "fails regularly" in lines[0]
    assert "start_failed" in lines[0]
    command = lines[1].strip()
    assert command == f"muster machines blacklist {HOST} --hours 24 --comment 'fails: start_failed'"
    assert told(*command.replace("'", "").split()[1:6], "--comment", "fails: start_failed")["machine_id"] == HOST
    assert run(["machines"]) == 0
    said = capsys.readouterr()
    assert not said.err
    assert "usable, blacklisted" in said.out
    assert [row["comment"] for row in told("machines", "blacklisted")] == ["fails: start_failed"]
    assert told("machines", "unblacklist", HOST)["machine_id"] == HOST
    assert told("machines", "blacklisted") == []


def test_a_machine_is_blacklisted_by_a_container_there(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "asr.yaml"
    file.write_text(FILE)
    uuid = told("apply", "-f", str(file))["deployment_uuid"]
    container = server.place(uuid, suffix="00000000bb")
    assert told("machines", "blacklist", container)["machine_id"] == HOST
    assert told("machines", "unblacklist", HOST)["machine_id"] == HOST
    assert told("machines", "blacklist", container.rpartition("-")[0] + "-00000000b")["machine_id"] == HOST
    assert told("machines", "unblacklist", HOST)["machine_id"] == HOST


def test_what_is_no_machine_or_may_be_two_is_refused(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["machines", "cordon", "zzz"]) == 1
    assert "no machine 'zzz'" in capsys.readouterr().err
    server.write(lambda tx: tx.machines.put(replace(MACHINES[0], id="a0000000ff")))  # type: ignore[arg-type]
    assert run(["machines", "cordon", "a0"]) == 1
    assert "may mean 2 machines" in capsys.readouterr().err
    server.write(lambda tx: tx.machines.retire_all_but(frozenset({HOST, OTHER})))
