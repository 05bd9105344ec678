"""Our SFTP server against OpenSSH's own client, which talks to it directly (``sftp -D``), without SSH."""

import hashlib
import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("sftp") is None, reason="no OpenSSH client on this machine"),
]

SERVER = shlex.join([sys.executable, "-P", "-I", "-m", "muster.engine.sftp"])


def sftp(folder: Path, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands of ``sftp`` on a server that begins in a folder."""
    words = ["sftp", "-b", "-", "-D", SERVER]
    return subprocess.run(
        words, input="\n".join(commands) + "\n", cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def test_files_go_up_and_down_unchanged(here: Path, tmp_path: Path) -> None:
    content = random.Random(3).randbytes(60_000_000)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "large").chmod(0o640)
    os.utime(tmp_path / "large", (1_000_000_000, 1_000_000_000))
    done = sftp(here, f"put -p {tmp_path}/large up", f"get -p up {tmp_path}/down")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "down").read_bytes()).digest() == hashlib.sha256(content).digest()
    found = (here / "up").stat()
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o640, 1_000_000_000)


def test_folders_go_up_and_down_whole(here: Path, tmp_path: Path) -> None:
    for number in range(120):
        path = tmp_path / "tree" / f"folder {number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    done = sftp(here, f"put -R {tmp_path}/tree", f"get -R tree {tmp_path}/back")
    assert done.returncode == 0, done.stderr
    for top in (here / "tree", tmp_path / "back"):
        found = {path.relative_to(top): path.read_text() for path in top.rglob("file *")}
        assert len(found) == 120
        assert found[Path("folder 1/file 8")] == "8"


def test_all_that_the_client_can_ask_is_done(here: Path, tmp_path: Path) -> None:
    (tmp_path / "word").write_text("word")
    (tmp_path / "more").write_text("word and more")
    done = sftp(
        here, f"put {tmp_path}/word a", "mkdir folder", "rename a folder/b", "symlink folder/b soft",
        "ln folder/b hard", "chmod 751 hard", "ls -la", "df -h .", "pwd", "cd folder", "pwd", "ls *", "cd ..",
        f"reput {tmp_path}/more hard", "rm soft", "rename hard other", "mkdir empty", "rmdir empty",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"Remote working directory: {here}/folder" in done.stdout
    assert "-rwxr-x--x" in done.stdout
    assert "lrwxrwxrwx" in done.stdout
    assert {path.name for path in here.iterdir()} == {"folder", "other"}
    assert (here / "other").read_text() == "word and more" == (here / "folder/b").read_text()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("get absent", "not found"),
        ("get /dev/zero zero", "not a regular file"),
        ("rmdir full", "Failure"),
        ("mkdir full", "Failure"),
        ("cd /proc/self/absent", "No such file"),
    ],
)
def test_what_cannot_be_done_is_told(here: Path, command: str, words: str) -> None:
    (here / "full").mkdir()
    (here / "full/file").touch()
    done = sftp(here, command)
    assert done.returncode == 1
    assert words.lower() in (done.stdout + done.stderr).lower()
