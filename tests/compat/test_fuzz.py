"""Whatever JSON is thrown at a route: an answer in the contract, never a 5xx, never another account's data.

Bodies are made from the fields that the routes know, with values of every JSON type, so that most of them get past
the first check. The victim's data are there to be found: a deployment with a running container, whose ids are among
the values.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from muster.api import schemas
from muster.model.ids import DeploymentId
from tests.compat.test_conventions import AUTODL
from tests.compat.world import BODY, MEMBER, World

EXTENSIONS = [("POST", "/api/v1/muster/deployments/check"), ("POST", "/api/v1/muster/accounts")]
ROUTES = [(method, path) for method, path in [*AUTODL, *EXTENSIONS] if method != "GET"]
SECRET = "only-the-victim-knows"

REQUESTS: list[type[BaseModel]] = [
    schemas.CreateDeployment, schemas.ContainerTemplate, schemas.ServiceBody, schemas.HealthCheckBody,
    schemas.ListDeployments, schemas.ListContainers, schemas.ListEvents, schemas.StopContainer,
    schemas.SetReplicaNum, schemas.Operate, schemas.StockFilter, schemas.NewAccount,
]  # fmt: skip
FIELDS = sorted({name for request in REQUESTS for name in request.model_fields})


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


EXAMPLES = pytest.mark.parametrize(
    "examples", [120, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)


@EXAMPLES
def test_any_body_is_answered_within_the_contract(shared: World, victim: tuple[str, str], examples: int) -> None:
    fields = st.dictionaries(st.sampled_from(FIELDS), values(victim), max_size=3)
    thrown = st.dictionaries(st.sampled_from(FIELDS), values(victim), max_size=10)
    nearly_right = st.builds(
        lambda outer, inner: {**BODY, **outer, "container_template": {**BODY["container_template"], **inner}},
        fields,
        fields,
    )

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(route=st.sampled_from(ROUTES), content=thrown | nearly_right)
    def throw(route: tuple[str, str], content: Any) -> None:
        method, path = route
        response = shared.send(method, path, content=json.dumps(content), token=MEMBER)
        assert response.status_code < 500
        assert SECRET not in response.text
        answer = response.json()
        if path.startswith("/api/v1/muster"):
            assert response.is_success or set(answer["error"]) == {"code", "message", "field", "request_id"}
        else:
            assert response.status_code == 200
            assert list(answer)[:4] == ["code", "data", "msg", "request_id"]
            assert answer["code"] in {"Success", "RequestParameterIsWrong", "RecordNotFoundError", "BadRequest"}

    throw()


PATHS = [
    "dev/{}",
    "dev/deployment/{}",
    "muster/deployments/{}",
    "muster/containers/{}/logs",
    "muster/accounts/{}/tokens",
    "muster/events?follow=false&after={}",
    "muster/endpoints?service={}",
    "muster/events?follow=no&deployment_uuid={}",
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
