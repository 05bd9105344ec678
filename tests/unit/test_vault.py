"""The vault: what goes in comes out, with the right key and with no other."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muster.errors import SetupError
from muster.vault import Vault

CANARY = "pa55-wörd-canary"


def test_what_is_sealed_is_opened_again_also_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    sealed = Vault(path).seal(CANARY)
    assert CANARY not in sealed
    assert sealed.isascii()
    assert Vault(path).open(sealed) == CANARY
    assert Vault(path).open(Vault(path).seal("")) == ""


def test_nothing_is_written_before_there_is_a_secret_and_then_only_the_owner_may_read_the_key(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    vault = Vault(path)
    assert not path.exists()
    vault.seal(CANARY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_who_is_first_at_the_same_time_makes_the_key_for_all(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda number: Vault(path).seal(str(number)), range(32)))
    assert [Vault(path).open(each) for each in sealed] == [str(number) for number in range(32)]
    assert list(tmp_path.iterdir()) == [path]


def test_another_key_or_an_altered_text_is_refused_saying_what_to_do(tmp_path: Path) -> None:
    sealed = Vault(tmp_path / "first.key").seal(CANARY)
    other = Vault(tmp_path / "other.key")
    other.seal("something")
    with pytest.raises(SetupError, match=r"other\.key: is not the key .*; restore the file, or enter anew") as refused:
        other.open(sealed)
    assert CANARY not in str(refused.value)
    with pytest.raises(SetupError, match="is not the key"):
        Vault(tmp_path / "first.key").open(sealed[:-8] + "AAAAAAA=")
    with pytest.raises(SetupError, match="is not the key"):
        Vault(tmp_path / "first.key").open("not sealed")


def test_a_key_that_is_gone_is_not_made_anew_to_open_what_an_older_one_sealed(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    sealed = Vault(path).seal(CANARY)
    path.unlink()
    with pytest.raises(SetupError, match=r"is gone; restore the file"):
        Vault(path).open(sealed)
    assert not path.exists()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    sealed = Vault(path).seal(CANARY)
    path.chmod(0o640)
    with pytest.raises(SetupError, match="run: chmod 600"):
        Vault(path).open(sealed)
    with pytest.raises(SetupError, match="run: chmod 600"):
        Vault(path).seal(CANARY)


@pytest.mark.parametrize("content", [b"", b"no key\n", b"\xff\xfe", b"QUJD\n"])
def test_something_else_is_no_key_and_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SetupError, match="holds no key"):
        Vault(path).seal(CANARY)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"absent/secret\.key: cannot be written: No such file or directory$"):
        Vault(tmp_path / "absent" / "secret.key").seal(CANARY)
