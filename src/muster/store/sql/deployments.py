"""Deployments in SQL. ``name`` is kept beside the specification that holds it, so that an index finds it."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from muster.errors import Conflict, StaleWrite
from muster.model.container import ContainerStatus
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentStatus, Version
from muster.model.ids import AccountId, DeploymentId, ImageUuid
from muster.store.port import Counts, DeploymentQuery, Page
from muster.store.sql import codec
from muster.store.sql.containers import IS_COMPLETED, IS_LIVE
from muster.store.sql.paging import page
from muster.store.sql.rows import deployment_from_row, deployment_to_row, version_from_row
from muster.store.sql.session import Session
from muster.store.sql.tables import containers, deployment_versions, deployments

_IS_WANTED = sa.and_(deployments.c.status == DeploymentStatus.RUNNING.value, deployments.c.deleted_at.is_(None))

_INSERT = sa.insert(deployments)
_GET = sa.select(deployments).where(deployments.c.id == sa.bindparam("key"))
_UPDATE = sa.update(deployments).where(
    deployments.c.id == sa.bindparam("key"), deployments.c.revision == sa.bindparam("seen")
)
_VERSIONS = (
    sa.select(deployment_versions)
    .where(deployment_versions.c.deployment_id == sa.bindparam("key"))
    .order_by(deployment_versions.c.number.desc())
)
_VERSION = _VERSIONS.where(deployment_versions.c.name == sa.bindparam("wanted_name"))
_NEWEST_NUMBER = sa.select(sa.func.max(deployment_versions.c.number)).where(
    deployment_versions.c.deployment_id == sa.bindparam("key")
)
_INSERT_VERSION = sa.insert(deployment_versions)
_UPDATE_VERSION = sa.update(deployment_versions).where(
    deployment_versions.c.deployment_id == sa.bindparam("key"), deployment_versions.c.name == sa.bindparam("which")
)
_PRUNED = sa.select(deployments.c.id, deployments.c.pruned_finished, deployments.c.pruned_completed).where(
    deployments.c.id.in_(sa.bindparam("keys", expanding=True)), deployments.c.pruned_finished > 0
)
_OLDEST_LIVE = (
    sa.select(deployments)
    .where(
        deployments.c.account_id == sa.bindparam("account"),
        deployments.c.name == sa.bindparam("wanted_name"),
        _IS_WANTED,
    )
    .order_by(deployments.c.number)
    .limit(1)
)
_UNSETTLED = sa.union(
    sa.select(deployments.c.id).where(_IS_WANTED), sa.select(containers.c.deployment_id).where(IS_LIVE)
)
_USING = (
    sa.select(deployments)
    .where(_IS_WANTED, deployments.c.spec["image"].as_string() == sa.bindparam("image"))
    .order_by(deployments.c.number)
)

_STATUS_COUNTS = (
    sa.select(deployments.c.status, sa.func.count().label("total"))
    .where(deployments.c.deleted_at.is_(None))
    .group_by(deployments.c.status)
)
_STARTING = [status.value for status in ContainerStatus if status.is_starting]
_IS_RUNNING = containers.c.status == ContainerStatus.RUNNING.value


def _count(condition: sa.ColumnElement[bool], each: sa.ColumnElement[int] | int = 1) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((condition, each), else_=0))


_COUNTS = (
    sa.select(
        containers.c.deployment_id,
        _count(containers.c.status.in_(_STARTING)).label("starting"),
        _count(_IS_RUNNING).label("running"),
        _count(containers.c.status == ContainerStatus.SHUTDOWN.value).label("finished"),
        _count(IS_COMPLETED).label("completed"),
        _count(containers.c.is_ready).label("ready"),
        _count(_IS_RUNNING, containers.c.gpu_num * containers.c.price_milliyuan).label("price"),
    )
    .where(containers.c.deployment_id.in_(sa.bindparam("keys", expanding=True)), containers.c.status.is_not(None))
    .group_by(containers.c.deployment_id)
)


class SqlDeployments:
    """The ``Deployments`` of one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(
        self, account_id: AccountId, deployment_id: DeploymentId, spec: DeploymentSpec, now: datetime.datetime
    ) -> Deployment:
        """Write a new running deployment, version ``v1``."""
        deployment = Deployment(
            id=deployment_id,
            number=0,
            account_id=account_id,
            spec=spec,
            status=DeploymentStatus.RUNNING,
            version="v1",
            created_at=now,
            updated_at=now,
            edited_at=now,
        )
        identity = {"id": deployment_id, "account_id": account_id, "created_at": now, "revision": 0}
        number = self._session.insert(
            _INSERT,
            {**identity, **deployment_to_row(deployment)},
            violation=lambda: Conflict(f"cannot add deployment {deployment_id!r} to account {account_id}"),
        )
        self._add_version(deployment, replaces_all=False)
        self._session.touched(deployment=deployment_id)
        return replace(deployment, number=number)

    def get(self, deployment_id: DeploymentId) -> Deployment | None:
        """Return it, deleted or not."""
        row = self._session.row(_GET, {"key": deployment_id})
        return None if row is None else deployment_from_row(row)

    def update(self, deployment: Deployment, *, replaces_all: bool = False) -> Deployment:
        """Write all but identity if ``revision`` is current, and the specification under its version."""
        seen = deployment.revision
        values = {"key": deployment.id, "seen": seen, "revision": seen + 1, **deployment_to_row(deployment)}
        if self._session.change(_UPDATE, values).rowcount != 1:
            raise StaleWrite(f"deployment {deployment.id} is no longer at revision {seen}")
        self._write_version(deployment, replaces_all=replaces_all)
        self._session.touched(deployment=deployment.id)
        return replace(deployment, revision=seen + 1)

    def find(self, query: DeploymentQuery) -> Page[Deployment]:
        """Return what matches, newest first."""
        matches = [deployments.c.account_id == query.account_id, deployments.c.deleted_at.is_(None)]
        if query.name is not None:
            matches.append(deployments.c.name == query.name)
        if query.status is not None:
            matches.append(deployments.c.status == query.status.value)
        if query.deployment_id is not None:
            matches.append(deployments.c.id == query.deployment_id)
        return page(
            self._session,
            table=deployments,
            where=matches,
            order=deployments.c.number,
            window=query.window,
            read=deployment_from_row,
        )

    def oldest_live(self, account_id: AccountId, name: str) -> Deployment | None:
        """Return the deployment that the name stands for."""
        row = self._session.row(_OLDEST_LIVE, {"account": account_id, "wanted_name": name})
        return None if row is None else deployment_from_row(row)

    def unsettled(self) -> Sequence[DeploymentId]:
        """Return all that the deployment loop must look at."""
        return [row.id for row in self._session.rows(_UNSETTLED)]

    def using(self, image: ImageUuid) -> Sequence[Deployment]:
        """Return the running deployments that name an image, oldest first; a scan of what runs, for a rare question."""
        return [deployment_from_row(row) for row in self._session.rows(_USING, {"image": image})]

    def status_counts(self) -> Mapping[DeploymentStatus, int]:
        """Count all that are not deleted, by status."""
        return {DeploymentStatus(row.status): row.total for row in self._session.rows(_STATUS_COUNTS)}

    def counts(self, deployment_ids: Iterable[DeploymentId]) -> Mapping[DeploymentId, Counts]:
        """Return the counts of each id given, by one grouped query."""
        counts = {deployment_id: Counts() for deployment_id in deployment_ids}
        for row in self._session.rows(_COUNTS, {"keys": list(counts)}):
            counts[row.deployment_id] = Counts(
                starting=row.starting,
                running=row.running,
                finished=row.finished,
                completed=row.completed,
                ready=row.ready,
                price_milliyuan=row.price,
            )
        for row in self._session.rows(_PRUNED, {"keys": list(counts)}):
            kept = counts[row.id]
            counts[row.id] = replace(
                kept,
                finished=kept.finished + row.pruned_finished,
                completed=kept.completed + row.pruned_completed,
            )
        return counts

    def version(self, deployment_id: DeploymentId, name: str) -> Version | None:
        """Return a version of a deployment."""
        row = self._session.row(_VERSION, {"key": deployment_id, "wanted_name": name})
        return None if row is None else version_from_row(row)

    def versions(self, deployment_id: DeploymentId) -> Sequence[Version]:
        """Return all versions of a deployment, newest first."""
        return [version_from_row(row) for row in self._session.rows(_VERSIONS, {"key": deployment_id})]

    def _write_version(self, deployment: Deployment, *, replaces_all: bool) -> None:
        known = self.version(deployment.id, deployment.version)
        if known is None:
            self._add_version(deployment, replaces_all=replaces_all)
        elif known.spec != deployment.spec:
            values = {"key": deployment.id, "which": deployment.version, "spec": codec.spec_to_json(deployment.spec)}
            self._session.change(_UPDATE_VERSION, values)
        if deployment.stable_version == deployment.version and (known is None or known.good_at is None):
            proved = {"key": deployment.id, "which": deployment.version, "good_at": deployment.updated_at}
            self._session.change(_UPDATE_VERSION, proved)

    def _add_version(self, deployment: Deployment, *, replaces_all: bool) -> None:
        self._session.change(
            _INSERT_VERSION,
            {
                "deployment_id": deployment.id,
                "name": deployment.version,
                "account_id": deployment.account_id,
                "number": self._session.number(_NEWEST_NUMBER, {"key": deployment.id}) + 1,
                "spec": codec.spec_to_json(deployment.spec),
                "created_at": deployment.edited_at,
                "replaces_all": replaces_all,
            },
        )
