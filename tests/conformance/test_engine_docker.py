"""The Docker engine keeps the engine's promises, with real containers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.engine.docker.engine import DockerEngine
from muster.engine.docker.spec import Storage
from muster.model.reference import SAVED_REGISTRY
from muster.testing.conformance.access import AccessConformance
from muster.testing.conformance.engine import EngineConformance, OpenEngine
from muster.testing.conformance.files import FilesConformance
from muster.testing.conformance.images import ImageConformance
from muster.testing.conformance.reuse import ReuseConformance
from tests.docker.daemon import Daemon
from tests.docker.fixtures import BUSYBOX


@pytest.mark.docker
class TestDockerEngine(AccessConformance, FilesConformance, ImageConformance, ReuseConformance, EngineConformance):
    shares_pids = False

    def inside(self, path: Path) -> str:
        return f"/root/autodl-fs/{path.name}"

    @pytest.fixture
    def open_engine(self, docker_daemon: Daemon, tmp_path: Path) -> Iterator[OpenEngine]:
        docker_daemon.docker("tag", BUSYBOX, "local")

        def open_engine(name: str) -> DockerEngine:
            return DockerEngine(
                docker_daemon.url,
                installation=f"{name}-{tmp_path.name}",
                root=tmp_path / "roots" / name,
                storage_of=lambda *_: Storage(shared=tmp_path),
            )

        yield open_engine
        docker_daemon.clear()
        if saved := docker_daemon.docker("images", "--quiet", f"{SAVED_REGISTRY}/*/*").split():
            docker_daemon.docker("rmi", "--force", *saved)
