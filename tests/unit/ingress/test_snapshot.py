"""The last table, as a file."""

import json
import stat
from pathlib import Path

import pytest

from muster.ingress.snapshot import Snapshot
from muster.model.container import Address
from muster.model.routes import SCHEMA
from tests.unit.ingress.ground import port_route, route, table

TABLE = table(route("c1", port_route(20_017, Address("127.0.0.1", 80))), epoch=7, revision=3)


def test_what_was_written_is_read_again_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    Snapshot(tmp_path).write(TABLE.to_json())
    snapshot = Snapshot(tmp_path)
    assert snapshot.read() == TABLE
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(snapshot.path.parent.stat().st_mode) == 0o700


def test_no_file_is_nothing_to_speak_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Snapshot(tmp_path).read() is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": 1}',
        json.dumps({"schema": SCHEMA + 1, "epoch": 1, "revision": 1, "routes": []}),
        '{"schema": 1, "epoch": 1, "revision": 1, "routes": [{}]}',
        "\x00" * 100,
    ],
)
def test_a_file_that_is_torn_foreign_or_newer_is_a_warning_and_an_empty_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    snapshot = Snapshot(tmp_path)
    snapshot.path.parent.mkdir()
    snapshot.path.write_text(text)
    assert snapshot.read() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(snapshot.path) in caplog.text


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path)
    snapshot.write(TABLE.to_json())
    draft = snapshot.path.with_name(f".{snapshot.path.name}.12345")
    draft.write_text('{"schema": 1, "epo')
    assert snapshot.read() == TABLE
    assert not draft.exists()


def test_a_table_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ingress").write_text("no folder")
    snapshot = Snapshot(tmp_path)
    snapshot.write(TABLE.to_json())
    snapshot.write(TABLE.to_json())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
