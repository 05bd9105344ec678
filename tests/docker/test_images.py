"""Images on a real daemon, as a person uses them: logged in for, fetched ahead, run, saved, run again, bound anew."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import images
from tests.docker.daemon import Daemon
from tests.docker.registry import Registry
from tests.e2e.world import World

pytestmark = pytest.mark.docker

CANARY = "pa55w0rd-canary"
FILE = "name: {name}\nimage: {image}\ncmd: {cmd}\nservice: {{health_check: none}}\n"
MACHINES = 3


@pytest.fixture
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("private"), user="ann", password=CANARY) as registry:
        yield registry


@pytest.fixture
def world(docker_daemon: Daemon, tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.environ |= {"MUSTER_DOCKER_HOST": docker_daemon.url, "MUSTER_FULL_PASS_SECONDS": "1"}
    try:
        world.up("--engine", "docker")
        yield world
    finally:
        world.close()


def deploy(world: World, name: str, image: str, cmd: str) -> str:
    """Apply a file and wait for its container; returns that one's uuid."""
    made = world.listed("apply", "-y", "-f", "-", stdin=FILE.format(name=name, image=image, cmd=cmd))
    (container,) = world.until_ready(made["deployment_uuid"], 1)
    return container.uuid


def test_an_image_goes_from_a_registry_into_a_container_and_its_files_into_an_image(
    world: World, private: Registry, docker_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("image")
    reference = private.push(images.sized(folder, images.bash(folder), [1 << 20]), "team/asr:1")
    world.cli("image", "add", "asr", reference)
    refused = world.run("image", "prewarm", "asr", "--wait")
    assert refused.code == 1
    assert refused.out.count("failed") == MACHINES
    assert "muster image login" in refused.out
    world.cli("image", "login", private.host, "-u", "ann", "--password-stdin", stdin=CANARY)
    done = world.listed("image", "prewarm", "asr", "--wait")
    assert [each["state"] for each in done] == ["done"] * MACHINES
    assert set(private.downloads("team/asr").values()) == {1}, "one fetch for all that wait on one daemon"
    asr = world.listed("image", "ls")[0]
    assert (asr["digest"], len(asr["held_on"])) == (private.digest("team/asr:1"), MACHINES)

    container = deploy(world, "first", "asr", "echo kept > /root/file && exec sleep 1000")
    mine = world.listed("image", "save", container, "mine", "--wait")
    assert mine["status"] == "finished"
    deploy(world, "second", "mine", '"[ $(cat /root/file) = kept ] && exec sleep 1000"')

    inspected = docker_daemon.docker("inspect", *docker_daemon.docker("ps", "-aq").split())
    assert CANARY not in inspected + world.said()
    for path in world.home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_a_tag_that_moved_is_fetched_by_a_prewarm_and_the_old_one_offered_for_it(
    world: World, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reference = registry.push(images.busybox(tmp_path_factory.mktemp("one")), "asr:latest")
    world.cli("image", "add", "asr", reference.removesuffix(":latest"))
    world.cli("image", "prewarm", "asr", "--wait")
    old = registry.digest("asr:latest")
    registry.push(images.bash(tmp_path_factory.mktemp("two")), "asr:latest")

    bound = world.until(
        lambda: next(
            (
                each
                for each in (world.listed("image", "add", "asr", reference),)
                if len(each["outdated_on"]) == MACHINES
            ),
            None,
        ),
        "every machine seen with the old image",
    )
    assert (bound["rebound"], bound["old_digest"]) == (True, old)
    world.cli("image", "prewarm", "asr", "--wait")
    asr = world.listed("image", "ls")[0]
    assert asr["digest"] == registry.digest("asr:latest") != old


def test_an_image_that_nobody_has_is_told_as_such(world: World, registry: Registry) -> None:
    world.cli("image", "add", "asr", registry.reference("absent:1"))
    refused = world.run("image", "prewarm", "asr", "--wait")
    assert refused.code == 1
    assert "the registry has no such image" in refused.out
