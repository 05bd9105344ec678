"""Rows to nouns and back: the only place where a column meets a field.

``*_from_row`` takes a row of the table's own columns; ``*_to_row`` gives the columns that an update may write, which
leaves out identity (``id number account_id deployment_id created_at``) and ``revision``, because the statement that
guards it counts it. Both are plain code, so that the type checker and a reader see every column.
"""

from typing import Any

from sqlalchemy import Row

from muster.model.account import Account, Quota, Role, Token
from muster.model.audit import AuditEntry, NewAuditEntry
from muster.model.blacklist import BlacklistEntry
from muster.model.container import Container, ContainerStatus, DrainStep, Placement, Reason, StopRequest
from muster.model.deployment import Deployment, DeploymentStatus, Version
from muster.model.event import Event, EventKind, NewEvent
from muster.model.image import Image, ImageStatus
from muster.model.machine import Drain, Machine, MachineState
from muster.store.sql import codec

AnyRow = Row[*tuple[Any, ...]]
Values = dict[str, Any]


def account_from_row(row: AnyRow) -> Account:
    """Read an account."""
    return Account(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at,
        quota=Quota(row.quota_gpu_num, row.quota_container_num),
    )


def token_from_row(row: AnyRow) -> Token:
    """Read what is known of a token."""
    return Token(
        id=row.hash[:10],
        account_id=row.account_id,
        prefix=row.prefix,
        name=row.name,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
    )


def deployment_from_row(row: AnyRow) -> Deployment:
    """Read a deployment."""
    return Deployment(
        id=row.id,
        number=row.number,
        account_id=row.account_id,
        spec=codec.spec_from_json(row.spec),
        status=DeploymentStatus(row.status),
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        edited_at=row.edited_at,
        stopped_at=row.stopped_at,
        deleted_at=row.deleted_at,
        stable_version=row.stable_version,
        is_paused=row.is_paused,
        failure=row.failure,
        revision=row.revision,
    )


def deployment_to_row(deployment: Deployment) -> Values:
    """Return what an update of a deployment writes."""
    return {
        "name": deployment.spec.name,
        "spec": codec.spec_to_json(deployment.spec),
        "status": deployment.status.value,
        "version": deployment.version,
        "updated_at": deployment.updated_at,
        "edited_at": deployment.edited_at,
        "stopped_at": deployment.stopped_at,
        "deleted_at": deployment.deleted_at,
        "stable_version": deployment.stable_version,
        "is_paused": deployment.is_paused,
        "failure": deployment.failure,
    }


def version_from_row(row: AnyRow) -> Version:
    """Read a version of a deployment."""
    return Version(
        deployment_id=row.deployment_id,
        name=row.name,
        number=row.number,
        spec=codec.spec_from_json(row.spec),
        created_at=row.created_at,
        replaces_all=row.replaces_all,
        good_at=row.good_at,
    )


def container_from_row(row: AnyRow) -> Container:
    """Read a container."""
    return Container(
        id=row.id,
        number=row.number,
        account_id=row.account_id,
        deployment_id=row.deployment_id,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
        generation=row.generation,
        stop=_stop_from_row(row),
        placement=_placement_from_row(row),
        uuid=row.uuid,
        image=row.image_uuid,
        image_reference=row.image_reference,
        image_digest=row.image_digest,
        reused_from=row.reused_from,
        placed_at=row.placed_at,
        status=None if row.status is None else ContainerStatus(row.status),
        addresses=codec.addresses_from_json(row.addresses),
        is_ready=row.is_ready,
        reason=None if row.reason is None else Reason(row.reason),
        message=row.message,
        exit_code=row.exit_code,
        started_at=row.started_at,
        stopped_at=row.stopped_at,
        released_at=row.released_at,
        is_pooled=row.is_pooled,
        discard_at=row.discard_at,
        ready_at=row.ready_at,
        listen_ports=codec.ports_from_json(row.listen_ports),
        ssh_port=row.ssh_port,
        host_address=row.host_address,
        password=row.password,
        password_hash=row.password_hash,
        drain=DrainStep(row.drain),
        revision=row.revision,
    )


def container_to_row(container: Container) -> Values:
    """Return what an update of a container writes."""
    return {
        "version": container.version,
        "updated_at": container.updated_at,
        "generation": container.generation,
        **_stop_to_row(container.stop),
        **_placement_to_row(container.placement),
        "uuid": container.uuid,
        "image_uuid": container.image,
        "image_reference": container.image_reference,
        "image_digest": container.image_digest,
        "reused_from": container.reused_from,
        "placed_at": container.placed_at,
        "status": None if container.status is None else container.status.value,
        "addresses": codec.addresses_to_json(container.addresses),
        "is_ready": container.is_ready,
        "reason": None if container.reason is None else container.reason.value,
        "message": container.message,
        "exit_code": container.exit_code,
        "started_at": container.started_at,
        "stopped_at": container.stopped_at,
        "released_at": container.released_at,
        "finished_at": _finished_at(container),
        "is_pooled": container.is_pooled,
        "discard_at": container.discard_at,
        "ready_at": container.ready_at,
        "listen_ports": codec.ports_to_json(container.listen_ports),
        "ssh_port": container.ssh_port,
        "host_address": container.host_address,
        "password": container.password,
        "password_hash": container.password_hash,
        "drain": container.drain.value,
    }


def machine_from_row(row: AnyRow) -> Machine:
    """Read a machine."""
    return Machine(
        id=row.id,
        data_center=row.data_center,
        gpu_name=row.gpu_name,
        gpu_num=row.gpu_num,
        cpu_num=row.cpu_num,
        memory_bytes=row.memory_bytes,
        cuda=row.cuda,
        price_milliyuan=row.price_milliyuan,
        disk_bytes=row.disk_bytes,
        address=row.address,
        chip_corp=row.chip_corp,
        cpu_arch=row.cpu_arch,
        devices=tuple(row.devices),
    )


def machine_to_row(machine: Machine) -> Values:
    """Return a machine's columns."""
    return {
        "data_center": machine.data_center,
        "gpu_name": machine.gpu_name,
        "gpu_num": machine.gpu_num,
        "cpu_num": machine.cpu_num,
        "memory_bytes": machine.memory_bytes,
        "cuda": machine.cuda,
        "price_milliyuan": machine.price_milliyuan,
        "disk_bytes": machine.disk_bytes,
        "address": machine.address,
        "chip_corp": machine.chip_corp,
        "cpu_arch": machine.cpu_arch,
        "devices": list(machine.devices),
    }


def machine_state_from_row(row: AnyRow) -> MachineState:
    """Read what is thought of a machine."""
    return MachineState(
        problem=row.problem,
        unreachable_since=row.unreachable_since,
        lost_at=row.lost_at,
        is_cordoned=row.is_cordoned,
        drain=Drain(row.drain),
    )


def blacklist_entry_from_row(row: AnyRow) -> BlacklistEntry:
    """Read an account's ban of a machine."""
    return BlacklistEntry(
        account_id=row.account_id,
        machine_id=row.machine_id,
        data_center=row.data_center,
        comment=row.comment,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
    )


def audit_entry_from_row(row: AnyRow) -> AuditEntry:
    """Read an entry of the audit log."""
    return AuditEntry(
        id=row.id,
        account_id=row.account_id,
        actor=row.actor,
        token_id=row.token_id,
        action=row.action,
        target=row.target,
        detail=row.detail,
        created_at=row.created_at,
    )


def audit_entry_to_row(entry: NewAuditEntry) -> Values:
    """Return an entry's columns but for the id, which the log gives."""
    return {
        "account_id": entry.account_id,
        "actor": entry.actor,
        "token_id": entry.token_id,
        "action": entry.action,
        "target": entry.target,
        "detail": entry.detail,
        "created_at": entry.created_at,
    }


def image_from_row(row: AnyRow) -> Image:
    """Read an image."""
    return Image(
        uuid=row.uuid,
        number=row.number,
        account_id=row.account_id,
        name=row.name,
        reference=row.reference,
        created_at=row.created_at,
        updated_at=row.updated_at,
        digest=row.digest,
        status=ImageStatus(row.status),
        message=row.message,
        source_container=row.source_container,
    )


def image_to_row(image: Image) -> Values:
    """Return the columns of an image that an update may write."""
    return {
        "name": image.name,
        "reference": image.reference,
        "updated_at": image.updated_at,
        "digest": image.digest,
        "status": image.status.value,
        "message": image.message,
        "source_container": image.source_container,
    }


def event_from_row(row: AnyRow) -> Event:
    """Read an event."""
    return Event(
        id=row.id,
        account_id=row.account_id,
        deployment_id=row.deployment_id,
        container_id=row.container_id,
        container_uuid=row.container_uuid,
        kind=EventKind(row.kind),
        status=ContainerStatus(row.status),
        created_at=row.created_at,
        reason=None if row.reason is None else Reason(row.reason),
        message=row.message,
        exit_code=row.exit_code,
    )


def event_to_row(event: NewEvent) -> Values:
    """Return an event's columns but for the id, which the log gives."""
    return {
        "account_id": event.account_id,
        "deployment_id": event.deployment_id,
        "container_id": event.container_id,
        "container_uuid": event.container_uuid,
        "kind": event.kind.value,
        "status": event.status.value,
        "created_at": event.created_at,
        "reason": None if event.reason is None else event.reason.value,
        "message": event.message,
        "exit_code": event.exit_code,
    }


def _stop_from_row(row: AnyRow) -> StopRequest | None:
    if row.stop_reason is None:
        return None
    return StopRequest(
        reason=Reason(row.stop_reason),
        requested_at=row.stop_requested_at,
        no_cache=row.stop_no_cache,
        cmd_before_shutdown=row.stop_cmd_before_shutdown,
    )


def _stop_to_row(stop: StopRequest | None) -> Values:
    return {
        "stop_reason": None if stop is None else stop.reason.value,
        "stop_requested_at": None if stop is None else stop.requested_at,
        "stop_no_cache": None if stop is None else stop.no_cache,
        "stop_cmd_before_shutdown": None if stop is None else stop.cmd_before_shutdown,
    }


def _placement_from_row(row: AnyRow) -> Placement | None:
    if row.machine_id is None:
        return None
    return Placement(
        machine_id=row.machine_id,
        data_center=row.data_center,
        gpu_name=row.gpu_name,
        gpu_indices=tuple(row.gpu_indices),
        cpu_num=row.cpu_num,
        memory_bytes=row.memory_bytes,
        price_milliyuan=row.price_milliyuan,
    )


def _placement_to_row(placement: Placement | None) -> Values:
    return {
        "machine_id": None if placement is None else placement.machine_id,
        "data_center": None if placement is None else placement.data_center,
        "gpu_name": None if placement is None else placement.gpu_name,
        "gpu_indices": None if placement is None else list(placement.gpu_indices),
        "gpu_num": None if placement is None else placement.gpu_num,
        "cpu_num": None if placement is None else placement.cpu_num,
        "memory_bytes": None if placement is None else placement.memory_bytes,
        "price_milliyuan": None if placement is None else placement.price_milliyuan,
    }


def _finished_at(container: Container) -> Any:
    """When its life ended, by columns that later writes (a release) leave alone; ``None`` while it lasts."""
    if not container.is_finished:
        return None
    if container.stopped_at is not None:
        return container.stopped_at
    return container.stop.requested_at if container.stop is not None else container.updated_at
