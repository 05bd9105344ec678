"""``muster watch`` as far as it refuses to start: one line, exit code 1, and no secret in it."""

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from muster.cli.main import run
from muster.testing.scripted_api import ScriptedApi

Captured = pytest.CaptureFixture[str]
Refusal = tuple[int, str]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MUSTER_TOKEN", "wr0ng")


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as api:
        yield api


@pytest.fixture(params=[200, 302])
def website(request: pytest.FixtureRequest) -> Iterator[str]:
    """What answers every request with a page, or leads to another."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(request.param)
            self.send_header("content-type", "text/html")
            self.send_header("location", "https://elsewhere.test/")
            self.end_headers()
            self.wfile.write(b"<html>welcome</html>")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(capsys: Captured, *words: str) -> str:
    """Run a command that ends at once; return its one line."""
    assert run(["watch", *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "wr0ng" not in err
    return line


@pytest.mark.parametrize("feed", ["auto", "poll", "stream"])
def test_a_wrong_token_ends_it_with_one_line(api: ScriptedApi, tmp_path: Path, capsys: Captured, feed: str) -> None:
    line = refusal(capsys, "--api", api.url, "--registry", f"file://{tmp_path}/registry", "--feed", feed)
    assert api.url in line
    assert line.endswith("(is the token right?)")
    assert not (tmp_path / "registry").exists(), "nothing was published"


def test_the_stream_of_an_api_that_has_none_ends_it_with_one_line(
    api: ScriptedApi, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", api.world.token)
    line = refusal(capsys, "--api", api.url, "--registry", f"file://{tmp_path}/registry", "--feed", "stream")
    assert "no such path" in line


@pytest.mark.parametrize("feed", ["auto", "poll", "stream"])
def test_a_website_at_the_address_ends_it_with_one_line(
    website: str, tmp_path: Path, capsys: Captured, feed: str
) -> None:
    line = refusal(capsys, "--api", website, "--registry", f"file://{tmp_path}/registry", "--feed", feed)
    assert website in line
    assert line.endswith("is the address right?")


def test_a_token_that_is_not_entitled_ends_it_with_one_line(
    api: ScriptedApi, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", api.world.token)
    api.world.troubles.order("not_entitled", 100)
    line = refusal(capsys, "--api", api.url, "--registry", f"file://{tmp_path}/registry", "--feed", "poll")
    assert "not entitled" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--registry", "redi://user:passw0rd@host"], "'redi://host' is no registry URL"),
        ([], "--registry"),
        (["--registry", "file:///tmp/r", "--api", "ftp://host"], "write http://HOST:PORT"),
        (["--registry", "file:///tmp/r", "--token-file", "/nowhere"], "--token-file: /nowhere cannot be read"),
        (["--registry", "file:///tmp/r", "--ca", "/nowhere"], "/nowhere holds no certificate authority"),
        (["--registry", "file:///tmp/r", "--template", "apache", "--output", "/tmp/x"], "no template 'apache'"),
        (["--registry", "file:///tmp/r", "--template", "nginx"], "a template needs a file"),
        (["--registry", "file:///tmp/r", "--deployment", "asr", "--deployment", ""], "--deployment: names nothing"),
    ],
)
def test_what_cannot_be_meant_is_said_without_asking_anybody(capsys: Captured, words: list[str], said: str) -> None:
    line = refusal(capsys, "--api", "http://127.0.0.1:1", *words)
    assert said in line
    assert "passw0rd" not in line


def test_the_registry_may_be_told_by_the_environment(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_REGISTRY", "memory://")
    assert "ends with this process" in refusal(capsys, "--api", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    "words", [["--interval", "1ms"], ["--interval", "soon"], ["--feed", "x"], ["--concurrency", "0"]]
)
def test_a_wrong_value_is_wrong_usage(capsys: Captured, words: list[str]) -> None:
    assert run(["watch", "--registry", "file:///tmp/r", *words]) == 2
    assert words[0] in capsys.readouterr().err


def test_without_a_token_it_says_where_one_is_looked_for(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_TOKEN")
    line = refusal(capsys, "--api", "http://127.0.0.1:1", "--registry", "file:///tmp/r")
    assert "set MUSTER_TOKEN or use --token-file" in line


def test_a_broker_at_no_address_is_refused(api: ScriptedApi, tmp_path: Path, capsys: Captured) -> None:
    words = ["watch", "--api", api.url, "--registry", f"file://{tmp_path}/r", "--broker-url", "a.lab:7690"]
    assert run(words) == 1
    assert capsys.readouterr().err.startswith(
        "error: --broker-url: 'a.lab:7690' is no address of a broker: write tls://"
    )
