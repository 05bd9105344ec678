"""A Muster of a test's own on a Docker daemon of a test's own: the same commands, and eyes on what Docker really has.

In: a folder, a started ``Daemon``, and machines to declare (TOML), or the usual fleet of faked ones. Out: all that a
``World`` has, and ``boxes``: the installation's containers as Docker tells of them, found by label alone.

``close`` types ``muster down --purge`` and then looks whether anything of the installation is left in Docker or in the
home: containers, networks, copied images, folders. The daemon must answer by then.
"""

import datetime
import json
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.client import Container
from muster.engine.docker.observe import parse_time
from muster.engine.docker.reuse import COPY_REPOSITORY
from muster.engine.docker.spec import COPY_IMAGE, FOLDER, INSTALLATION
from muster.processes.engines import DOCKER_OBJECTS
from muster.processes.storage import FILES
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BASH
from tests.e2e.world import FLEET, World

HOST = """
[[machines]]
gpu_name = "RTX 4090"
gpu_num = {gpus}
data_center = "lab-a"
devices = [{devices}]
"""
IMAGE = "bash"
ADMIN_FILES = Path("lab-a", "1")
"""Where the admin's containers in that data center have their shared folder, below the storage's root."""
_UNRELEASED = "SELECT id FROM containers WHERE machine_id IS NOT NULL AND released_at IS NULL"


def host_of(gpus: int) -> str:
    """Declare a machine whose GPUs are the daemon's stand-ins, by index."""
    return HOST.format(gpus=gpus, devices=", ".join(f'"{index}"' for index in range(gpus)))


@dataclass(frozen=True)
class Box:
    """A container as Docker has it: whose object it is by its name, and ``inspect``'s answer."""

    docker_id: str
    container_id: str
    info: Mapping[str, Any]

    @property
    def is_running(self) -> bool:
        """Whether a command of it runs."""
        return bool(self.info["State"]["Running"])

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return str(self.info["Config"]["Labels"][FOLDER])

    @property
    def copied_image(self) -> str:
        """The image that it was copied by; empty if it was not copied."""
        return str(self.info["Config"]["Labels"][COPY_IMAGE])

    @property
    def started_at(self) -> datetime.datetime:
        """When its latest run began."""
        return parse_time(self.info["State"]["StartedAt"])

    def overlaps(self, other: "Box") -> bool:
        """Tell whether its latest run and another's were there at one time."""
        began_last, first = (other, self) if self.started_at < other.started_at else (self, other)
        return first.is_running or parse_time(first.info["State"]["FinishedAt"]) > began_last.started_at

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that Docker gives it."""
        requests = self.info["HostConfig"]["DeviceRequests"] or []
        return tuple(device for each in requests for device in each["DeviceIDs"])


class DockerWorld(World):
    """One home whose containers are Docker's; ``machines`` is declared in place of the faked fleet."""

    def __init__(self, folder: Path, daemon: Daemon, machines: str = "") -> None:
        super().__init__(folder)
        self.daemon = daemon
        self.words = ("--engine", "docker") if machines else ("--engine", "docker", "--fake-gpus", FLEET)
        self.environ |= {"DOCKER_HOST": daemon.url, "MUSTER_FULL_PASS_SECONDS": "1", "MUSTER_KEEP_FREE_GB": "0"}
        self.home.mkdir()
        (self.home / "muster.toml").write_text(machines)

    # What a person and a program do.

    def up(self, *words: str, verb: str = "ready") -> Any:
        """Type ``muster up``, and give the image of the tests its name."""
        process = super().up(*words, verb=verb)
        if not self.listed("image", "ls"):
            self.cli("image", "add", "--base", IMAGE, BASH)
        return process

    def apply(self, file: str) -> str:
        """Apply a deployment's file; returns its uuid."""
        uuid = self.listed("apply", "-y", "-f", "-", stdin=file)["deployment_uuid"]
        assert isinstance(uuid, str)
        return uuid

    def ended(self, deployment_uuid: str) -> list[Container]:
        """Return containers that are over, oldest first."""
        found = self.ask(lambda client: client.containers_of(deployment_uuid))
        return [each for each in found if each.status == "shutdown"]

    # What is really there.

    @property
    def installation(self) -> str:
        """What the labels say."""
        return (self.home / "installation").read_text().strip()

    @property
    def files(self) -> Path:
        """What the admin's containers in lab-a see at /root/autodl-fs."""
        return self.home / FILES / ADMIN_FILES

    def boxes(self) -> list[Box]:
        """Return every container of the installation, also ended ones and what nobody should have left."""
        ids = self._listed("ps", "--all", "--quiet", "--no-trunc")
        found = []
        for docker_id in ids:
            try:
                info = json.loads(self.daemon.docker("inspect", docker_id))[0]
            except RuntimeError as error:
                if "No such" not in str(error):  # it has just been removed
                    raise
            else:
                found.append(Box(docker_id, info["Name"].removeprefix(f"/muster-{self.installation[:8]}-"), info))
        return found

    def running(self) -> list[Box]:
        """Return those in which a command runs."""
        return [box for box in self.boxes() if box.is_running]

    def uuids(self, boxes: list[Box]) -> set[str]:
        """Return what the database calls them."""
        names = dict(self.rows("SELECT id, uuid FROM containers"))
        return {names[box.container_id] for box in boxes}

    def unreleased(self) -> set[str]:
        """Return the ids of containers that the database says have something in Docker."""
        return {container_id for (container_id,) in self.rows(_UNRELEASED)}

    def folders(self) -> set[str]:
        """Return the folders of the engine's objects."""
        objects = self.home / DOCKER_OBJECTS / "objects"
        return {path.name for path in objects.iterdir()} if objects.exists() else set()

    def fetch(self, url: str) -> str:
        """Ask a container at its address."""
        with urllib.request.urlopen(url, timeout=10, context=self.trust()) as answer:
            return str(answer.read().decode()).strip()

    def left(self) -> list[str]:
        """Return all that Docker and the home have of the installation's containers."""
        names = [f"{box.info['Name']} ({box.info['State']['Status']})" for box in self.boxes()]
        names += self._listed("network", "ls", "--format", "network {{.Name}}")
        return [*names, *self.copied_images(), *sorted(self.folders())]

    def copied_images(self) -> list[str]:
        """Return the images that copies of containers were made from."""
        return self.daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}", COPY_REPOSITORY).split()

    def read_file(self, box: Box, path: str) -> str | None:
        """Return what a container has in a file, running or not; ``None`` if it has no such file."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.daemon.docker("cp", f"{box.docker_id}:{path}", f"{folder}/file")
            except RuntimeError as error:
                if "Could not find the file" not in str(error):
                    raise
                return None
            return Path(folder, "file").read_text()

    def _listed(self, *words: str) -> list[str]:
        return self.daemon.docker(*words, "--filter", f"label={INSTALLATION}={self.installation}").splitlines()

    # The end.

    def close(self) -> None:
        """End everything; fails if anything is left in Docker or on the host."""
        self.remember_ports()
        purged = self.run("down", "--purge")
        left = self.left() if (self.home / "installation").exists() else []
        try:
            if purged.code != 0 or left:
                self.daemon.clear()
        finally:
            super().close()
        assert purged.code == 0, f"{purged}\n{self.said()}"
        assert not left, f"left behind: {left}"
