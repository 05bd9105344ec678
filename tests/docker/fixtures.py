"""What a test with Docker is given, and what its marker means; ``tests/conftest.py`` makes both known everywhere.

``@pytest.mark.docker`` stands for three things: the test is ``slow``; it may connect to the addresses of containers
beside loopback; and it needs the programs that ``scripts/docker ensure`` installs. Where they are missing it is skipped
with that advice, but in CI it fails: a test that is silently left out proves nothing.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.docker import gpu, images
from tests.docker.daemon import NETWORKS, Daemon, close_abandoned
from tests.docker.python_image import python
from tests.docker.registry import Registry

BUSYBOX = "busybox:test"
BASH = "bash:test"
PYTHON = "python:test"
_PROGRAMS = ("dockerd", "docker", "containerd", "docker-init", "docker-registry", "iptables", "busybox", "debootstrap")
_HOSTS = ["127.0.0.1", "::1", str(NETWORKS)]

OwnDaemon = Callable[..., Daemon]


@pytest.hookimpl(tryfirst=True)  # before ``-m "not slow"`` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test with Docker the marks that follow from it."""
    for item in items:
        if item.get_closest_marker("docker"):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.allow_hosts(_HOSTS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a test with Docker on a machine without it."""
    if item.get_closest_marker("docker") and (lack := _lack()):
        if os.environ.get("CI"):
            pytest.fail(lack, pytrace=False)
        pytest.skip(lack)


@pytest.fixture(scope="session")
def _gpu_hook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    close_abandoned()  # before the first daemon of this run
    return gpu.write_hook(tmp_path_factory.mktemp("hook"))


@pytest.fixture(scope="session")
def _shared_daemon(_gpu_hook: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(live_restore=True, path=[_gpu_hook]) as daemon:
        _give_images(daemon, tmp_path_factory.mktemp("images"))
        yield daemon


@pytest.fixture
def docker_daemon(_shared_daemon: Daemon) -> Iterator[Daemon]:
    """Give the daemon that all quiet tests share, without containers and networks; it is emptied afterwards."""
    yield _shared_daemon
    _shared_daemon.clear()


@pytest.fixture
def own_daemon(_gpu_hook: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnDaemon]:
    """Give a function that starts a daemon with images for this test alone; all of them are closed afterwards."""
    with ExitStack() as stack:

        def start(**options: Any) -> Daemon:
            daemon = stack.enter_context(Daemon(**{"path": [_gpu_hook], **options}))
            _give_images(daemon, tmp_path_factory.mktemp("images"))
            return daemon

        yield start


@pytest.fixture(scope="session")
def python_image(_shared_daemon: Daemon) -> str:
    """Give the name of an image with Debian and Python in the shared daemon; the first time ever takes a minute."""
    _shared_daemon.load(python(), PYTHON)
    return PYTHON


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Give an empty registry without a password."""
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def _give_images(daemon: Daemon, folder: Path) -> None:
    daemon.load(images.busybox(folder), BUSYBOX)
    daemon.load(images.bash(folder), BASH)


def _lack() -> str:
    """Say why this process cannot run real containers; empty if it can."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        return f"no {', '.join(missing)} on this machine: run `scripts/docker ensure`"
    return "" if os.geteuid() == 0 else "a daemon of a test's own needs root"
