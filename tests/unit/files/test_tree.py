"""Files of one account: what is listed, read, written and removed, and what is refused."""

import contextlib
import datetime
import os
import resource
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import Conflict, InvalidSpec, NotFound
from muster.files import Entry, FileStorage, FileTree, Kind
from muster.files.entry import moment_of
from muster.model.ids import AccountId
from tests.unit.files.hostile import KINDS, SECRET, Host, left, open_descriptors, plant


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.check_untouched()


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "files", needs_marker=False)


@pytest.fixture
def folder(storage: FileStorage) -> Path:
    return storage.folder(AccountId(1), "lab-a")


@pytest.fixture
def tree(storage: FileStorage, folder: Path) -> Iterator[FileTree]:
    before = open_descriptors()
    yield storage.tree(AccountId(1), "lab-a")
    assert open_descriptors() == before, "a descriptor was left open"


def put(tree: FileTree, path: str, content: bytes, *, mode: int = 0o644) -> Entry:
    with tree.write(path, mode=mode) as upload:
        upload.write(content)
        return upload.commit()


def content(tree: FileTree, path: str) -> bytes:
    with tree.read(path) as file:
        return b"".join(file.chunks())


def names(tree: FileTree, path: str = "/") -> list[str]:
    return [each.name for each in tree.list(path).entries]


def test_what_was_written_is_listed_and_read_back(tree: FileTree) -> None:
    now = datetime.datetime.now(datetime.UTC)
    made = put(tree, "/models/a.bin", b"x" * 700_000, mode=0o4755)
    assert (made.name, made.kind, made.size_bytes, made.mode) == ("a.bin", Kind.FILE, 700_000, 0o755)
    assert abs(made.modified_at - now) < datetime.timedelta(minutes=1)
    assert [(each.name, each.kind) for each in tree.list("").entries] == [("models", Kind.FOLDER)]
    assert tree.list("models").entries == [made]
    assert tree.stat("models/a.bin") == tree.list("models/a.bin").itself == made
    assert content(tree, "./models//a.bin") == b"x" * 700_000


def test_a_file_appears_whole_and_replaces_an_older_one_in_one_step(tree: FileTree, folder: Path) -> None:
    put(tree, "a", b"old")
    with tree.write("a") as upload:
        upload.write(b"n")
        upload.write(b"ew")
        assert content(tree, "a") == b"old"
        upload.commit()
    assert content(tree, "a") == b"new"
    with tree.write("a") as upload:
        upload.write(b"half of a")
    assert content(tree, "a") == b"new"
    assert left(folder) == ["a"]


def test_who_reads_a_file_that_is_replaced_gets_the_old_one_whole(tree: FileTree) -> None:
    put(tree, "a", b"old")
    with tree.read("a") as file:
        put(tree, "a", b"newer")
        assert b"".join(file.chunks()) == b"old"


def test_a_file_that_becomes_longer_or_shorter_while_it_is_read_is_never_passed_off_as_whole(
    tree: FileTree, folder: Path
) -> None:
    put(tree, "a", b"12345")
    with tree.read("a") as file:
        with (folder / "a").open("ab") as other:
            other.write(b"678")
        assert b"".join(file.chunks()) == b"12345"
    with tree.read("a") as file:
        os.truncate(folder / "a", 2)
        with pytest.raises(Conflict, match="became shorter"):
            b"".join(file.chunks())


def test_a_file_is_not_written_through_a_hard_link(tree: FileTree, folder: Path) -> None:
    put(tree, "a", b"old")
    (folder / "twin").hardlink_to(folder / "a")
    put(tree, "a", b"new")
    assert content(tree, "twin") == b"old"


def test_a_folder_is_listed_by_name_in_pages(tree: FileTree) -> None:
    for name in ("b", "a", "d", "c", "é"):
        put(tree, name, b"")
    first = tree.list("/", limit=2)
    assert ([each.name for each in first.entries], first.is_complete) == (["a", "b"], False)
    rest = tree.list("/", after="b", limit=3)
    assert ([each.name for each in rest.entries], rest.is_complete) == (["c", "d", "é"], True)
    assert tree.list("/", after="é").entries == []


def test_a_folder_is_made_with_those_above_it_and_again_without_harm(tree: FileTree) -> None:
    assert tree.make_folder("a/b/c").kind is Kind.FOLDER
    put(tree, "a/b/c/d", b"")
    tree.make_folder("/a/b/c/")
    tree.make_folder("/")
    assert names(tree, "a/b/c") == ["d"]
    with pytest.raises(Conflict):
        tree.make_folder("a/b/c/d")


def test_a_file_is_removed_and_a_folder_only_with_all_that_is_in_it(tree: FileTree, folder: Path) -> None:
    put(tree, "a/b/c", b"123")
    put(tree, "a/d", b"")
    assert tree.remove("a/d").size_bytes == 0
    with pytest.raises(Conflict, match=r"^a: is a folder"):
        tree.remove("a")
    assert names(tree, "a") == ["b"]
    assert tree.remove("a", is_recursive=True).kind is Kind.FOLDER
    assert left(folder) == []


def test_removing_takes_more_entries_than_are_looked_at_together(tree: FileTree, folder: Path) -> None:
    (folder / "wide").mkdir()
    for number in range(1200):
        (folder / "wide" / f"file{number}").touch()
        (folder / "wide" / f"folder{number}").mkdir()
    tree.remove("wide", is_recursive=True)
    assert left(folder) == []


def test_removing_goes_deeper_than_there_are_descriptors(tree: FileTree, folder: Path) -> None:
    below = os.open(folder, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("deep", dir_fd=below)
        above, below = below, os.open("deep", os.O_RDONLY, dir_fd=below)
        os.close(above)
    os.close(below)
    assert len(tree.list("deep/deep/deep").entries) == 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 50, hard))
    try:
        tree.remove("deep", is_recursive=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert left(folder) == []


@pytest.mark.parametrize("path", ["..", "a/../b", "/../x", "a/..", "a\0b", "\ud800"])
def test_a_path_that_leads_out_or_is_none_is_refused(tree: FileTree, folder: Path, host: Host, path: str) -> None:
    for call in (tree.list, tree.stat, tree.read, tree.write, tree.make_folder, tree.remove):
        with pytest.raises(InvalidSpec, match=r"^path: "):
            call(path)
    assert left(folder) == []


@pytest.mark.parametrize("path", ["", "/", ".", "//./"])
def test_the_whole_storage_is_no_file(tree: FileTree, path: str) -> None:
    for call in (tree.read, tree.write, tree.remove):
        with pytest.raises(InvalidSpec, match="is the whole storage"):
            call(path)
    with pytest.raises(InvalidSpec, match="is the whole storage"):
        tree.remove(path, is_recursive=True)


def test_what_is_not_there_is_not_found(tree: FileTree) -> None:
    put(tree, "a", b"")
    for call in (tree.list, tree.stat, tree.read, tree.remove):
        for path in ("b", "b/c"):
            with pytest.raises(NotFound, match=f"^no file '{path}'$"):
                call(path)
        with pytest.raises(Conflict, match=r"a/b: 'a' is no folder"):
            call("a/b")
    for make in (tree.write, tree.make_folder):
        with pytest.raises(Conflict, match=r"a/b: 'a' is no folder"):
            make("a/b")


def test_a_name_that_is_too_long_is_the_callers_mistake(tree: FileTree) -> None:
    for call in (tree.list, tree.read, tree.write, tree.remove):
        with pytest.raises(InvalidSpec, match="too long"):
            call("x" * 300)


def test_links_are_shown_as_such_and_lead_nowhere(tree: FileTree, folder: Path, host: Host) -> None:
    plant("link to a folder", folder / "out", host)
    plant("link to a file", folder / "leak", host)
    assert {each.name: each.kind for each in tree.list("/").entries} == {"leak": Kind.LINK, "out": Kind.LINK}
    assert tree.list("out").entries == ()
    for path in ("out/secret", "out/private/key"):
        for call in (tree.list, tree.stat, tree.read, tree.write, tree.make_folder, tree.remove):
            with pytest.raises(Conflict, match=f"{path}: 'out' is no folder"):
                call(path)
    with pytest.raises(Conflict, match="is a link, only files can be read"):
        tree.read("leak")
    with pytest.raises(Conflict, match="is a link, only files are replaced"):
        tree.write("leak")
    tree.remove("leak")
    tree.remove("out", is_recursive=True)
    assert left(folder) == []


def test_a_fifo_or_a_device_is_never_opened(tree: FileTree, folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    planted = ["fifo"]
    if os.geteuid() == 0:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        planted.append("zero")
    for name in planted:
        assert tree.stat(name).kind is Kind.OTHER
        with pytest.raises(Conflict, match="FIFO"):
            tree.read(name)
        with pytest.raises(Conflict, match="FIFO"):
            tree.write(name)
        tree.remove(name)


def test_a_tree_with_everything_in_it_is_removed_and_nothing_else(tree: FileTree, folder: Path, host: Host) -> None:
    for number, kind in enumerate(KINDS):
        (folder / "all" / str(number)).mkdir(parents=True)
        plant(kind, folder / "all" / str(number) / "it", host)
        plant(kind, folder / "all" / f"it{number}", host)
    tree.remove("all", is_recursive=True)
    assert left(folder) == []


def test_names_that_are_no_text_are_shown_and_go_with_their_folder(tree: FileTree, folder: Path) -> None:
    (folder / "a").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/a/\xff")).touch()
    assert names(tree, "a") == ["\\xff"]
    tree.remove("a", is_recursive=True)
    assert names(tree) == []


def test_a_time_that_no_calendar_holds_is_still_told() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=14))
    for seconds in (2**62, 2**40, -(2**40), -(2**62)):
        moment_of(seconds * 1_000_000_000).astimezone(zone).isoformat()
    assert moment_of(1_500_000_000).timestamp() == 1


@pytest.mark.parametrize("what", ["read", "write", "remove", "list"])
def test_a_folder_that_becomes_a_link_while_it_is_used_leads_nowhere(
    tree: FileTree, folder: Path, host: Host, what: str
) -> None:
    """Somebody swaps a folder for a link to the host's as fast as it can; whoever comes by path would be led out."""
    mine, link, away = (folder / name for name in ("mine", "link", "away"))
    mine.mkdir()
    (mine / "secret").write_bytes(b"mine")
    link.symlink_to(host.folder)
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for source, target in ((mine, away), (link, mine), (mine, link), (away, mine)):
                try:
                    source.rename(target)
                except OSError:  # a write has made a folder in the meantime
                    shutil.rmtree(target, ignore_errors=True)
                    with contextlib.suppress(OSError):
                        source.rename(target)

    def use() -> None:
        if what == "read":
            assert content(tree, "mine/secret") != SECRET
        elif what == "write":
            put(tree, "mine/secret", b"mine")
        elif what == "list":
            assert "private" not in names(tree, "mine")
        else:
            tree.remove("mine/private", is_recursive=True)

    other = threading.Thread(target=swap)
    other.start()
    try:
        for _ in range(300):
            try:
                use()
            except (NotFound, Conflict):
                continue
    finally:
        is_over.set()
        other.join()
