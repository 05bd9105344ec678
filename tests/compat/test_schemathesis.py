"""Every operation of the checked-in OpenAPI file, called as the file says and otherwise: the file names the answers.

Schemathesis makes the calls (right ones and broken ones) and judges the answers by the file: the status, the media
type, the headers and the shape. What it could say of which calls *ought* to be refused is left out: AutoDL's paths
refuse with 200, unknown fields and nulls are accepted everywhere on purpose, and what a schema cannot say (a range
upside down, a uuid of nobody) is refused. ``test_contract`` and ``test_fuzz`` ask about that.

The same calls every time; ``HYPOTHESIS_PROFILE=nightly`` makes others, and more.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.model.image import LOCAL_IMAGE
from tests.compat.test_openapi import FILE
from tests.compat.world import ADMIN, MACHINES, World

IS_NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
EXAMPLES = 300 if IS_NIGHTLY else 8
OPERATIONS = [
    (method.upper(), path)
    for path, methods in json.loads(FILE.read_text())["paths"].items()
    for method in methods
]  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> Any:
    """The checked-in file, read by schemathesis, which takes a second to load."""
    from schemathesis import openapi  # noqa: PLC0415

    return openapi.from_dict(json.loads(FILE.read_text()))


@pytest.fixture(scope="module")
def inhabited(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("inhabited")
    shutil.copy(furnished, folder)
    with World(folder) as world:
        yield world


@pytest.fixture(scope="module")
def known(inhabited: World) -> Mapping[str, list[str]]:
    """What path parameters and fields may name, so that not every call ends at a thing that is not there."""
    uuid = inhabited.create()
    container = inhabited.up(inhabited.place(uuid))
    return {
        "uuid": [uuid, str(container.uuid), LOCAL_IMAGE],
        "deployment_uuid": [uuid],
        "deployment_container_uuid": [str(container.uuid)],
        "container_uuid": [str(container.uuid)],
        "machine_id": [MACHINES[1].id],
        "name": ["member"],
        "data_center": ["lab-a"],
    }


@pytest.mark.timeout(600 if IS_NIGHTLY else 60)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_an_operation_answers_as_the_file_says(
    inhabited: World, known: Mapping[str, list[str]], schema: Any, method: str, path: str
) -> None:
    from schemathesis import GenerationMode  # noqa: PLC0415
    from schemathesis.specs.openapi import checks  # noqa: PLC0415

    uuid = inhabited.create()  # others are deleted on the way
    there = {**known, "deployment_uuid": [uuid], "uuid": [uuid, *known["uuid"]]}
    operation = schema[path][method]
    calls = operation.as_strategy(GenerationMode.POSITIVE) | operation.as_strategy(GenerationMode.NEGATIVE)
    judges = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]

    @settings(
        max_examples=EXAMPLES,
        derandomize=not IS_NIGHTLY,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=calls, data=st.data())
    def call(case: Any, data: st.DataObject) -> None:
        for place in (case.path_parameters, case.query, case.body):
            if isinstance(place, dict):
                for name in sorted(there.keys() & place.keys()):
                    if data.draw(st.booleans()):
                        place[name] = data.draw(st.sampled_from(there[name]))
        if isinstance(case.query, dict) and "follow" in case.query:
            case.query["follow"] = "false"
        if path.endswith(("/events", "/changes", "/watch")):
            case.query = {**(case.query or {}), "follow": "false"}
        response = send(inhabited, case)
        if response is not None:
            assert response.status_code < 500 or response.json()["error"]["code"] != "InternalError", response.text
            case.validate_response(response, checks=judges)

    call()


def test_a_file_that_says_otherwise_is_noticed(inhabited: World) -> None:
    from schemathesis import openapi  # noqa: PLC0415
    from schemathesis.core.failures import FailureGroup  # noqa: PLC0415

    document = json.loads(FILE.read_text())
    document["components"]["schemas"]["DeploymentRow"]["properties"]["uuid"]["type"] = "integer"
    path = "/api/v1/dev/deployment/list"
    case = openapi.from_dict(document)[path]["POST"].Case(body={}, media_type="application/json")
    response = inhabited.send("POST", path, content=json.dumps({"deployment_uuid": inhabited.create()}))
    with pytest.raises(FailureGroup, match="violates schema"):
        case.validate_response(response)


def send(world: World, case: Any) -> httpx.Response | None:
    """Send what schemathesis made for ``requests`` with our client; what no client can send is let go."""
    sent = case.as_transport_kwargs(base_url="http://muster")
    headers = {name: str(value) for name, value in sent["headers"].items() if name.lower() != "authorization"}
    content = json.dumps(sent["json"]).encode() if sent.get("json") is not None else sent.get("data") or b""
    try:
        request = httpx.Request(sent["method"], sent["url"], params=sent.get("params"), headers=headers)
        return world.send(sent["method"], str(request.url), token=ADMIN, headers=headers, content=content)
    except (httpx.InvalidURL, UnicodeEncodeError, ValueError):
        return None
