"""One fresh API for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.world import World


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    World.furnish(folder)
    return folder / "muster.db"


@pytest.fixture
def world(furnished: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copy(furnished, tmp_path)
    with World(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One API for the tests of a module that change nothing."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copy(furnished, folder)
    with World(folder) as opened:
        yield opened
