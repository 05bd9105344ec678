"""The files of an account under any tree that a container may plant and any path that a caller may name."""

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from muster.errors import RequestError
from muster.files import FileStorage, Kind
from muster.model.ids import AccountId
from tests.unit.files.hostile import KINDS, SECRET, Host, open_descriptors, plant

NAMES = st.sampled_from(["a", "b", "twin"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATHS = st.lists(NAMES | st.sampled_from(["..", ".", "", "secret", "private", "host", "2"]), max_size=5).map("/".join)
CALLS = st.tuples(st.sampled_from(["list", "stat", "read", "write", "make_folder", "remove", "remove all"]), PATHS)


@given(st.lists(st.tuples(st.sampled_from(KINDS), PLACES), max_size=12), st.lists(CALLS, min_size=1, max_size=8))
def test_nothing_outside_is_read_written_or_removed(
    planted: list[tuple[str, str]], calls: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as made:
        scene = Path(made).resolve()
        host = Host(scene)
        storage = FileStorage(scene / "files", needs_marker=False)
        folder = storage.folder(AccountId(1), "lab-a")
        other = storage.folder(AccountId(2), "lab-a")
        (other / "secret").write_bytes(SECRET)
        for kind, place in planted:
            plant(kind, folder / place, host)
        descriptors = open_descriptors()
        tree = storage.tree(AccountId(1), "lab-a")
        ours: set[str] = set()
        for what, path in calls:
            if what in {"write", "make_folder"}:
                ours.update(path.split("/"))
            try:
                if what == "list":
                    listing = tree.list(path)
                    assert {each.name for each in listing.entries}.isdisjoint({"host", "key"} - ours)
                elif what == "stat":
                    tree.stat(path)
                elif what == "read":
                    with tree.read(path) as file:
                        assert SECRET not in b"".join(file.chunks())
                elif what == "write":
                    with tree.write(path) as upload:
                        upload.write(b"mine too")
                        assert upload.commit().kind is Kind.FILE
                    with tree.read(path) as file:
                        assert b"".join(file.chunks()) == b"mine too"
                elif what == "make_folder":
                    assert tree.make_folder(path).kind is Kind.FOLDER
                else:
                    tree.remove(path, is_recursive=what == "remove all")
            except RequestError:
                continue  # refused, as most of this has to be
        host.check_untouched()
        assert (other / "secret").read_bytes() == SECRET
        assert folder.is_dir()
        assert open_descriptors() == descriptors
