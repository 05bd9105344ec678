"""What the demo deploys on each engine: which image, which command, and how a container's process is found.

On the local engine the service is this very Python; on Docker it is Debian's, in an image made on the spot, and the
script comes from the shared file storage, as on AutoDL: static things in the image, code beside it.
"""

import contextlib
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from muster.client import Client
from muster.config import Settings
from muster.model.image import LOCAL_IMAGE

SERVICE = Path(__file__).with_name("service.py")
DATA_CENTERS = ("lab-a", "lab-b")
REFERENCE = "muster-demo/digits:1"
_LOAD_SECONDS = 300.0


class Target(Protocol):
    """One engine, as the demo needs to know it."""

    engine: str

    def prepare(self, client: Client) -> tuple[str, str]:
        """Make what the service needs; returns the image's uuid and the command."""
        ...

    def leftovers(self, installation: str) -> list[str]:
        """Return what the engine still holds of an installation."""
        ...


class Local:
    """Plain processes of this host."""

    engine = "local"

    def prepare(self, client: Client) -> tuple[str, str]:
        """Nothing to make."""
        del client
        return LOCAL_IMAGE, f"exec {shlex.quote(sys.executable)} {shlex.quote(str(SERVICE))}"

    def leftovers(self, installation: str) -> list[str]:
        """Return nothing: processes are looked for by their home."""
        del installation
        return []


class Docker:
    """The Docker Engine of this host."""

    engine = "docker"

    def __init__(self) -> None:
        url = Settings().docker_url
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=url.removeprefix("unix://")), base_url="http://docker", timeout=60
        )

    def prepare(self, client: Client) -> tuple[str, str]:
        """Load the image into Docker, name it, and put the script where all containers see it."""
        if self._http.get(f"/images/{REFERENCE}/json").status_code == httpx.codes.NOT_FOUND:
            self._load()
        image = client.add_image("digits", REFERENCE).image
        for data_center in DATA_CENTERS:
            client.write_file("/digits/service.py", SERVICE.read_bytes(), data_center=data_center)
        return image.uuid, "exec python3 /root/autodl-fs/digits/service.py"

    def leftovers(self, installation: str) -> list[str]:
        """Return containers and networks with the installation's label."""
        filters = f'{{"label":["muster.installation={installation}"]}}'
        containers = self._http.get("/containers/json", params={"all": "1", "filters": filters}).json()
        networks = self._http.get("/networks", params={"filters": filters}).json()
        return [f"container {each['Names'][0]}" for each in containers] + [
            f"network {each['Name']}" for each in networks
        ]

    def _load(self) -> None:
        from tests.docker.python_image import python  # noqa: PLC0415  only this engine needs an image

        with tempfile.NamedTemporaryFile() as archive:
            python().write_archive(Path(archive.name), REFERENCE)
            with Path(archive.name).open("rb") as content:
                self._http.post("/images/load", content=content, timeout=_LOAD_SECONDS).raise_for_status()


def process_of(container_uuid: str) -> int:
    """Return the process of this host that serves for a container."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_service = any(word.endswith(SERVICE.name) for word in process.cmdline())
            if is_service and process.environ().get("MUSTER_CONTAINER_UUID") == container_uuid:
                return process.pid
    raise ProcessLookupError(f"no process serves for {container_uuid}")


def target(engine: str) -> Target:
    """Return the target of that name."""
    return Docker() if engine == Docker.engine else Local()


def create_body(name: str, replica_num: int, image_uuid: str, cmd: str) -> dict[str, Any]:
    """Return AutoDL's create body for the service."""
    return {
        "name": name,
        "deployment_type": "ReplicaSet",
        "replica_num": replica_num,
        "container_template": {
            "dc_list": list(DATA_CENTERS),
            "gpu_name_set": ["RTX 4090", "RTX 3090"],
            "gpu_num": 1,
            "cuda_v_from": 118,
            "cuda_v_to": 128,
            "cpu_num_from": 1,
            "cpu_num_to": 64,
            "memory_size_from": 1,
            "memory_size_to": 256,
            "price_from": 10,
            "price_to": 9000,
            "image_uuid": image_uuid,
            "cmd": cmd,
            "env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        },
        "service": {"health_check": {"port": 6006, "path": "/healthz"}},
    }
