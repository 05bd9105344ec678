"""Commands against a real server: what they change, what they print, what they refuse."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.cli.connection import resolve
from muster.cli.main import run
from muster.client import Client
from tests.unit.cli.served import MACHINES, Served

FILE = """name: digits
replicas: 2
image: local
cmd: cd /srv && python serve.py
gpu: RTX 4090
price: ..3
env: {TOKEN: sesame}
"""


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


class Said:
    """What the last command printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def take(self) -> tuple[str, list[str]]:
        captured = self._capsys.readouterr()
        return captured.out, captured.err.splitlines()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def told(*args: str) -> Any:
    """Return the JSON that a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run([*args, "-o", "json"]) == 0
    return json.loads(output.getvalue())


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "app.yml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def apply(tmp_path: Path, text: str) -> Any:
    return told("apply", "-y", "-f", write(tmp_path, text))


def test_apply_creates_what_a_file_says_and_shows_the_plan(tmp_path: Path, said: Said) -> None:
    assert run(["apply", "-y", "-f", write(tmp_path, FILE)]) == 0
    text, problems = said.take()
    assert problems == []
    assert "container_template.gpu_name_set" in text
    assert "local = base-image-10ca10ca10ca" in text
    assert "3.96 yuan per hour in all; 2 of 2 containers fit now; 1 machine qualifies" in text
    assert "sesame" not in text
    (row,) = told("ps")
    assert (row["name"], row["replica_num"], row["gpu_names"]) == ("digits", 2, ["RTX 4090"])


def test_apply_without_a_person_to_ask_changes_nothing(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(["apply", "-f", write(tmp_path, FILE)]) == 1
    assert said.take()[1] == ["error: standard input is no terminal, so nobody can be asked; add -y"]
    assert told("ps") == []


def test_apply_warns_of_a_command_with_the_line_that_says_it(tmp_path: Path, said: Said) -> None:
    file = write(tmp_path, FILE.replace("python serve.py", "conda activate x && python serve.py &"))
    assert run(["apply", "-y", "-f", file]) == 0
    background, conda = said.take()[1]
    assert background.startswith(f"warning: {file}:4: cmd: `cd /srv && conda activate x && python serve.py &` runs in")
    assert conda.startswith(f"warning: {file}:4: cmd: `conda activate x` does not work in a start command")
    assert run(["apply", "-y", "-f", file]) == 0


def test_applying_the_same_file_again_does_nothing(tmp_path: Path) -> None:
    first = apply(tmp_path, FILE)
    assert first["action"] == "create"
    assert apply(tmp_path, FILE) == {**first, "action": "none"}


def test_applying_another_number_of_replicas_scales(tmp_path: Path) -> None:
    first = apply(tmp_path, FILE)
    assert apply(tmp_path, FILE.replace("replicas: 2", "replicas: 5")) == {**first, "action": "scale"}
    assert told("ps")[0]["replica_num"] == 5


def test_applying_any_other_change_shows_what_it_means_and_edits(tmp_path: Path, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    file = write(tmp_path, FILE.replace("..3", "..4").replace("sesame", "open").replace("replicas: 2", "replicas: 5"))
    assert run(["apply", "-f", file]) == 1, "nobody was asked"
    assert told("ps")[0]["replica_num"] == 2
    said.take()
    assert run(["apply", "-y", "-f", file]) == 0
    text, problems = said.take()
    assert problems == []
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "open" not in text
    assert "sesame" not in text
    assert lines["container_template.env_vars.TOKEN"].endswith("replaces containers")
    assert lines["container_template.price_to"].endswith("replaces containers that no longer match")
    assert lines["replica_num"].endswith("holds at once")
    assert f"digits {uuid}: version v2, follow it with: muster rollout status {uuid} -w" in text
    assert told("ps")[0]["replica_num"] == 5


def test_the_type_of_a_deployment_cannot_be_edited(tmp_path: Path, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    file = write(tmp_path, FILE + "type: job\n")
    assert run(["apply", "-y", "-f", file]) == 1
    problems = said.take()[1]
    assert f"error: {file}:8: type: deployment_type is 'ReplicaSet', the file says 'Job'" in problems
    assert problems[-1] == f"error: the type cannot change; use another name, or: muster delete {uuid}"


def test_a_rollout_is_followed_held_and_taken_back(tmp_path: Path, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    apply(tmp_path, FILE.replace("serve.py", "other.py"))
    status = told("rollout", "status", "digits")
    assert (status["state"], status["version"], status["wanted_num"]) == ("progressing", "v2", 2)
    assert told("rollout", "pause", "digits") == {"action": "pause", "name": "digits", "deployment_uuid": uuid}
    assert told("rollout", "status", "digits")["state"] == "paused"
    assert run(["rollout", "resume", "digits"]) == 0
    assert "v2 is being rolled out: 2 wanted: 0 running" in said.take()[0]
    assert run(["rollout", "undo", "digits", "-y"]) == 1
    assert said.take()[1] == ["error: 没有可以退回的版本 (no other version was ever good; others: v1)"]
    assert run(["rollout", "undo", "digits", "--to", "v1", "-y"]) == 0
    assert f"digits {uuid}: back to v1; changed: container_template.cmd" in said.take()[0]
    assert [each["version"] for each in told("rollout", "history", "digits")] == ["v2", "v1"]
    assert run(["rollout", "restart", "digits", "--version", "fresh"]) == 0
    assert "every container is made anew as fresh" in said.take()[0]
    assert run(["rollout", "restart", "digits", "--version", "fresh"]) == 1
    assert "is what runs already" in said.take()[1][0]
    assert run(["rollout", "undo", "digits", "--to", "v9", "-y"]) == 1
    assert said.take()[1] == ["error: no version 'v9'"]


def test_what_only_the_server_can_judge_is_refused_in_one_line(tmp_path: Path, said: Said) -> None:
    assert run(["apply", "-y", "-f", write(tmp_path, FILE.replace("image: local", "image: absent"))]) == 1
    (line,) = said.take()[1]
    assert line.startswith("error: image: none is called 'absent' (see: muster images; ")
    assert run(["apply", "-y", "-f", write(tmp_path, FILE.replace("image: local", "image: image-0000000000"))]) == 1
    (line,) = said.take()[1]
    assert line == "error: no image 'image-0000000000'"


def test_a_field_that_the_server_refuses_is_told_with_its_line(tmp_path: Path, said: Said) -> None:
    file = write(tmp_path, FILE.replace("replicas: 2", "replicas: 1000000"))
    assert run(["apply", "-y", "-f", file]) == 1
    assert said.take()[1] == [f"error: {file}:2: replicas: must be at most 10000"]


def test_a_job_and_a_container_are_created(tmp_path: Path) -> None:
    apply(tmp_path, FILE + "type: job\nparallelism: 2\n")
    apply(tmp_path, FILE.replace("replicas: 2", "replicas: 1").replace("digits", "once") + "type: container\n")
    assert {(each["name"], each["type"]) for each in told("ps")} == {("digits", "Job"), ("once", "Container")}


def test_scale_stop_and_delete_take_a_name_or_the_beginning_of_a_uuid(tmp_path: Path, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    assert run(["scale", "digits", "3"]) == 0
    assert said.take()[0] == f"digits {uuid}: 2 -> 3 replicas\n"
    assert run(["stop", uuid[:6]]) == 0
    assert told("ps") == []
    assert [row["status"] for row in told("ps", "-a")] == ["stopped"]
    assert run(["delete", uuid, "-y"]) == 0
    assert told("ps", "-a") == []


def test_an_ambiguous_name_lists_the_uuids(tmp_path: Path, said: Said) -> None:
    first = apply(tmp_path, FILE)["deployment_uuid"]
    body = json.dumps({**told_body(), "name": "digits"})
    second = create(body)
    assert run(["scale", "digits", "1"]) == 1
    (line,) = said.take()[1]
    assert line.startswith("error: digits: may mean 2 deployments")
    assert first in line
    assert second in line
    assert run(["apply", "-y", "-f", write(tmp_path, FILE)]) == 1
    assert first in said.take()[1][0]


def told_body() -> dict[str, Any]:
    return {
        "deployment_type": "ReplicaSet",
        "replica_num": 1,
        "container_template": {
            "image_uuid": "base-image-10ca10ca10ca",
            "cmd": "true",
            "gpu_num": 1,
            "gpu_name_set": [],
        },
    }


def create(body: str) -> str:
    with Client(*resolve(os.environ)) as client:
        return client.create_deployment(json.loads(body))


def test_a_stopped_deployment_gives_its_name_free(tmp_path: Path) -> None:
    first = apply(tmp_path, FILE)["deployment_uuid"]
    assert run(["stop", "digits"]) == 0
    second = apply(tmp_path, FILE)
    assert second["action"] == "create"
    assert second["deployment_uuid"] != first
    assert run(["scale", "digits", "7"]) == 0
    assert {row["uuid"]: row["replica_num"] for row in told("ps", "-a")} == {first: 2, second["deployment_uuid"]: 7}


def test_an_unknown_name_is_one_line(said: Said) -> None:
    for args in (["scale", "absent", "1"], ["containers", "absent"], ["events", "absent"], ["delete", "absent", "-y"]):
        assert run(args) == 1
        assert said.take() == ("", ["error: no deployment 'absent'"])
    assert run(["logs", "absent"]) == 1
    assert said.take() == ("", ["error: no container 'absent'"])


def test_containers_are_listed_oldest_first_finished_ones_only_when_asked(
    tmp_path: Path, server: Served, said: Said
) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    dead = server.place(uuid, suffix="dead000000", exit_code=3)
    live = server.place(uuid, suffix="11fe000000")
    assert [row["uuid"] for row in told("containers", "digits")] == [live]
    assert [row["uuid"] for row in told("containers", "digits", "-a")] == [dead, live]
    assert [row["uuid"] for row in told("containers")] == [live]
    assert run(["containers", "digits", "-a"]) == 0
    header, first, second = said.take()[0].splitlines()
    assert header.split() == ["UUID", "VERSION", "STATUS", "READY", "MACHINE", "GPU", "URL", "AGE", "REASON"]
    assert "exit 3" in first
    assert "http://127.0.0.1:40001" in second
    assert "lab-a/a000000001" in second


def test_containers_that_wait_for_a_machine_are_told_to_the_person_with_the_reason(
    tmp_path: Path, server: Served, said: Said
) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    server.want(uuid)
    server.want(uuid)
    assert run(["containers", "digits"]) == 0
    output, told_to_person = said.take()
    assert output == ""
    assert told_to_person == [
        "no live containers (finished ones: -a)",
        "digits: 2 more wait for a machine: not looked at yet",
    ]
    assert run(["containers"]) == 0
    assert "digits: 2 more wait for a machine: not looked at yet" in said.take()[1]
    assert run(["ps"]) == 0
    assert said.take()[1] == [f"digits: 0 of 2 live; why: muster explain {uuid}"]
    assert run(["logs", "digits"]) == 1
    assert said.take()[1] == ["error: digits: this deployment has no container yet; why: muster explain 'digits'"]
    assert told("containers", "digits") == []
    assert said.take()[1] == []


def test_a_deployment_whose_containers_end_at_once_says_so_where_one_looks(
    tmp_path: Path, server: Served, said: Said
) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    dead = server.place(uuid, suffix="dead000000", exit_code=127)
    assert run(["containers", "digits"]) == 0
    assert said.take()[1][-1] == (f"digits: the last one ended by itself (exit 127); its output: muster logs {dead}")
    assert run(["logs", "digits"]) == 0
    assert said.take()[0].startswith("line 0")


def test_logs_take_the_last_part_of_a_uuid_and_pass_bytes_on(tmp_path: Path, server: Served, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    container = server.place(uuid, suffix="abcdef0000")
    for name in (container, container[:14], "abcdef0000"):
        assert run(["logs", name]) == 0
        assert said.take()[0] == "line 0\nline 1\nline 2\n"
    assert run(["logs", "digits"]) == 0
    assert said.take()[0] == "line 0\nline 1\nline 2\n"
    assert run(["logs", "abcdef0000", "-f", "--tail", "1"]) == 0
    assert said.take()[0] == "line 0\nthe end\n"
    assert run(["logs", "abcdef0000", "--since", "2026-03-02T10:00:00+08:00", "--tail", "0"]) == 0
    assert said.take()[0] == "since 2026-03-02T02:00:00+00:00\n"
    assert run(["logs", "abcdef0000", "--since", "yesterday"]) == 1
    assert said.take()[1][0].startswith("error: since: must be a duration like 10m or 2h30m")


def test_events_come_oldest_first_and_the_newest_of_them(tmp_path: Path, server: Served, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    server.place(uuid, suffix="abcdef0000", exit_code=1)
    rows = told("events", "digits")
    statuses = ["creating", "created", "starting", "oss_merged", "running", "shutting_down", "shutdown"]
    assert [row["status"] for row in rows] == statuses
    assert [row["status"] for row in told("events", "digits", "--tail", "2")] == statuses[-2:]
    assert run(["events", "digits"]) == 0
    assert len(said.take()[0].splitlines()) == 8


@pytest.mark.slow
def test_following_events_goes_on_after_the_server_was_away_and_ends_with_ctrl_c(
    tmp_path: Path, server: Served
) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    first = server.place(uuid, suffix="abcdef0000")
    command = [sys.executable, "-c", "from muster.cli.main import main; main()", "events", "-f", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        before = [json.loads(process.stdout.readline()) for _ in range(5)]
        server.hang_up()
        assert process.stderr.readline().endswith("; waiting for it\n")
        second = server.place(uuid, suffix="abcdef1111")
        server.come_back()
        after = [json.loads(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    statuses = ["creating", "created", "starting", "oss_merged", "running"]
    assert [(row["container_uuid"], row["status"]) for row in before] == [(first, each) for each in statuses]
    assert [(row["container_uuid"], row["status"]) for row in after] == [(second, each) for each in statuses]


def test_stopping_one_container_may_lower_the_number_of_replicas(tmp_path: Path, server: Served, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    server.place(uuid, suffix="abcdef0000")
    server.place(uuid, suffix="abcdef1111")
    assert run(["stop", "--container", "abcdef0000", "--decrease"]) == 0
    assert "is being stopped" in said.take()[0]
    assert {row["uuid"][-10:]: row["status"] for row in told("containers", "digits")} == {
        "abcdef0000": "shutting_down",
        "abcdef1111": "running",
    }
    assert told("ps")[0]["replica_num"] == 1


def test_machines_stock_and_images_are_listed(said: Said) -> None:
    assert [(row["id"], row["gpu_num"]) for row in told("machines")] == [("a000000001", 64), ("b000000001", 2)]
    assert {row["gpu_name"]: row["total_gpu_num"] for row in told("stock")} == {"RTX 4090": 64, "L20": 2}
    assert [row["gpu_name"] for row in told("stock", "-d", "lab-b")] == ["L20"]
    assert told("stock", "-g", "L20")[0]["fits"] == {"1": 2, "2": 1, "4": 0, "8": 0}
    assert run(["stock", "-g", "L20"]) == 0
    assert said.take()[0].splitlines()[0].split("  ")[-4:] == ["FITS x1", "FITS x2", "FITS x4", "FITS x8"]
    assert [row["name"] for row in told("images")] == ["local"]
    assert run(["machines"]) == 0
    assert "RTX 4090" in said.take()[0]


def test_a_machine_that_cannot_be_used_says_why(server: Served, said: Said) -> None:
    machine = MACHINES[1].id
    server.write(lambda tx: tx.machines.set_problem(machine, "engine_unavailable: no answer"))
    assert run(["machines"]) == 0
    server.write(lambda tx: tx.machines.set_problem(machine, ""))
    _, well, troubled = said.take()[0].splitlines()
    assert "engine_unavailable" not in well
    assert troubled.endswith("engine_unavailable: no answer")


def test_an_account_gets_a_token_that_works_and_is_no_admin(
    tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(tmp_path, FILE)
    monkeypatch.delenv("MUSTER_TOKEN")  # the profile's is the admin's
    made = told("account", "create", "alice")
    assert "alice" in [row["name"] for row in told("account", "ls")]
    again = told("account", "token", "alice")
    assert made["token"] != again["token"]
    for token in (made["token"], again["token"]):
        monkeypatch.setenv("MUSTER_TOKEN", token)
        assert told("ps", "-a") == []
        assert run(["account", "ls"]) == 1
        assert len(said.take()[1]) == 1
        assert run(["scale", "digits", "0"]) == 1, "another account's deployment looks unknown"
        assert said.take()[1] == ["error: no deployment 'digits'"]


def test_a_wrong_token_is_one_line(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "wrong")
    assert run(["ps"]) == 1
    (line,) = said.take()[1]
    assert "is the token right?" in line


def test_nothing_to_list_is_said_to_the_person_only(said: Said) -> None:
    assert run(["ps"]) == 0
    assert said.take() == ("", ["no running deployments (stopped ones: -a)"])
    assert told("ps") == []


def test_what_changes_something_says_as_json_what_was_done_to_whom(tmp_path: Path, server: Served, said: Said) -> None:
    uuid = apply(tmp_path, FILE)["deployment_uuid"]
    container = server.place(uuid, suffix="abcdef0000")
    assert told("scale", "digits", "3") == {"action": "scale", "name": "digits", "deployment_uuid": uuid}
    assert told("stop", "--container", "abcdef0000") == {"action": "stop", "container_uuid": container}
    assert told("stop", "digits") == {"action": "stop", "name": "digits", "deployment_uuid": uuid}
    assert told("delete", uuid, "-y") == {"action": "delete", "name": "digits", "deployment_uuid": uuid}


def test_logs_as_json_are_one_object_a_line(tmp_path: Path, server: Served, said: Said) -> None:
    container = server.place(apply(tmp_path, FILE)["deployment_uuid"], suffix="abcdef0000")
    assert run(["logs", "abcdef0000", "-o", "json"]) == 0
    lines = [json.loads(line) for line in said.take()[0].splitlines()]
    assert lines == [{"container_uuid": container, "line": f"line {number}"} for number in range(3)]
