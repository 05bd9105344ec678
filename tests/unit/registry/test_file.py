"""What the file registry promises beyond the port: its layout, its permissions, its writers."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.errors import Fenced, InvalidSpec, RegistryUnavailable
from muster.model.endpoint import EndpointSet, ServiceKey
from muster.registry import file as file_registry
from muster.registry.file import FileRegistry
from muster.registry.port import Beat, Claim
from muster.testing.conformance.registry import FULL, make_set

KEY = ServiceKey("admin", "0123456789")


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = FileRegistry(tmp_path)
        await registry.publish(KEY, FULL)
        await registry.link(ServiceKey("admin", "digits"), KEY)

    asyncio.run(scenario())
    assert sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()) == [
        "@aliases/admin/digits/6006.json",
        "@lock",
        "admin/0123456789/6006.json",
    ]
    assert EndpointSet.from_json((tmp_path / "admin/0123456789/6006.json").read_text()) == FULL
    alias = json.loads((tmp_path / "@aliases/admin/digits/6006.json").read_text())
    assert alias == {"schema": 1, "target": {"account": "admin", "service": "0123456789", "port": 6006}}


def test_nothing_is_published_under_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = FileRegistry(tmp_path)
        await registry.publish(KEY, FULL)
        for name in ("x" * 300, "한" * 128, "😀" * 128):
            assert await registry.target(ServiceKey("admin", name)) is None

    asyncio.run(scenario())


def test_a_shell_script_can_read_it(tmp_path: Path) -> None:
    asyncio.run(FileRegistry(tmp_path).publish(KEY, make_set("a", "b")))
    script = r"""grep -o '"url":"[^"]*"' "$1/admin/0123456789/6006.json" | cut -d '"' -f 4"""
    output = subprocess.run(["sh", "-c", script, "sh", tmp_path], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        '{"schema":99}',
        '{"schema":1,"endpoints":[]}',
        "\xff",
        FULL.to_json().replace('"epoch":', '"epoch":1e999,"was":'),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_whatever_is_not_a_set_is_foreign(tmp_path: Path, text: str) -> None:
    path = tmp_path / "admin/0123456789/6006.json"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RegistryUnavailable):
        asyncio.run(FileRegistry(tmp_path).publish(KEY, make_set("a")))
    assert path.read_text(encoding="latin-1") == text


@pytest.mark.parametrize("text", ["", "[]", '{"schema":99}', '{"schema":1,"target":"x"}'])
def test_a_broken_alias_is_foreign(tmp_path: Path, text: str) -> None:
    path = tmp_path / "@aliases/admin/digits/6006.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(RegistryUnavailable):
        asyncio.run(FileRegistry(tmp_path).get(ServiceKey("admin", "digits")))


@pytest.mark.parametrize("text", ["[]", "null", "[1", pytest.param("[" * 100_000, id="deep")])
def test_files_of_publishers_that_say_nothing_are_begun_anew(tmp_path: Path, text: str) -> None:
    async def scenario() -> None:
        (tmp_path / "@beats.json").write_text(text)
        (tmp_path / "@claims.json").write_text(text)
        registry = FileRegistry(tmp_path)
        assert await registry.beat("a", Beat(1, 0.5)) == {}
        assert await registry.beats() == {"a": Beat(1, 0.5)}
        assert await registry.claims() == {}
        assert await registry.claim([KEY], "a", over=(), floor=7) == {KEY: Claim("a", 7)}

    asyncio.run(scenario())


@pytest.mark.parametrize("row", [None, "a", [1], [1, "x"], ["a", 1, "of a newer version"], {"schema": 2}, [[], []]])
def test_a_row_of_publishers_that_cannot_be_read_stays_and_holds_up_no_other(tmp_path: Path, row: object) -> None:
    async def scenario() -> None:
        (tmp_path / "@beats.json").write_text(json.dumps({"foreign": row, "b": [3, 1]}))
        (tmp_path / "@claims.json").write_text(json.dumps({"admin/0123456789/6006": row, "x": 1, "admin/x/y": 1}))
        registry, other = FileRegistry(tmp_path), ServiceKey("admin", "other")
        assert await registry.beat("a", Beat(1, 0.5)) == {"b": Beat(3, 1.0)}
        assert await registry.claims() == {}
        assert await registry.claim([KEY, other], "a", over=(), floor=7) == {other: Claim("a", 7)}

    asyncio.run(scenario())
    assert json.loads((tmp_path / "@beats.json").read_text())["foreign"] == row
    claims = json.loads((tmp_path / "@claims.json").read_text())
    assert claims == {"admin/0123456789/6006": row, "x": 1, "admin/x/y": 1, "admin/other/6006": ["a", 7]}


def test_a_watch_goes_on_when_foreign_data_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        path = tmp_path / "admin/0123456789/6006.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        watch = asyncio.ensure_future(_first(FileRegistry(tmp_path)))
        async with asyncio.timeout(5):
            while "foreign" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        path.unlink()
        await FileRegistry(tmp_path).publish(KEY, make_set("a"))
        assert await asyncio.wait_for(watch, 5) == make_set("a")

    asyncio.run(scenario())


async def _first(registry: FileRegistry) -> EndpointSet:
    return await anext(registry.watch(KEY))


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = FileRegistry(tmp_path / "file" / "registry")
    with pytest.raises(RegistryUnavailable, match="write to"):
        asyncio.run(registry.publish(KEY, make_set("a")))
    assert asyncio.run(registry.get(KEY)) is None


def test_a_reader_needs_no_more_than_read_permission(tmp_path: Path) -> None:
    """Asserted on what is asked of the system, because root would be allowed everything."""
    asyncio.run(FileRegistry(tmp_path).publish(KEY, make_set("a")))
    registry = FileRegistry(tmp_path)
    with _opened_files() as opened:
        asyncio.run(registry.get(KEY))
        asyncio.run(registry.keys())
    flags = [flags for path, flags in opened if path.startswith(str(tmp_path))]
    assert flags
    assert all(each & os.O_ACCMODE == os.O_RDONLY for each in flags)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = FileRegistry(tmp_path / "registry")
        assert await registry.get(KEY) is None
        assert list(await registry.keys()) == []
        watch = registry.watch(KEY)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watch), 0.1)

    asyncio.run(scenario())
    assert not (tmp_path / "registry").exists()


def test_a_lock_that_is_never_released_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_registry, "LOCK_WAIT_SECONDS", 0.05)
    registry = FileRegistry(tmp_path)
    with registry._locked(), pytest.raises(RegistryUnavailable, match="does not let go"):
        asyncio.run(FileRegistry(tmp_path).publish(KEY, make_set("a")))
    asyncio.run(registry.publish(KEY, make_set("a")))


@pytest.mark.slow
def test_a_heartbeat_does_not_wait_for_sets_on_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(0.03))

    async def scenario() -> None:
        registry = FileRegistry(tmp_path)
        keys = [ServiceKey("admin", f"d{number}") for number in range(40)]
        publishing = [asyncio.create_task(registry.publish(key, FULL)) for key in keys]
        await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
        await registry.beat("a", Beat(1, 0.5))
        assert len(await registry.keys()) < len(keys) / 2
        await asyncio.gather(*publishing)

    asyncio.run(scenario())


def test_a_key_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="empty"):
        asyncio.run(FileRegistry(tmp_path).get(ServiceKey("admin", "")))


def test_a_publisher_that_died_while_writing_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "admin/0123456789"
    folder.mkdir(parents=True)
    (folder / ".6006.json.tmp").write_text('{"schema":1,"epo')
    registry = FileRegistry(tmp_path)
    assert list(asyncio.run(registry.keys())) == []
    asyncio.run(registry.publish(KEY, make_set("a")))
    assert [each.name for each in folder.iterdir()] == ["6006.json"]


def test_a_reader_never_sees_half_a_set(tmp_path: Path) -> None:
    """One thread replaces a large set as fast as it can, this one reads: every read is one whole set."""
    ids = [f"{number:04}-{'x' * 60}" for number in range(300)]
    is_over = threading.Event()

    def publish() -> None:
        for revision in range(1, 16):
            asyncio.run(
                FileRegistry(tmp_path).publish(KEY, make_set(*ids[: 300 if revision % 2 else 1], revision=revision))
            )
        is_over.set()

    writer = threading.Thread(target=publish)
    writer.start()
    reads = 0
    try:
        while not is_over.is_set():
            found = FileRegistry(tmp_path)._read_set(KEY)
            if found is not None:
                reads += 1
                assert len(found.endpoints) == (300 if found.revision % 2 else 1)
    finally:
        writer.join()
    assert reads > 3


@pytest.mark.slow
def test_publishers_in_several_processes_never_step_back(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    publishers = [context.Process(target=_publish_many, args=(str(tmp_path), epoch)) for epoch in range(1, 5)]
    for each in publishers:
        each.start()
    seen = []
    while any(each.is_alive() for each in publishers):
        found = FileRegistry(tmp_path)._read_set(KEY)
        if found is not None:
            seen.append(found.fence)
    for each in publishers:
        each.join()
        assert each.exitcode == 0
    final = asyncio.run(FileRegistry(tmp_path).get(KEY))
    assert seen == sorted(seen)
    assert final is not None
    assert final.fence == (4, 99)


def _publish_many(folder: str, epoch: int) -> None:
    async def scenario() -> None:
        registry = FileRegistry(Path(folder))
        for revision in range(100):
            try:
                await registry.publish(KEY, make_set(f"from-{epoch}", epoch=epoch, revision=revision))
            except Fenced:
                return

    asyncio.run(scenario())


_recording: list[tuple[str, int]] | None = None


def _record(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _recording is not None and isinstance(args[2], int):
        _recording.append((str(args[0]), args[2]))


sys.addaudithook(_record)  # cannot be taken back, so it looks at a switch


@contextlib.contextmanager
def _opened_files() -> Iterator[list[tuple[str, int]]]:
    global _recording  # noqa: PLW0603
    _recording = []
    try:
        yield _recording
    finally:
        _recording = None
