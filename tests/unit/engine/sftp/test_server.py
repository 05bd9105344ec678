"""One SFTP session over a folder, without a process: what each request does, and what it answers."""

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.engine.sftp.server import MAX_HANDLES, Server
from muster.engine.sftp.wire import Attributes, Fields, Kind, Malformed, Open, Status, string

NOTHING = Attributes().pack()


class Asking:
    """Asks a server, and reads its answers."""

    def __init__(self) -> None:
        self.server = Server()
        self.server.answer(bytes([Kind.INIT]) + struct.pack(">I", 3))

    def ask(self, kind: int, *rest: bytes) -> tuple[int, Fields]:
        answer = self.server.answer(struct.pack(">BI", kind, 9) + b"".join(rest))
        fields = Fields(answer[4:])
        assert len(answer) - 4 == int.from_bytes(answer[:4], "big")
        kind = fields.byte()
        assert fields.number() == 9
        return kind, fields

    def status(self, kind: int, *rest: bytes) -> int:
        answered, fields = self.ask(kind, *rest)
        assert answered == Kind.STATUS
        return fields.number()

    def open(self, path: Path, how: int, attributes: bytes = NOTHING) -> bytes:
        kind, fields = self.ask(Kind.OPEN, name(path), struct.pack(">I", how), attributes)
        assert kind == Kind.HANDLE
        return string(fields.string())


@pytest.fixture
def asking() -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.server.close()


def name(path: Path | str) -> bytes:
    return string(os.fsencode(path))


def at(offset: int) -> bytes:
    return struct.pack(">Q", offset)


def test_the_first_packet_is_a_greeting() -> None:
    with pytest.raises(Malformed):
        Server().answer(struct.pack(">BI", Kind.STAT, 1) + string(b"/"))


def test_writing_and_reading_are_at_places(asking: Asking, tmp_path: Path) -> None:
    handle = asking.open(tmp_path / "file", Open.READ | Open.WRITE | Open.CREAT | Open.EXCL)
    assert asking.status(Kind.WRITE, handle, at(4), string(b"word")) == Status.OK
    assert asking.ask(Kind.READ, handle, at(2), struct.pack(">I", 100))[1].string() == b"\0\0word"
    assert asking.status(Kind.READ, handle, at(8), struct.pack(">I", 100)) == Status.EOF
    assert asking.status(Kind.CLOSE, handle) == Status.OK
    assert asking.status(Kind.CLOSE, handle) == Status.NO_SUCH_FILE
    assert asking.status(Kind.READ, handle, at(0), struct.pack(">I", 1)) == Status.NO_SUCH_FILE


def test_appending_is_at_the_end_wherever_it_was_meant_to_be(asking: Asking, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"begin")
    handle = asking.open(tmp_path / "file", Open.WRITE | Open.APPEND)
    asking.status(Kind.WRITE, handle, at(0), string(b" end"))
    assert (tmp_path / "file").read_bytes() == b"begin end"


def test_what_is_there_is_not_made_and_not_renamed_onto(asking: Asking, tmp_path: Path) -> None:
    for each in ("old", "new"):
        (tmp_path / each).write_text(each)
    how = struct.pack(">I", Open.WRITE | Open.CREAT | Open.EXCL)
    assert asking.status(Kind.OPEN, name(tmp_path / "old"), how, NOTHING) == Status.FAILURE
    assert asking.status(Kind.RENAME, name(tmp_path / "old"), name(tmp_path / "new")) == Status.FAILURE
    assert (tmp_path / "new").read_text() == "new"
    extension = string(b"posix-rename@openssh.com")
    assert asking.status(Kind.EXTENDED, extension, name(tmp_path / "old"), name(tmp_path / "new")) == Status.OK
    assert (tmp_path / "new").read_text() == "old"


def test_a_link_is_made_in_the_order_of_openssh(asking: Asking, tmp_path: Path) -> None:
    assert asking.status(Kind.SYMLINK, string(b"target"), name(tmp_path / "link")) == Status.OK
    assert (tmp_path / "link").readlink() == Path("target")


def test_what_is_no_file_is_not_opened_nor_waited_for(asking: Asking, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for how in (Open.READ, Open.WRITE, Open.READ | Open.WRITE | Open.CREAT):
        for path in (tmp_path / "pipe", "/dev/null", "/dev/zero"):
            answer = asking.status(Kind.OPEN, name(path), struct.pack(">I", how), NOTHING)
            assert answer == Status.PERMISSION_DENIED
    assert asking.status(Kind.SETSTAT, name("/dev/null"), Attributes(size=0).pack()) == Status.PERMISSION_DENIED


def test_names_that_are_no_text_come_back_as_they_are(asking: Asking, tmp_path: Path) -> None:
    odd = b"caf\xe9\n\xff"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd)).touch()
    handle = string(asking.ask(Kind.OPENDIR, name(tmp_path))[1].string())
    kind, fields = asking.ask(Kind.READDIR, handle)
    assert (kind, fields.number(), fields.string()) == (Kind.NAME, 1, odd)
    assert asking.status(Kind.READDIR, handle) == Status.EOF


def test_the_line_of_an_entry_reads_as_of_ls(asking: Asking, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.utime(tmp_path / "file", (0, 1_000_000_000))
    (tmp_path / "file").chmod(0o754)
    handle = string(asking.ask(Kind.OPENDIR, name(tmp_path))[1].string())
    fields = asking.ask(Kind.READDIR, handle)[1]
    fields.number()
    fields.string()
    owner = b"%-8d %-8d" % (os.getuid(), os.getgid())
    assert fields.string() == b"-rwxr-xr--   1 %s        5 Sep  9  2001 file" % owner


def test_handles_are_bounded_and_folders_give_theirs_back(asking: Asking, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    handles = [string(asking.ask(Kind.OPENDIR, name(tmp_path))[1].string()) for _ in range(MAX_HANDLES)]
    assert asking.status(Kind.OPENDIR, name(tmp_path)) == Status.FAILURE
    for handle in handles[1:]:
        assert asking.status(Kind.CLOSE, handle) == Status.OK
    asking.open(tmp_path / "file", Open.WRITE | Open.CREAT)
    asking.server.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_numbers_that_no_file_has_are_refused(asking: Asking, tmp_path: Path) -> None:
    handle = asking.open(tmp_path / "file", Open.READ | Open.WRITE | Open.CREAT)
    assert asking.status(Kind.READ, handle, at(2**64 - 1), struct.pack(">I", 1)) == Status.BAD_MESSAGE
    assert asking.status(Kind.WRITE, handle, at(2**63), string(b"word")) == Status.BAD_MESSAGE
    assert asking.status(Kind.FSETSTAT, handle, Attributes(size=2**64 - 1).pack()) == Status.BAD_MESSAGE
    assert asking.status(Kind.STAT, name("x" * 5000)) == Status.BAD_MESSAGE


def test_bits_beyond_permissions_are_not_set(asking: Asking, tmp_path: Path) -> None:
    asking.open(tmp_path / "file", Open.WRITE | Open.CREAT, Attributes(permissions=0o170640).pack())
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@given(kind=st.integers(0, 255), rest=st.binary(max_size=80))
def test_any_request_that_changes_nothing_is_answered_or_malformed(kind: int, rest: bytes) -> None:
    changing = {Kind.REMOVE, Kind.RENAME, Kind.RMDIR, Kind.SYMLINK, Kind.SETSTAT, Kind.MKDIR, Kind.OPEN, Kind.EXTENDED}
    if kind in changing:
        return
    asking = Asking()
    try:
        asking.ask(kind, rest)
    except Malformed:
        return
    finally:
        asking.server.close()
