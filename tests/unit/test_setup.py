"""What `scripts/setup` says on a machine that lacks something: one line with what to install, and nothing done."""

import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts" / "setup"


def python_that(folder: Path, *lines: str) -> Path:
    """Write a stand-in for an interpreter."""
    stub = folder / "python"
    stub.write_text("\n".join(("#!/bin/sh", *lines, "")))
    stub.chmod(0o755)
    return stub


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['case "$2" in *ensurepip*) exit 1;; esac'], "apt-get install python3-venv"),
        (['case "$2" in *version_info*) exit 1;; esac', "echo Python 3.9.2"], "Python 3.11 or newer, Python 3.9.2"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path: Path, lines: list[str], said: str) -> None:
    python = python_that(tmp_path, *lines)
    ran = subprocess.run(
        [SETUP, tmp_path / "venv", "dev"],
        env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


def test_a_machine_without_python_is_told_so(tmp_path: Path) -> None:
    env = {"PYTHON": str(tmp_path / "none"), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([SETUP, tmp_path / "venv", "dev"], env=env, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "apt-get install python3 python3-venv" in ran.stderr
