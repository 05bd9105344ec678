"""The access log: whole lines of JSON, in a file that may be rotated, and none of it in the way of requests."""

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest

from muster.errors import SetupError
from muster.gateway import access_log
from muster.gateway.access_log import AccessLog, line_of
from muster.gateway.port import Record
from tests.unit.gateway.ground import run, until

RECORD = Record(
    peer="127.0.0.1",
    method="GET",
    target="/x?token=1",
    service="digits",
    key="web",
    tenant="team",
    status=200,
    replica="r0",
    attempts=2,
    queue_seconds=0.25,
    seconds=1.5,
    bytes_in=3,
    bytes_out=4,
)


def test_a_line_says_what_became_of_a_request_and_not_its_query() -> None:
    assert json.loads(line_of(RECORD, 0.5)) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "peer": "127.0.0.1",
        "key": "web",
        "tenant": "team",
        "method": "GET",
        "path": "/x",
        "service": "digits",
        "replica": "r0",
        "attempts": 2,
        "status": 200,
        "reason": "",
        "queue_seconds": 0.25,
        "seconds": 1.5,
        "bytes_in": 3,
        "bytes_out": 4,
    }
    assert json.loads(line_of(RECORD, 0, has_query=True))["path"] == "/x?token=1"


def test_no_name_breaks_a_line() -> None:
    line = line_of(Record("p", "GET", '/"\n\u2028\ud800'), 0)
    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["path"] == '/"\n\u2028\ud800'


def test_several_writers_write_whole_lines_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "access.log"

    async def main() -> None:
        logs = [AccessLog(str(path)) for _ in range(3)]
        for at in range(300):
            for log in logs:
                log.note(RECORD, at)
            await asyncio.sleep(0)
        for log in logs:
            await log.aclose()

    run(main())
    lines = [json.loads(each) for each in path.read_text().splitlines()]
    assert len(lines) == 900


def test_lines_are_written_soon_and_not_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def main() -> None:
        log = AccessLog(str(path))
        log.note(RECORD, 0)
        await until(path.read_text)
        log.note(RECORD, 0)
        await until(lambda: path.read_text().count("\n") == 2)
        await log.aclose()

    run(main())


def test_a_file_that_was_renamed_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def main() -> None:
        log = AccessLog(str(path))
        log.note(RECORD, 1)
        await until(path.read_text)
        path.rename(tmp_path / "access.log.1")
        log.reopen()
        log.note(RECORD, 2)
        await log.aclose()

    run(main())
    assert path.read_text().count("\n") == 1
    assert (tmp_path / "access.log.1").read_text().count("\n") == 1


def test_a_disk_that_is_slower_than_requests_costs_lines_and_not_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "MOST_LINES", 10)
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 0.0)
    goes = threading.Event()
    real = os.write

    def slow(descriptor: int, data: bytes) -> int:
        goes.wait()
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", slow)
    path = tmp_path / "access.log"

    async def main() -> None:
        log = AccessLog(str(path))
        log.note(RECORD, 0)
        await asyncio.sleep(0.05)  # the first is being written now
        for _ in range(25):
            log.note(RECORD, 0)
        assert log.lost == 15
        goes.set()
        await log.aclose()

    run(main())
    assert path.read_text().count("\n") == 11


def test_on_a_pipe_no_piece_is_larger_than_it_takes_at_once() -> None:
    lines = ["x" * 1000] * 50 + ["y" * 9000] + ["z"]
    pieces = list(access_log._pieces(lines))
    assert b"".join(pieces).decode().splitlines() == lines
    assert [len(each) for each in pieces if len(each) > 4096] == [9001]
    assert all(each.endswith(b"\n") for each in pieces)


def test_a_disk_that_fails_is_told_of_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = os.write, [True]

    def write(descriptor: int, data: bytes) -> int:
        if failures:
            failures.pop()
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    path = tmp_path / "access.log"

    async def main() -> None:
        log = AccessLog(str(path))
        for _ in range(3):
            log.note(RECORD, 0)
        await until(lambda: log.lost)
        assert log.lost == 3
        log.note(RECORD, 0)
        await log.aclose()

    run(main())
    assert "No space left on device" in caplog.text
    assert path.read_text().count("\n") == 1


def test_a_line_of_which_half_was_written_spoils_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, takes = os.write, [10, 0]

    def write(descriptor: int, data: bytes) -> int:
        if takes and not (size := takes.pop(0)):
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:size] if takes else data)

    monkeypatch.setattr(os, "write", write)
    path = tmp_path / "access.log"

    async def main() -> None:
        log = AccessLog(str(path))
        log.note(RECORD, 0)
        await until(lambda: log.lost)
        log.note(RECORD, 0)
        await log.aclose()

    run(main())
    half, whole = path.read_text().splitlines()
    assert len(half) == 10
    assert json.loads(whole)["service"] == "digits"


def test_a_pipe_that_nobody_reads_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(access_log, "FLUSH_SECONDS", 0.0)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def main() -> None:
        log = AccessLog(str(path))
        for _ in range(1000):
            log.note(RECORD, 0)
        await asyncio.sleep(0.05)
        log.note(RECORD, 0)
        await log.aclose()
        assert log.lost == 1001

    run(main())  # which waits for the threads of executors
    os.close(reader)


def test_texts_of_clients_are_cut_so_that_lines_on_a_pipe_stay_whole() -> None:
    record = Record("p", "GET", "/" + "x" * 9000, tenant="\xff" * 4000)
    assert len(line_of(record, 0)) < 4096
    assert json.loads(line_of(record, 0))["path"].endswith("x…")


def test_a_file_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"^access_log: .*: cannot be opened for writing: Is a directory$"):
        AccessLog(str(tmp_path))
