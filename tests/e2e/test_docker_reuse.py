"""What a container left is what the next one finds: the files, and nothing else, and nobody else does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.client import Client, Container
from muster.model.ids import is_container_uuid
from tests.docker import gpu
from tests.docker.daemon import Daemon
from tests.e2e.docker_world import Box, DockerWorld, host_of
from tests.e2e.world import assert_legal

pytestmark = pytest.mark.docker

CYCLES = 20
HISTORIES = ("/root/history", "/root/autodl-tmp/history")
SERVE = "exec httpd -f -p 6006 -h /tmp"
"""Comes last, so that whoever is ready has written all lines."""
FILE = """
name: {name}
replicas: {replicas}
image: bash
gpu: RTX 4090
reuse: {reuse}
env: {{WHO: {name}}}
cmd: |
  line="{name} $WHO $AutoDLContainerUUID $MUSTER_GPU_INDICES $(cat {visible})"
  echo "$line" >>/root/history
  echo "$line" >>/root/autodl-tmp/history
  echo "{name}" >>/root/autodl-fs/users
  {last}
"""


@pytest.fixture
def world(docker_daemon: Daemon, tmp_path: Path) -> Iterator[DockerWorld]:
    with DockerWorld(tmp_path, docker_daemon, host_of(2)) as world:
        yield world


def file(name: str, replicas: int = 0, *, reuse: str = "all", last: str = SERVE) -> str:
    return FILE.format(name=name, replicas=replicas, reuse=reuse, visible=gpu.VISIBLE, last=last)


def begin(world: DockerWorld, uuid: str) -> Container:
    """Want one container and wait for it."""
    world.ask(lambda client: client.scale_deployment(uuid, 1))
    return world.until_ready(uuid, 1)[0]


def end(world: DockerWorld, container: Container, *, no_cache: bool = False) -> None:
    """Stop a container, want no other, and wait for its end."""
    world.ask(lambda client: client.stop_container(container.uuid, decrease_one_replica_num=True, no_cache=no_cache))
    world.until(lambda: _is_over(world, container), f"the end of {container.uuid}")


def read(world: DockerWorld, container: Container, *paths: str) -> list[str]:
    return world.cli("exec", container.uuid, "--", "cat", *paths).splitlines()


def box_of(world: DockerWorld, container: Container) -> Box:
    return next(box for box in world.running() if world.uuids([box]) == {container.uuid})


def occupy(world: DockerWorld, index: str) -> None:
    """Let a container of another deployment have the GPU of that index, and no other."""
    uuid = world.apply(file("other", 2, reuse="false"))
    for container in world.until_ready(uuid, 2):
        if box_of(world, container).gpus != (index,):
            end(world, container)


def test_twenty_times_the_files_stay_and_all_else_is_new(world: DockerWorld) -> None:
    lasts = {"odd": SERVE, "even": "trap 'exit 0' TERM; httpd -f -p 6006 -h /tmp & wait"}
    uuids = {name: world.apply(file(name, last=last)) for name, last in lasts.items()}
    expected: list[str] = []
    used: list[str] = []
    indices: list[str] = []
    for cycle in range(CYCLES):
        if cycle == CYCLES // 2:
            occupy(world, indices[-1])
        name = ("odd", "even")[cycle % 2]
        container = begin(world, uuids[name])
        (index,) = box_of(world, container).gpus
        expected.append(f"{name} {name} {container.uuid} {index} {index}")
        assert read(world, container, *HISTORIES) == expected * 2
        assert container.reused_from == (used[-1] if used else None)
        assert is_container_uuid(container.uuid)
        assert container.uuid.split("-")[:3] == (used[0] if used else container.uuid).split("-")[:3]
        used.append(container.uuid)
        indices.append(index)
        end(world, container)
    assert len(set(used)) == CYCLES
    assert set(indices) == {"0", "1"}
    assert [len(uuid.split("-")) for uuid in used] == [3] + [4] * (CYCLES - 1)
    (pooled,) = world.listed("pool", "ls")
    assert pooled["uuid"] == used[-1]
    assert len([box for box in world.boxes() if box.is_running]) == 1, "the other one"
    assert world.listed("stats")["reuses"] == CYCLES - 1
    assert_legal(world.events())


def test_nobody_gets_what_is_another_tenants(world: DockerWorld) -> None:
    mine = world.apply(file("mine"))
    ours = begin(world, mine)
    end(world, ours)
    token = world.listed("account", "create", "tenant")["token"]

    def type_as_tenant(*words: str, stdin: str = "") -> str:
        done = world.run(*words, stdin=stdin, environ={"MUSTER_TOKEN": token})
        assert done.code == 0, done
        return done.out

    assert type_as_tenant("pool", "ls", "-o", "json").strip() == "[]"
    type_as_tenant("apply", "-y", "-f", "-", stdin=file("theirs", 1))

    def theirs() -> Container | None:
        with Client(world.profile.url, token) as client:
            return next((each for each in client.containers() if each.is_ready), None)

    found = world.until(theirs, "the tenant's container")
    assert found.reused_from is None
    assert type_as_tenant("exec", "theirs", "--", "sh", "-c", "wc -l </root/history").strip() == "1"
    assert type_as_tenant("exec", "theirs", "--", "cat", "/root/autodl-fs/users").split() == ["theirs"]
    assert type_as_tenant("fs", "ls").split() == ["NAME", "users"]
    for words in (("logs", ours.uuid), ("exec", ours.uuid, "--", "true"), ("pool", "rm", ours.uuid)):
        refused = world.run(*words, environ={"MUSTER_TOKEN": token})
        assert (refused.code, refused.out) == (1, "")
    assert [each["uuid"] for each in world.listed("pool", "ls")] == [ours.uuid], "it still waits for us"
    again = begin(world, mine)
    assert again.reused_from == ours.uuid
    assert (world.files / "users").read_text().split() == ["mine", "mine"]


def test_what_was_stopped_without_cache_is_never_used_again(world: DockerWorld) -> None:
    uuid = world.apply(file("once"))
    first = begin(world, uuid)
    end(world, first, no_cache=True)
    assert world.listed("pool", "ls") == []
    second = begin(world, uuid)
    assert second.reused_from is None
    assert len(read(world, second, "/root/history")) == 1
    end(world, second)
    assert begin(world, uuid).reused_from == second.uuid


def test_what_leaves_the_pool_is_gone_from_docker_and_from_the_disk(world: DockerWorld) -> None:
    uuid = world.apply(file("once"))
    first = begin(world, uuid)
    end(world, first)
    assert len(world.boxes()) == len(world.folders()) == 1
    world.cli("pool", "rm", first.uuid)
    world.until(lambda: not (world.boxes() or world.folders()), "it is destroyed")
    assert begin(world, uuid).reused_from is None


def _is_over(world: DockerWorld, container: Container) -> bool:
    return container.uuid in {each.uuid for each in world.ended(container.deployment_uuid)}
