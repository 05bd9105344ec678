"""The wire of edits and rollouts: our own, AutoDL's developer API has no edit.

An edit names a deployment and what is to change; every field is optional and what is not there stays. Within
``container_template`` and ``service`` single fields change; ``env_vars`` and lists are replaced as a whole. ``null`` is
"not given" as everywhere, but in ``service``, where it means none (no health check, no declared concurrency).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from muster.api.schemas import (
    MAX_REPLICAS,
    Amount,
    CommandWarningRow,
    HealthCheckBody,
    Name,
    Number,
    PortProtocols,
    RequestBody,
    Script,
    Text,
)

VersionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


class EditTemplate(PortProtocols):
    """What is to change of the container."""

    dc_list: list[Name] | None = None
    region_sign: Name | None = None
    gpu_name_set: list[Name] | None = None
    gpu_num: Annotated[int, Field(ge=1, le=1024)] | None = None
    cuda_v: Number | None = None
    cuda_v_from: Number | None = None
    cuda_v_to: Number | None = None
    cpu_num_from: Number | None = None
    cpu_num_to: Number | None = None
    memory_size_from: Number | None = None
    memory_size_to: Number | None = None
    price_from: Number | None = None
    price_to: Number | None = None
    image_uuid: Name | None = None
    image_pull: Literal["missing", "always"] | None = None
    cmd: Script | None = None
    cmd_before_shutdown: Script | None = None
    env_vars: dict[Name, Text] | None = None


class EditService(RequestBody):
    """What is to change of how it serves."""

    meaningful_nulls = frozenset({"health_check", "concurrency", "drain_seconds"})
    concurrency: Number | None = None
    budgets: dict[Name, Number] | None = None
    drain_seconds: Amount | None = None
    drain_grace_seconds: Amount | None = None
    ready_within_seconds: Amount | None = None
    health_check: HealthCheckBody | None = None


class EditDeployment(PortProtocols):
    """An edit. ``version`` names what comes of it, and then every container is made anew from it, changed or not."""

    deployment_uuid: Name
    version: VersionName | None = None
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    deployment_type: Literal["ReplicaSet", "Job", "Container"] | None = None
    replica_num: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None
    parallelism_num: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] | None = None
    container_template: EditTemplate = EditTemplate()
    service: EditService = EditService()


class Undo(RequestBody):
    """Which version to go back to; without one, the one before."""

    version: VersionName | None = None


class EditedDeployment(BaseModel):
    """What an edit came to; ``changed`` are the fields that differ now.

    If it ``is_new_version``, containers that do not match it are replaced.
    """

    deployment_uuid: str
    version: str
    is_new_version: bool
    is_paused: bool
    changed: list[str]
    warnings: list[CommandWarningRow] = []


class RolloutRow(BaseModel):
    """How far a version is. ``updated_num`` containers are of it (``ready_num`` of those ready), ``outdated_num`` not.

    ``stable_version`` is the last good one, which is kept if this one fails; ``failure`` says why it did.
    ``undo_version`` is where an undo would go. ``message`` is a sentence for people.
    """

    deployment_uuid: str
    name: str
    state: str
    version: str
    stable_version: str | None
    is_paused: bool
    failure: str
    undo_version: str | None
    wanted_num: int
    updated_num: int
    ready_num: int
    outdated_num: int
    message: str


class VersionRow(BaseModel):
    """A version of a deployment."""

    version: str
    number: int
    created_at: str
    is_wanted: bool
    is_stable: bool
    was_good: bool
    container_num: int
    image_uuid: str
    cmd: str


class VersionList(BaseModel):
    """The versions of a deployment, newest first."""

    versions: list[VersionRow]
