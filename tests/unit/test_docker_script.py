"""What `scripts/docker ensure` does on machines that lack Docker: install it where it can, say what to do elsewhere.

The machine is a folder of stand-ins that is all of PATH; what the real one has in its sbin folders is found too, and
changes nothing here.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "docker"
TOOLS = ("sh", "sort", "tr", "mktemp", "rm", "tail", "touch", "chmod")
PROGRAMS = ("docker", "dockerd", "docker-init", "containerd", "iptables", "docker-registry", "busybox", "debootstrap")


class Machine:
    """A PATH of its own."""

    def __init__(self, folder: Path, *, user: int = 0, knows: str = "docker.io") -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool) or tool)
        self.calls = folder / "calls"
        self.calls.touch()
        self.write("id", f"echo {user}")
        self.write("apt-cache", f'[ "$2" = {knows} ]')
        install = f"for each in {' '.join(PROGRAMS)}; do echo >{self.bin}/$each; chmod +x {self.bin}/$each; done"
        self.write("apt-get", f'echo "$@" >>{self.calls}', f"case $* in *install*) {install};; esac")

    def write(self, name: str, *lines: str) -> None:
        """Make a stand-in."""
        file = self.bin / name
        file.write_text("\n".join(("#!/bin/sh", *lines, "")))
        file.chmod(0o755)

    def ensure(self) -> "subprocess.CompletedProcess[str]":
        """Run the script on it."""
        return subprocess.run(
            [SCRIPT, "ensure"],
            env={"PATH": str(self.bin), "TMPDIR": str(self.bin)},
            capture_output=True,
            text=True,
            check=False,
        )


def test_what_is_missing_is_installed_once_and_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    first, second = machine.ensure(), machine.ensure()
    assert (first.returncode, second.returncode) == (0, 0)
    assert "installing busybox-static" in first.stdout
    assert "docker.io" in first.stdout
    assert second.stdout + second.stderr == ""
    (call,) = machine.calls.read_text().splitlines()
    assert call.startswith("install -qq --no-install-recommends ")


def test_lists_that_were_never_fetched_are_fetched_first(tmp_path: Path) -> None:
    machine = Machine(tmp_path, knows="nothing")
    assert machine.ensure().returncode == 0
    assert [call.split()[0] for call in machine.calls.read_text().splitlines()] == ["update", "install"]


def test_the_client_is_installed_where_it_is_a_package_of_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path, knows="docker-cli")
    assert "docker-cli" in machine.ensure().stdout


def test_what_cannot_be_installed_is_told_with_what_apt_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("apt-get", f'echo "$1" >>{machine.calls}', "echo no space left", "exit 100")
    said = machine.ensure()
    assert said.returncode == 1
    assert "no space left" in said.stderr
    assert "cannot install" in said.stderr
    assert machine.calls.read_text().split() == ["install", "update"], "old lists are no reason to give up"


@pytest.mark.parametrize("lacks", ["root", "apt-get"])
def test_elsewhere_one_line_says_what_to_install(tmp_path: Path, lacks: str) -> None:
    machine = Machine(tmp_path, user=1000 if lacks == "root" else 0)
    if lacks == "apt-get":
        machine.bin.joinpath("apt-get").unlink()
    said = machine.ensure()
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1)
    assert "docker.io" in said.stderr
    assert "docker-registry" in said.stderr
    assert machine.calls.read_text() == ""
