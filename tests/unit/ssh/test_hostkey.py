"""One host key for a home, whoever needs it first."""

import stat
from pathlib import Path

import asyncssh
import pytest

from muster.errors import SetupError
from muster.ssh.hostkey import HOST_KEY, ensure_host_key, public_host_key


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    text = ensure_host_key(tmp_path)
    path = tmp_path / HOST_KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_host_key(tmp_path) == text == path.read_bytes()
    key = asyncssh.import_private_key(text)
    assert key.get_algorithm() == "ssh-ed25519"
    assert key.export_public_key().decode().strip() == public_host_key(tmp_path)
    assert (tmp_path / f"{HOST_KEY}.pub").read_text() == f"{public_host_key(tmp_path)} muster\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == [HOST_KEY, f"{HOST_KEY}.pub"]


def test_the_public_half_is_renewed(tmp_path: Path) -> None:
    line = public_host_key(tmp_path)
    (tmp_path / f"{HOST_KEY}.pub").write_text("something else")
    ensure_host_key(tmp_path)
    assert (tmp_path / f"{HOST_KEY}.pub").read_text() == f"{line} muster\n"


def test_a_key_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    ensure_host_key(tmp_path)
    path = tmp_path / HOST_KEY
    path.chmod(0o644)
    with pytest.raises(SetupError, match="run: chmod 600"):
        ensure_host_key(tmp_path)
    path.chmod(0o600)
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(SetupError, match="is no private key"):
        public_host_key(tmp_path)
