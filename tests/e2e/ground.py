"""One ground for tests that hold on every engine: a world, its image, and a folder that containers and test share.

In: a folder and, for Docker, a daemon. Out: ``file``, a deployment's file for this engine, and ``shared``, which is
written ``{shared}`` in its command: there a test reads what containers did, and puts what they wait for.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.client import Container, Event
from tests.docker.daemon import Daemon
from tests.e2e.docker_world import ADMIN_FILES, IMAGE, DockerWorld
from tests.e2e.world import World

CLAIMS = "SELECT count(*) FROM gpu_claims"
_FILE = """
name: {name}
type: {type}
replicas: {replicas}
image: {image}
gpu: RTX 4090
data_centers: [{data_centers}]
service: {{health_check: none}}
cmd: |
{cmd}
"""


@dataclass(frozen=True)
class Ground:
    """A world that is up, and how its containers are told of what they share with the test."""

    world: World
    image: str
    shared: Path
    seen: str
    """The shared folder as containers see it."""

    def apply(self, name: str, cmd: str, *, kind: str = "replicaset", replicas: int = 1, more: str = "") -> str:
        """Apply a deployment's file of lines ``more`` beside these; returns its uuid."""
        file = _FILE.format(
            name=name,
            type=kind,
            replicas=replicas,
            image=self.image,
            data_centers=ADMIN_FILES.parts[0],
            cmd=textwrap.indent(self.told(cmd), "  "),
        )
        created = self.world.listed("apply", "-y", "-f", "-", stdin=file + self.told(more))
        return str(created["deployment_uuid"])

    def told(self, text: str) -> str:
        """Return a text with the shared folder's name in it."""
        return text.replace("{shared}", self.seen)

    def all_of(self, deployment_uuid: str) -> list[Container]:
        """Return all containers, oldest first."""
        return self.world.ask(lambda client: client.containers_of(deployment_uuid))

    def row(self, name: str) -> Any:
        """Return what ``muster ps -a`` tells of a deployment."""
        return next(each for each in self.world.listed("ps", "-a") if each["name"] == name)

    def until_stopped(self, name: str) -> Any:
        """Wait until a deployment has come to its end and so have its containers; returns its row."""

        def row() -> Any:
            found = self.row(name)
            is_over = all(each.status == "shutdown" for each in self.all_of(found["uuid"]))
            return found if found["status"] == "stopped" and is_over else None

        return self.world.until(row, f"{name} is stopped")

    def until_nothing_runs(self) -> None:
        """Wait until the kernel or Docker has no command of a container, and nobody holds a GPU."""
        world = self.world
        runs = world.running if isinstance(world, DockerWorld) else world.commands
        world.until(lambda: not runs() and world.rows(CLAIMS) == [(0,)], "nothing runs")

    def objects(self) -> list[str]:
        """Return all that is left of containers, running or not."""
        if isinstance(self.world, DockerWorld):
            boxes = [box.container_id for box in self.world.boxes()]
            return [*boxes, *self.world.copied_images(), *self.world.folders()]
        return [path.name for path in (self.world.home / "containers").glob("[!.]*") if path.is_dir()]

    def lines(self, name: str) -> list[str]:
        """Return what containers wrote into a file of the shared folder."""
        path = self.shared / name
        return path.read_text().splitlines() if path.exists() else []


def local_ground(folder: Path, **settings: str) -> Ground:
    """Return the ground of a world of processes, not up yet."""
    world = World(folder)
    world.environ |= settings
    return Ground(world, "local", world.user, str(world.user))


def docker_ground(folder: Path, daemon: Daemon, **settings: str) -> Ground:
    """Return the ground of a world on Docker, not up yet."""
    world = DockerWorld(folder, daemon)
    world.environ |= settings
    return Ground(world, IMAGE, world.files, "/root/autodl-fs")


def most_at_once(events: Iterable[Event], end: str = "shutdown") -> int:
    """Return how many containers there were at most, each from its first event to ``end`` or the last one."""
    there: set[str] = set()
    most = 0
    for event in events:
        if event.status in (end, "shutdown"):
            there.discard(event.container_uuid)
        else:
            there.add(event.container_uuid)
            most = max(most, len(there))
    return most
