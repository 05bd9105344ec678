"""From the API's JSON to values, and from its refusals to exceptions: the one place that knows the wire's names."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

import httpx

from muster.client.values import Account, Container, Deployment, Event, Machine
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
    )


def account(wire: Mapping[str, Any]) -> Account:
    """Read an account."""
    return Account(wire["id"], wire["name"], wire["role"], time(wire["created_at"]))
