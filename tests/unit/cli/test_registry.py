"""``registry``: what a person and a program are told of a published service, live and once."""

import asyncio
import contextlib
import dataclasses
import datetime
import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from muster.cli.main import run
from muster.cli.published import change_line
from muster.errors import InvalidSpec
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey, Withheld
from muster.registry import connect
from muster.registry.file import FileRegistry
from muster.registry.port import Beat
from tests.unit.cli.served import ADMIN, Served

KEY = ServiceKey("admin", "0123456789")
NAME = ServiceKey("admin", "digits")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
WATCHER = "lab/admin#w1"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))


def said(*args: str, code: int = 0) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        assert run(args) == code, errors.getvalue()
    return output.getvalue(), errors.getvalue()


def published(*ids: str, revision: int = 1, epoch: int = 5) -> EndpointSet:
    endpoints = tuple(
        Endpoint(each, f"https://gpu1.lab/{each}", gpu_name="RTX 4090", gpu_num=2, concurrency=8, started_at=NOW)
        for each in ids
    )
    return EndpointSet(epoch, revision, endpoints, published_at=NOW)


class Folder:
    """A file registry in which a publisher has claimed a key and let a name stand for it."""

    def __init__(self, path: Path) -> None:
        self.url = f"file://{path}"
        self.registry = FileRegistry(path)

    def publish(self, found: EndpointSet, key: ServiceKey = KEY) -> None:
        async def scenario() -> None:
            await self.registry.claim([key], WATCHER, over=[], floor=found.epoch)
            await self.registry.publish(key, found)
            await self.registry.link(NAME, KEY)

        asyncio.run(scenario())

    def beat(self, count: int, seconds: float) -> None:
        asyncio.run(self.registry.beat(WATCHER, Beat(count, seconds)))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "registry")


class Beating(threading.Thread):
    """Lets the publisher live."""

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder
        self._ended = threading.Event()

    def run(self) -> None:
        count = 0
        while not self._ended.wait(0.05):
            count += 1
            self._folder.beat(count, 2.0)

    def __enter__(self) -> Self:
        self._folder.beat(0, 2.0)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def test_show_tells_who_serves_who_does_not_and_who_keeps_it_up(folder: Folder) -> None:
    withheld = (Withheld("x", "not_ready"), Withheld("y", "draining"))
    folder.publish(dataclasses.replace(published("a", "b"), withheld=withheld))
    with Beating(folder):
        text, errors = said("registry", "show", folder.url, "digits")
    first, when, fence, publisher, *tables = text.splitlines()
    assert first == "digits: admin/0123456789/6006"
    assert when.startswith("published  2026-01-02T03:04:05+00:00, ")
    assert fence == "fence      epoch 5, revision 1"
    assert publisher == "publisher  lab/admin#w1, alive"
    assert tables == [
        "",
        "ID  URL                 GPU           CONCURRENCY  STARTED",
        "a   https://gpu1.lab/a  2 x RTX 4090            8  2026-01-02T03:04:05+00:00",
        "b   https://gpu1.lab/b  2 x RTX 4090            8  2026-01-02T03:04:05+00:00",
        "",
        "NOT IN THE SET  REASON",
        "x               not ready",
        "y               draining",
    ]
    assert errors == ""


def test_show_tells_since_when_a_set_is_stale_and_that_its_publisher_is_silent(folder: Folder) -> None:
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=7)
    folder.publish(dataclasses.replace(published("a"), stale_since=since))
    folder.beat(3, 0.2)  # and never again
    text, _ = said("registry", "show", folder.url, "0123456789")
    assert text.startswith("admin/0123456789/6006\n")
    assert f"stale      since {since.isoformat(timespec='seconds')}, for 7m: nobody could check these" in text
    assert "publisher  lab/admin#w1, silent: killed, paused or cut off; the set stays as it is" in text


def test_show_tells_a_publisher_that_left_from_one_that_has_yet_to_publish(folder: Folder) -> None:
    folder.publish(published())
    text, _ = said("registry", "show", folder.url, "0123456789")
    assert "retired: stopped, or it cannot read its API; the set stays as it is" in text
    assert text.endswith("\nnobody serves\n")
    asyncio.run(folder.registry.claim([KEY], WATCHER, over=[], floor=9))
    with Beating(folder):
        text, _ = said("registry", "show", folder.url, "0123456789")
    assert "alive; it has taken over with epoch 9 and published nothing yet" in text


def test_show_gives_programs_the_documented_set(folder: Folder) -> None:
    folder.publish(published("a"))
    answer = json.loads(said("registry", "show", "--registry", folder.url, "digits", "-o", "json")[0])
    assert answer == {
        "account": "admin",
        "service": "0123456789",
        "port": 6006,
        "set": json.loads(published("a").to_json()),
        "publisher": {"name": WATCHER, "epoch": 5, "life": "retired"},
    }


def test_an_unknown_service_is_refused_with_those_that_there_are(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_REGISTRY", folder.url)
    assert said("registry", "show", "nope", code=1) == (
        "",
        "error: nothing is known of admin/nope/6006: nothing is published there at all\n",
    )
    folder.publish(published("a"))
    assert "error:   admin/0123456789/6006\n" in said("registry", "show", "nope", code=1)[1]
    _, errors = said("registry", "show", "0123456789", "--port", "6008", code=1)
    assert "there is 0123456789 of admin at port 6006 (--account, --port)" in errors
    _, errors = said("registry", "show", "0123456789", "--account", "lab", code=1)
    assert "there is 0123456789 of admin at port 6006" in errors


def test_the_first_argument_goes_before_the_environment(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_REGISTRY", "file:///nowhere")
    folder.publish(published("a"))
    assert said("registry", "show", folder.url, "digits")[0]


@pytest.mark.parametrize(("args", "hint"), [(["digits"], "MUSTER_REGISTRY"), (["a", "b", "c"], "one URL"), ([], "")])
def test_a_line_that_does_not_say_what_to_read_is_wrong_usage(args: list[str], hint: str) -> None:
    assert hint in said("registry", "show", *args, code=2)[1]


def test_a_registry_that_is_down_is_one_line_without_its_password() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    output, errors = said("registry", "show", f"redis://:secret@127.0.0.1:{port}", "digits", code=1)
    assert output == ""
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert f"127.0.0.1:{port}" in errors
    assert "secret" not in errors


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("reddis://user:secret@host:1/0?secret=1", "'reddis://host:1/0'"),
        ("http://user:secret/secret@host/secret", "'http://host'"),
        ("http://[host", "'http://[host'"),
        ("user:secret@host", "'user:…'"),
        ("secret@host", "'…'"),
        ("digits", "'digits'"),
    ],
)
def test_a_url_that_is_no_registrys_is_refused_without_what_may_be_a_password(url: str, shown: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        connect(url)
    assert f"{shown} is no registry URL" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_nothing_of_a_registry_moves_the_cursor_or_shows_a_password(folder: Folder) -> None:
    bad = Endpoint("a\x1b[2J", "http://user:secret@host:1/", gpu_name="\x07")
    folder.publish(EndpointSet(5, 1, (bad,), published_at=NOW, withheld=(Withheld("b\n", "\x1b"),)))
    text, _ = said("registry", "show", folder.url, "digits")
    assert "a\\x1b[2J" in text
    assert "http://host:1/" in text
    assert "b\\n" in text
    assert not {"\x1b", "\x07"} & set(text)
    assert "secret" not in text


def test_a_change_is_one_line_of_what_is_new() -> None:
    first = published("a", "b")
    assert change_line(None, first) == "2026-01-02T03:04:05+00:00  5.1  2 ready  +a  +b"
    second = dataclasses.replace(published("b", "c", revision=2), withheld=(Withheld("a", "not_ready"),))
    assert change_line(first, second).endswith("  5.2  2 ready  +c  -a  withheld: a (not ready)")
    moved = dataclasses.replace(second.endpoints[0], url="https://gpu2.lab/b")
    third = dataclasses.replace(published(revision=3), endpoints=(moved,), stale_since=NOW)
    assert change_line(second, third).endswith("  5.3  1 ready  -c  ~b  stale since 2026-01-02T03:04:05+00:00")
    assert change_line(third, published("z", epoch=4)).endswith("the name leads to another deployment now")


class Watch:
    """``muster registry watch`` in a process of its own, and its lines as they come."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from muster.cli.main import main; main()", "registry", "watch", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output, self.errors = queue.Queue[str](), queue.Queue[str]()
        self._threads = [
            threading.Thread(target=lambda pipe=pipe, lines=lines: [lines.put(line) for line in pipe])
            for pipe, lines in ((self._process.stdout, self.output), (self._process.stderr, self.errors))
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> int:
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(20)
        for thread in self._threads:
            thread.join(10)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        return code


@pytest.mark.slow
@pytest.mark.parametrize("is_json", [False, True])
def test_watch_waits_for_a_service_and_tells_each_change_until_ctrl_c(folder: Folder, is_json: bool) -> None:
    watch = Watch(folder.url, "digits", *(("-o", "json") if is_json else ()))
    try:
        assert watch.errors.get(timeout=20) == "nothing is known of admin/digits/6006; waiting for it\n"
        sets = [published("a"), published("a", "b", revision=2), published("b", revision=3)]
        lines = []
        for each in sets:
            folder.publish(each)
            lines.append(watch.output.get(timeout=20))
    finally:
        code = watch.end()
    assert code == 130
    assert watch.errors.empty()
    if is_json:
        assert [EndpointSet.from_json(line) for line in lines] == sets
    else:
        assert [line.split("  ")[3].strip() for line in lines] == ["+a", "+b", "-a"]


@pytest.mark.slow
def test_watch_says_when_a_registry_cannot_be_read_and_when_it_can_again(folder: Folder, tmp_path: Path) -> None:
    folder.publish(published("a"))
    path = tmp_path / "registry" / "admin" / "0123456789" / "6006.json"
    watch = Watch(folder.url, "0123456789")
    try:
        assert watch.output.get(timeout=20).endswith("1 ready  +a\n")
        path.write_text("what is this")
        assert watch.errors.get(timeout=20).endswith("; waiting for it\n")
        path.unlink()
        folder.publish(published("b", revision=2))
        assert watch.errors.get(timeout=20) == "the registry answers again\n"
        assert watch.output.get(timeout=20).endswith("1 ready  +b  -a\n")
    finally:
        assert watch.end() == 130
    assert watch.errors.empty()


@pytest.mark.slow
def test_watch_goes_on_with_who_had_a_name_that_is_taken_away(folder: Folder) -> None:
    folder.publish(published("a"))
    watch = Watch(folder.url, "digits")
    try:
        assert watch.output.get(timeout=20).endswith("1 ready  +a\n")
        folder.publish(published(revision=2))
        asyncio.run(folder.registry.unlink(NAME))
        assert watch.output.get(timeout=20).endswith("0 ready  -a\n")
        assert watch.errors.get(timeout=20).startswith("admin/digits/6006 is not known any more: it has ended")
    finally:
        assert watch.end() == 130


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "home") as opened:
        yield opened


def test_through_the_api_nothing_is_said_of_publishers(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", ADMIN)
    served.run(served._registry.publish(KEY, published("a")))
    text, _ = said("registry", "show", f"muster+{served.url}", "0123456789")
    assert text.startswith("0123456789/6006\n")
    assert "publisher" not in text
    _, errors = said("registry", "show", f"muster+{served.url}", "nope", code=1)
    assert "nothing is known of nope/6006" in errors
    assert "admin/0123456789/6006" in errors
    monkeypatch.setenv("MUSTER_TOKEN", "wrong")
    _, errors = said("registry", "show", f"muster+{served.url}", "0123456789", code=1)
    assert errors.count("\n") == 1
