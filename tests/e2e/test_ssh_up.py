"""The SSH gateway of ``muster up``: one login from the API to the ended container, also while the server is dead."""

import shutil
import subprocess
from pathlib import Path

import pytest

from muster.ssh.hostkey import HOST_KEY
from tests.e2e.world import IDLE, PATIENCE_SECONDS, World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(name) is None for name in ("ssh", "sshpass")), reason="no OpenSSH client"),
]


def test_people_get_in_by_password_and_key_and_stay_in_when_the_server_dies(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        uuid = world.deploy("digits", 1, IDLE)
        (container,) = world.live(uuid)
        world.until(lambda: world.run("ssh", "digits", "--", "true").code == 0, "people get in")
        assert world.run("ssh", "digits", "--", "exit 3").code == 3
        (world.user / "file").write_text("content")
        world.cli("cp", "file", f"digits:{world.user}/copy")
        assert (world.user / "copy").read_text() == "content"

        # exactly what the API says, with a key of the account
        key = world.user / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        world.cli("ssh-keys", "add", f"{key}.pub")
        known = world.user / "known_hosts"
        port = container.ssh_command.split()[2]
        host_key = (world.home / f"{HOST_KEY}.pub").read_text()
        known.write_text(f"[127.0.0.1]:{port} {host_key}")
        pinned = ["-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-i", str(key)]
        words = ["ssh", *pinned, *container.ssh_command.split()[1:]]

        def ends(command: str) -> int:
            done = subprocess.run([*words, command], check=False, timeout=PATIENCE_SECONDS, capture_output=True)
            return done.returncode

        world.until(lambda: ends("exit 7") == 7, "the key opens the container that runs")

        # without a server
        with subprocess.Popen([*words, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            session.stdin.write(b"before\n")
            session.stdin.flush()
            assert session.stdout.readline() == b"before\n"
            world.kill(world.server_pid)
            session.stdin.write(b"after\n")
            session.stdin.flush()
            assert session.stdout.readline() == b"after\n"
            assert ends("exit 9") == 9
            session.stdin.close()
        assert session.returncode == 0
