"""Our answers through the models of the strictest kind of client: every field present, of the exact type, no coercion.

The models are written from AutoDL's documents and from what its strict clients read, independently of ours. A missing
field, a null where a string is read, or a fraction in a price fails.
"""

import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from muster.model.container import ContainerStatus
from tests.compat.world import World


def _is_time(text: str) -> str:
    datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
    return text


Time = Annotated[str, AfterValidator(_is_time)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Info(Strict):
    ssh_command: str
    root_password: str
    service_6006_port_url: str
    service_6008_port_url: str
    service_url: str
    proxy_host: str
    custom_port: int


class Container(Strict):
    id: int
    uuid: str
    version: str
    data_center: str
    machine_id: str
    deployment_uuid: str
    status: Literal["creating", "created", "starting", "oss_merged", "running", "shutting_down", "shutdown"]
    gpu_name: str
    gpu_num: int
    cpu_num: int
    memory_size: int
    image_uuid: str
    price: int
    info: Info
    started_at: Time | None
    stopped_at: Time | None
    created_at: Time
    updated_at: Time


class Template(Strict):
    region_sign: str
    dc_list: list[str]
    gpu_name_set: list[str]
    gpu_num: int
    image_uuid: str
    image_name: str
    cmd: str
    memory_size_from: int
    memory_size_to: int
    cpu_num_from: int
    cpu_num_to: int
    price_from: int
    price_to: int
    cuda_v: int
    cuda_v_from: int
    cuda_v_to: int


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
    service_port_protocol: Literal["http", "tcp"]
    service_6006_port_protocol: Literal["http", "tcp"]
    service_6008_port_protocol: Literal["http", "tcp"]
    starting_num: int
    running_num: int
    finished_num: int
    image_uuid: str
    template: Template
    price_estimates: int
    created_at: Time
    updated_at: Time
    stopped_at: Time | None


class Event(Strict):
    deployment_container_uuid: str
    status: str
    created_at: Time


class Image(Strict):
    image_uuid: str
    name: str


class Page(Strict):
    page_index: int
    page_size: int
    offset: int
    max_page: int
    result_total: int
    page: int


class Deployments(Page):
    list: list[Deployment]


class Containers(Page):
    list: list[Container]


class Events(Page):
    list: list[Event]


class Images(Page):
    list: list[Image]


class Answer(Strict):
    code: Literal["Success"]
    msg: Literal[""]
    request_id: Hex32


def read(world: World, path: str, data: type[Page]) -> Page:
    response = world.send("POST", f"/api/{path}", content=b'{"page_index":1,"page_size":50}')
    Answer.model_validate_json(response.content)
    return data.model_validate(response.json()["data"])


def test_every_list_satisfies_a_strict_client_at_every_step_of_a_containers_life(world: World) -> None:
    uuid = world.create(template__cuda_v_to=..., template__dc_list=[])
    container = world.place(uuid)
    now = datetime.datetime.now(datetime.UTC)
    for step in ("placed", "up", "stopping", "down"):
        if step == "up":
            world.up(container)
        if step == "stopping":
            world.advance(container, ContainerStatus.SHUTTING_DOWN, is_ready=False)
        if step == "down":
            world.advance(container, ContainerStatus.SHUTDOWN, stopped_at=now)
            world.ok("PUT", "/deployment/operate", {"deployment_uuid": uuid, "operate": "stop"})
        for path, page in (("deployment/list", Deployments), ("deployment/container/list", Containers)):
            assert read(world, f"v1/dev/{path}", page).result_total == 1
        events = world.ok("POST", "/deployment/container/event/list", {"deployment_uuid": uuid})
        assert len(Events.model_validate(events).list) >= 1
    assert read(world, "v2/image/list", Images).result_total == 1
    assert read(world, "v1/dev/image/private/list", Images).max_page == 0


def test_the_newest_event_is_the_first(world: World) -> None:
    uuid = world.create()
    world.up(world.place(uuid))
    events = Events.model_validate(world.ok("POST", "/deployment/container/event/list", {"deployment_uuid": uuid}))
    assert events.list[0].status == "running"
