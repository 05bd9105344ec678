"""The profile: found again, private, and explained when it is wrong."""

import stat
from pathlib import Path

import pytest

from muster.errors import SetupError
from muster.home import Profile, default_home, read_profile, shared_secret, write_profile


def test_a_written_profile_is_read_again_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    write_profile(path, "http://127.0.0.1:7600", "first")
    write_profile(path, "http://127.0.0.1:7601", "second")
    assert read_profile(path) == Profile("http://127.0.0.1:7601", "second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_token_does_not_show_in_repr() -> None:
    assert "first" not in repr(Profile("http://127.0.0.1:7600", "first"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SetupError, match=r"cannot be written: .*; choose another folder with --home$"):
        write_profile(tmp_path / "file" / "profile.json", "http://127.0.0.1:7600", "first")


def test_no_profile_is_none(tmp_path: Path) -> None:
    assert read_profile(tmp_path / "profile.json") is None


def test_a_profile_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(path, "http://127.0.0.1:7600", "first")
    path.chmod(0o644)
    with pytest.raises(SetupError, match="run: chmod 600"):
        read_profile(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": "x"}'])
def test_something_else_is_no_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SetupError, match="is no profile"):
        read_profile(path)


def test_the_home_is_told_by_the_environment_or_the_users_data_folder() -> None:
    assert default_home({"MUSTER_HOME": "/srv/muster"}) == Path("/srv/muster")
    assert default_home({}).name == "muster"


def test_a_secret_is_drawn_once_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    drawn = shared_secret(path)
    assert len(drawn) >= 32
    assert shared_secret(path) == drawn
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_an_empty_secret_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(SetupError, match="holds no secret"):
        shared_secret(tmp_path / "secret")
