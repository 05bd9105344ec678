"""A deployment's life as its owner sees it, by the command line alone."""

import json
import signal
from pathlib import Path

import pytest

from tests.e2e.world import PATIENCE_SECONDS, SERVE, World, assert_legal

pytestmark = pytest.mark.slow

FILE = f"""
name: digits
type: replicaset
replicas: 2
image: local
cmd: {SERVE}
gpu: RTX 4090
service:
  health_check: {{path: /healthz, interval: 500ms}}
"""


def test_a_deployment_is_applied_scaled_shrunk_and_deleted(shared: World) -> None:
    created = shared.listed("apply", "-y", "-f", "-", stdin=FILE)
    assert created["action"] == "create"
    uuid = created["deployment_uuid"]

    first = shared.until_ready(uuid, 2)
    (row,) = shared.listed("ps")
    assert (row["name"], row["status"], row["replica_num"], row["ready_num"]) == ("digits", "running", 2, 2)
    assert shared.listed("apply", "-y", "-f", "-", stdin=FILE)["action"] == "none"

    shared.cli("scale", "digits", "3")
    three = shared.until_ready(uuid, 3)
    assert {each.uuid for each in first} < {each.uuid for each in three}
    assert set(shared.commands()) == {each["uuid"] for each in shared.listed("containers", "digits")}

    gone = three[0].uuid
    shared.cli("stop", "--container", gone, "--decrease")
    two = shared.until_ready(uuid, 2)
    assert {each.uuid for each in two} == {each.uuid for each in three[1:]}
    assert shared.listed("ps")[0]["replica_num"] == 2
    shared.until(lambda: set(shared.commands()) == {each.uuid for each in two}, "the stopped one's processes end")
    (stopped,) = [each for each in shared.listed("containers", "digits", "-a") if each["uuid"] == gone]
    assert (stopped["status"], stopped["reason"]) == ("shutdown", "stopped_by_user")

    assert shared.cli("logs", gone) == f"serving as {gone}\n", "also when it has ended"
    assert shared.cli("logs", two[0].uuid.rpartition("-")[2]) == f"serving as {two[0].uuid}\n"

    shared.cli("delete", "digits", "-y")
    shared.until(lambda: not shared.commands(), "nothing runs")
    assert shared.listed("ps", "-a") == []
    assert_legal(shared.events())


def test_following_events_shows_each_once_and_ends_with_130_on_ctrl_c(shared: World) -> None:
    seen = len(shared.events())
    with shared.follow("events", "-f", "-o", "json") as following:
        assert following.stdout is not None
        assert following.stderr is not None
        past = [json.loads(following.stdout.readline())["id"] for _ in range(seen)]
        shared.deploy("followed", 1)
        lines = [json.loads(following.stdout.readline()) for _ in range(6)]
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_SECONDS) == 130
        assert following.stderr.read() == ""
    assert [line["status"] for line in lines] == [
        "creating",
        "created",
        "starting",
        "oss_merged",
        "running",
        "running",
    ]
    assert [line["kind"] for line in lines] == ["status"] * 5 + ["ready"]
    assert [*past, *(line["id"] for line in lines)] == [event.id for event in shared.events()]


def test_following_logs_ends_with_the_container(shared: World) -> None:
    uuid = shared.deploy("talker", 1, "trap 'echo bye; exit 0' TERM; echo hello; sleep 1000 & wait")
    (container,) = shared.live(uuid)
    with shared.follow("logs", "-f", container.uuid) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "hello\n"
        shared.cli("delete", "talker", "-y")
        assert following.stdout.read() == "bye\n"
        assert following.wait(PATIENCE_SECONDS) == 0


def test_the_log_holds_only_what_is_ours(shared: World) -> None:
    assert "warning" not in shared.up_output.read_text()
    log = (shared.home / "logs" / "server.log").read_text()
    assert {line.split()[3] for line in log.splitlines()} <= {"muster.processes.server:"}, log


def test_up_warns_of_the_plain_engine_where_there_is_no_docker(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.environ["DOCKER_HOST"] = f"unix://{tmp_path}/nowhere.sock"
    try:
        world.up("--engine", "auto")
        assert "warning: no container engine found: using the local one" in world.up_output.read_text()
    finally:
        world.close()
