"""The migrations give the schema of ``tables.py``, once, whoever starts them."""

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from muster.errors import StoreUnavailable
from muster.store import migrations
from muster.store.sql.engine import open_writer
from muster.store.sql.tables import metadata


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_writer(sa.URL.create("sqlite", database=str(tmp_path / "muster.db")))
    yield engine
    engine.dispose()


def revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        return found


def clauses(sql: str) -> list[str]:
    head, _, rest = " ".join(sql.split()).partition("(")
    body, _, tail = rest.rpartition(")")
    return [head, *sorted(clause.strip() for clause in body.split(",")), tail]


def migrate(path: Path) -> str | None:
    engine = open_writer(sa.URL.create("sqlite", database=str(path)))
    migrations.upgrade(engine)
    found = revision(engine)
    engine.dispose()
    return found


def test_migrations_give_exactly_the_tables(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []


def test_what_migrations_give_is_written_like_what_the_tables_say(engine: sa.Engine, tmp_path: Path) -> None:
    """Alembic's comparison leaves out what it cannot read back, such as AUTOINCREMENT; the stored text does not."""
    migrations.upgrade(engine)
    direct = open_writer(sa.URL.create("sqlite", database=str(tmp_path / "direct.db")))
    with direct.begin() as connection:
        metadata.create_all(connection)

    def schema(of: sa.Engine) -> dict[str, list[str]]:
        """Return the clauses of each table and index; constraints come in no particular order."""
        with of.connect() as connection:
            rows = connection.execute(sa.text("SELECT name, sql FROM sqlite_master"))
            return {row.name: clauses(row.sql or "") for row in rows if "alembic" not in row.name}

    migrated, declared = schema(engine), schema(direct)
    direct.dispose()
    assert migrated == declared


def test_the_known_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def test_a_database_at_the_head_needs_no_alembic(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations.upgrade(engine)
    for module in [name for name in sys.modules if name.partition(".")[0] == "alembic"]:
        monkeypatch.setitem(sys.modules, module, None)  # importing it now fails
    migrations.upgrade(engine)
    assert revision(engine) == migrations.HEAD


def test_a_database_of_a_newer_muster_is_refused_and_left_alone(engine: sa.Engine) -> None:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="upgrade muster, or use another home") as refused:
        migrations.upgrade(engine)
    assert "\n" not in str(refused.value)
    assert revision(engine) == "9999"


def test_a_migration_that_fails_leaves_nothing_behind(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE machines (id TEXT)"))  # in the way, after other tables were made
    with pytest.raises(sa.exc.OperationalError, match="already exists"):
        migrations.upgrade(engine)
    assert sa.inspect(engine).get_table_names() == ["machines"]


def test_threads_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(migrate, [tmp_path / "muster.db"] * 4)) == {migrations.HEAD}


@pytest.mark.slow
def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert set(pool.map(migrate, [tmp_path / "muster.db"] * 4)) == {migrations.HEAD}
