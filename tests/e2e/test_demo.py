"""The demo as a newcomer runs it: it keeps its promises, says so, and leaves nothing behind, also after Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.digits.target import REFERENCE
from muster.testing.belonging import processes_of
from tests.docker.daemon import Daemon

ROOT = Path(__file__).parents[2]


def start(folder: Path, *words: str, **environ: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **environ}
    command = [sys.executable, "-m", "examples.digits.demo", *words]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def mentions(folder: Path) -> list[str]:
    """Return the processes that have to do with a folder."""
    return [str(process) for process in processes_of(folder)]


@pytest.mark.slow
def test_the_demo_keeps_its_promises_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as demo:
        check(demo, tmp_path)


@pytest.mark.docker
def test_the_demo_on_docker_does_too(tmp_path: Path, docker_daemon: Daemon, python_image: str) -> None:
    docker_daemon.docker("tag", python_image, REFERENCE)
    with start(tmp_path, "--engine", "docker", DOCKER_HOST=docker_daemon.url) as demo:
        check(demo, tmp_path)
    assert docker_daemon.docker("ps", "-aq") == ""


def check(demo: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait for the end of a demo, and see that it was a good one."""
    output, _ = demo.communicate()
    assert demo.returncode == 0, output
    assert "PASSED" in output
    assert re.search(r"0 of \d+ failed", output)
    assert "left behind: nothing" in output
    assert "\x1b" not in output, "colours on what is no terminal"
    assert mentions(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("when", ["ready, in", "1,797 images"])
def test_ctrl_c_leaves_nothing_either(tmp_path: Path, when: str) -> None:
    with start(tmp_path) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if when in line:
                break
        demo.send_signal(signal.SIGINT)
        demo.communicate()
    assert demo.returncode == 130
    deadline = time.monotonic() + 30
    while (left := mentions(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert list(tmp_path.iterdir()) == []
