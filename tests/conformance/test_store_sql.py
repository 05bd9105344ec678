"""The SQL store on SQLite keeps the store's port."""

from pathlib import Path

import pytest

from muster.store import connect
from muster.testing.conformance.store import OpenStore, StoreConformance
from muster.testing.database import empty_database


@pytest.fixture
def open_store(tmp_path: Path) -> OpenStore:
    return lambda: connect(empty_database(tmp_path))


class TestSqlite(StoreConformance):
    pass
