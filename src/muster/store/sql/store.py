"""The store: runs functions in transactions on threads, and tells listeners what each commit changed.

A write goes through one thread (and one lock, should the given executor have more), so writes are serialised and
their commits are announced in order. The announcement is handed to the event loop by the thread that committed,
before the caller's result: a caller that was cancelled meanwhile changes nothing about either. A write whose caller
is cancelled before it began never begins; one that began commits or rolls back as if nothing had happened.

Refused: an async driver. It would allow awaiting inside transactions, and SQLite runs in threads anyway.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from muster.errors import StoreUnavailable
from muster.store.migrations import upgrade
from muster.store.port import Changes, Transaction
from muster.store.sql.accounts import SqlAccounts
from muster.store.sql.audit import SqlAudit
from muster.store.sql.blacklist import SqlBlacklist
from muster.store.sql.containers import SqlContainers
from muster.store.sql.credentials import SqlCredentials
from muster.store.sql.deployments import SqlDeployments
from muster.store.sql.engine import open_reader, open_writer
from muster.store.sql.events import SqlEvents
from muster.store.sql.held_images import SqlHeldImages
from muster.store.sql.images import SqlImages
from muster.store.sql.listen_ports import SqlListenPorts
from muster.store.sql.machines import SqlMachines
from muster.store.sql.prewarms import SqlPrewarms
from muster.store.sql.session import Session, converted, first_line
from muster.store.sql.ssh_keys import SqlSshKeys

T = TypeVar("T")

READERS = 4
"""Reads at a time: enough that a long list does not hold up the loops, few enough to cost nothing."""


class SqlTransaction:
    """All nouns over one connection."""

    def __init__(self, session: Session) -> None:
        self.accounts = SqlAccounts(session)
        self.deployments = SqlDeployments(session)
        self.containers = SqlContainers(session)
        self.machines = SqlMachines(session)
        self.images = SqlImages(session)
        self.held_images = SqlHeldImages(session)
        self.prewarms = SqlPrewarms(session)
        self.credentials = SqlCredentials(session)
        self.events = SqlEvents(session)
        self.blacklist = SqlBlacklist(session)
        self.audit = SqlAudit(session)
        self.listen_ports = SqlListenPorts(session)
        self.ssh_keys = SqlSshKeys(session)


class SqlStore:
    """A ``Store`` in a SQLite file; opening it blocks until the schema is the one known.

    ``executor`` runs reads and writes alike and is not closed; without it the store has threads of its own.
    Raises ``StoreUnavailable`` when the file cannot be opened, is no database, or belongs to a newer Muster.
    """

    def __init__(self, url: str, executor: Executor | None = None) -> None:
        path = _path(url)
        with contextlib.suppress(OSError):  # opening says it better
            path.touch(mode=0o600)  # specifications hold secrets; SQLite gives its other files the mode of this one
        where = sa.URL.create("sqlite", database=str(path))
        self._writer = open_writer(where)
        self._reader = open_reader(where, READERS)
        try:
            upgrade(self._writer)
        except exc.SQLAlchemyError as error:
            self._writer.dispose()
            raise StoreUnavailable(
                f"cannot open the database {path}: {first_line(error)}; see that it is one of muster's and that it and"
                " its folder may be written, or use another home"
            ) from error
        except BaseException:
            self._writer.dispose()
            raise
        self._owned: list[Executor] = []
        self._writes = executor or self._own(1, "muster-store-write")
        self._reads = executor or self._own(READERS, "muster-store-read")
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Changes], None]] = []
        self._under_way: set[Future[Any]] = set()
        self._is_closed = False

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` against one consistent state; what it writes is refused with ``StoreError``."""
        return await self._run(self._reads, lambda: self._read(work))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` and commit; on any exception nothing is written."""
        loop = asyncio.get_running_loop()
        return await self._run(self._writes, lambda: self._write(work, loop))

    def on_commit(self, listener: Callable[[Changes], None]) -> None:
        """Call ``listener`` on the event loop after each commit that changed something."""
        self._listeners.append(listener)

    async def aclose(self) -> None:
        """Finish what is under way and close; closing again does nothing."""
        self._is_closed = True
        if under_way := tuple(self._under_way):
            # in a thread, not by wrap_future: who gives up this wait must not cancel a write that has not begun
            await asyncio.to_thread(wait, under_way)
        for executor in self._owned:
            executor.shutdown()
        self._reader.dispose()
        self._writer.dispose()

    async def _run(self, executor: Executor, transaction: Callable[[], T]) -> T:
        if self._is_closed:
            raise StoreUnavailable("the store is closed")
        future = executor.submit(transaction)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return await asyncio.wrap_future(future)

    def _read(self, work: Callable[[Transaction], T]) -> T:
        with converted("read from the database"), self._reader.begin() as connection:
            return work(SqlTransaction(Session(connection, is_writer=False)))

    def _write(self, work: Callable[[Transaction], T], loop: asyncio.AbstractEventLoop) -> T:
        with self._lock:
            with converted("write to the database"), self._writer.begin() as connection:
                session = Session(connection, is_writer=True)
                result = work(SqlTransaction(session))
                changes = session.changes
            if changes is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                    loop.call_soon_threadsafe(self._announce, changes)
            return result

    def _announce(self, changes: Changes) -> None:
        for listener in self._listeners:
            listener(changes)

    def _own(self, threads: int, name: str) -> Executor:
        executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._owned.append(executor)
        return executor


def _path(url: str) -> Path:
    """Take the path as it stands: a home may hold any character, also those that mean something in a URL."""
    scheme, _, path = url.partition(":///")
    if scheme != "sqlite" or path in ("", ":memory:"):
        raise StoreUnavailable(f"cannot open {url!r}: write sqlite:///path, with the path of a file")
    return Path(path)
