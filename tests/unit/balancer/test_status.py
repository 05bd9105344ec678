"""The status address of a process: what it answers, to whom, and that it costs the program nothing."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import muster
from muster.balancer import status, status_http
from muster.balancer.statistics import Statistics
from muster.balancer.statistics_json import from_json
from muster.balancer.status import read_address, serve, serve_if_asked
from muster.balancer.status_http import HEAD_BYTES, Address, is_known_host
from muster.errors import InvalidSpec
from tests.unit.balancer.told import BUSY, NEW

ANY = "127.0.0.1:0"


@contextlib.contextmanager
def serving(*services: Statistics, at: str = ANY) -> Iterator[str]:
    opened = serve(at, lambda: services)
    assert opened is not None
    try:
        yield opened.url
    finally:
        opened.close()


def got(url: str, path: str = "/services", **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False, verify=False) as client:  # no TLS here, and its authorities take a while to load
        return client.get(url + path, headers=headers)


def told(url: str) -> list[str]:
    return [each.service for each in from_json(got(url).content).services]


def spoken(url: str, data: bytes) -> bytes:
    """Send bytes and return what comes back until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "muster: status"]


def test_services_are_told_as_json() -> None:
    with serving(BUSY, NEW) as url:
        answer = got(url)
    assert answer.headers["content-type"] == "application/json"
    assert from_json(answer.content) == (os.getpid(), (BUSY, NEW))


def test_metrics_are_told_to_prometheus() -> None:
    with serving(BUSY) as url:
        answer = got(url, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {each.name: each for each in text_string_to_metric_families(answer.text)}
    assert families["muster_client_waiting"].samples[0].value == 4


def test_the_root_is_a_line_that_tells_what_this_is() -> None:
    with serving(BUSY) as url:
        answer = got(url, "/")
    assert answer.text.startswith(f"muster: process {os.getpid()} balances admin/digits/6006; ")
    assert answer.text.count("\n") == 1


def test_statistics_are_looked_at_when_asked() -> None:
    services = [BUSY]
    opened = serve(ANY, lambda: services)
    assert opened is not None
    with contextlib.closing(opened):
        assert told(opened.url) == ["admin/digits/6006"]
        services.append(NEW)
        assert told(opened.url) == ["admin/digits/6006", "admin/ocr/6006"]


def test_it_only_reads() -> None:
    with serving(BUSY) as url, httpx.Client(trust_env=False, verify=False) as client:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = client.request(method, url + "/services")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        head = client.head(url + "/services")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 100


@pytest.mark.parametrize("path", ["/nope", "/services/x", "//services", "/..", "http://evil/services"])
def test_there_is_nothing_else(path: str) -> None:
    with serving(BUSY) as url:
        assert spoken(url, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.nip.io", ""]
)
def test_a_browser_that_was_led_here_by_a_foreign_name_learns_nothing(host: str) -> None:
    with serving(BUSY) as url:
        answer = spoken(url, f"GET /services HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"digits" not in answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.0.0.1:1", "[::1]:9464", "10.0.0.1"])
def test_addresses_and_localhost_are_known_hosts(host: str) -> None:
    with serving(BUSY) as url:
        assert got(url, Host=host).status_code == 200


def test_where_others_listen_too_their_own_names_are_known() -> None:
    everywhere = Address("0.0.0.0", 9464)
    assert is_known_host("app:9464", everywhere)
    assert is_known_host(socket.gethostname(), everywhere)
    assert not is_known_host("evil.example", everywhere)
    assert not is_known_host("app:9464", Address("127.0.0.1", 9464))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /services HTTP/1.1\r\n\r\n",
        b"GET /services HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /services\r\n\r\n",
        b"GET /services HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with serving(BUSY) as url:
        assert spoken(url, head).startswith(b"HTTP/1.1 400 ")
        assert got(url).status_code == 200


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
def test_a_head_has_a_largest_size(end: bytes) -> None:
    head = b"GET /services HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (HEAD_BYTES + 1) + end
    with serving(BUSY) as url:
        assert spoken(url, head).startswith(b"HTTP/1.1 431 ")


def test_who_is_slow_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "PATIENCE_SECONDS", 0.05)
    with serving(BUSY) as url:
        assert spoken(url, b"GET /services HTTP/1.1\r\n") == b""


def test_who_holds_connections_open_keeps_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_http, "MOST_CONNECTIONS", 2)
    with serving(BUSY) as url:
        host, port = url.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(2)]
            assert spoken(url, b"") == b""  # one too many: closed, though this one is as slow as they are
            for each in held:
                each.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert each.recv(65536).startswith(b"HTTP/1.1 200 ")
                while each.recv(65536):  # until it is over there, too
                    pass
        assert got(url).status_code == 200


def test_a_source_that_fails_is_an_error_of_the_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def source() -> Sequence[Statistics]:
        if broken:
            raise RuntimeError("a bug")
        return [BUSY]

    opened = serve(ANY, source)
    assert opened is not None
    with contextlib.closing(opened):
        answer = got(opened.url)
        assert (answer.status_code, "a bug" in answer.text) == (500, False)
        assert "a bug" in caplog.text
        broken = False
        assert got(opened.url).status_code == 200


def test_connections_of_a_process_share_one_server() -> None:
    with serving(BUSY) as url:
        with serving(NEW, at=url.removeprefix("http://")) as same:
            assert same == url
            assert told(url) == ["admin/digits/6006", "admin/ocr/6006"]
            assert len(threads()) == 1
        assert told(url) == ["admin/digits/6006"]
    assert threads() == []


def test_those_that_ask_for_any_port_share_one_too() -> None:
    with serving(BUSY) as url, serving(NEW) as same:
        assert same == url


def test_the_first_may_go_before_the_second() -> None:
    first, second = serve(ANY, lambda: [BUSY]), serve(ANY, lambda: [NEW])
    assert first is not None
    assert second is not None
    first.close()
    first.close()
    assert told(second.url) == ["admin/ocr/6006"]
    second.close()
    with pytest.raises(httpx.ConnectError):
        got(second.url)


def test_one_service_of_two_connections_is_told_apart() -> None:
    with serving(BUSY) as url, serving(BUSY):
        assert told(url) == ["admin/digits/6006", "admin/digits/6006#2"]
        text = got(url, "/metrics").text
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


def test_an_address_may_be_used_again_at_once() -> None:
    with serving(BUSY) as url:
        got(url)
    with serving(NEW, at=url.removeprefix("http://")) as again:
        assert (again, told(again)) == (url, ["admin/ocr/6006"])


def test_a_port_of_another_process_is_a_warning_that_names_the_variable(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MUSTER_STATUS", f"127.0.0.1:{port}")
        assert serve_if_asked(None, lambda: [BUSY]) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"MUSTER_STATUS: cannot listen at 127.0.0.1:{port}: Address already in use; " in record.getMessage()
    assert threads() == []


def test_a_variable_that_is_wrong_is_a_warning_and_an_argument_an_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_STATUS", "nowhere")
    assert serve_if_asked(None, lambda: [BUSY]) is None
    assert "MUSTER_STATUS: 'nowhere' is no address to listen at" in caplog.text
    with pytest.raises(InvalidSpec, match=r"^status: 'there' is no address to listen at: write 127\.0\.0\.1:9464"):
        serve_if_asked("there", lambda: [BUSY])


@pytest.mark.parametrize(("written", "variable"), [(None, None), (None, ""), ("", ANY)])
def test_nobody_listens_unless_asked_to(
    written: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSTER_STATUS", raising=False)
    if variable is not None:
        monkeypatch.setenv("MUSTER_STATUS", variable)
    assert serve_if_asked(written, lambda: [BUSY]) is None
    assert threads() == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("10.1.2.3:80", ("10.1.2.3", 80)),
    ],
)
def test_an_address_is_loopback_unless_it_says_another_one(written: str, meant: tuple[str, int]) -> None:
    assert read_address(written) == meant


@pytest.mark.parametrize(
    "written", ["", "gpu1.lab:9464", "*:9464", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:-1", "[:1"]
)
def test_a_name_or_half_an_address_is_refused(written: str) -> None:
    with pytest.raises(InvalidSpec):
        read_address(written)


def test_a_server_that_listens_everywhere_tells_an_address_that_can_be_asked() -> None:
    assert Address("0.0.0.0", 9464).url == "http://127.0.0.1:9464"
    assert Address("::", 9464).url == "http://[::1]:9464"
    assert Address("10.1.2.3", 9464).url == "http://10.1.2.3:9464"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_part_in_it() -> None:
    with serving(BUSY) as url:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.write(writes, repr(status._servers).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        with os.fdopen(reads, "rb") as pipe:
            assert pipe.read() == b"[]"
        assert os.waitpid(child, 0)[1] == 0
        assert told(url) == ["admin/digits/6006"]


def test_a_connection_tells_its_services_until_it_is_closed(tmp_path: Path) -> None:
    with muster.connect(f"file://{tmp_path}", status=ANY) as connection:
        url = connection.status_url
        assert url is not None
        assert told(url) == []
        connection.service("digits")
        assert told(url) == ["admin/digits/6006"]
        assert got(url, "/metrics").text == connection.metrics()
        assert 'muster_client_waiting{service="admin/digits/6006"} 0\n' in connection.metrics()
    assert connection.status_url is None
    assert threads() == []


def test_an_async_connection_ends_it_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with muster.connect(f"file://{tmp_path}", status=ANY) as connection:
            assert connection.status_url is not None

    asyncio.run(scenario())
    assert threads() == []


def test_the_variable_switches_it_on_for_every_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_STATUS", ANY)
    with muster.connect(f"file://{tmp_path}") as first, muster.connect(f"file://{tmp_path}") as second:
        first.service("digits")
        second.service("ocr")
        assert first.status_url == second.status_url
        assert told(str(first.status_url)) == ["admin/digits/6006", "admin/ocr/6006"]
        with muster.connect(f"file://{tmp_path}", status="") as third:
            assert third.status_url is None


def test_a_connection_does_without_where_the_port_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        connection = muster.connect(f"file://{tmp_path}", status=taken)
    with connection:
        assert connection.status_url is None
        connection.service("digits")
        assert "admin/digits/6006" in connection.metrics()
    assert "status: cannot listen at 127.0.0.1:" in caplog.text


def test_a_status_that_is_no_address_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"^status: "):
        muster.connect(f"file://{tmp_path}", status="nowhere")
