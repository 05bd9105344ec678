"""A command that dies at once is looked into and mended, as ``docs/howto/debug-a-container.md`` says, word for word."""

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.client import Container
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH
from tests.e2e.docker_world import DockerWorld
from tests.e2e.world import SERVE, Result, World, assert_legal

GUIDE = Path(__file__).parents[2] / "docs/howto/debug-a-container.md"
PROGRAM = """#!/bin/bash
if [ ! -r model.bin ]; then
    echo "serve.sh: no model.bin in $PWD" >&2
    exit 1
fi
cp model.bin index.html
trap 'kill $!; exit' HUP TERM  # to httpd a hangup means something else
httpd -f -p 6006 &
wait
"""
FAILURE = "serve.sh: no model.bin in /root\n"
DEATHS = 4


class Reader:
    """Somebody who follows the guide: types what stands there, and nothing else."""

    def __init__(self, world: World) -> None:
        text = GUIDE.read_text()
        self.world = world
        blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        self.commands = [line.removeprefix("$ ") for line in "".join(blocks).splitlines() if line.startswith("$ ")]
        self.file, *self.lines = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        assert [line.partition(":")[0] for line in self.lines] == ["cmd", "cmd"]
        (world.user / "asr.yml").write_text(self.file)

    def words(self, command: str) -> list[str]:
        """Take the next command, which is this one."""
        assert self.commands.pop(0) == command
        return shlex.split(command)[1:]

    def type(self, command: str) -> Result:
        return self.world.run(*self.words(command))

    def succeed(self, command: str) -> str:
        return self.world.cli(*self.words(command))

    def edit(self) -> None:
        """Put the next line that the guide shows into the file."""
        line = self.lines.pop(0)
        file = "".join(line if each.startswith("cmd:") else each for each in self.file.splitlines(keepends=True))
        (self.world.user / "asr.yml").write_text(file)


@pytest.fixture
def docker_world(docker_daemon: Daemon, tmp_path: Path) -> Iterator[DockerWorld]:
    with DockerWorld(tmp_path, docker_daemon) as world:
        yield world


@pytest.mark.docker
def test_the_guide_leads_from_a_command_that_dies_to_one_that_serves(docker_world: DockerWorld) -> None:
    world = docker_world
    program = world.user / "asr"
    program.mkdir()
    (program / "serve.sh").write_text(PROGRAM)
    (program / "serve.sh").chmod(0o755)
    (program / "model.bin").write_text("a model\n")
    world.cli("fs", "cp", "-d", "lab-a", "-r", str(program), "fs:")
    world.cli("image", "add", "asr", BASH)
    reader = Reader(world)

    reader.succeed("muster apply -y -f asr.yml")
    (uuid,) = [each["uuid"] for each in world.listed("ps")]
    until_it_waits(world, uuid)
    assert "error" in reader.succeed("muster containers asr -a")
    assert reader.succeed("muster logs asr") == FAILURE

    reader.edit()
    reader.succeed("muster apply -y -f asr.yml")
    asleep = until_started(world, uuid, "v2")
    assert_made_at_once(world, asleep)
    assert asleep.uuid in reader.succeed("muster containers asr")

    assert reader.succeed("muster ssh asr -- ls /root/autodl-fs/asr") == "model.bin\nserve.sh\n"
    failed = reader.type("muster ssh asr -- /root/autodl-fs/asr/serve.sh")
    assert (failed.code, failed.out, failed.err) == (1, "", FAILURE)
    by_hand = reader.words("muster ssh asr -- 'cd /root/autodl-fs/asr && exec ./serve.sh'")
    with world.follow(*by_hand) as serving:
        world.until(lambda: all(each.is_ready for each in world.live(uuid)), "it serves by hand")
        assert world.fetch(asleep.url_6006) == "a model"
        serving.send_signal(signal.SIGTERM)  # a terminal would tell both it and ssh; this it passes on
        serving.communicate()
    world.until(lambda: not any(each.is_ready for each in world.live(uuid)), "what was run by hand has ended")

    reader.edit()
    reader.succeed("muster apply -y -f asr.yml")
    reader.succeed("muster rollout status asr -w")
    assert not reader.commands, "that was all"
    (mended,) = world.until_ready(uuid, 1)
    assert (mended.version, world.fetch(mended.url_6006)) == ("v3", "a model")
    assert_legal(world.events())


@pytest.mark.slow
def test_on_the_local_engine_it_is_the_same(world: World) -> None:
    def apply(cmd: str) -> str:
        file = f"name: asr\nimage: local\nservice: {{health_check: {{path: /healthz}}}}\ncmd: {cmd}\n"
        return str(world.listed("apply", "-y", "-f", "-", stdin=file)["deployment_uuid"])

    uuid = apply("echo no model >&2; exit 1")
    until_it_waits(world, uuid)
    assert world.cli("logs", "asr") == "no model\n"

    assert apply("sleep infinity") == uuid
    asleep = until_started(world, uuid, "v2")
    assert_made_at_once(world, asleep)
    assert world.cli("ssh", "asr", "--", "echo $MUSTER_VERSION_NAME") == "v2\n"
    assert world.cli("exec", "asr", "--", "sh", "-c", "echo $MUSTER_VERSION_NAME") == "v2\n"
    world.until(lambda: words_of(world, asleep) == [["sleep", "infinity"]], "nothing else is left in it")

    apply(SERVE)
    world.cli("rollout", "status", "asr", "-w")
    assert [each.version for each in world.until_ready(uuid, 1)] == ["v3"]
    assert_legal(world.events())


def until_it_waits(world: World, uuid: str) -> None:
    """Wait until enough containers have died that the next would not start for a while."""
    world.until(lambda: len(ended(world, uuid)) >= DEATHS, f"{DEATHS} deaths")


def ended(world: World, uuid: str) -> list[Container]:
    """Return containers that are over, oldest first."""
    return [each for each in world.ask(lambda client: client.containers_of(uuid)) if each.status == "shutdown"]


def until_started(world: World, uuid: str, version: str) -> Container:
    """Wait for a container of that version that runs, and is the only one; returns it."""

    def found() -> Container | None:
        live = world.live(uuid)
        is_alone = [(each.version, each.status) for each in live] == [(version, "running")]
        return live[0] if is_alone else None

    return world.until(found, f"one container of {version}")


def words_of(world: World, container: Container) -> list[list[str]]:
    """Return the words of each process of a container."""
    pids = world.pids().get(container.uuid, set())
    return [words for pid, words in world.command_lines() if pid in pids]


def assert_made_at_once(world: World, asleep: Container) -> None:
    """See that the edit began the count anew: had it not, the pause after the last death would have gone before."""
    before = ended(world, asleep.deployment_uuid)
    last = before[-1].stopped_at
    assert last is not None
    pause_seconds = 2.0 ** (len(before) - 1)  # 1, 2, 4, 8; and 16 if all this took so long that one more has died
    assert (asleep.created_at - last).total_seconds() < pause_seconds
