"""From rows of AutoDL's API to values: strict about what is used, blind for the rest.

A row of the hosted API lacks our extensions, and an address is ``""`` while it is unknown: both are ordinary. What
makes a row useless (no uuid, no deployment) is a ``ValueError``, so that its reader can pass over it and count the
others.

An address comes from somebody else's API and will be called by us, and by clients: only ``http``, ``https`` and raw
``HOST:PORT`` are taken, without user or password, in plain ASCII.
"""

import datetime
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from muster.model.deployment import PORTS
from muster.model.ids import DeploymentId

RUNNING = "running"
_LATEST = datetime.datetime.max.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class ContainerRow:
    """A container that the API called running. ``urls`` by port, as endpoints have them.

    ``is_ready`` is what the API itself says of that, ``None`` if it does not: then it has to be probed.
    """

    uuid: str
    deployment_id: DeploymentId
    urls: Mapping[int, str]
    is_ready: bool | None = None
    data_center: str = ""
    gpu_name: str = ""
    gpu_num: int = 1
    started_at: datetime.datetime | None = None
    oddity: str = field(default="", compare=False)
    """Why a port has no address although the API tells one."""


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    """A live deployment. ``age`` orders those of one name, oldest first, by nothing but what the API says."""

    id: DeploymentId
    name: str
    age: tuple[datetime.datetime, int]
    running_num: int | None = None
    """How many containers the API says run, if it says that."""


def container_row(wire: Mapping[str, Any]) -> ContainerRow | None:
    """Read a row of the container list; ``None`` if the container does not run. Raises ``ValueError``."""
    if _word(wire, "status") != RUNNING:
        return None
    info = wire.get("info")
    urls, oddity = _urls(info if isinstance(info, Mapping) else {})
    told = wire.get("is_ready")
    gpu_num = wire.get("gpu_num")
    return ContainerRow(
        uuid=_word(wire, "uuid"),
        deployment_id=DeploymentId(_word(wire, "deployment_uuid")),
        urls=urls,
        is_ready=told if isinstance(told, bool) else None,
        data_center=_text(wire.get("data_center")),
        gpu_name=_text(wire.get("gpu_name")),
        gpu_num=gpu_num if isinstance(gpu_num, int) and gpu_num >= 0 else 1,
        started_at=_time(wire.get("started_at")),
        oddity=oddity,
    )


def deployment_row(wire: Mapping[str, Any]) -> DeploymentRow | None:
    """Read a row of the deployment list; ``None`` if the deployment is stopped. Raises ``ValueError``."""
    if _word(wire, "status") != RUNNING:
        return None
    number, running = wire.get("id"), wire.get("running_num")
    return DeploymentRow(
        id=DeploymentId(_word(wire, "uuid")),
        name=_text(wire.get("name")),
        age=(_time(wire.get("created_at")) or _LATEST, number if isinstance(number, int) else 0),
        running_num=running if isinstance(running, int) else None,
    )


def endpoint_url(text: str) -> str:
    """Return an address as endpoints have it, ``tcp://HOST:PORT`` for one without scheme. Raises ``ValueError``."""
    url = text if "://" in text else f"tcp://{text}"
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ValueError("an address holds characters that no address has")
    parts = urllib.parse.urlsplit(url)
    port = parts.port  # raises ValueError for what is no number
    if parts.scheme not in ("http", "https", "tcp") or not parts.hostname:
        raise ValueError("an address is neither http, https nor HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds a user or password")
    if parts.scheme == "tcp" and (port is None or parts.path not in ("", "/")):
        raise ValueError("a raw address is not HOST:PORT")
    return url


def _urls(info: Mapping[str, Any]) -> tuple[dict[int, str], str]:
    urls, oddity = {}, ""
    for port in PORTS:
        if text := _text(info.get(f"service_{port}_port_url")).strip():
            try:
                urls[port] = endpoint_url(text)
            except ValueError as error:
                oddity = f"port {port}: {error}"
    return urls, oddity


def _word(wire: object, name: str) -> str:
    value = wire.get(name) if isinstance(wire, Mapping) else None
    if not isinstance(value, str) or not value or "/" in value or not value.isprintable():
        raise ValueError(f"has no {name}")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(value: object) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=datetime.UTC) if moment is not None and moment.tzinfo is None else moment
