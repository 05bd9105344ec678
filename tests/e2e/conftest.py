"""Worlds for tests: one that is shared by the quiet tests of a module, and one for each test that breaks things."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World


@pytest.fixture(scope="module")
def module_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for the tests of a file."""
    with World(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def shared(module_world: World) -> Iterator[World]:
    """The world of the file, handed on only when what a test deleted has ended: the next one counts what runs."""
    yield module_world
    module_world.until_settled()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world
