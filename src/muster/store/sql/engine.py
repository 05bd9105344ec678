"""How SQLite is opened: one connection that writes, a few that read.

WAL lets readers see the last commit while a write is under way. ``synchronous=NORMAL`` survives every kill of the
process; after a power cut the last commits may be missing, never half there. ``BEGIN`` is ours, not the driver's:
writers begin IMMEDIATE, so that two processes queue at the start instead of failing in the middle, and readers begin
DEFERRED, with ``query_only`` as a second lock on the door. Foreign keys are off by default in SQLite, so they are
switched on. Each connection is used by one thread at a time (the pool sees to it), not always by the same one.
"""

import sqlite3
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

BUSY_SECONDS = 5.0
"""How long a write waits for another process's; ours take milliseconds."""


def open_writer(url: sa.URL) -> sa.Engine:
    """Return an engine of one connection whose transactions take the write lock when they begin."""
    return _open(url, size=1, begin="BEGIN IMMEDIATE", pragmas=("PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON"))


def open_reader(url: sa.URL, size: int) -> sa.Engine:
    """Return an engine of at most ``size`` connections that cannot write."""
    return _open(url, size=size, begin="BEGIN DEFERRED", pragmas=("PRAGMA query_only=ON",))


def _open(url: sa.URL, *, size: int, begin: str, pragmas: tuple[str, ...]) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.QueuePool,
        pool_size=size,
        max_overflow=0,
        hide_parameters=True,  # an error that is logged must not show a specification's env
        # isolation_level=None: the driver begins nothing by itself
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": BUSY_SECONDS},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        try:
            _use_wal(connection)
            for pragma in pragmas:
                connection.execute(pragma)
        except BaseException:
            connection.close()  # the pool does not know it yet
            raise

    @event.listens_for(engine, "begin")
    def begin_ours(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL; it stays so. The switch needs the file alone and does not wait for that by itself."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
