"""``lb show``: what a person and a program are told of a process that balances."""

import contextlib
import http.server
import io
import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.balancer.statistics import Statistics, TenantStatistics
from muster.balancer.status import serve
from muster.cli.main import run
from tests.unit.balancer.told import BUSY, COST, FAST, NEW, SLOW


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))


def said(*args: str, code: int = 0) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        assert run(args) == code, errors.getvalue()
    return output.getvalue(), errors.getvalue()


@contextlib.contextmanager
def balancing(*services: Statistics, at: str = "127.0.0.1:0") -> Iterator[str]:
    opened = serve(at, lambda: services)
    assert opened is not None
    try:
        yield opened.url
    finally:
        opened.close()


def test_it_tells_replicas_queue_totals_and_what_was_learned() -> None:
    with balancing(BUSY) as url:
        text, errors = said("lb", "show", url, "digits")
    formula = "0.021 s × pixels^0.97 × steps^1.02"
    assert text.splitlines() == [
        "admin/digits/6006",
        f"process    {os.getpid()}",
        "set        epoch 5, revision 7, 2 replicas",
        "requests   151 granted, 147 answered in 214 ms each, 3 in flight, 3 re-sent",
        "refused    6 by a full queue, 2 early for deadlines, 1 timed out",
        "queue      4 waiting, the oldest for 800 ms, a request would wait 400 ms now, 200 ms on average so far",
        "cost       learned from 150 answers, off by 23%; 2 side by side take 1.32 x as long",
        "           2 of them named no features that could be used",
        f"           pixels, steps: {formula} (power law, off by 12%, their mean by 129%, 148 answers)",
        "           GPUs take RTX 3090 1.60 x, RTX 4090 0.81 x as long as the typical replica",
        "",
        "ID  GPU        TAKES  IN FLIGHT  LIMIT       OTHERS'  SERVED  BUDGETS             STATE",
        "a   RTX 4090  0.80 x          3  4 declared        1     120  vram_mb 9000/24000  ready",
        "b   RTX 3090  1.62 x          0  2 learned         0      31  -                   aside for 250 ms: refused",
        "",
        "TENANT  WAITING  OLDEST",
        "ann           3  800 ms",
        "bob           1  100 ms",
    ]
    assert errors == ""


def test_a_service_that_has_learned_nothing_says_so() -> None:
    with balancing(NEW) as url:
        text, _ = said("lb", "show", url, "ocr")
    assert text.splitlines()[2:] == [
        "set        no set yet: the registry has none of that name, or cannot be reached",
        "requests   0 granted, 0 answered, 0 in flight, 0 re-sent",
        "refused    0 by a full queue, 0 early for deadlines, 0 timed out",
        "queue      0 waiting, a request would wait in vain",
        "cost       nothing learned yet",
    ]


def test_without_a_name_all_services_are_told() -> None:
    with balancing(BUSY, NEW) as url:
        text, _ = said("lb", "show", url)
    assert [line for line in text.splitlines() if line.startswith("admin/")] == ["admin/digits/6006", "admin/ocr/6006"]
    with balancing() as url:
        assert said("lb", "show", url)[0] == f"process {os.getpid()} has asked for no service yet\n"


@pytest.mark.parametrize("name", ["digits", "admin/digits", "digits/6006", "admin/digits/6006"])
def test_a_service_may_be_named_as_people_call_it(name: str) -> None:
    with balancing(BUSY, NEW) as url:
        assert said("lb", "show", url, name)[0].startswith("admin/digits/6006\n")


def test_a_name_that_several_connections_use_means_each_of_them() -> None:
    with balancing(BUSY, BUSY) as url:
        names = [line for line in said("lb", "show", url, "digits")[0].splitlines() if line.startswith("admin/")]
        assert names == ["admin/digits/6006", "admin/digits/6006#2"]
        assert said("lb", "show", url, "admin/digits/6006#2")[0].startswith("admin/digits/6006#2\n")


def test_an_unknown_service_is_told_the_known_ones() -> None:
    with balancing(BUSY, NEW) as url:
        output, errors = said("lb", "show", url, "digit", code=1)
    assert output == ""
    assert errors == (
        f"error: process {os.getpid()} balances nothing that is called 'digit':"
        " there is admin/digits/6006, admin/ocr/6006\n"
    )


@pytest.mark.parametrize(
    ("replica", "state"),
    [
        (FAST._replace(in_flight=4), "full"),
        (FAST._replace(is_leaving=True, aside_seconds=1.0), "leaving"),
        (FAST._replace(aside_seconds=2.5), "aside for 2.5 s"),
        (FAST._replace(aside_seconds=math.inf, why="it is closed"), "aside: it is closed"),
        (FAST._replace(why="it failed"), "on trial: it failed"),
    ],
)
def test_a_state_is_one_word_and_why(replica: object, state: str) -> None:
    with balancing(BUSY._replace(replicas=(replica, SLOW), tenants=())) as url:  # type: ignore[arg-type]
        line = said("lb", "show", url)[0].splitlines()[-2]
    assert line.endswith(f"  {state}")


def test_json_is_what_the_process_tells() -> None:
    with balancing(BUSY, NEW) as url:
        text, _ = said("lb", "show", url, "digits", "-o", "json")
        assert said("lb", "show", url, "digits", "--json")[0] == text
    value = json.loads(text)
    assert (value["schema"], value["pid"]) == (1, os.getpid())
    (service,) = value["services"]
    assert service["service"] == "admin/digits/6006"
    assert service["replicas"][1]["aside_seconds"] == 0.25
    assert service["cost"]["kinds"]["pixels, steps"]["observations"] == 148
    with balancing(NEW) as url:
        assert json.loads(said("lb", "show", url, "--json")[0])["services"][0]["expected_wait_seconds"] is None


def test_names_of_strangers_cannot_write_on_the_terminal() -> None:
    evil = "\x1b[2J\u202e"
    cost = COST._replace(kinds={evil: COST.kinds["pixels, steps"]}, gpus={evil: 1.0})
    replica = SLOW._replace(id=evil, gpu=evil, why=evil, budgets={evil: (1, 2)})
    service = BUSY._replace(service=evil, replicas=(replica,), tenants=(TenantStatistics(evil, 1, 1.0),), cost=cost)
    with balancing(service) as url:
        text, _ = said("lb", "show", url)
        _, errors = said("lb", "show", url, "x", code=1)
    assert text.count("\\x1b[2J") == 8
    assert not {"\x1b", "\u202e"} & set(text + errors)


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/registry",
        "file:/srv/registry",
        "redis://:secret@redis.lab/0",
        "etcd://user:secret@etcd.lab:2379/muster",
        "muster+https://user:secret@muster.lab",
    ],
)
def test_a_registry_does_not_know_it(url: str) -> None:
    output, errors = said("lb", "show", url, "digits", code=1)
    assert output == ""
    assert "is a registry; it holds who serves" in errors
    assert "MUSTER_STATUS=127.0.0.1:9464" in errors
    assert f"muster registry show {url.partition(':')[0]}:" in errors
    assert "secret" not in errors
    assert all(line.startswith("error: ") for line in errors.splitlines())


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:9464", "http://", "http://127.0.0.1:0", "http://[::1", "http://h:x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    assert "write it like http://127.0.0.1:9464" in said("lb", "show", url, code=1)[1]


@pytest.mark.parametrize("wrap", ["{}", "{}/", "{}/services", "{}/metrics", "http://{}", "http://localhost:{port}"])
def test_an_address_may_be_written_in_several_ways(wrap: str) -> None:
    with balancing(BUSY) as url:
        port = url.rpartition(":")[2]
        written = wrap.format(url.removeprefix("http://") if wrap.startswith("http") else url, port=port)
        assert said("lb", "show", written)[0].startswith("admin/digits/6006\n")
        assert said("lb", "show", f"127.0.0.1:{port}")[0].startswith("admin/digits/6006\n")


def test_where_nobody_listens_it_says_what_to_do() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        output, errors = said("lb", "show", url, code=1)
    assert output == ""
    assert errors.startswith(f"error: nobody tells anything at {url} (")
    assert "start that process with MUSTER_STATUS=127.0.0.1:9464" in errors
    assert errors.count("\n") == 1


class Other(http.server.BaseHTTPRequestHandler):
    """Something else that speaks HTTP."""

    answer = (200, b"<html>")

    def do_GET(self) -> None:
        self.send_response(self.answer[0])
        self.send_header("Content-Length", str(len(self.answer[1])))
        self.end_headers()
        self.wfile.write(self.answer[1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("answer", [(200, b"<html>"), (200, b"{}"), (404, b"nothing"), (302, b""), (200, b"\xff\x1b")])
def test_what_is_something_else_is_told_so(answer: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Other, "answer", answer)
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            _, errors = said("lb", "show", url, code=1)
        finally:
            server.shutdown()
            thread.join()
    assert errors.startswith(f"error: {url} is no status address of a process that balances: ")
    assert "\x1b" not in errors


@pytest.mark.parametrize(
    "args", [[], ["show"], ["show", "http://h", "--interval", "0"], ["show", "http://h", "-o", "xml"]]
)
def test_wrong_usage_is_2(args: list[str]) -> None:
    said("lb", *args, code=2)


def test_live_it_looks_again_and_waits_for_who_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        url = first.enter_context(balancing(BUSY))
        looks: list[float] = []

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 2:
                first.close()
            if len(looks) == 4:
                second.enter_context(balancing(NEW, at=url.removeprefix("http://")))
            if len(looks) == 5:
                raise KeyboardInterrupt

        monkeypatch.setattr("muster.cli.balanced.time.sleep", sleep)
        text, errors = said("lb", "show", url, "--interval", "200ms", "--json", code=130)
    lines = [[each["service"] for each in json.loads(line)["services"]] for line in text.splitlines()]
    assert lines == [["admin/digits/6006"], ["admin/digits/6006"], ["admin/ocr/6006"]]
    assert looks == [0.2] * 5
    assert errors.count("waiting for it") == 1


def test_ctrl_c_ends_the_live_view() -> None:
    command = [sys.executable, "-c", "from muster.cli.main import main; main()", "lb", "show"]
    with balancing(BUSY) as url:
        shown = subprocess.Popen([*command, url, "-w"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert shown.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            reader = threading.Thread(target=lambda: any(map(lines.put, shown.stdout or ())))
            reader.start()
            frames = 0
            while frames < 2:
                frames += lines.get(timeout=30) == "admin/digits/6006\n"
            shown.send_signal(signal.SIGINT)
            assert shown.wait(30) == 130
            reader.join()
        finally:
            shown.kill()
            shown.communicate()
