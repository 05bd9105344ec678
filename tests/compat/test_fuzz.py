"""Whatever is thrown at a route: an answer in the contract, no 5xx, no traceback, nothing of another account.

The routes and their fields are those of the checked-in OpenAPI file, so that a new one is thrown at without being named
here. Bodies are made from these fields with values of every JSON type, from right bodies with a few values changed, and
from bytes. The victim's data are there to be found: a deployment with a running container, whose ids are among the
values.
"""

import copy
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.model.ids import DeploymentId
from muster.model.image import LOCAL_IMAGE
from tests.compat.contract import CALLS, Things
from tests.compat.test_conventions import AUTODL
from tests.compat.test_openapi import FILE
from tests.compat.world import BODY, MACHINES, MEMBER, World

DOCUMENT = json.loads(FILE.read_text())
THINGS: dict[str, list[str]] = {
    "name": ["admin", "member"],
    "uuid": [LOCAL_IMAGE],
    "machine_id": [MACHINES[0].id],
    "host": ["lab:5000"],
    "token_id": ["0123456789"],
}
DOCUMENTED = [
    (method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if "requestBody" in operation and not path.endswith("/files/content")
]
ROUTES = sorted({*DOCUMENTED, *((method, path) for method, path in AUTODL if method != "GET")})
FIELDS = sorted(
    {name for schema in DOCUMENT["components"]["schemas"].values() for name in schema.get("properties", ())}
)
CODES = {"Success", "RequestParameterIsWrong", "RecordNotFoundError", "BadRequest"}
SECRET = "only-the-victim-knows"


@pytest.fixture(scope="module")
def victim(shared: World) -> Iterator[tuple[str, str]]:
    """A deployment of the admin; the member is the one who throws."""
    uuid = shared.create(name=SECRET, template__cmd=SECRET, template__env_vars={"SECRET": SECRET})
    container = shared.up(shared.place(uuid))
    assert container.uuid is not None
    yield uuid, container.uuid
    deployment = shared.read(lambda tx: tx.deployments.get(DeploymentId(uuid)))
    assert deployment is not None
    assert deployment.is_wanted
    assert deployment.spec.replica_num == 2
    assert shared.row(container).stop is None


def values(ids: tuple[str, str]) -> st.SearchStrategy[Any]:
    words = ["", "ReplicaSet", "http", "tcp", "all", "running", "stop", "admin", "2026-03-02", "RTX 4090", "lab-a"]
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-2, 10)
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20)
        | st.sampled_from([*words, *ids, BODY["container_template"]["image_uuid"]])
    )
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=6)
        ),
        max_leaves=12,
    )


EXAMPLES = pytest.mark.parametrize("examples", [120, pytest.param(1000, marks=pytest.mark.slow)])


def right_bodies(ids: tuple[str, str]) -> list[dict[str, Any]]:
    own = Things(MEMBER, *ids)
    service = {"concurrency": 4, "budgets": {"tokens": 100}, "health_check": {"port": 6008, "path": "/healthz"}}
    everything = {**BODY, "parallelism_num": 1, "service": service}
    return [everything, {"deployment_uuid": ids[0], **everything}, *(call.valid(own) for call in CALLS)]


@st.composite
def changed_bodies(draw: st.DrawFn, ids: tuple[str, str]) -> Any:
    """Draw a right body in which some values, at whatever depth, are others, gone, or wrapped."""
    body = copy.deepcopy(draw(st.sampled_from(right_bodies(ids))))
    for _ in range(draw(st.integers(1, 3))):
        inside: Any = body
        while isinstance(inside, dict) and inside:
            name = draw(st.sampled_from(sorted(inside)))
            if not isinstance(inside[name], dict) or draw(st.booleans()):
                how = draw(st.sampled_from(["other", "gone", "list", "object", "huge", "text"]))
                old = inside.pop(name)
                if how != "gone":
                    inside[name] = {
                        "other": draw(values(ids)),
                        "list": [old],
                        "object": {name: old},
                        "huge": draw(st.sampled_from([2**63, -(2**63), 10**400, 1e308, -1e308, 0.1, -0.0])),
                        "text": draw(st.text(max_size=30))
                        + draw(st.sampled_from(["", "\0", "\x1b[2J", "\n", "\ud800"])),
                    }[how]
                break
            inside = inside[name]
    return body


def raw_bodies(ids: tuple[str, str]) -> st.SearchStrategy[bytes]:
    """Draw bodies as bytes, JSON or not."""
    fields = st.dictionaries(st.sampled_from(FIELDS), values(ids), max_size=10)
    objects = (fields | changed_bodies(ids)).map(lambda content: json.dumps(content).encode())
    constants = st.sampled_from([b"NaN", b"-Infinity", b"1e999", b"-0", b"1" * 5000, b"[" * 500, b'"\\ud800"', b"\xff"])
    with_constants = st.builds(
        lambda name, constant: b'{"' + name.encode() + b'": ' + constant + b"}", st.sampled_from(FIELDS), constants
    )
    cut = st.builds(lambda whole, end: whole[:end], objects, st.integers(0, 400))
    deep = st.integers(1, 200).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth)
    return objects | objects | objects | with_constants | cut | deep | st.binary(max_size=100)


def filled(path: str, data: st.DataObject, ids: tuple[str, str]) -> str:
    """Put something into a path's parameters."""

    def choose(parameter: re.Match[str]) -> str:
        return str(data.draw(st.sampled_from(THINGS.get(parameter[1], ["x"]) + list(ids))))

    return re.sub(r"{(\w+)}", choose, path)


@EXAMPLES
def test_any_body_is_answered_within_the_contract(
    shared: World, victim: tuple[str, str], caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(route=st.sampled_from(ROUTES), content=raw_bodies(victim), data=st.data())
    def throw(route: tuple[str, str], content: bytes, data: st.DataObject) -> None:
        method, path = route[0], filled(route[1], data, victim)
        response = shared.send(method, path, content=content, token=MEMBER)
        assert response.status_code < 500, response.text
        assert SECRET not in response.text
        answer = response.json()
        if path.startswith("/api/v1/muster"):
            assert response.is_success or set(answer["error"]) == {"code", "message", "field", "request_id"}
        else:
            assert response.status_code == 200
            assert list(answer)[:4] == ["code", "data", "msg", "request_id"]
            assert answer["code"] in CODES, answer

    throw()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_thrown_at(shared: World, victim: tuple[str, str], method: str, path: str) -> None:
    """Some bodies each, the same every time: the other test may leave a route out."""

    @settings(max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(content=raw_bodies(victim), data=st.data())
    def throw(content: bytes, data: st.DataObject) -> None:
        response = shared.send(method, filled(path, data, victim), content=content, token=MEMBER)
        assert response.status_code < 500, response.text
        assert SECRET not in response.text

    throw()


PATHS = [
    "dev/{}",
    "dev/deployment/{}",
    "muster/deployments/{}",
    "muster/containers/{}/logs",
    "muster/containers/x/logs?since={}",
    "muster/accounts/{}/tokens",
    "muster/images/{}",
    "muster/blacklist/{}",
    "muster/deployments/{}/explain",
    "muster/deployments/{}/rollout",
    "dev/deployment/ddp/overview?deployment_uuid={}",
    "muster/images/{}/prewarm",
    "muster/registries/{}",
    "muster/events?follow=false&after={}",
    "muster/endpoints?service={}",
    "muster/events?follow=no&deployment_uuid={}",
    "muster/files?data_center=lab-a&path={}",
    "muster/files?data_center={}",
    "muster/files/content?data_center=lab-a&path={}",
]


@EXAMPLES
def test_any_path_is_answered_within_the_contract(shared: World, victim: tuple[str, str], examples: int) -> None:
    tails = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from([*victim, "admin"])

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]), head=st.sampled_from(PATHS), tail=tails)
    def throw(method: str, head: str, tail: str) -> None:
        try:
            response = shared.send(method, "/api/v1/" + head.format(tail), token=MEMBER)
        except httpx.InvalidURL:
            return  # no client can send it
        assert response.status_code < 500
        assert SECRET not in response.text

    throw()
