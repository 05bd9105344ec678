"""Containers and their GPU claims in SQL.

Claims follow from the row: whoever writes a container states which GPUs it holds (those of its placement, until
``SHUTDOWN``), and the difference to what it held before is inserted or deleted. The primary key ``(machine, index)``
then refuses a second holder, whatever the writer believed. Most updates change no claim and pay one indexed lookup.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from muster.errors import Conflict, StaleWrite
from muster.model.container import Container, ContainerStatus, Reason
from muster.model.deployment import Deployment, DeploymentType
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId, MachineId
from muster.model.quantity import Range
from muster.store.port import ContainerQuery, Page, ReuseFigures
from muster.store.sql.figures import keep_figures, reuse_figures
from muster.store.sql.listen_ports import PortClaims
from muster.store.sql.paging import page
from muster.store.sql.rows import Values, container_from_row, container_to_row
from muster.store.sql.session import Session
from muster.store.sql.tables import UtcTime, containers, deployment_versions, deployments, gpu_claims

_IS_UNFINISHED = containers.c.finished_at.is_(None)
IS_LIVE = sa.and_(
    _IS_UNFINISHED,
    containers.c.stop_reason.is_(None),
    containers.c.status.is_distinct_from(ContainerStatus.SHUTTING_DOWN.value),
)
"""``Container.is_live`` as a condition."""

_INSERT = sa.insert(containers)
_GET = sa.select(containers).where(containers.c.id == sa.bindparam("key"))
_BY_UUID = sa.select(containers).where(containers.c.uuid == sa.bindparam("key"))
_UPDATE = sa.update(containers).where(
    containers.c.id == sa.bindparam("key"), containers.c.revision == sa.bindparam("seen")
)
_UNFINISHED_OF = sa.select(containers).where(containers.c.deployment_id == sa.bindparam("key"), _IS_UNFINISHED)
_FINISHED_OF = (
    sa.select(containers)
    .where(containers.c.deployment_id == sa.bindparam("key"), containers.c.finished_at.is_not(None))
    .order_by(containers.c.finished_at.desc(), containers.c.number.desc())
    .limit(sa.bindparam("at_most"))
)
_UNPLACED = (
    sa.select(containers)
    .where(_IS_UNFINISHED, containers.c.machine_id.is_(None), containers.c.stop_reason.is_(None))
    .order_by(containers.c.number)
)
_ON_MACHINES = (
    sa.select(containers)
    .where(containers.c.released_at.is_(None), containers.c.machine_id.is_not(None))
    .order_by(containers.c.number)
)
_ENDED_SINCE = (
    sa.select(containers)
    .where(containers.c.finished_at > sa.bindparam("moment", type_=UtcTime), containers.c.machine_id.is_not(None))
    .order_by(containers.c.finished_at, containers.c.number)
)
_POOLED = (
    sa.select(containers)
    .where(containers.c.is_pooled.is_(True))
    .order_by(containers.c.stopped_at.desc(), containers.c.number.desc())
)
_POOLED_OF = _POOLED.where(containers.c.account_id == sa.bindparam("account"))
_TAKER_OF = (
    sa.select(containers)
    .where(containers.c.reused_from == sa.bindparam("key"), containers.c.released_at.is_(None))
    .order_by(containers.c.number.desc())
)
_UNFINISHED_COUNTS = (
    sa.select(containers.c.status, sa.func.count().label("total")).where(_IS_UNFINISHED).group_by(containers.c.status)
)
IS_COMPLETED = sa.and_(
    containers.c.finished_at.is_not(None),
    containers.c.started_at.is_not(None),
    containers.c.stop_reason.is_(None),
    containers.c.reason.in_([Reason.COMPLETED.value, Reason.ERROR.value, Reason.OOM_KILLED.value]),
)
"""``Container.is_completed`` as a condition."""
_COMPLETED = (
    sa.select(sa.func.count()).select_from(containers).where(containers.c.deployment_id == sa.bindparam("key"))
).where(IS_COMPLETED)
_PRUNED_COMPLETED = sa.select(deployments.c.pruned_completed).where(deployments.c.id == sa.bindparam("key"))
_WAS_GOOD = (
    sa.exists()
    .where(
        deployment_versions.c.deployment_id == containers.c.deployment_id,
        deployment_versions.c.name == containers.c.version,
        sa.or_(
            deployment_versions.c.good_at.is_not(None),
            deployment_versions.c.spec["type"].as_string() != DeploymentType.REPLICA_SET.value,
        ),
    )
    .correlate(containers)
)
"""A version that never proved itself may be to blame for its failures, wherever they were; Jobs prove nothing."""
_IS_OUTSIDE = containers.c.reason.in_([reason.value for reason in Reason if reason.is_outside])
_FAILURES = (
    sa.select(containers.c.machine_id, containers.c.reason, sa.func.count().label("total"))
    .where(
        containers.c.finished_at >= sa.bindparam("since", type_=UtcTime),
        containers.c.machine_id.is_not(None),
        containers.c.reason.is_not(None),
        containers.c.reason.not_in([reason.value for reason in Reason if reason.is_intended]),
        containers.c.reason != Reason.COMPLETED.value,
        sa.or_(_IS_OUTSIDE, _WAS_GOOD),
    )
    .group_by(containers.c.machine_id, containers.c.reason)
)
_FAILURES_OF = _FAILURES.where(containers.c.account_id == sa.bindparam("account"))
_TAKERS = containers.alias("takers")
_PRUNABLE = (
    sa.select(
        containers.c.number,
        containers.c.account_id,
        containers.c.deployment_id,
        containers.c.machine_id,
        sa.case((IS_COMPLETED, 1), else_=0).label("is_completed"),
    )
    .where(
        containers.c.released_at < sa.bindparam("before", type_=UtcTime),
        ~sa.exists().where(_TAKERS.c.reused_from == containers.c.uuid, _TAKERS.c.released_at.is_(None)),
    )
    .order_by(containers.c.released_at, containers.c.number)
    .limit(sa.bindparam("at_most"))
)
_PRUNE = sa.delete(containers).where(containers.c.number.in_(sa.bindparam("numbers", expanding=True)))
_COUNT_PRUNED = (
    sa.update(deployments)
    .where(deployments.c.id == sa.bindparam("key"))
    .values(
        pruned_finished=deployments.c.pruned_finished + sa.bindparam("finished"),
        pruned_completed=deployments.c.pruned_completed + sa.bindparam("completed"),
    )
)
_CLAIMS = sa.select(gpu_claims.c.machine_id, gpu_claims.c.gpu_index)
_CLAIMS_OF = _CLAIMS.where(gpu_claims.c.container_id == sa.bindparam("key"))
_CLAIM = sa.insert(gpu_claims)
_UNCLAIM = sa.delete(gpu_claims).where(
    gpu_claims.c.machine_id == sa.bindparam("machine"), gpu_claims.c.gpu_index == sa.bindparam("index")
)


class SqlContainers:
    """The ``Containers`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, deployment: Deployment, container_id: ContainerId, now: datetime.datetime) -> Container:
        """Write a wanted, unplaced container of the deployment's target version."""
        container = Container(
            id=container_id,
            number=0,
            account_id=deployment.account_id,
            deployment_id=deployment.id,
            version=deployment.target_version,
            created_at=now,
            updated_at=now,
        )
        identity: Values = {
            "id": container_id,
            "account_id": deployment.account_id,
            "deployment_id": deployment.id,
            "created_at": now,
            "revision": 0,
        }
        number = self._session.insert(
            _INSERT,
            {**identity, **container_to_row(container)},
            violation=lambda: Conflict(f"cannot add container {container_id!r} to deployment {deployment.id!r}"),
        )
        self._session.touched(deployment=deployment.id, container=container_id)
        return replace(container, number=number)

    def get(self, container_id: ContainerId) -> Container | None:
        """Return it."""
        row = self._session.row(_GET, {"key": container_id})
        return None if row is None else container_from_row(row)

    def by_uuid(self, uuid: ContainerUuid) -> Container | None:
        """Return the container that bears or bore this uuid."""
        row = self._session.row(_BY_UUID, {"key": uuid})
        return None if row is None else container_from_row(row)

    def update(self, container: Container) -> Container:
        """Write all but identity if ``revision`` is current."""
        held = {(row.machine_id, row.gpu_index) for row in self._session.rows(_CLAIMS_OF, {"key": container.id})}
        wanted = _wanted_claims(container)
        ports = PortClaims(self._session, container)
        if held == wanted and not ports.has_changed:
            self._write(container)
        else:
            with self._session.all_or_nothing():
                self._write(container)
                self._claim(container, given_up=held - wanted, taken=wanted - held)
                ports.write()
        self._session.touched(deployment=container.deployment_id, container=container.id)
        return replace(container, revision=container.revision + 1)

    def of_deployment(self, deployment_id: DeploymentId, *, finished_limit: int = 50) -> Sequence[Container]:
        """Return all unfinished ones and the most recently finished, oldest first."""
        rows = list(self._session.rows(_UNFINISHED_OF, {"key": deployment_id}))
        if finished_limit:
            rows += self._session.rows(_FINISHED_OF, {"key": deployment_id, "at_most": finished_limit})
        return sorted(map(container_from_row, rows), key=lambda container: container.number)

    def find(self, query: ContainerQuery) -> Page[Container]:
        """Return what matches, newest first."""
        return page(
            self._session,
            table=containers,
            where=_matches(query),
            order=containers.c.number,
            window=query.window,
            read=container_from_row,
        )

    def ended_since(self, moment: datetime.datetime) -> Sequence[Container]:
        """Return the placed containers whose life ended after that, oldest first."""
        rows = self._session.rows(_ENDED_SINCE, {"moment": moment})
        return [container_from_row(row) for row in rows]

    def unplaced(self) -> Sequence[Container]:
        """Return all that wait for a machine, oldest first."""
        return [container_from_row(row) for row in self._session.rows(_UNPLACED)]

    def on_machines(self) -> Sequence[Container]:
        """Return every placed container that is not released yet, oldest first."""
        return [container_from_row(row) for row in self._session.rows(_ON_MACHINES)]

    def pooled(self, account_id: AccountId | None = None) -> Sequence[Container]:
        """Return what is in the reuse pool, most recently stopped first."""
        if account_id is None:
            rows = self._session.rows(_POOLED)
        else:
            rows = self._session.rows(_POOLED_OF, {"account": account_id})
        return [container_from_row(row) for row in rows]

    def completed(self, deployment_id: DeploymentId) -> int:
        """Count those that ran and came to their own end, pruned ones included."""
        kept = self._session.number(_COMPLETED, {"key": deployment_id})
        return kept + self._session.number(_PRUNED_COMPLETED, {"key": deployment_id})

    def failures(
        self, since: datetime.datetime, account_id: AccountId | None = None
    ) -> Mapping[MachineId, Mapping[Reason, int]]:
        """Count by machine and reason what ended since then in a way that nobody wanted."""
        if account_id is None:
            rows = self._session.rows(_FAILURES, {"since": since})
        else:
            rows = self._session.rows(_FAILURES_OF, {"since": since, "account": account_id})
        found: dict[MachineId, dict[Reason, int]] = {}
        for row in rows:
            found.setdefault(row.machine_id, {})[Reason(row.reason)] = row.total
        return found

    def prune(self, before: datetime.datetime, at_most: int) -> int:
        """Forget the oldest containers that were released before then; their deployment still counts them."""
        rows = self._session.rows(_PRUNABLE, {"before": before, "at_most": at_most})
        if not rows:
            return 0
        numbers = [row.number for row in rows]
        keep_figures(self._session, {row.account_id for row in rows}, numbers)
        counts: dict[DeploymentId, list[int]] = {}
        for row in rows:
            count = counts.setdefault(row.deployment_id, [0, 0])
            count[0] += row.machine_id is not None
            count[1] += row.is_completed
        for deployment_id, (finished, completed) in counts.items():
            values = {"key": deployment_id, "finished": finished, "completed": completed}
            self._session.change(_COUNT_PRUNED, values)
        return self._session.change(_PRUNE, {"numbers": numbers}).rowcount

    def taker_of(self, uuid: ContainerUuid) -> Container | None:
        """Return the unreleased container that took this one over, or is about to."""
        row = self._session.row(_TAKER_OF, {"key": uuid})
        return None if row is None else container_from_row(row)

    def reuse_figures(self, account_id: AccountId | None = None) -> ReuseFigures:
        """Count the starts of an account, or of all, and what reuse saved."""
        return reuse_figures(self._session, account_id)

    def unfinished_counts(self) -> Mapping[ContainerStatus | None, int]:
        """Count all whose life is not over, by status."""
        return {
            None if row.status is None else ContainerStatus(row.status): row.total
            for row in self._session.rows(_UNFINISHED_COUNTS)
        }

    def claims(self) -> Mapping[MachineId, frozenset[int]]:
        """Return the GPU indices that are taken, by machine."""
        taken: dict[MachineId, set[int]] = {}
        for row in self._session.rows(_CLAIMS):
            taken.setdefault(row.machine_id, set()).add(row.gpu_index)
        return {machine_id: frozenset(indices) for machine_id, indices in taken.items()}

    def _write(self, container: Container) -> None:
        seen = container.revision
        values = {"key": container.id, "seen": seen, "revision": seen + 1, **container_to_row(container)}
        result = self._session.change(
            _UPDATE, values, violation=lambda: StaleWrite(f"uuid {container.uuid} belongs to another container")
        )
        if result.rowcount != 1:
            raise StaleWrite(f"container {container.id} is no longer at revision {seen}")

    def _claim(
        self, container: Container, *, given_up: set[tuple[MachineId, int]], taken: set[tuple[MachineId, int]]
    ) -> None:
        if given_up:
            self._session.change(_UNCLAIM, [{"machine": machine, "index": index} for machine, index in given_up])
        if taken:
            self._session.change(
                _CLAIM,
                [
                    {
                        "machine_id": machine,
                        "gpu_index": index,
                        "account_id": container.account_id,
                        "container_id": container.id,
                    }
                    for machine, index in sorted(taken)
                ],
                violation=lambda: StaleWrite(f"a GPU of container {container.id}'s placement is already taken"),
            )


def _wanted_claims(container: Container) -> set[tuple[MachineId, int]]:
    if container.placement is None or container.status is ContainerStatus.SHUTDOWN:
        return set()
    return {(container.placement.machine_id, index) for index in container.placement.gpu_indices}


def _matches(query: ContainerQuery) -> list[sa.ColumnElement[bool]]:
    columns = containers.c
    matches = [columns.account_id == query.account_id, columns.machine_id.is_not(None)]
    if query.deployment_id is not None:
        matches.append(columns.deployment_id == query.deployment_id)
    if query.container_uuid is not None:
        matches.append(columns.uuid == query.container_uuid)
    if query.created_from is not None:
        matches.append(columns.created_at >= query.created_from)
    if query.created_to is not None:
        matches.append(columns.created_at <= query.created_to)
    if query.gpu_name is not None:
        matches.append(columns.gpu_name == query.gpu_name)
    matches += _within(columns.cpu_num, query.cpu_num)
    matches += _within(columns.memory_bytes, query.memory_bytes)
    matches += _within(columns.price_milliyuan, query.price_milliyuan)
    if query.is_released is not None:
        matches.append(columns.released_at.is_not(None) if query.is_released else columns.released_at.is_(None))
    if query.statuses:
        matches.append(columns.status.in_(sorted(status.value for status in query.statuses)))
    return matches


def _within(column: sa.Column[int], bounds: Range) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if bounds.lower > 0:
        conditions.append(column >= bounds.lower)
    if bounds.upper is not None:
        conditions.append(column <= bounds.upper)
    return conditions
