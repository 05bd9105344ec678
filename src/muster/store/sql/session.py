"""One transaction's connection: runs statements, notes what changed, converts the driver's errors.

Repositories call ``rows``/``row`` to ask and ``change`` to write; nothing else reaches SQLAlchemy's connection.
``failure`` is the one table from foreign errors to ours. A repository that knows what a violated constraint means
(a GPU that is taken, a name that is taken) says so with ``violation``: the statement knows, while the texts of
violations differ from database to database.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import CursorResult

from muster.errors import Conflict, StoreError, StoreUnavailable
from muster.model.ids import AccountId, ContainerId, DeploymentId, ImageUuid
from muster.store.port import Changes
from muster.store.sql.rows import AnyRow


def failure(error: exc.SQLAlchemyError, attempt: str) -> StoreError | Conflict | None:
    """Say what a foreign error means to callers; ``None`` when it is our own mistake and must be seen as it is."""
    if isinstance(error, exc.IntegrityError):
        return Conflict(f"{attempt}: {first_line(error)}")
    if isinstance(error, (exc.ProgrammingError, exc.InterfaceError, exc.DataError)):
        return None
    if isinstance(error, (exc.DBAPIError, exc.TimeoutError)):
        return StoreUnavailable(f"{attempt}: {first_line(error)}")
    return None


def first_line(error: exc.SQLAlchemyError) -> str:
    """Return what the driver said, without the statement and its values, which may be secret."""
    said = error.orig if isinstance(error, exc.DBAPIError) else error
    return str(said).partition("\n")[0]


@contextmanager
def converted(attempt: str) -> Iterator[None]:
    """Raise ours instead of SQLAlchemy's errors."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        ours = failure(error, attempt)
        if ours is None:
            raise
        raise ours from error


class Session:
    """What repositories may do with the transaction's connection."""

    def __init__(self, connection: sa.Connection, *, is_writer: bool) -> None:
        self._connection = connection
        self._is_writer = is_writer
        self._has_written = False
        self._deployments: set[DeploymentId] = set()
        self._containers: set[ContainerId] = set()
        self._has_events = False
        self._has_machines = False
        self._images: set[ImageUuid] = set()
        self._accounts: set[AccountId] = set()

    @property
    def changes(self) -> Changes | None:
        """What was written so far; ``None`` when nothing was."""
        if not self._has_written:
            return None
        return Changes(
            deployments=frozenset(self._deployments),
            containers=frozenset(self._containers),
            images=frozenset(self._images),
            accounts=frozenset(self._accounts),
            has_events=self._has_events,
            has_machines=self._has_machines,
        )

    def rows(self, statement: sa.Executable, values: Mapping[str, Any] | None = None) -> Sequence[AnyRow]:
        """Return all rows of a query."""
        with converted("read"):
            return self._connection.execute(statement, values).all()

    def row(self, statement: sa.Executable, values: Mapping[str, Any] | None = None) -> AnyRow | None:
        """Return the first row of a query."""
        with converted("read"):
            return self._connection.execute(statement, values).first()

    def number(self, statement: sa.Executable, values: Mapping[str, Any] | None = None) -> int:
        """Return the one number that a query gives, 0 for null or nothing."""
        with converted("read"):
            return self._connection.execute(statement, values).scalar() or 0

    def change(
        self,
        statement: sa.Executable,
        values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        violation: Callable[[], Exception] | None = None,
    ) -> CursorResult[Any]:
        """Run one write; ``violation`` makes the error to raise when a constraint refuses it."""
        if not self._is_writer:
            raise StoreError("a read transaction refuses to write")
        try:
            with converted("write"):
                result = self._connection.execute(statement, values)
        except Conflict as error:
            if violation is None:
                raise
            raise violation() from error.__cause__
        self._has_written = self._has_written or result.rowcount != 0
        return result

    def insert(
        self, statement: sa.Insert, values: Mapping[str, Any], *, violation: Callable[[], Exception] | None = None
    ) -> int:
        """Write one row and return the number that the database gave it."""
        key = self.change(statement, values, violation=violation).inserted_primary_key
        assert key is not None  # an insert of one row always tells its key
        number: int = key[0]
        return number

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo the writes of the block if it raises, also when the transaction goes on."""
        with self._connection.begin_nested():
            yield

    def touched(
        self,
        *,
        deployment: DeploymentId | None = None,
        container: ContainerId | None = None,
        event: bool = False,
        machine: bool = False,
        image: ImageUuid | None = None,
        account: AccountId | None = None,
    ) -> None:
        """Note for the listeners what a write was about."""
        if deployment is not None:
            self._deployments.add(deployment)
        if container is not None:
            self._containers.add(container)
        if image is not None:
            self._images.add(image)
        if account is not None:
            self._accounts.add(account)
        self._has_events = self._has_events or event
        self._has_machines = self._has_machines or machine
