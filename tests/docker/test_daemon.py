"""The daemon of tests: it does what tests rely on, however it is ended, and leaves nothing."""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.docker import gpu, images, remains
from tests.docker.daemon import Daemon, close_abandoned
from tests.docker.fixtures import BASH, BUSYBOX, OwnDaemon
from tests.docker.registry import Registry

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
SLEEP = ("--detach", "--init", BUSYBOX, "sleep", "1000")
LISTENS = "until nc 127.0.0.1 6006 </dev/null; do :; done"
ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"


def run(daemon: Daemon, *words: str) -> str:
    return daemon.docker("run", *words)


def test_a_container_runs_and_is_gone_afterwards(docker_daemon: Daemon) -> None:
    assert run(docker_daemon, "--rm", BUSYBOX, "echo", "hello") == "hello"
    assert run(docker_daemon, "--rm", "--init", BASH, "bash", "-c", "words=(hello); echo ${words[0]}") == "hello"


def test_a_container_is_reached_by_its_address(docker_daemon: Daemon) -> None:
    docker_daemon.docker("network", "create", "tenant")
    serve = "echo hello >index.html; exec httpd -f -p 6006"
    container = run(docker_daemon, "--detach", "--network", "tenant", "--workdir", "/tmp", BUSYBOX, "sh", "-c", serve)
    address = docker_daemon.docker("inspect", "--format", ADDRESS, container)
    docker_daemon.docker("exec", container, "sh", "-c", LISTENS)
    with urllib.request.urlopen(f"http://{address}:6006/", timeout=5) as answer:
        assert answer.read() == b"hello\n"


def test_containers_outlive_a_daemon_that_restores_them(own_daemon: OwnDaemon) -> None:
    daemon = own_daemon(live_restore=True)
    container = run(daemon, *SLEEP)
    for end in (daemon.kill, daemon.stop):
        end()
        assert not daemon.answers()
        daemon.start()
        assert daemon.docker("exec", container, "echo", "alive") == "alive"
    daemon.pause()
    assert not daemon.answers()
    daemon.resume()
    assert daemon.docker("exec", container, "echo", "alive") == "alive"


def test_containers_end_with_a_daemon_that_does_not(own_daemon: OwnDaemon) -> None:
    daemon = own_daemon()
    run(daemon, *SLEEP)
    daemon.kill()
    daemon.start()
    assert daemon.docker("ps", "--quiet") == ""


def test_nothing_is_left_of_a_daemon_that_was_killed(own_daemon: OwnDaemon) -> None:
    daemon = own_daemon(live_restore=True)
    daemon.docker("network", "create", "tenant")
    run(daemon, "--network", "tenant", *SLEEP)
    daemon.kill()
    assert "sleep" in {process.name() for process in remains.processes(daemon.folder, daemon.cgroup)}
    assert remains.mounts(daemon.folder)
    daemon.close()
    assert remains.processes(daemon.folder, daemon.cgroup) == []
    assert remains.mounts(daemon.folder) == []
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{daemon.cgroup}"))
    assert not daemon.folder.exists()


def test_two_daemons_side_by_side_keep_tenants_apart(docker_daemon: Daemon, own_daemon: OwnDaemon) -> None:
    for daemon in (own_daemon(), docker_daemon):
        containers = []
        for tenant in ("a", "b"):
            daemon.docker("network", "create", tenant)
            serve = ("nc", "-ll", "-p", "6006", "-e", "echo", "hello")
            containers.append(run(daemon, "--detach", "--init", "--network", tenant, BUSYBOX, *serve))
        address = daemon.docker("inspect", "--format", ADDRESS, containers[0])
        daemon.docker("exec", containers[0], "sh", "-c", LISTENS)
        ask = ("nc", "-w", "2", address, "6006")
        assert run(daemon, "--rm", "--network", "a", BUSYBOX, *ask) == "hello"
        with pytest.raises(RuntimeError):
            run(daemon, "--rm", "--network", "b", BUSYBOX, *ask)


def test_a_disk_that_is_too_small_is_full(own_daemon: OwnDaemon) -> None:
    daemon = own_daemon(disk_bytes=100 << 20)
    with pytest.raises(RuntimeError, match="No space left on device"):
        run(daemon, "--rm", BUSYBOX, "dd", "if=/dev/zero", "of=/fill", "bs=1M", "count=200")


def test_a_pull_needs_the_password_and_is_counted(own_daemon: OwnDaemon, tmp_path: Path) -> None:
    daemon = own_daemon()
    image = images.sized(tmp_path, images.busybox(tmp_path), [1 << 20, 1 << 20])
    with Registry(tmp_path, user="tenant", password="secret") as registry:
        reference = registry.push(image, "team/app:1")
        with pytest.raises(RuntimeError, match="no basic auth credentials"):
            daemon.docker("pull", reference)
        daemon.docker("login", "--username", "tenant", "--password", "secret", registry.host)
        daemon.docker("pull", reference)
        layers = [layer.digest for layer in image.layers[1:]]
        deadline = time.monotonic() + 20
        while not set(layers) <= registry.downloads("team/app").keys() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [registry.downloads("team/app")[each] for each in layers] == [1, 1]
        assert registry.digest("team/app:1") in daemon.docker("images", "--digests")
        registry.push(images.busybox(tmp_path), "team/app:1")
        assert registry.digest("team/app:1") not in daemon.docker("images", "--digests")


def test_a_container_sees_the_gpus_that_it_was_given_and_no_other(docker_daemon: Daemon) -> None:
    assert run(docker_daemon, "--rm", "--gpus", '"device=1,3"', BUSYBOX, "cat", gpu.VISIBLE) == "1,3"
    with pytest.raises(RuntimeError, match="No such file"):
        run(docker_daemon, "--rm", BUSYBOX, "cat", gpu.VISIBLE)


@pytest.mark.timeout(600)
def test_the_python_image_runs_python(docker_daemon: Daemon, python_image: str) -> None:
    assert run(docker_daemon, "--rm", python_image, "python3", "-c", "print(sum(range(5)))") == "10"


def test_a_daemon_whose_owner_died_is_closed_by_the_next_one(own_daemon: OwnDaemon) -> None:
    script = (
        "import os; from tests.docker.daemon import Daemon; print(Daemon().__enter__().folder, flush=True); os._exit(1)"
    )
    died = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    folder = Path(died.stdout.strip())
    mine = own_daemon()
    assert remains.processes(folder, f"muster-{folder.name}")
    close_abandoned()
    assert remains.processes(folder, f"muster-{folder.name}") == []
    assert not folder.exists()
    assert mine.docker("ps", "--quiet") == "", "the daemons of the living are left alone"
