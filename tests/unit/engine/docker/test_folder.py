"""The folder of one object: what is noted of its runs, what a new run keeps of it, and who may read it."""

import os
import stat
from pathlib import Path

import pytest

from muster.engine.docker.folder import OOM, Cause, Folder, Heard
from muster.engine.port import StopOrder
from tests.unit.engine.docker.opened import order

ORDER = StopOrder("echo bye", before_seconds=1, term_seconds=2)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "objects" / "c.1")
    folder.make()
    folder.write_run(order("echo hello", PASSWORD="secret"), started_before="")
    return folder


def test_only_its_owner_reads_what_it_holds(folder: Folder) -> None:
    old_mask = os.umask(0)
    try:
        folder.write_before("echo secret")
        folder.order_stop(ORDER, 0.0)
        folder.note(Heard(1.0, OOM))
        folder.write_end("begun", Cause())
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.path.rglob("*") if path.is_file()} == {0o600}


def test_the_first_order_to_stop_counts(folder: Folder) -> None:
    first = folder.order_stop(ORDER, 5.0)
    assert folder.order_stop(StopOrder(), 9.0) == first == folder.stopping()
    assert (first.order, first.begun_at, first.is_before_run, first.term_at) == (ORDER, 5.0, False, None)


def test_what_was_heard_is_kept_in_order_and_a_torn_line_is_no_harm(folder: Folder) -> None:
    told = [Heard(1795531779.123456, OOM), Heard(1795531780.5, "15")]
    for each in told:
        folder.note(each)
    with (folder.path / "heard").open("ab") as file:
        file.write(b"179553")
    assert folder.heard() == told


def test_a_cause_is_that_of_one_start(folder: Folder) -> None:
    folder.write_end("begun", Cause(killed_by=9))
    assert folder.end("begun") == Cause(killed_by=9)
    assert folder.end("begun later") is None
    (folder.path / "end.json").write_text('{"started_at": "begun"')
    assert folder.end("begun") is None


def test_a_new_run_inherits_no_notes_and_keeps_the_files(folder: Folder) -> None:
    (folder.path / "tmp" / "data").write_text("kept")
    folder.write_before("echo bye")
    folder.order_stop(ORDER, 0.0)
    folder.note(Heard(1.0, "9"))
    folder.write_end("begun", Cause(killed_by=9))
    run = order("echo again")
    folder.write_run(run, started_before="begun")
    assert (folder.stopping(), folder.heard(), folder.end("begun")) == (None, (), None)
    assert not (folder.path / "run" / "before").exists()
    assert "secret" not in (folder.path / "run" / "env").read_text()
    found = folder.card()
    assert found is not None
    assert (found.ref, found.started_before) == (run.ref, "begun")
    assert (folder.path / "tmp" / "data").read_text() == "kept"


def test_a_folder_that_is_gone_knows_nothing_and_takes_no_notes(folder: Folder) -> None:
    folder.destroy()
    folder.destroy()
    folder.note(Heard(1.0, OOM))
    folder.write_end("begun", Cause())
    assert (folder.card(), folder.stopping(), folder.heard(), folder.end("begun")) == (None, None, (), None)
    assert not folder.path.exists()
