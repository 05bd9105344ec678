"""One holder for each home and role, and nobody who is taken for it."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from muster.engine.local_process import Identity
from muster.errors import SetupError
from muster.processes.locks import HomeLock, holder_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "server.lock"


def test_nobody_holds_what_does_not_exist(path: Path) -> None:
    assert holder_of(path) is None
    assert not path.parent.exists()


def test_the_holder_says_who_and_where_it_is(path: Path) -> None:
    with HomeLock(path, "server") as lock:
        holder = holder_of(path)
        assert holder is not None
        assert (holder.pid, holder.url) == (os.getpid(), "")
        lock.tell(url="http://127.0.0.1:7600")
        assert holder_of(path) == type(holder)(holder.process, "http://127.0.0.1:7600")
        lock.tell()
        assert holder_of(path) == holder, "a shorter text leaves nothing of a longer one"
    assert holder_of(path) is None, "the file stays, the holder does not"


def test_the_second_one_is_told_who_the_first_is(path: Path) -> None:
    with HomeLock(path, "server") as lock:
        lock.tell(url="http://127.0.0.1:7600")
        with (
            pytest.raises(SetupError, match=rf"^process {os.getpid()} already runs muster server on .* at http://127"),
            HomeLock(path, "server"),
        ):
            pass
        assert holder_of(path) is not None, "a refused one takes nothing away"
    with HomeLock(path, "server"):
        assert holder_of(path) is not None


def test_roles_do_not_exclude_each_other(path: Path) -> None:
    with HomeLock(path, "server"), HomeLock(path.with_name("up.lock"), "up"):
        assert holder_of(path) is not None


def test_what_an_earlier_holder_wrote_is_believed_of_nobody(path: Path) -> None:
    """The new one has taken the lock and not written yet; the old one's pid may be a stranger's by now."""
    with HomeLock(path, "server"):
        path.write_text(json.dumps({"boot_id": "earlier", "pid": os.getppid(), "start_time": 1, "url": "http://old"}))
        with pytest.raises(SetupError, match="cannot be seen from here"):
            holder_of(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "url": 1}'])
def test_a_holder_that_is_about_to_write_is_waited_for(path: Path, text: str) -> None:
    with HomeLock(path, "server") as lock:
        path.write_text(text)
        writer = threading.Timer(0.05, lock.tell)
        writer.start()
        holder = holder_of(path)
        writer.join()
    assert holder is not None
    assert holder.process == Identity.of(os.getpid())


def test_asking_never_keeps_anybody_from_taking_it(path: Path) -> None:
    with HomeLock(path, "server"):
        pass
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            holder_of(path)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            with HomeLock(path, "server"):
                pass
    finally:
        is_over.set()
        asking.join()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with (
        pytest.raises(SetupError, match=rf"^{file}/home: cannot be written \(.*\); choose another folder with --home$"),
        HomeLock(file / "home" / "server.lock", "server"),
    ):
        pass


def test_home_and_lock_are_for_the_owner_only(path: Path) -> None:
    with HomeLock(path, "server"):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
