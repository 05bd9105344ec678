"""Brings a database to the schema of ``sql/tables.py``, by Alembic, without an ini file.

``upgrade`` holds the write lock from reading the revision to committing the new one, so two processes that start at
once do it once. Importing Alembic takes longer than opening the store, so a database that is already at ``HEAD`` never
imports it; a test keeps ``HEAD`` equal to the newest file in ``versions``.
"""

from importlib import resources

import sqlalchemy as sa

from muster.errors import StoreUnavailable

HEAD = "0006"
"""The newest revision."""

_REVISION = sa.text("SELECT version_num FROM alembic_version")


def upgrade(engine: sa.Engine) -> None:
    """Migrate the database to ``HEAD`` in one transaction.

    Raises ``StoreUnavailable`` when its revision is one that only a newer Muster knows.
    """
    with engine.begin() as connection:
        revision = _revision(connection)
        if revision != HEAD:
            _migrate(connection, revision)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(_REVISION).scalar()
    return revision


def _migrate(connection: sa.Connection, revision: str | None) -> None:
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(resources.files(__name__)).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreUnavailable(
            f"the database {connection.engine.url.database} is of a newer muster (revision {revision}, known: {HEAD}):"
            " upgrade muster, or use another home"
        )
    command.upgrade(config, HEAD)
