"""Which server a command talks to, and what token it is given: never one that belongs to another server."""

from pathlib import Path

import pytest

from muster.cli.connection import DEFAULT_URL, resolve
from muster.errors import SetupError
from muster.home import write_profile


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "home"


def test_the_home_that_up_serves_from_tells_url_and_token(home: Path) -> None:
    write_profile(home / "profile.json", "http://127.0.0.1:7601", "token-of-home")
    assert resolve({}, home=home) == ("http://127.0.0.1:7601", "token-of-home")
    assert resolve({"MUSTER_HOME": str(home)}) == ("http://127.0.0.1:7601", "token-of-home")


def test_without_a_home_the_default_one_and_then_the_users_own_profile_are_read(home: Path) -> None:
    write_profile(home.parent / "config" / "muster" / "profile.json", "http://gpu.lab:7600", "token-of-user")
    assert resolve({}) == ("http://gpu.lab:7600", "token-of-user")
    write_profile(home.parent / "data" / "muster" / "profile.json", DEFAULT_URL, "token-of-host")
    assert resolve({}) == (DEFAULT_URL, "token-of-host")


def test_a_named_home_without_a_server_does_not_fall_back_to_another_server(home: Path) -> None:
    write_profile(home.parent / "config" / "muster" / "profile.json", "http://gpu.lab:7600", "token-of-user")
    with pytest.raises(SetupError, match="start a server with `muster up`"):
        resolve({}, home=home)


def test_flags_beat_variables_which_beat_the_profile(home: Path, tmp_path: Path) -> None:
    write_profile(home / "profile.json", "http://127.0.0.1:7601", "token-of-home")
    told = tmp_path / "token"
    told.write_text("token-of-file\n", encoding="utf-8")
    environ = {"MUSTER_API": "http://a:1/", "MUSTER_TOKEN": "token-of-variable"}
    assert resolve(environ, home=home) == ("http://a:1", "token-of-variable")
    assert resolve(environ, home=home, api="http://b:2", token_file=told) == ("http://b:2", "token-of-file")


def test_a_profiles_token_is_sent_to_no_other_server(home: Path) -> None:
    write_profile(home / "profile.json", "http://127.0.0.1:7601", "token-of-home")
    assert resolve({}, home=home, api="http://127.0.0.1:7601/") == ("http://127.0.0.1:7601", "token-of-home")
    with pytest.raises(SetupError, match="no token for http://elsewhere: set MUSTER_TOKEN or use --token-file"):
        resolve({}, home=home, api="http://elsewhere")


@pytest.mark.parametrize("url", ["localhost:7600", "ftp://a", "http://", "http://a:b", "http://a:99999"])
def test_something_else_than_a_url_is_refused(home: Path, url: str) -> None:
    with pytest.raises(SetupError, match="is no URL of a server"):
        resolve({"MUSTER_TOKEN": "t"}, home=home, api=url)


@pytest.mark.parametrize("content", ["", " \n", "two words", "two\nlines", "tökén"])
def test_something_else_than_a_token_is_refused(home: Path, tmp_path: Path, content: str) -> None:
    told = tmp_path / "token"
    told.write_text(content, encoding="utf-8")
    with pytest.raises(SetupError, match="holds no token"):
        resolve({}, home=home, token_file=told)


def test_a_token_file_that_is_not_there_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"--token-file: .*absent cannot be read"):
        resolve({}, home=home, token_file=tmp_path / "absent")
