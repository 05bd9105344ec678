"""The command line from outside: exit codes, one-line errors, clean output. No server is needed here."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muster import __version__
from muster.cli.main import run
from muster.home import write_profile

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "home"


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def muster(*args: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", "from muster.cli.main import main; main()", *args],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, muster.cli.main as m; code = m.run(['--help']);"
        "print(code, sorted({'httpx', 'pydantic', 'rich', 'yaml', 'sqlalchemy', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    commands = "up server down apply ps containers events logs exec scale stop delete machines stock account config"
    commands += " explain"
    for command in commands.split():
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    "command", ["apply", "ps", "containers", "events", "logs", "exec", "scale", "stop", "delete", "stock"]
)
def test_every_command_explains_itself(command: str, capsys: Captured) -> None:
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: muster {command}" in text
    assert "--token-file" in text


def test_the_version_is_told(capsys: Captured) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"muster {__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["nope"],
        ["scale", "digits"],
        ["scale", "digits", "many"],
        ["scale", "digits", "-1"],
        ["ps", "-o", "xml"],
        ["apply"],
        ["account", "create", "a", "--role", "king"],
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing_to_standard_output(args: list[str], capsys: Captured) -> None:
    assert run(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error:" in captured.err


def test_stop_wants_either_a_deployment_or_a_container(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "t")
    assert run(["stop"]) == 2
    assert run(["stop", "digits", "--container", "abc"]) == 2
    assert run(["stop", "digits", "--decrease"]) == 2
    assert capsys.readouterr().out == ""


def test_a_server_that_does_not_answer_is_one_line(home: Path, capsys: Captured) -> None:
    port = closed_port()
    write_profile(home / "profile.json", f"http://127.0.0.1:{port}", "token")
    assert run(["ps"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: cannot reach http://127.0.0.1:{port}: is `muster up` running?\n"


def test_no_token_is_one_line_that_says_what_to_do(capsys: Captured) -> None:
    assert run(["ps"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no token for http://127.0.0.1:7600: start a server with `muster up`")


def test_a_wrong_file_is_told_before_any_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "t")
    file = tmp_path / "app.yml"
    file.write_text("name: n\nimage: i\ncmd: c\nreplica: 3\ncpu: lots\n", encoding="utf-8")
    assert run(["apply", "-f", str(file)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: {file}:4: replica: unknown field; did you mean 'replicas'?",
        f"error: {file}:5: cpu: 'lots' is not a whole number of at least 0",
    ]


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "t")
    assert run(["apply", "-f", "/nowhere.yml"]) == 1
    assert capsys.readouterr().err == "error: /nowhere.yml: cannot be read: No such file or directory\n"


def test_settings_are_shown_with_their_origin_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, home: Path
) -> None:
    monkeypatch.setenv("MUSTER_ADMIN_TOKEN", "sesame-open")
    assert run(["config", "show", "-o", "json"]) == 0
    text = capsys.readouterr().out
    assert "sesame" not in text
    shown = json.loads(text)
    assert shown["port"] == {"value": 7600, "from": "default"}
    assert shown["home"] == {"value": str(home), "from": "MUSTER_HOME"}
    assert shown["admin_token"]["from"] == "MUSTER_ADMIN_TOKEN"
    assert run(["config", "show"]) == 0
    assert "sesame" not in capsys.readouterr().out


def test_a_wrong_setting_stops_up_with_one_line(capsys: Captured) -> None:
    assert run(["up", "--engine", "podman"]) == 1
    assert capsys.readouterr().err == "error: --engine: 'podman' is not auto, local or docker\n"


def test_a_traceback_is_shown_only_for_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = muster("ps")
    assert (plain.returncode, "Traceback" in plain.stderr) == (1, False)
    monkeypatch.setenv("MUSTER_DEBUG", "1")
    assert "Traceback" in muster("ps").stderr


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "from muster.cli.main import main; main()", "config", "show"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
