"""From the API's JSON to values, and from its refusals to exceptions: the one place that knows the wire's names."""

import datetime
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx

from muster.client.values import (
    Account,
    AuditEntry,
    CatalogueImage,
    Container,
    Deployment,
    Event,
    FileEntry,
    Machine,
    PooledContainer,
    Prewarm,
    Stock,
    Suspect,
    Token,
)
from muster.errors import ApiError, CursorExpired, MusterError, NotFound, Unauthenticated

MUSTER = "/api/v1/muster"
"""Where our own paths begin."""


def check(response: httpx.Response, named: tuple[str, str], media_type: str) -> None:
    """Raise what an answer says, if it says anything but success."""
    is_ours = response.request.url.path.startswith(MUSTER)
    if is_ours and response.is_success and response.headers.get("content-type", "").startswith(media_type):
        return
    try:
        wire = json.loads(response.read())
        error = wire.get("error", wire)
        code = error["code"]
    except (ValueError, KeyError, TypeError, AttributeError):
        hint = f"HTTP {response.status_code} from {response.request.url} does not look like Muster's API"
        raise ApiError("InternalError", hint, status=response.status_code) from None
    if code != "Success":
        raise refusal(error, response.status_code, named)


def too_often(response: httpx.Response) -> float | None:
    """Return after how many seconds a call that hit the rate limit may come again; ``None``: it did not hit it."""
    if response.status_code in (200, 429):
        for header, parts in (("retry-after-ms", 1000), ("retry-after", 1)):
            if (after := response.headers.get(header, "")).isdigit():
                return int(after) / parts
    return None


def refusal(error: Mapping[str, Any], status: int, named: tuple[str, str]) -> MusterError:
    """Return the exception that a refusal stands for; ``named`` is what the call was about, as (kind, name)."""
    code, text = error["code"], error.get("message") or error.get("msg") or ""
    if code == "AuthorizeFailed":
        return Unauthenticated(f"{text} (is the token right?)")
    if code == "RecordNotFoundError" and named[1]:
        return NotFound(*named)
    if code == "CursorExpired":
        return CursorExpired(text)
    return ApiError(code, text, status=status, request_id=error.get("request_id", ""))


def time(text: str) -> datetime.datetime:
    """Read a time with its zone."""
    return datetime.datetime.fromisoformat(text)


def maybe_time(text: str | None) -> datetime.datetime | None:
    """Read a time that may not have come yet."""
    return None if text is None else datetime.datetime.fromisoformat(text)


def deployment(wire: Mapping[str, Any]) -> Deployment:
    """Read a row of the deployment list."""
    return Deployment(
        uuid=wire["uuid"],
        name=wire["name"],
        type=wire["deployment_type"],
        status=wire["status"],
        replica_num=wire["replica_num"],
        parallelism_num=wire["parallelism_num"],
        starting_num=wire["starting_num"],
        running_num=wire["running_num"],
        ready_num=wire["ready_num"],
        finished_num=wire["finished_num"],
        completed_num=wire.get("completed_num", wire["finished_num"]),  # a server that is older than this client
        image_uuid=wire["image_uuid"],
        gpu_names=tuple(wire["template"]["gpu_name_set"]),
        gpu_num=wire["template"]["gpu_num"],
        price_milliyuan=wire["price_estimates"],
        created_at=time(wire["created_at"]),
        updated_at=time(wire["updated_at"]),
        stopped_at=maybe_time(wire["stopped_at"]),
    )


def container(wire: Mapping[str, Any]) -> Container:
    """Read a row of the container list."""
    info = wire["info"]
    return Container(
        uuid=wire["uuid"],
        deployment_uuid=wire["deployment_uuid"],
        version=wire["version"],
        status=wire["status"],
        is_ready=wire["is_ready"],
        reason=wire["reason"],
        message=wire["message"],
        exit_code=wire["exit_code"],
        reused_from=wire["reused_from"],
        machine_id=wire["machine_id"],
        data_center=wire["data_center"],
        gpu_name=wire["gpu_name"],
        gpu_num=wire["gpu_num"],
        cpu_num=wire["cpu_num"],
        memory_bytes=wire["memory_size"],
        price_milliyuan=wire["price"],
        image_uuid=wire["image_uuid"],
        url_6006=info["service_6006_port_url"],
        url_6008=info["service_6008_port_url"],
        ssh_command=info["ssh_command"],
        root_password=info["root_password"],
        created_at=time(wire["created_at"]),
        updated_at=time(wire["updated_at"]),
        started_at=maybe_time(wire["started_at"]),
        stopped_at=maybe_time(wire["stopped_at"]),
    )


def event(wire: Mapping[str, Any]) -> Event:
    """Read an event, of the list or of the stream."""
    return Event(
        id=wire["id"],
        kind=wire["kind"],
        deployment_uuid=wire["deployment_uuid"],
        container_uuid=wire["deployment_container_uuid"],
        status=wire["status"],
        reason=wire["reason"],
        message=wire["message"],
        exit_code=wire["exit_code"],
        created_at=time(wire["created_at"]),
    )


def _suspect(wire: Mapping[str, Any] | None) -> Suspect | None:
    if wire is None:
        return None
    return Suspect(
        failure_num=wire["failure_num"],
        expected_num=wire["expected_num"],
        reason=wire["reason"],
        reason_num=wire["reason_num"],
        sentence=wire["sentence"],
    )


def stock(gpu_name: str, row: Mapping[str, Any]) -> Stock:
    """Read what there is of a model; a server that is older does not say what fits."""
    fits = MappingProxyType({int(size): number for size, number in row.get("fits", {}).items()})
    return Stock(gpu_name, row["idle_gpu_num"], row["total_gpu_num"], row["chip_corp"], row["cpu_arch"], fits)


def machine(wire: Mapping[str, Any]) -> Machine:
    """Read a machine."""
    return Machine(
        id=wire["machine_id"],
        data_center=wire["data_center"],
        gpu_name=wire["gpu_name"],
        gpu_num=wire["gpu_num"],
        cpu_num=wire["cpu_num"],
        memory_bytes=wire["memory_size"],
        cuda=wire["cuda_v"],
        price_milliyuan=wire["price"],
        chip_corp=wire["chip_corp"],
        cpu_arch=wire["cpu_arch"],
        claimed_gpus=tuple(wire["claimed_gpus"]),
        problem=wire["problem"],
        state=wire["state"],
        unreachable_since=maybe_time(wire["unreachable_since"]),
        lost_at=maybe_time(wire["lost_at"]),
        is_cordoned=wire["is_cordoned"],
        drain=wire["drain"],
        containers_left=wire["containers_left"],
        failures=wire["failures"],
        suspect=_suspect(wire["suspect"]),
        blacklisted_until=maybe_time(wire["blacklisted_until"]),
    )


def file_entry(wire: Mapping[str, Any]) -> FileEntry:
    """Read a name in the account's storage."""
    return FileEntry(wire["name"], wire["kind"], wire["size_bytes"], time(wire["modified_at"]), wire["mode"])


def pooled(wire: Mapping[str, Any]) -> PooledContainer:
    """Read an ended container that waits for reuse."""
    return PooledContainer(
        uuid=wire["uuid"],
        account=wire["account"],
        deployment_uuid=wire["deployment_uuid"],
        deployment_name=wire["deployment_name"],
        machine_id=wire["machine_id"],
        data_center=wire["data_center"],
        gpu_name=wire["gpu_name"],
        gpu_indices=tuple(wire["gpu_indices"]),
        image_uuid=wire["image_uuid"],
        image_reference=wire["image_reference"],
        reason=wire["reason"],
        stopped_at=time(wire["stopped_at"]),
        expires_at=maybe_time(wire["expires_at"]),
    )


def catalogue_image(wire: Mapping[str, Any]) -> CatalogueImage:
    """Read an image of the catalogue."""
    return CatalogueImage(
        uuid=wire["image_uuid"],
        name=wire["name"],
        is_base=wire["is_base"],
        reference=wire["reference"],
        digest=wire["digest"],
        status=wire["status"],
        message=wire["message"],
        source_container_uuid=wire["source_container_uuid"],
        held_on=tuple(wire["held_on"]),
        created_at=time(wire["created_at"]),
        updated_at=time(wire["updated_at"]),
    )


def prewarm(wire: Mapping[str, Any]) -> Prewarm:
    """Read how far a machine is."""
    return Prewarm(wire["machine_id"], wire["state"], wire["message"], time(wire["updated_at"]))


def account(wire: Mapping[str, Any]) -> Account:
    """Read an account."""
    quota = wire["quota"]
    return Account(
        id=wire["id"],
        name=wire["name"],
        role=wire["role"],
        created_at=time(wire["created_at"]),
        quota_gpu_num=quota["gpu_num"],
        quota_container_num=quota["container_num"],
        used_gpu_num=quota["used_gpu_num"],
        used_container_num=quota["used_container_num"],
    )


def token(wire: Mapping[str, Any]) -> Token:
    """Read what is known of a token."""
    return Token(
        id=wire["id"],
        prefix=wire["prefix"],
        name=wire["name"],
        created_at=time(wire["created_at"]),
        last_used_at=maybe_time(wire["last_used_at"]),
        expires_at=maybe_time(wire["expires_at"]),
        is_expired=wire["is_expired"],
    )


def audit_entry(wire: Mapping[str, Any]) -> AuditEntry:
    """Read an entry of the audit log."""
    return AuditEntry(**{**wire, "created_at": time(wire["created_at"])})
