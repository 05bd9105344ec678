"""The ingress's ports in SQL: which container has which, and how long others have been free.

Claims follow from the container's row, like those of GPUs: it holds the ports in it until ``SHUTDOWN``. The primary
key refuses a second holder. A port that was ever held keeps its row, so that it rests before the next container gets
it: a client that still believes in the address of before must not end up with somebody else.
"""

import datetime
from collections.abc import Sequence

import sqlalchemy as sa

from muster.errors import StaleWrite
from muster.model.container import Container, ContainerStatus
from muster.model.ids import ContainerId
from muster.store.sql.session import Session
from muster.store.sql.tables import UtcTime, listen_ports

REST = datetime.timedelta(minutes=10)

_IS_WITHIN = listen_ports.c.port.between(sa.bindparam("first"), sa.bindparam("last"))
_HIGHEST = sa.select(sa.func.max(listen_ports.c.port)).where(_IS_WITHIN)
_RESTED = (
    sa.select(listen_ports.c.port)
    .where(
        _IS_WITHIN,
        listen_ports.c.container_id.is_(None),
        listen_ports.c.freed_at <= sa.bindparam("rested", type_=UtcTime),
    )
    .order_by(listen_ports.c.freed_at, listen_ports.c.port)
    .limit(sa.bindparam("at_most"))
)
_OF = sa.select(listen_ports.c.port).where(listen_ports.c.container_id == sa.bindparam("key"))
_INSERT = sa.insert(listen_ports)
_TAKE = (
    sa.update(listen_ports)
    .where(listen_ports.c.port == sa.bindparam("number"), listen_ports.c.container_id.is_(None))
    .values(container_id=sa.bindparam("holder"), freed_at=None)
)
_FREE = (
    sa.update(listen_ports)
    .where(listen_ports.c.port == sa.bindparam("number"), listen_ports.c.container_id == sa.bindparam("holder"))
    .values(container_id=None, freed_at=sa.bindparam("freed", type_=UtcTime))
)


class SqlListenPorts:
    """The ``ListenPorts`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def free(self, within: range, count: int, now: datetime.datetime) -> Sequence[int]:
        """Return up to ``count`` ports that may be taken: never held ones, then those that have rested longest."""
        bounds = {"first": within.start, "last": within.stop - 1}
        highest = self._session.number(_HIGHEST, bounds)
        fresh = range(max(within.start, highest + 1), within.stop)[:count]
        missing = count - len(fresh)
        if not missing:
            return list(fresh)
        rested = self._session.rows(_RESTED, {**bounds, "rested": now - REST, "at_most": missing})
        return [*fresh, *(row.port for row in rested)]


class PortClaims:
    """The ports that a container holds, and those that it is to hold by its row."""

    def __init__(self, session: Session, container: Container) -> None:
        self._session = session
        self._container = container
        named = set(container.listen_ports.values())
        if container.ssh_port is not None:
            named.add(container.ssh_port)
        self._held: set[int] = {row.port for row in session.rows(_OF, {"key": container.id})} if named else set()
        self._wanted: set[int] = set() if container.status is ContainerStatus.SHUTDOWN else named

    @property
    def has_changed(self) -> bool:
        """Whether there is anything to write; nearly never."""
        return self._held != self._wanted

    def write(self) -> None:
        """Give up and take. Raises ``StaleWrite`` when another container has a port."""
        owner, now = self._container.id, self._container.updated_at
        freed = [{"number": port, "holder": owner, "freed": now} for port in self._held - self._wanted]
        if freed:
            self._session.change(_FREE, freed)
        for port in self._wanted - self._held:
            self._take(port, owner)

    def _take(self, port: int, owner: ContainerId) -> None:
        if self._session.change(_TAKE, {"number": port, "holder": owner}).rowcount:
            return
        self._session.change(
            _INSERT,
            {"port": port, "container_id": owner},
            violation=lambda: StaleWrite(f"port {port} belongs to another container"),
        )
