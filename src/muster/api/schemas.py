"""The wire: every request and response body, field by field, as AutoDL's clients know them.

Only shapes live here; ``convert`` gives them meaning. Requests are strict about types (``true`` is no integer, ``"3"``
is none either) and lenient about everything else: unknown fields are ignored, and ``null`` means that an optional
field was not given. Memory is in GB in requests and in bytes in responses; prices are 1/1000 yuan per GPU-hour; a
``…_to`` of 0 means no upper bound. Fields that AutoDL does not have are said to be extensions.
"""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from muster.api.text import ONE_LINE, SCRIPT

T = TypeVar("T")

MAX_REPLICAS = 10_000
"""More containers than this are a mistake in a request, not a deployment."""
MAX_TEXT = 30_000
"""Characters of a command or a variable: Linux hands a process no single string above 128 KiB, UTF-8 takes 4 bytes."""

Number = Annotated[int, Field(ge=0, le=2**53)]
Index = Annotated[int, Field(le=2**31)]
Amount = Annotated[float, Field(ge=0, le=2**53)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Script = Annotated[str, Field(max_length=MAX_TEXT), SCRIPT]
Name = Annotated[str, Field(max_length=255), ONE_LINE]
Protocol = Literal["http", "tcp", ""]


class RequestBody(BaseModel):
    """What all requests have in common."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)
    meaningful_nulls: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key in cls.meaningful_nulls}


class PageRequest(RequestBody):
    """Which rows; ``offset`` above 0 says how many to skip and then wins over ``page_index``."""

    page_index: Index = 0
    page_size: Index = 0
    offset: Index = 0


class PortProtocols(RequestBody):
    """How the two ports are served; ``service_port_protocol`` is the deprecated word for both."""

    service_port_protocol: Protocol = ""
    service_6006_port_protocol: Protocol = ""
    service_6008_port_protocol: Protocol = ""
    reuse_container: bool | None = None
    reuse_container_scope: Literal["all", "deployment", ""] = ""


class ContainerTemplate(PortProtocols):
    """What one container is. Protocols and reuse are accepted here too; those of the top level win.

    ``image_pull`` is an extension: whether an image that the machine has is fetched again.
    """

    dc_list: list[Name] = []
    region_sign: Name = ""
    gpu_name_set: list[Name] = []
    gpu_num: Annotated[int, Field(ge=1, le=1024)]
    cuda_v: Number = 0
    cuda_v_from: Number | None = None
    cuda_v_to: Number | None = None
    cpu_num_from: Number = 0
    cpu_num_to: Number = 0
    memory_size_from: Number = 0
    memory_size_to: Number = 0
    price_from: Number = 0
    price_to: Number = 0
    image_uuid: Name
    image_pull: Literal["missing", "always"] = "missing"
    cmd: Script
    cmd_before_shutdown: Script = ""
    env_vars: dict[Name, Text] = {}


class HealthCheckBody(RequestBody):
    """Extension: how readiness is probed. Without ``path`` a TCP connect, with it ``GET path``."""

    port: Number = 6006
    path: Name = ""
    interval_seconds: Amount = 2.0
    timeout_seconds: Amount = 2.0
    unhealthy_after: Number = 3
    stalled_after_seconds: Amount = 600.0


class ServiceBody(RequestBody):
    """Extension: how the deployment serves. ``concurrency`` is requests at once per container.

    ``health_check: null`` means ready as soon as it runs; without the field, a TCP connect to port 6006 decides.
    """

    meaningful_nulls = frozenset({"health_check"})
    concurrency: Number | None = None
    budgets: dict[Name, Number] = {}
    drain_seconds: Amount | None = None
    drain_grace_seconds: Amount = 0.0
    ready_within_seconds: Amount = 600.0
    health_check: HealthCheckBody | None = HealthCheckBody()


class CreateDeployment(PortProtocols):
    """A deployment to be."""

    name: Annotated[str, Field(min_length=1, max_length=255), ONE_LINE]
    deployment_type: Literal["ReplicaSet", "Job", "Container"]
    replica_num: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None
    parallelism_num: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None
    container_template: ContainerTemplate
    service: ServiceBody = ServiceBody()


class ListDeployments(PageRequest):
    """Which deployments; an empty string is no filter."""

    name: Name = ""
    status: Literal["running", "stopped", ""] = ""
    deployment_uuid: Name = ""


class ListContainers(PageRequest):
    """Which containers; empty strings and zeros are no filter. Without ``deployment_uuid``: of the whole account."""

    deployment_uuid: Name = ""
    container_uuid: Name = ""
    date_from: Name = ""
    date_to: Name = ""
    gpu_name: Name = ""
    cpu_num_from: Number = 0
    cpu_num_to: Number = 0
    memory_size_from: Number = 0
    memory_size_to: Number = 0
    price_from: Amount = 0
    price_to: Amount = 0
    released: bool = False
    status: list[Name] = []


class ListEvents(PageRequest):
    """Which events."""

    deployment_uuid: Name
    deployment_container_uuid: Name = ""


class StopContainer(RequestBody):
    """Stop one container. ``cache_container`` is an older word for the opposite of ``no_cache``.

    ``decrease_replica`` is one for ``decrease_one_replica_num``; an empty ``cmd_before_shutdown`` is none.
    """

    deployment_container_uuid: Name
    decrease_one_replica_num: bool | None = None
    decrease_replica: bool | None = None
    no_cache: bool | None = None
    cache_container: bool | None = None
    cmd_before_shutdown: Script = ""


class SetReplicaNum(RequestBody):
    """Scale a ReplicaSet."""

    deployment_uuid: Name
    replica_num: Annotated[int, Field(ge=0, le=MAX_REPLICAS)]


class Operate(RequestBody):
    """``stop``, or ``delete`` as ``DELETE`` does; ``operation`` is another word for ``operate``."""

    deployment_uuid: Name
    operate: Name = ""
    operation: Name = ""


class DeleteDeployment(RequestBody):
    """The uuid may be in the query string instead."""

    deployment_uuid: Name = ""


class StockFilter(RequestBody):
    """Which machines to count; nothing given means all. ``dc_list`` and ``region_sign`` add up."""

    region_sign: Name = ""
    dc_list: list[Name] = []
    gpu_name_set: list[Name] = []
    cuda_v: Number = 0
    cuda_v_from: Number | None = None
    cuda_v_to: Number | None = None
    cpu_num_from: Number = 0
    cpu_num_to: Number = 0
    memory_size_from: Number = 0
    memory_size_to: Number = 0
    price_from: Number = 0
    price_to: Number = 0


class MountExclusiveNfs(RequestBody):
    """Whether ``/root/autodl-fs`` is the dedicated network disk (1) or the ordinary storage (-1)."""

    data_center: Name
    mountable: Annotated[int, Field(ge=-1, le=1)]


# Responses


class PageOf(BaseModel, Generic[T]):
    """Rows of a list, newest first. ``page`` repeats ``page_index``."""

    list: list[T]
    page_index: int
    page_size: int
    offset: int
    max_page: int
    result_total: int
    page: int


class DeploymentUuid(BaseModel):
    """Which deployment it was."""

    deployment_uuid: str


class CommandWarningRow(BaseModel):
    """What is probably not meant in ``cmd``; never a refusal. ``code`` is stable, ``message`` is for people."""

    code: str
    message: str


class CreatedDeployment(DeploymentUuid):
    """Which deployment it is. Extension: ``warnings`` about its command, which may be stored repaired."""

    warnings: list[CommandWarningRow]


class TemplateRow(BaseModel):
    """The container template as it was understood; memory in bytes."""

    region_sign: str
    region_sign_list: list[str]
    dc_list: list[str]
    gpu_name_set: list[str]
    gpu_num: int
    image_uuid: str
    image_name: str
    cmd: str
    cmd_before_shutdown: str
    env_vars: dict[str, str]
    memory_size_from: int
    memory_size_to: int
    cpu_num_from: int
    cpu_num_to: int
    price_from: int
    price_to: int
    cuda_v: int
    cuda_v_from: int
    cuda_v_to: int
    service_6006_port_protocol: str
    service_6008_port_protocol: str


class DeploymentRow(BaseModel):
    """A deployment; ``price_estimates`` is what it costs in an hour.

    Extensions: ``ready_num``, ``version``, and ``completed_num``: of the finished ones, those that ended by themselves.
    """

    id: int
    uid: int
    uuid: str
    name: str
    deployment_type: str
    status: str
    replica_num: int
    parallelism_num: int
    reuse_container: bool
    reuse_container_scope: str
    service_port_protocol: str
    service_6006_port_protocol: str
    service_6008_port_protocol: str
    starting_num: int
    running_num: int
    ready_num: int
    finished_num: int
    completed_num: int
    image_uuid: str
    version: str
    template: TemplateRow
    price_estimates: int
    created_at: str
    updated_at: str
    stopped_at: str | None


class UnplacedRow(BaseModel):
    """A wanted container without a machine, and why."""

    id: str
    created_at: str
    explanation: str


class DeploymentDetail(DeploymentRow):
    """Everything about a deployment. ``spec`` is the body that would create it, every default spelled out."""

    spec: dict[str, Any]
    unplaced: list[UnplacedRow]


class CheckedDeployment(BaseModel):
    """A body as it was understood; ``spec`` is comparable field by field with ``DeploymentDetail.spec``."""

    spec: dict[str, Any]
    warnings: list[CommandWarningRow]


class ContainerInfo(BaseModel):
    """How to reach a container; empty while unknown."""

    ssh_command: str
    root_password: str
    service_6006_port_url: str
    service_6008_port_url: str
    service_url: str
    proxy_host: str
    custom_port: int


class ContainerRow(BaseModel):
    """A placed container. Extensions: ``is_ready``, ``reason``, ``message``, ``exit_code``, ``reused_from``."""

    id: int
    uuid: str
    version: str
    data_center: str
    machine_id: str
    deployment_uuid: str
    status: str
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_size: int
    image_uuid: str
    price: int
    info: ContainerInfo
    started_at: str | None
    stopped_at: str | None
    created_at: str
    updated_at: str
    is_ready: bool
    reason: str
    message: str
    exit_code: int | None
    reused_from: str | None


class ContainerList(BaseModel):
    """Containers of one deployment, oldest first."""

    containers: list[ContainerRow]


class EventRow(BaseModel):
    """One transition. AutoDL knows the container, the status and the time; the rest is ours. ``id`` is the cursor."""

    id: int
    kind: str
    deployment_uuid: str
    deployment_container_uuid: str
    status: str
    reason: str
    message: str
    exit_code: int | None
    created_at: str


class ImageRow(BaseModel):
    """A private image; ``name`` and ``image_name`` are the same."""

    id: int
    image_uuid: str
    image_name: str
    name: str
    status: str
    created_at: str
    updated_at: str


class BaseImageRow(BaseModel):
    """An image of the platform."""

    image_uuid: str
    name: str
    url: str
    cuda_version: str
    chip_corp: str
    cpu_arch: str


class StockRow(BaseModel):
    """GPUs of one model, counted one by one: two idle ones may be on two machines.

    Extension: ``fits`` says for 1, 2, 4 and 8 GPUs how many containers of so many fit now.
    """

    gpu_name: str
    idle_gpu_num: int
    total_gpu_num: int
    chip_corp: str
    cpu_arch: str
    fits: dict[str, int]


class PooledRow(BaseModel):
    """An ended container whose files wait for the next start that matches, until ``expires_at``."""

    uuid: str
    account: str
    deployment_uuid: str
    deployment_name: str
    machine_id: str
    data_center: str
    gpu_name: str
    gpu_indices: list[int]
    image_uuid: str
    image_reference: str
    reason: str
    stopped_at: str
    expires_at: str | None


class Pool(BaseModel):
    """What waits for reuse, most recently stopped first."""

    containers: list[PooledRow]


class Stats(BaseModel):
    """What reuse was good for. ``starts`` are those that might have reused something; ``hit_rate`` is of them."""

    starts: int
    reuses: int
    hit_rate: float
    seconds_saved: float
    pooled: int


class FileRow(BaseModel):
    """A name in an account's storage; ``kind`` is ``file folder link other``, ``mode`` three octal digits."""

    name: str
    kind: str
    size_bytes: int
    modified_at: str
    mode: str


class FileListing(FileRow):
    """What is at a path, and the entries of a folder by name; unless it ``is_complete`` more follow the last one."""

    entries: list[FileRow]
    is_complete: bool


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "starting"]
