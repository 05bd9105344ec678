"""What our API says of services, for a watcher elsewhere: the shapes of ``model/service_wire.py``, for the document.

Those answers are made there and not of these models: a thousand services with all their endpoints are one answer.
"""

import datetime
from typing import Literal

from pydantic import BaseModel


class EndpointRow(BaseModel):
    """A ready container, as in a published set."""

    id: str
    url: str
    protocol: Literal["http", "tcp"]
    data_center: str
    gpu_name: str
    gpu_num: int
    concurrency: int | None
    budgets: dict[str, int]
    started_at: datetime.datetime | None


class WithheldRow(BaseModel):
    """A container that is in no set, and why not: ``starting``, ``not_ready`` or ``draining``."""

    id: str
    reason: str


class SetRow(BaseModel):
    """Who serves on one port."""

    port: int
    endpoints: list[EndpointRow]
    withheld: list[WithheldRow]


class AliasRow(BaseModel):
    """Which deployment a name stands for now, null for none."""

    name: str
    port: int
    target: str | None


class ServiceRow(BaseModel):
    """A deployment as discovery sees it."""

    deployment_uuid: str
    name: str
    sets: list[SetRow]
    aliases: list[AliasRow]


class Services(BaseModel):
    """All live services. ``source`` is the installation; ``cursor`` is where to listen for changes from."""

    source: str
    account: str
    ca_pem: str | None
    cursor: int
    services: list[ServiceRow]


class Service(BaseModel):
    """One service. Not ``is_live``: it is stopped or deleted, and nothing of it runs any more."""

    source: str
    account: str
    ca_pem: str | None
    is_live: bool
    service: ServiceRow


class EndpointKey(BaseModel):
    """Where a set is published."""

    service: str
    port: int


class EndpointKeys(BaseModel):
    """All sets of an account."""

    account: str
    keys: list[EndpointKey]
