"""The strictest client there could be: every field that AutoDL documents, of its exact type; it knows nothing of ours.

Written from the documents and from what strict clients of the real service read. No value is coerced: a missing field,
a null where a string is read, or a fraction in a price fails. Fields that it does not know are left alone.
"""

import datetime
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, Self, TypeVar
from urllib.parse import urlparse

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

T = TypeVar("T")
GIB = 2**30


def _is_time(text: str) -> str:
    datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
    return text


def _is_ssh(text: str) -> str:
    if text:
        word, option, port, where = text.split(" ")
        assert (word, option, port.isdigit(), where.startswith("root@")) == ("ssh", "-p", True, True)
    return text


def _has_port(text: str) -> str:
    assert not text or urlparse(text if "://" in text else f"tcp://{text}").port
    return text


Time = Annotated[str, AfterValidator(_is_time)]
Url = Annotated[str, AfterValidator(_has_port)]
Bytes = Annotated[int, Field(ge=GIB, multiple_of=GIB)]
Price = Annotated[int, Field(ge=0)]
Protocol = Literal["http", "tcp"]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Info(Strict):
    ssh_command: Annotated[str, AfterValidator(_is_ssh)]
    root_password: str
    service_6006_port_url: Url
    service_6008_port_url: Url
    service_url: Url
    proxy_host: str
    custom_port: int


class Container(Strict):
    id: int
    uuid: Annotated[str, Field(pattern=r"^[0-9a-f]{10,15}-[0-9a-f]{10}-[0-9a-f]{8,10}(-[0-9a-f]{9})?$")]
    version: str
    data_center: str
    machine_id: Annotated[str, Field(pattern=r"^[0-9a-f]{10}$")]
    deployment_uuid: Annotated[str, Field(pattern=r"^[0-9a-f]{10,15}$")]
    status: Literal["creating", "created", "starting", "oss_merged", "running", "shutting_down", "shutdown"]
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_size: Bytes
    image_uuid: str
    price: Price
    info: Info
    started_at: Time | None
    stopped_at: Time | None
    created_at: Time
    updated_at: Time

    @model_validator(mode="after")
    def _names_its_machine(self) -> Self:
        assert self.uuid.split("-")[1] == self.machine_id
        return self


class Template(Strict):
    region_sign: str
    dc_list: list[str]
    gpu_name_set: list[str]
    gpu_num: int
    image_uuid: str
    image_name: str
    cmd: str
    cmd_before_shutdown: str
    env_vars: dict[str, str]
    memory_size_from: Annotated[int, Field(ge=0, multiple_of=GIB)]
    memory_size_to: Annotated[int, Field(ge=0, multiple_of=GIB)]
    cpu_num_from: int
    cpu_num_to: int
    price_from: int
    price_to: int
    cuda_v: int
    cuda_v_from: int
    cuda_v_to: int
    service_6006_port_protocol: Protocol
    service_6008_port_protocol: Protocol


class Deployment(Strict):
    id: int
    uid: int
    uuid: str
    name: str
    deployment_type: Literal["ReplicaSet", "Job", "Container"]
    status: Literal["running", "stopped"]
    replica_num: int
    parallelism_num: int
    reuse_container: bool
    reuse_container_scope: Literal["all", "deployment"]
    service_port_protocol: Protocol
    service_6006_port_protocol: Protocol
    service_6008_port_protocol: Protocol
    starting_num: int
    running_num: int
    finished_num: int
    image_uuid: str
    template: Template
    price_estimates: Price
    created_at: Time
    updated_at: Time
    stopped_at: Time | None


class Event(Strict):
    deployment_container_uuid: str
    status: str
    created_at: Time


class PrivateImage(Strict):
    id: int
    image_uuid: Annotated[str, Field(pattern=r"^image-[0-9a-f]{10}$")]
    image_name: str
    name: str
    status: str
    created_at: Time
    updated_at: Time


class BaseImage(Strict):
    image_uuid: Annotated[str, Field(pattern=r"^base-image-[0-9a-z]{10,12}$")]
    name: str
    url: str
    cuda_version: str
    chip_corp: str
    cpu_arch: str


class Blocked(Strict):
    created_at: Time
    updated_at: Time
    expired_time: Time
    data_center: str
    machine_id: str
    msg: str


class Stock(Strict):
    idle_gpu_num: int
    total_gpu_num: int
    chip_corp: str
    cpu_arch: str


class NamedStock(Stock):
    gpu_name: str


class Package(Strict):
    gpu_type: str
    total: int
    balance: int
    dc_list: str


class Wallet(Strict):
    id: int
    uid: int
    assets: int
    blocked_asset: int
    accumulate: int
    voucher_balance: int
    available_coupon_num: int
    to_expire_voucher_num: int
    certain_conditions_voucher_balance: int
    total_recharge_asset: int
    remittance_code: str
    exclusive_transfer_account: str
    created_at: Time
    updated_at: Time


class Uuid(Strict):
    deployment_uuid: Annotated[str, Field(pattern=r"^[0-9a-f]{10,15}$")]


class Page(Strict, Generic[T]):
    list: list[T]
    page_index: int
    page_size: int
    offset: int
    max_page: int
    result_total: int
    page: int


class Answer(Strict, Generic[T]):
    code: Literal["Success"]
    data: T
    msg: Literal[""]
    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Refusal(Strict):
    code: str
    data: None
    msg: Annotated[str, Field(min_length=1)]
    request_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class StrictClient:
    """One token on one host; ``http`` sends, and is closed by whoever made it."""

    def __init__(self, http: httpx.Client, token: str) -> None:
        self._http = http
        self._headers = {"Authorization": token, "Content-Type": "application/json"}

    def ask(self, shape: Any, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        response = self._http.request(method, f"/api/{path}", json=body, headers=self._headers)
        assert response.status_code == 200, response.text
        return TypeAdapter(Answer[shape]).validate_json(response.content).data

    def refusal(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Refusal:
        response = self._http.request(method, f"/api/{path}", json=body, headers=self._headers)
        assert response.status_code == 200, response.text
        return Refusal.model_validate_json(response.content)

    def create(self, body: Mapping[str, Any]) -> str:
        return str(self.ask(Uuid, "POST", "v1/dev/deployment", body).deployment_uuid)

    def deployments(self, **body: Any) -> Page[Deployment]:
        asked = {"page_index": 1, "page_size": 50, **body}
        return self.ask(Page[Deployment], "POST", "v1/dev/deployment/list", asked)  # type: ignore[no-any-return]

    def containers(self, deployment_uuid: str, **body: Any) -> Page[Container]:
        asked = {"deployment_uuid": deployment_uuid, "page_index": 1, "page_size": 50, **body}
        return self.ask(Page[Container], "POST", "v1/dev/deployment/container/list", asked)  # type: ignore[no-any-return]

    def events(self, deployment_uuid: str, container_uuid: str = "", **body: Any) -> list[Event]:
        """Return the events of a page, which must come newest first."""
        asked = {"deployment_uuid": deployment_uuid, "deployment_container_uuid": container_uuid, "page_size": 100}
        path = "v1/dev/deployment/container/event/list"
        page: Page[Event] = self.ask(Page[Event], "POST", path, {"page_index": 1, **asked, **body})
        moments = [datetime.datetime.fromisoformat(event.created_at) for event in page.list]
        assert moments == sorted(moments, reverse=True)
        return page.list
