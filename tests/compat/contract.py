"""AutoDL's calls as a table: where each is, what a right body is, and what is known of every field.

``test_contract`` turns each line into its cases, as two accounts; ``test_schemas`` keeps the shapes of the answers.
A field is ``kind`` and right values; the wrong ones follow from the kind. Dots lead into objects.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.compat.world import ADMIN, MACHINES, MEMBER, World, body

SCHEMAS = Path(__file__).parent / "schemas"

WRONG_VALUES: Mapping[str, tuple[Any, ...]] = {
    "text": (5, True, 1.5, ["x"], {"x": 1}),
    "choice": (5, True, ["x"], {"x": 1}, "nothing of the kind"),
    "integer": ("3", True, 1.5, [3], {"x": 1}, 10**30),
    "positive": ("3", True, 1.5, [3], {"x": 1}, -1, 10**30),
    "mountable": ("1", True, 1.0, [1], 0, 2, -2),
    "number": ("3", True, [3], {"x": 1}, -1),
    "flag": (0, 1, "true", [True], {"x": True}),
    "texts": ("x", 5, {"x": 1}, [5], [None], ["x", ["y"]]),
    "pairs": ("A=1", 5, ["A=1"], {"A": 1}, {"A": None}, {"A B": "1"}),
    "object": ("x", 5, [], True),
    "time": (5, True, ["x"], "yesterday"),
}


@dataclass(frozen=True)
class Things:
    """What an account has, and what another one has."""

    token: str
    deployment: str
    container: str
    theirs: "Things | None" = None


@dataclass(frozen=True)
class Field:
    """What is known of a field; ``values`` are right ones."""

    kind: str
    values: tuple[Any, ...] = ()
    is_required: bool = False


@dataclass(frozen=True)
class Call:
    """One documented call. ``aliases`` are other (method, path) that answer the same; ``says_unknown`` of what."""

    name: str
    method: str
    path: str
    valid: Callable[[Things], dict[str, Any]] = lambda _: {}
    fields: Mapping[str, Field] = field(default_factory=dict)
    aliases: tuple[tuple[str, str], ...] = ()
    names: str = ""
    """The field that names a deployment or container."""
    is_query: bool = False

    def ask(self, world: World, content: Mapping[str, Any], token: str, *, by: tuple[str, str] | None = None) -> Any:
        """Call it; returns the envelope, checked against the schema that is checked in."""
        method, path = by or (self.method, self.path)
        sent: dict[str, Any] = {"params": content} if self.is_query else {"content": json.dumps(content)}
        if method == "GET" and not self.is_query:
            sent = {}
        response = world.send(method, path, token=token, **sent)
        assert response.status_code == 200, response.text
        envelope = response.json()
        check("refusal" if envelope["code"] != "Success" else self.name, envelope)
        return envelope


def check(name: str, envelope: Any) -> None:
    """Raise unless an answer has the shape that is checked in."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    Draft202012Validator(schema).validate(envelope)


def things(world: World) -> tuple[Things, Things]:
    """Give each of two accounts a deployment with a running container; returns both, each knowing the other."""
    made = []
    for gpu, token in enumerate((ADMIN, MEMBER)):
        uuid = world.create(token=token, name=f"of-{token}")
        container = world.up(world.place(uuid, gpu=gpu))
        made.append(Things(token, uuid, str(container.uuid)))
    first, second = made
    return Things(ADMIN, first.deployment, first.container, second), Things(
        MEMBER, second.deployment, second.container, first
    )


REQUIRED_UUID = Field("text", is_required=True)
PAGE = {
    "page_index": Field("integer", (0, 1, 7, -1)),
    "page_size": Field("integer", (0, 1, 100, -1)),
    "offset": Field("integer", (0, 3)),
}
RANGES = {
    f"{name}_{end}": Field(kind, (0, 1000))
    for name, kind in (("cpu_num", "positive"), ("memory_size", "positive"), ("price", "positive"))
    for end in ("from", "to")
}
CUDA = {name: Field("positive", (0, 118, 1000)) for name in ("cuda_v", "cuda_v_from", "cuda_v_to")}
PLACES = {
    "region_sign": Field("text", ("", "lab-a")),
    "dc_list": Field("texts", ([], ["lab-a", "lab-b"], [""])),
    "gpu_name_set": Field("texts", ([], ["RTX 4090"])),
}
SHARED = {
    "reuse_container": Field("flag", (True, False)),
    "reuse_container_scope": Field("choice", ("all", "deployment", "")),
    "service_port_protocol": Field("choice", ("http", "tcp", "")),
    "service_6006_port_protocol": Field("choice", ("http", "tcp", "")),
    "service_6008_port_protocol": Field("choice", ("http", "tcp", "")),
}
TEMPLATE = {
    **PLACES,
    **CUDA,
    **{name: Field("positive", (0,)) for name in RANGES},
    **SHARED,
    "gpu_num": Field("positive", (1, 8), is_required=True),
    "image_uuid": Field("text", is_required=True),
    "cmd": Field("text", ("sleep infinity", "a\n\tb"), is_required=True),
    "cmd_before_shutdown": Field("text", ("", "sync")),
    "env_vars": Field("pairs", ({}, {"A": "1", "B": "x\ny"})),
}
DEV, DEPLOYMENT = "/api/v1/dev", "/api/v1/dev/deployment"

CALLS = (
    Call(
        "create_deployment",
        "POST",
        DEPLOYMENT,
        lambda _: body(template__cuda_v_to=..., template__cpu_num_to=0, template__price_to=0),
        {
            "name": Field("text", ("x", "语音"), is_required=True),
            "deployment_type": Field("choice", ("ReplicaSet", "Container"), is_required=True),
            "replica_num": Field("positive", (0, 1, 10_000), is_required=True),
            "parallelism_num": Field("positive", (0, 1)),
            **SHARED,
            "container_template": Field("object", is_required=True),
            **{f"container_template.{name}": each for name, each in TEMPLATE.items()},
        },
    ),
    Call(
        "list_deployments",
        "POST",
        f"{DEPLOYMENT}/list",
        lambda _: {"page_index": 1, "page_size": 10},
        {
            **PAGE,
            "name": Field("text", ("", "asr")),
            "status": Field("choice", ("", "running", "stopped")),
            "deployment_uuid": Field("text", ("", "0123456789")),
        },
        aliases=(("GET", f"{DEPLOYMENT}/list"),),
    ),
    Call(
        "list_events",
        "POST",
        f"{DEPLOYMENT}/container/event/list",
        lambda own: {"deployment_uuid": own.deployment, "page_index": 0, "page_size": 20},
        {"deployment_uuid": REQUIRED_UUID, "deployment_container_uuid": Field("text", ("", "x")), **PAGE},
        names="deployment_uuid",
    ),
    Call(
        "list_containers",
        "POST",
        f"{DEPLOYMENT}/container/list",
        lambda own: {"deployment_uuid": own.deployment, "page_index": 1, "page_size": 20},
        {
            "deployment_uuid": Field("text", ("",)),
            "container_uuid": Field("text", ("", "x")),
            "date_from": Field("time", ("", "2026-03-02", "2026-03-02 09:14:31", "2026-03-02T09:14:31+08:00")),
            "date_to": Field("time", ("", "2999-01-01", "2999-01-01T00:00:00Z")),
            "gpu_name": Field("text", ("", "RTX 4090")),
            **{name: Field("number", (0, 0.0)) if "price" in name else Field("positive", (0,)) for name in RANGES},
            "released": Field("flag", (True, False)),
            "status": Field("texts", ([], ["running"], ["creating", "shutdown"])),
            **PAGE,
        },
        names="deployment_uuid",
    ),
    Call(
        "stop_container",
        "PUT",
        f"{DEPLOYMENT}/container/stop",
        lambda own: {"deployment_container_uuid": own.container},
        {
            "deployment_container_uuid": REQUIRED_UUID,
            "decrease_one_replica_num": Field("flag", (True, False)),
            "decrease_replica": Field("flag", (True, False)),
            "no_cache": Field("flag", (True, False)),
            "cache_container": Field("flag", (True, False)),
            "cmd_before_shutdown": Field("text", ("", "touch /root/autodl-fs/bye")),
        },
        aliases=(("POST", f"{DEPLOYMENT}/container/stop"),),
        names="deployment_container_uuid",
    ),
    Call(
        "set_replica_num",
        "PUT",
        f"{DEPLOYMENT}/replica_num",
        lambda own: {"deployment_uuid": own.deployment, "replica_num": 5},
        {"deployment_uuid": REQUIRED_UUID, "replica_num": Field("positive", (0, 5), is_required=True)},
        names="deployment_uuid",
    ),
    Call(
        "operate_deployment",
        "PUT",
        f"{DEPLOYMENT}/operate",
        lambda own: {"deployment_uuid": own.deployment, "operate": "stop"},
        {"deployment_uuid": REQUIRED_UUID, "operate": Field("choice", ("stop",), is_required=True)},
        aliases=(("POST", f"{DEPLOYMENT}/operate"),),
        names="deployment_uuid",
    ),
    Call(
        "delete_deployment",
        "DELETE",
        DEPLOYMENT,
        lambda own: {"deployment_uuid": own.deployment},
        {"deployment_uuid": REQUIRED_UUID},
        names="deployment_uuid",
    ),
    Call(
        "blacklist_machine",
        "POST",
        f"{DEPLOYMENT}/blacklist",
        lambda own: {"deployment_container_uuid": own.container},
        {
            "deployment_container_uuid": REQUIRED_UUID,
            "expire_in_minutes": Field("positive", (1, 1440, 43200)),
            "comment": Field("text", ("", "slow disk", "慢")),
        },
        aliases=(("POST", f"{DEPLOYMENT}/scheduling/blacklist"),),
        names="deployment_container_uuid",
    ),
    Call(
        "list_blacklist",
        "GET",
        f"{DEPLOYMENT}/blacklist",
        aliases=(("POST", f"{DEPLOYMENT}/blacklist/list"), ("GET", f"{DEPLOYMENT}/scheduling/blacklist")),
    ),
    Call(
        "list_packages",
        "GET",
        f"{DEPLOYMENT}/ddp/overview",
        lambda own: {"deployment_uuid": own.deployment},
        {"deployment_uuid": Field("query", is_required=True)},
        names="deployment_uuid",
        is_query=True,
    ),
    Call(
        "list_private_images",
        "POST",
        f"{DEV}/image/private/list",
        lambda _: {"page_index": 1, "page_size": 10, "offset": 0},
        PAGE,
    ),
    Call("list_base_images", "POST", "/api/v2/image/list", lambda _: {"page_index": 1, "page_size": 100}, PAGE),
    Call(
        "count_stock",
        "POST",
        f"{DEV}/machine/region/gpu_stock",
        lambda _: {"region_sign": MACHINES[0].data_center},
        {**PLACES, **CUDA, **{name: Field("positive", (0,)) for name in RANGES}},
    ),
    Call("count_all_stock", "GET", f"{DEV}/machine/gpu_stock"),
    Call("get_balance", "POST", f"{DEV}/wallet/balance"),
    Call(
        "mount_exclusive_nfs",
        "POST",
        f"{DEV}/exclusive_nfs/mount",
        lambda _: {"data_center": "lab-a", "mountable": -1},
        {
            "data_center": Field("choice", ("lab-a", "lab-b"), is_required=True),
            "mountable": Field("mountable", (-1,), is_required=True),
        },
    ),
)
