"""What `scripts/servers ensure` does on machines that lack Redis and etcd: install them, and start nothing.

The machine is a folder of stand-ins that is all of PATH; what the real one has in its sbin folders is found too, and
changes nothing here.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "servers"
TOOLS = ("sh", "sort", "tr", "mktemp", "rm", "tail", "chmod", "kill")
PROGRAMS = (
    *("redis-server", "redis-cli", "etcd", "etcdctl", "nginx", "haproxy"),
    *("ssh", "scp", "sftp", "sshpass", "rsync"),
)


class Machine:
    """A PATH of its own, and a policy file of its own."""

    def __init__(self, folder: Path, *, user: int = 0) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool) or tool)
        self.calls = folder / "calls"
        self.calls.touch()
        self.policy = folder / "policy-rc.d"
        self.write("id", f"echo {user}")
        self.write("apt-cache", "exit 0")
        self.apt_get()

    def apt_get(self, *then: str) -> None:
        """Make an apt-get that notes how it is called and what the policy says to it, installs, and does ``then``."""
        install = f"for each in {' '.join(PROGRAMS)}; do echo >{self.bin}/$each; chmod +x {self.bin}/$each; done"
        asks = f'if [ -x {self.policy} ]; then {self.policy}; echo "policy $?"; fi >>{self.calls}'
        self.write("apt-get", f'echo "$@" >>{self.calls}', f"case $* in *install*) {asks}; {install};; esac", *then)

    def write(self, name: str, *lines: str) -> None:
        """Make a stand-in."""
        file = self.bin / name
        file.write_text("\n".join(("#!/bin/sh", *lines, "")))
        file.chmod(0o755)

    def ensure(self) -> "subprocess.CompletedProcess[str]":
        """Run the script on it."""
        return subprocess.run(
            [SCRIPT, "ensure"],
            env={"PATH": str(self.bin), "TMPDIR": str(self.bin), "MUSTER_POLICY_RC": str(self.policy)},
            capture_output=True,
            text=True,
            check=False,
        )


def test_what_is_missing_is_installed_once_and_started_never(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    first, second = machine.ensure(), machine.ensure()
    assert (first.returncode, second.returncode) == (0, 0)
    assert "etcd-client etcd-server" in first.stdout
    assert "redis-server redis-tools" in first.stdout
    assert second.stdout + second.stderr == ""
    call, policy = machine.calls.read_text().splitlines()
    assert call.startswith("install -qq --no-install-recommends ")
    assert policy == "policy 101", "Debian's word for: no service may be started"
    assert not machine.policy.exists(), "what is installed later is not ours to forbid"


@pytest.mark.parametrize("signal", ["HUP", "INT", "TERM"])
def test_a_script_that_is_ended_leaves_no_policy_behind(tmp_path: Path, signal: str) -> None:
    machine = Machine(tmp_path)
    machine.apt_get(f"kill -{signal} $PPID")
    assert machine.ensure().returncode != 0
    assert "policy 101" in machine.calls.read_text()
    assert not machine.policy.exists()


def test_a_policy_that_was_there_stays(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.policy.write_text("#!/bin/sh\nexit 104\n")
    machine.policy.chmod(0o755)
    assert machine.ensure().returncode == 0
    assert machine.policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_what_cannot_be_installed_is_told_with_what_apt_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("apt-get", f'echo "$1" >>{machine.calls}', "echo no space left", "exit 100")
    said = machine.ensure()
    assert said.returncode == 1
    assert "no space left" in said.stderr
    assert "cannot install" in said.stderr
    assert machine.calls.read_text().split() == ["install", "update"], "old lists are no reason to give up"
    assert not machine.policy.exists()


@pytest.mark.parametrize("lacks", ["root", "apt-get"])
def test_elsewhere_one_line_says_what_to_install(tmp_path: Path, lacks: str) -> None:
    machine = Machine(tmp_path, user=1000 if lacks == "root" else 0)
    if lacks == "apt-get":
        machine.bin.joinpath("apt-get").unlink()
    said = machine.ensure()
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1)
    assert "redis-server" in said.stderr
    assert machine.calls.read_text() == ""
