"""A deployment's life on Docker as its owner sees it, by the command line alone."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.model.container import ContainerStatus
from muster.model.ids import is_container_uuid
from tests.docker.daemon import Daemon
from tests.e2e.docker_world import DockerWorld
from tests.e2e.world import assert_legal

pytestmark = pytest.mark.docker

SERVE = """
cd /tmp && mkdir -p www && echo "$AutoDLContainerUUID" >www/index.html
echo "serving as $AutoDLContainerUUID"
exec httpd -f -p 6006 -h www
"""
FILE = """
name: digits
replicas: {replicas}
image: bash
cmd: {cmd}
gpu: RTX 4090
reuse: true
service:
  health_check: {{path: /, interval: 500ms}}
"""


@pytest.fixture
def world(docker_daemon: Daemon, tmp_path: Path) -> Iterator[DockerWorld]:
    with DockerWorld(tmp_path, docker_daemon) as world:
        yield world


def digits(replicas: int, cmd: str = SERVE) -> str:
    return FILE.format(replicas=replicas, cmd="|" + "".join(f"\n  {line}" for line in cmd.splitlines()))


def test_a_deployment_is_applied_scaled_shrunk_and_deleted(world: DockerWorld) -> None:
    created = world.listed("apply", "-y", "-f", "-", stdin=digits(2))
    assert created["action"] == "create"
    uuid = created["deployment_uuid"]
    first = world.until_ready(uuid, 2)
    assert [world.fetch(each.url_6006) for each in first] == [each.uuid for each in first]
    assert len({each.url_6006 for each in first}) == 2, "each has an address of its own"
    assert world.listed("apply", "-y", "-f", "-", stdin=digits(2))["action"] == "none"

    world.cli("scale", "digits", "3")
    three = world.until_ready(uuid, 3)
    assert {each.uuid for each in first} < {each.uuid for each in three}
    assert world.uuids(world.running()) == {each.uuid for each in three}

    gone = three[0].uuid
    world.cli("stop", "--container", gone, "--decrease")
    two = world.until_ready(uuid, 2)
    assert {each.uuid for each in two} == {each.uuid for each in three[1:]}
    assert world.listed("ps")[0]["replica_num"] == 2
    world.until(lambda: world.uuids(world.running()) == {each.uuid for each in two}, "the stopped one ends in Docker")
    (stopped,) = world.until(lambda: world.ended(uuid), "it is over")
    assert (stopped.uuid, stopped.reason) == (gone, "stopped_by_user")
    assert world.cli("logs", gone) == f"serving as {gone}\n", "also when it has ended"
    assert world.cli("logs", two[0].uuid.rpartition("-")[2]) == f"serving as {two[0].uuid}\n"

    world.cli("delete", "digits", "-y")
    world.until(lambda: not world.running(), "nothing runs")
    assert world.listed("ps", "-a") == []
    for container in three:
        own = [event for event in world.events() if event.container_uuid == container.uuid and event.kind == "status"]
        assert [event.status for event in own] == [status.value for status in ContainerStatus]
    assert_legal(world.events())


def test_commands_run_in_a_container_and_end_with_their_own_code(world: DockerWorld) -> None:
    (container,) = world.until_ready(world.apply(digits(1)), 1)
    done = world.run("exec", "digits", "--", "bash", "-c", "echo $AutoDLContainerUUID; pwd; echo no >&2; exit 7")
    assert (done.code, done.out.splitlines(), done.err) == (7, [container.uuid, "/root"], "no\n")
    assert world.run("exec", "-i", container.uuid, "--", "wc", "-c", stdin="12345").out == "5\n"
    assert world.run("exec", "digits", "--", "nothing-there").code == 127
    world.cli("scale", "digits", "0")
    world.until(lambda: world.ended(container.deployment_uuid), "it is over")
    refused = world.run("exec", container.uuid, "--", "true")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: ")


def test_logs_begin_where_they_are_asked_to_and_outlive_the_container(world: DockerWorld) -> None:
    (container,) = world.until_ready(world.apply(digits(1)), 1)
    since = datetime.datetime.now(datetime.UTC).isoformat()
    world.cli("exec", "digits", "--", "sh", "-c", "echo later >/proc/1/fd/1")
    serving = f"serving as {container.uuid}\n"
    world.until(lambda: world.cli("logs", "digits") == f"{serving}later\n", "the line is logged")
    assert world.cli("logs", "digits", "--since", since) == "later\n"
    assert world.cli("logs", "digits", "--tail", "1") == "later\n"
    assert world.cli("logs", "digits", "--since", "1h") == f"{serving}later\n"

    world.cli("delete", "digits", "-y")
    world.until(lambda: not world.running(), "it ends")
    assert world.cli("logs", container.uuid) == f"{serving}later\n"
    assert world.cli("logs", container.uuid, "--since", since) == "later\n"


def test_files_go_into_the_storage_through_a_container_and_back(world: DockerWorld) -> None:
    given = world.user / "given"
    given.write_text("from outside\n")
    world.cli("fs", "cp", "-d", "lab-a", str(given), "fs:given")
    work = "tr a-z A-Z </root/autodl-fs/given >/root/autodl-fs/made && exec httpd -f -p 6006 -h /tmp"
    world.until_ready(world.apply(digits(1, work).replace("path: /,", "port: 6006,")), 1)
    assert world.cli("exec", "digits", "--", "cat", "/root/autodl-fs/made") == "FROM OUTSIDE\n"
    back = world.user / "back"
    world.cli("fs", "cp", "-d", "lab-a", "fs:made", str(back))
    assert back.read_text() == "FROM OUTSIDE\n"
    world.cli("fs", "rm", "-d", "lab-a", "given")
    assert world.run("exec", "digits", "--", "cat", "/root/autodl-fs/given").code == 1
    assert [each["name"] for each in world.listed("fs", "ls", "-d", "lab-a")] == ["made"]
    assert world.listed("fs", "ls", "-d", "lab-b") == [], "another data center has another folder"


def test_down_keeps_what_ended_containers_left_and_purge_removes_it(world: DockerWorld) -> None:
    mark = 'echo "$AutoDLContainerUUID" >>/root/history && ' + SERVE.strip()
    uuid = world.apply(digits(2, mark))
    before = {each.uuid for each in world.until_ready(uuid, 2)}
    said = world.cli("down")
    assert "ended 2 containers\n" in said
    assert "kept what 2 ended containers left behind" in said
    assert world.running() == []
    assert len(world.boxes()) == 2

    world.up()
    after = world.until_ready(uuid, 2)
    assert {each.reused_from for each in after} == before, "both were used again"
    assert all(is_container_uuid(each.uuid) for each in after)
    for container in after:
        history = world.cli("exec", container.uuid, "--", "cat", "/root/history").split()
        assert history == [container.reused_from, container.uuid]
    ended = world.ended(uuid)
    assert {(each.uuid, each.reason) for each in ended} == {(uuid, "host_stopped") for uuid in before}

    assert "ended 2 containers\n" in world.cli("down", "--purge")
    assert world.left() == []
    world.up()
    fresh = world.until_ready(uuid, 2)
    assert {each.reused_from for each in fresh} == {None}
    assert_legal(world.events())
