"""``fs``: what is copied where, what is printed, and what is refused in one line."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.cli.files import size
from muster.cli.main import run
from muster.client import Client
from tests.unit.cli.served import MACHINES, Served

CENTER = "lab-a"
Captured = pytest.CaptureFixture[str]


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
def storage(server: Served) -> Path:
    """The account's folder, as containers see it."""
    with Client(server.url, os.environ["MUSTER_TOKEN"]) as client:
        client.make_folder("/", data_center=CENTER)
        return server.home / "files" / CENTER / str(client.me().id)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands are called in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def fs(*args: str) -> int:
    return run(["fs", *args, "-d", CENTER])


def grow(folder: Path, **files: str) -> None:
    """Make files; ``a__b`` is ``b`` in the folder ``a``."""
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def files(folder: Path) -> dict[str, str]:
    """Return what is in a folder: content of files, ``/`` for folders."""
    return {
        str(path.relative_to(folder)): "/" if path.is_dir() else path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
    }


def refused(capsys: Captured, *args: str) -> str:
    assert fs(*args) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("error: ")


def told(capsys: Captured, *args: str) -> Any:
    assert fs(*args, "-o", "json") == 0
    captured = capsys.readouterr()
    return json.loads(captured.out)


def test_a_file_goes_up_and_comes_down_again(storage: Path, here: Path, capsys: Captured) -> None:
    grow(here, a="hello")
    (here / "a").chmod(0o754)
    assert fs("cp", "a", "fs:/models/b") == 0
    assert capsys.readouterr().out == "1 file, 5 B, copied to fs:/models/b\n"
    assert files(storage) == {"models": "/", "models/b": "hello"}
    assert (storage / "models" / "b").stat().st_mode & 0o777 == 0o754
    assert fs("cp", "fs:models/b", "c") == 0
    assert files(here) == {"a": "hello", "c": "hello"}
    assert (here / "c").stat().st_mode & 0o700 == 0o700


def test_into_a_folder_a_file_keeps_its_name(storage: Path, here: Path) -> None:
    grow(here, a="1", sub__x="")
    (storage / "there").mkdir()
    for target in ("fs:", "fs:/there", "fs:/new/"):
        assert fs("cp", "a", target) == 0
    assert files(storage) == {"a": "1", "there": "/", "there/a": "1", "new": "/", "new/a": "1"}
    for target in ("sub", "fresh/"):
        assert fs("cp", "fs:/a", target) == 0
    assert files(here) == {"a": "1", "sub": "/", "sub/x": "", "sub/a": "1", "fresh": "/", "fresh/a": "1"}


def test_a_folder_goes_up_with_all_that_is_in_it(storage: Path, here: Path) -> None:
    grow(here, tree__a="1", tree__sub__b="2")
    (here / "tree" / "empty").mkdir()
    inside = {"a": "1", "empty": "/", "sub": "/", "sub/b": "2"}
    for source, target in (("tree", "fs:/new"), ("tree/", "fs:/new"), ("tree/.", "fs:/contents")):
        assert fs("cp", "-r", source, target) == 0
    assert files(storage / "new" / "tree") == inside, "the second time it is there already"
    assert files(storage / "contents") == inside
    assert {name: content for name, content in files(storage / "new").items() if "tree" not in name} == inside


def test_a_folder_comes_down_with_all_that_is_in_it(storage: Path, here: Path) -> None:
    grow(storage, tree__a="1", tree__sub__b="2")
    (storage / "tree" / "empty").mkdir()
    inside = {"a": "1", "empty": "/", "sub": "/", "sub/b": "2"}
    assert fs("cp", "-r", "fs:/tree", "new") == 0
    assert files(here / "new") == inside
    assert fs("cp", "-r", "fs:/tree", ".") == 0
    assert files(here / "tree") == inside
    assert fs("cp", "-r", "fs:", "everything") == 0
    assert files(here / "everything") == files(storage)


def test_standard_input_and_output_stream(storage: Path) -> None:
    command = [sys.executable, "-c", "from muster.cli.main import main; main()", "fs", "cp", "-d", CENTER]
    content = bytes(range(256)) * 4096
    subprocess.run([*command, "-", "fs:/a"], input=content, check=True, capture_output=True, timeout=30)
    assert (storage / "a").read_bytes() == content
    done = subprocess.run([*command, "fs:/a", "-"], check=True, capture_output=True, timeout=30)
    assert done.stdout == content
    assert done.stderr == b""


def test_what_is_no_file_is_left_out_and_told(storage: Path, here: Path, capsys: Captured) -> None:
    grow(here, tree__a="1", other="2", outside__x="")
    (here / "tree" / "link").symlink_to("../other")
    (here / "tree" / "folder").symlink_to("../outside")
    os.mkfifo(here / "tree" / "fifo")
    Path(os.fsdecode(os.fsencode(here / "tree") + b"/\xff")).touch()
    copied = told(capsys, "cp", "-r", "tree", "fs:/up")
    assert files(storage / "up") == {"a": "1", "link": "2"}
    assert (copied["files"], copied["size_bytes"]) == (2, 2)
    assert copied["left_out"] == ["tree/fifo", "tree/folder", "tree/\\xff"]

    (storage / "up" / "secret").symlink_to("/etc/passwd")
    os.mkfifo(storage / "up" / "fifo")
    Path(os.fsdecode(os.fsencode(storage / "up") + b"/\xff")).touch()
    assert fs("cp", "-r", "fs:/up", "down") == 0
    assert files(here / "down") == {"a": "1", "link": "2"}
    notes = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" ")[2] for line in notes] == ["fs:/up/\\xff", "fs:/up/fifo", "fs:/up/secret"]


def test_a_download_replaces_a_file_only_when_it_is_complete(storage: Path, here: Path) -> None:
    grow(here, a="old", kept="mine")
    (here / "link").symlink_to("kept")
    grow(storage, a="new")
    (storage / "b").symlink_to("a")
    assert fs("cp", "fs:/b", "a") == 1
    assert files(here) == {"a": "old", "kept": "mine", "link": "mine"}
    assert fs("cp", "fs:/a", "a") == 0
    assert fs("cp", "fs:/a", "link") == 0
    assert fs("cp", "fs:/a", "/dev/null") == 0
    assert files(here) == {"a": "new", "kept": "new", "link": "new"}


def test_a_folder_is_listed_by_name_or_with_everything(storage: Path, capsys: Captured) -> None:
    grow(storage, b__c="123", a="12345")
    (storage / "a").chmod(0o640)
    (storage / "l").symlink_to("a")
    (storage / "odd\x1b[31m\n").touch()
    assert fs("ls") == 0
    assert capsys.readouterr().out.splitlines() == ["NAME", "a", "b/", "l@", "odd\\x1b[31m\\n"]
    assert fs("ls", "-l", "fs:/") == 0
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["MODE", "SIZE", "MODIFIED", "NAME"]
    assert first.split()[:3] == ["-640", "5", "B"]
    (row,) = told(capsys, "ls", "/a")
    assert set(row) == {"name", "kind", "size_bytes", "modified_at", "mode"}
    assert (row["name"], row["kind"], row["size_bytes"], row["mode"]) == ("a", "file", 5, "640")
    (storage / "empty").mkdir()
    assert fs("ls", "empty") == 0
    assert capsys.readouterr() == ("", "nothing is in it\n")


def test_a_folder_is_removed_only_when_told(storage: Path, capsys: Captured) -> None:
    grow(storage, a__b="1", c="2")
    assert refused(capsys, "rm", "/a") == "/a: is a folder: remove it recursively (-r)"
    assert fs("rm", "-r", "fs:/a") == 0
    assert capsys.readouterr().out == "folder fs:/a removed\n"
    assert told(capsys, "rm", "c") == {"action": "remove", "path": "c", "kind": "file"}
    assert files(storage) == {}
    assert "is the whole storage" in refused(capsys, "rm", "-r", "/")


def test_what_cannot_be_copied_is_told_in_one_line(
    storage: Path, here: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(here, a="1", tree__b="2")
    grow(storage, tree__c="3")
    assert refused(capsys, "cp", "absent", "fs:/x") == "absent: there is no such file or folder"
    assert refused(capsys, "cp", "fs:/absent", "x") == "no file '/absent'"
    assert refused(capsys, "cp", "tree", "fs:/x") == "tree: is a folder: add -r"
    assert refused(capsys, "cp", "fs:/tree", "x") == "fs:/tree: is a folder: add -r"
    assert refused(capsys, "cp", "fs:/tree/c", "absent/x") == "absent/x: there is no such file or folder"
    assert refused(capsys, "cp", "-r", "fs:/tree", "a") == "a: File exists"
    assert refused(capsys, "cp", "-r", "fs:/tree", "-").endswith("standard output takes one file")
    assert "'c' is no folder" in refused(capsys, "cp", "a", "fs:/tree/c/d")
    assert "must not go up" in refused(capsys, "cp", "a", "fs:/tree/../x")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert refused(capsys, "cp", "-", "fs:/tree").endswith("name a file in it for standard input")
    assert files(storage) == {"tree": "/", "tree/c": "3"}


def test_a_copy_is_between_here_and_there(here: Path, capsys: Captured) -> None:
    for args, problem in (
        (("a", "b"), "neither side is of the storage"),
        (("fs:/a", "fs:/b"), "both sides are of the storage"),
        (("fs:/a", "-", "-o", "json"), "cannot both go to standard output"),
    ):
        assert fs("cp", *args) == 2
        assert problem in " ".join(capsys.readouterr().err.split())


def test_the_data_center_is_named_where_there_are_several(capsys: Captured) -> None:
    assert run(["fs", "ls"]) == 1
    centers = ", ".join(sorted({each.data_center for each in MACHINES}))
    assert capsys.readouterr().err == f"error: data_center: is required, one of: {centers}\n"


def test_sizes_are_short() -> None:
    assert [size(count) for count in (0, 1023, 1024, 1536 * 1024, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KB",
        "1.5 MB",
        "5.0 TB",
    ]
