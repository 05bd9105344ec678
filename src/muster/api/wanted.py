"""The writes of the API: wanted state, nothing else.

Each function runs inside one store transaction, checks that what it touches belongs to the caller, and writes what is
wanted: a deployment, its replica number, a stop. What follows from that is the work of the controllers. Another
account's deployment or container is reported exactly like one that does not exist.
"""

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from muster.api import catalogue
from muster.api.quota import check_quota
from muster.errors import Conflict, InvalidSpec, NotFound, StaleWrite
from muster.model.account import Account
from muster.model.container import Container, Reason, StopRequest
from muster.model.deployment import Deployment, DeploymentSpec, DeploymentStatus, DeploymentType, ImagePull
from muster.model.ids import ContainerUuid, DeploymentId
from muster.model.reference import is_saved
from muster.planner import lifecycle
from muster.store.port import Store, Transaction
from muster.store.stop import ask_to_stop

T = TypeVar("T")

_ATTEMPTS = 5
"""A stale write means that another process wrote between our reading and our writing; five in a row mean a defect."""


async def write(store: Store, work: Callable[[Transaction], T]) -> T:
    """Run ``work`` in a transaction, again from the start when somebody else wrote first."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return await store.write(work)
        except StaleWrite:
            continue
    return await store.write(work)


def check(tx: Transaction, owner: Account, spec: DeploymentSpec) -> None:
    """Raise what speaks against creating this deployment."""
    image = catalogue.usable(tx, owner, spec.image)
    if is_saved(image.reference) and spec.image_pull is ImagePull.ALWAYS:
        raise InvalidSpec("container_template.image_pull", "must be 'missing': the image is saved, of no registry")


def own_deployment(tx: Transaction, owner: Account, uuid: str) -> Deployment:
    """Return the account's deployment; raises ``NotFound`` for one that is deleted or not its own."""
    deployment = tx.deployments.get(DeploymentId(uuid))
    if deployment is None or deployment.account_id != owner.id or deployment.deleted_at is not None:
        raise NotFound("deployment", uuid)
    return deployment


def own_container(tx: Transaction, owner: Account, uuid: str) -> Container:
    """Return the account's container; raises ``NotFound`` for one that is not its own."""
    container = tx.containers.by_uuid(ContainerUuid(uuid))
    if container is None or container.account_id != owner.id:
        raise NotFound("container", uuid)
    return container


def scale(tx: Transaction, deployment: Deployment, replica_num: int, now: datetime.datetime) -> None:
    """Want another number of replicas."""
    if deployment.spec.type is not DeploymentType.REPLICA_SET:
        raise Conflict("仅支持ReplicaSet类型的部署 (only a ReplicaSet is scaled; edit replica_num of a Job)")
    if not deployment.is_wanted:
        raise Conflict("部署已停止，无法修改副本数量")
    spec = replace(deployment.spec, replica_num=replica_num)
    check_quota(tx, deployment.account_id, deployment.id, spec)
    tx.deployments.update(replace(deployment, spec=spec, updated_at=now))


def stop_deployment(tx: Transaction, deployment: Deployment, now: datetime.datetime) -> None:
    """Want nothing of a deployment to run any more; one that is stopped stays as it is."""
    if deployment.is_wanted:
        tx.deployments.update(_stopped(deployment, now))


def delete_deployment(tx: Transaction, deployment: Deployment, now: datetime.datetime) -> None:
    """Stop a deployment and take it off the lists."""
    tx.deployments.update(replace(_stopped(deployment, now), deleted_at=now))


def stop_container(
    tx: Transaction,
    container: Container,
    *,
    no_cache: bool,
    cmd_before_shutdown: str | None,
    decrease_one_replica_num: bool,
    now: datetime.datetime,
) -> bool:
    """Ask a container to stop; a second request is ``False`` and changes nothing, also not the number of replicas."""
    request = StopRequest(Reason.STOPPED_BY_USER, now, no_cache=no_cache, cmd_before_shutdown=cmd_before_shutdown)
    is_asked = ask_to_stop(tx, container, request)
    if is_asked and decrease_one_replica_num:
        _decrease(tx, container, now)
    return is_asked


def leave_pool(tx: Transaction, owner: Account, uuid: str, now: datetime.datetime) -> Container:
    """Want the files of an ended container destroyed; raises ``NotFound`` unless they are in the owner's pool."""
    container = tx.containers.by_uuid(ContainerUuid(uuid))
    if container is None or container.account_id != owner.id or not container.is_pooled:
        raise NotFound("container in the pool", uuid)
    return tx.containers.update(replace(lifecycle.leave_pool(container, now), updated_at=now))


def _decrease(tx: Transaction, container: Container, now: datetime.datetime) -> None:
    deployment = tx.deployments.get(container.deployment_id)
    if deployment is None or not deployment.is_wanted or deployment.spec.type is not DeploymentType.REPLICA_SET:
        return
    scale(tx, deployment, max(0, deployment.spec.replica_num - 1), now)


def _stopped(deployment: Deployment, now: datetime.datetime) -> Deployment:
    stopped_at = deployment.stopped_at or now
    return replace(deployment, status=DeploymentStatus.STOPPED, stopped_at=stopped_at, updated_at=now)
