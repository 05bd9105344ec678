"""An edit to an image that nobody can fetch changes nothing but the reason that is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.registry import Registry
from tests.e2e.docker_world import DockerWorld
from tests.e2e.world import assert_legal

pytestmark = pytest.mark.docker

FILE = """
name: pages
replicas: 2
image: {image}
gpu: RTX 4090
cmd: cd /tmp && echo "$MUSTER_VERSION_NAME" >index.html && exec httpd -f -p 6006
service: {{health_check: {{path: /, interval: 500ms}}}}
"""


@pytest.fixture
def world(docker_daemon: Daemon, tmp_path: Path) -> Iterator[DockerWorld]:
    with DockerWorld(tmp_path, docker_daemon) as world:
        yield world


def test_an_image_that_its_registry_does_not_have_is_named_and_the_good_version_is_kept(
    world: DockerWorld, registry: Registry
) -> None:
    good, bad = registry.push(images.bash(world.user), "pages:1"), registry.reference("pages:2")
    uuid = world.apply(FILE.format(image=good))
    first = world.until_ready(uuid, 2)

    assert world.listed("apply", "-y", "-f", "-", stdin=FILE.format(image=bad))["action"] == "edit"
    told = world.run("rollout", "status", "pages", "-w")

    assert told.code == 1, told
    assert "v2 has failed: containers of v2 died young 3 times" in told.out
    assert "image_pull_failed" in told.out
    assert bad in told.out
    assert "v1 is kept" in told.out
    assert world.until_ready(uuid, 2) == first, "nothing happened to them"
    assert [world.fetch(each.url_6006) for each in first] == ["v1", "v1"]
    events = [event for event in world.events() if event.kind != "pull"]
    assert not [event for event in events if event.kind == "unready"]
    assert_legal(events)

    registry.push(images.bash(world.user), "pages:2")
    world.cli("rollout", "resume", "pages")
    assert world.run("rollout", "status", "pages", "-w").code == 0
    assert [world.fetch(each.url_6006) for each in world.until_ready(uuid, 2)] == ["v2", "v2"]
