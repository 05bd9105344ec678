"""``ssh``, ``cp`` and ``ssh-keys``: whose words are whose, and what is refused. The rest: tests/e2e/test_ssh_cli.py."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from muster.cli.main import run
from muster.cli.ssh import Words, take_apart
from muster.client import Client
from muster.testing.bodies import create_body
from tests.unit.cli.served import Served


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as served:
        yield served


@pytest.fixture(autouse=True)
def server(shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Served:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(shared.home))
    monkeypatch.setenv("MUSTER_TOKEN", shared.account(tmp_path.name))
    return shared


@pytest.fixture
def container(server: Served) -> str:
    with Client(server.url, os.environ["MUSTER_TOKEN"]) as client:
        return server.place(client.create_deployment(create_body("digits", cmd="serve")), suffix="abcdef0000")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["c"], Words(container="c")),
        (["c", "ls", "-l", "--color"], Words(container="c", command=["ls", "-l", "--color"])),
        (["c", "--", "ls", "--", "-l"], Words(container="c", command=["ls", "--", "-l"])),
        (["--", "c", "ls"], Words(container="c", command=["ls"])),
        (["--", "c", "--", "ls"], Words(container="c", command=["ls"])),
        (
            ["-NL", "8000:127.0.0.1:8000", "c", "-v", "-o", "A=b", "--", "ls"],
            Words(options=["-NL", "8000:127.0.0.1:8000", "-v", "-o", "A=b"], container="c", command=["ls"]),
        ),
        (["c", "-L8000:127.0.0.1:8000", "ls"], Words(options=["-L8000:127.0.0.1:8000"], container="c", command=["ls"])),
        (
            ["--home", "h", "c", "--api=u", "ls", "--home", "x"],
            Words(ours=["--home", "h", "--api=u"], container="c", command=["ls", "--home", "x"]),
        ),
        (["-h"], Words(ours=["-h"])),
        (["c", "-o"], Words(options=["-o"], container="c")),
    ],
)
def test_words_stand_where_ssh_has_them(words: list[str], found: Words) -> None:
    assert take_apart(words) == found


@pytest.mark.parametrize("words", [["ssh"], ["ssh", "-v"], ["ssh", "--nothing", "c"], ["cp", "a"]])
def test_wrong_usage_is_told(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert "Usage: muster" in capfd.readouterr().err


def test_help_is_ours(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["ssh", "--help"]) == 0
    assert "Log in to a container by SSH" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("sides", "told"), [(["a", "b"], "neither side is in a container"), (["c:a", "d:b"], "both sides are")]
)
def test_one_side_of_a_copy_is_in_a_container(sides: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["cp", *sides]) == 1
    assert told in capfd.readouterr().err


def test_a_container_without_a_login_is_told_as_such(container: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["ssh", container]) == 1
    assert "has no SSH login" in capfd.readouterr().err


def test_without_openssh_another_way_is_named(
    container: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for words in (["ssh", container], ["cp", f"{container}:a", "b"]):
        assert run(words) == 1
        assert (
            "there is no ssh on this computer: install OpenSSH's client, or use muster exec" in capfd.readouterr().err
        )


def test_keys_are_added_listed_and_removed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="ann@laptop")
    file = tmp_path / "id.pub"
    file.write_bytes(key.export_public_key())
    fingerprint = key.get_fingerprint()
    assert run(["ssh-keys", "list"]) == 0
    assert capfd.readouterr() == ("", "no SSH keys\n")
    assert run(["ssh-keys", "add", str(file)]) == 0
    assert capfd.readouterr().out == f"{fingerprint} ann@laptop: opens the account's containers\n"
    assert run(["ssh-keys", "list", "-o", "json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["fingerprint"], row["name"]) == (fingerprint, "ann@laptop")
    assert run(["ssh-keys", "remove", fingerprint.removeprefix("SHA256:")[:8]]) == 0
    assert "opens nothing any more" in capfd.readouterr().out
    assert run(["ssh-keys", "remove", fingerprint]) == 1
    assert capfd.readouterr().err == f"error: no SSH key {fingerprint!r}\n"


def test_a_private_key_stays_where_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "id"
    file.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    assert run(["ssh-keys", "add", str(file)]) == 1
    assert "is a private key" in capfd.readouterr().err
    assert run(["ssh-keys", "add", str(tmp_path / "nothing.pub")]) == 1
    assert "cannot be read: No such file" in capfd.readouterr().err


def test_a_name_that_two_keys_have_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "id.pub"
    for _ in range(2):
        file.write_bytes(asyncssh.generate_private_key("ssh-ed25519", comment="same").export_public_key())
        assert run(["ssh-keys", "add", str(file)]) == 0
    assert run(["ssh-keys", "remove", "same"]) == 1
    assert "may mean 2 keys" in capfd.readouterr().err
