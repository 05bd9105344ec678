"""Where files lie, and a mount that is not there or cannot be written."""

import os
import stat
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import StorageError
from muster.files import MARKER, FileStorage
from muster.files.storage import segment
from muster.model.ids import AccountId

ALICE, BOB = AccountId(1), AccountId(2)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_account_has_a_folder_in_each_data_center(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "home" / "files", needs_marker=False)
    folders = {storage.folder(account, center) for account in (ALICE, BOB) for center in ("lab-a", "lab-b")}
    assert len(folders) == 4
    assert all(folder.is_dir() for folder in folders)
    assert storage.folder(ALICE, "lab-a") in folders


def test_nothing_is_made_before_it_is_asked_for(tmp_path: Path) -> None:
    FileStorage(tmp_path / "files", needs_marker=False)
    assert list(tmp_path.iterdir()) == []


def test_others_on_the_host_reach_no_files_and_others_in_a_container_do(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = FileStorage(tmp_path / "files", needs_marker=False).folder(ALICE, "lab-a")
    finally:
        os.umask(before)
    assert [mode(each) for each in (folder, *folder.parents[:2])] == [0o755, 0o700, 0o700]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_any_name_of_a_data_center_is_one_folder_and_can_be_read_back(name: str) -> None:
    escaped = segment(name)
    assert "/" not in escaped
    assert "\0" not in escaped
    assert not escaped.startswith(".")
    assert urllib.parse.unquote(escaped) == name


@pytest.mark.parametrize("name", ["..", ".", "a/../../b", MARKER, "西北B区", "50%", "%2E"])
def test_an_odd_name_of_a_data_center_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    folder = FileStorage(tmp_path / "files", needs_marker=False).folder(ALICE, name)
    assert folder.resolve() == folder
    assert folder.parents[1] == tmp_path / "files"


def test_a_mount_without_its_marker_is_not_used_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path, needs_marker=True)
    with pytest.raises(StorageError, match=f"is the file storage mounted.*: touch {tmp_path / MARKER}"):
        storage.folder(ALICE, "lab-a")
    with pytest.raises(StorageError):
        storage.tree(ALICE, "lab-a").list("/")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / MARKER).touch()
    assert storage.folder(ALICE, "lab-a").is_dir()


def test_a_mount_that_loses_its_marker_is_not_used_any_more(tmp_path: Path) -> None:
    (tmp_path / MARKER).touch()
    storage = FileStorage(tmp_path, needs_marker=True)
    storage.folder(ALICE, "lab-a")
    (tmp_path / MARKER).unlink()
    for tries in (lambda: storage.folder(ALICE, "lab-a"), lambda: storage.tree(ALICE, "lab-a").list("/")):
        with pytest.raises(StorageError):
            tries()


def test_a_folder_that_the_operator_named_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is the file storage mounted"):
        FileStorage(tmp_path / "absent", needs_marker=True).folder(ALICE, "lab-a")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    for needs_marker in (False, True):
        with pytest.raises(StorageError, match=str(tmp_path / "root")):
            FileStorage(tmp_path / "root", needs_marker=needs_marker).folder(ALICE, "lab-a")


def test_a_link_in_place_of_an_accounts_folder_is_not_followed(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "files", needs_marker=False)
    folder = storage.folder(ALICE, "lab-a")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(StorageError):
        storage.tree(ALICE, "lab-a").list("/")


def test_public_data_are_there_or_told_to_be_missing(tmp_path: Path) -> None:
    assert FileStorage(tmp_path, needs_marker=False).public_folder() is None
    public = tmp_path / "public"
    storage = FileStorage(tmp_path, needs_marker=False, public=public)
    with pytest.raises(StorageError, match=f"^{public}: the folder of public data is not there"):
        storage.public_folder()
    public.mkdir()
    assert storage.public_folder() == public


READ_ONLY = """
mount -t tmpfs tmpfs "$1"; touch "$1/.muster-storage"; mkdir -p "$1/lab-a/1"; echo kept > "$1/lab-a/1/a"
mount -o remount,ro "$1"
"""
FULL = """
mount -t tmpfs -o size=64k tmpfs "$1"; touch "$1/.muster-storage"
"""
PROBE = """
import sys
from pathlib import Path
from muster.errors import MusterError
from muster.files import FileStorage
storage = FileStorage(Path(sys.argv[1]), needs_marker=True)
def told(work):
    try:
        print(work())
    except MusterError as error:
        print(f"{type(error).__name__}: {error}")
def write():
    with storage.tree(1, "lab-a").write("b") as upload:
        for _ in range(100):
            upload.write(bytes(1 << 16))
        upload.commit()
told(lambda: storage.folder(1, "lab-a"))
told(write)
told(lambda: [each.name for each in storage.tree(1, "lab-a").list("/").entries])
"""


def on_a_mount(folder: Path, script: str) -> list[str]:
    """Run ``PROBE`` with a mount at ``folder`` that is made by a script and gone afterwards."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount", "sh", "-ec", f'{script}exec "$2" -c "$3" "$1"', "sh"]
    done = subprocess.run(
        [*command, str(folder), sys.executable, PROBE], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_read_only_storage_is_told_and_can_still_be_read(tmp_path: Path) -> None:
    mounting, writing, listing = on_a_mount(tmp_path, READ_ONLY)
    assert mounting == f"StorageError: {tmp_path}: the file storage is read-only"
    assert writing == "StorageError: b: the file storage is read-only"
    assert listing == "['a']"


@pytest.mark.slow
def test_a_full_storage_is_told_and_keeps_no_half_of_a_file(tmp_path: Path) -> None:
    mounting, writing, listing = on_a_mount(tmp_path, FULL)
    assert mounting == f"{tmp_path}/lab-a/1"
    assert writing == "StorageError: b: no space is left in the file storage"
    assert listing == "[]"
