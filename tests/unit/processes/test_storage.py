"""Which folder the settings mean, and whether it has to be marked."""

from pathlib import Path

import pytest

from muster.config import Settings
from muster.errors import StorageError
from muster.model.ids import AccountId
from muster.processes.storage import file_storage


def test_without_a_word_files_lie_in_the_home(tmp_path: Path) -> None:
    storage = file_storage(Settings(home=tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert storage.folder(AccountId(1), "local") == tmp_path / "files" / "local" / "1"
    assert storage.public_folder() is None


def test_a_folder_that_was_named_must_be_marked(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    storage = file_storage(Settings(home=tmp_path / "home", file_storage=shared, public_data=shared))
    with pytest.raises(StorageError):
        storage.folder(AccountId(1), "local")
    (shared / ".muster-storage").touch()
    assert storage.folder(AccountId(1), "local") == shared / "local" / "1"
    assert storage.public_folder() == shared
    assert not (tmp_path / "home").exists()
