"""The JSON form of a set: what is read from a registry is right, or refused with the name of the field."""

import json
from typing import Any

import pytest

from muster.errors import InvalidSpec
from muster.model.endpoint import EndpointSet
from muster.model.service_wire import service_from_wire

ENDPOINT = {"id": "a", "url": "http://127.0.0.1:20001", "gpu_num": 0, "concurrency": 4, "budgets": {"vram_mb": 24000}}


def read(**changes: Any) -> EndpointSet:
    wire = {
        "schema": 1,
        "epoch": 1,
        "revision": 2,
        "published_at": "2026-01-02T03:04:06+00:00",
        "endpoints": [ENDPOINT],
    }
    return EndpointSet.from_json(json.dumps(wire | changes))


def test_what_was_left_out_has_its_usual_value() -> None:
    found = read(endpoints=[{"id": "a", "url": "http://127.0.0.1:20001", "concurrency": None}])
    (endpoint,) = found.endpoints
    assert (endpoint.gpu_num, endpoint.concurrency, endpoint.budgets, found.ca_pem) == (1, None, {}, None)
    assert EndpointSet.from_json(found.to_json()) == found
    assert read().endpoints[0].gpu_num == 0, "a machine without GPUs serves too"


WRONG = [
    ({"url": 20001}, "endpoints.url"),
    ({"gpu_name": None}, "endpoints.gpu_name"),
    ({"data_center": ["a"]}, "endpoints.data_center"),
    ({"gpu_num": -1}, "endpoints.gpu_num"),
    ({"gpu_num": "2"}, "endpoints.gpu_num"),
    ({"concurrency": "4"}, "endpoints.concurrency"),
    ({"concurrency": 4.0}, "endpoints.concurrency"),
    ({"concurrency": True}, "endpoints.concurrency"),
    ({"concurrency": 0}, "endpoints.concurrency"),
    ({"concurrency": 10**400}, "endpoints.concurrency"),
    ({"budgets": {"vram_mb": "24000"}}, "endpoints.budgets.vram_mb"),
    ({"budgets": {"vram_mb": -1}}, "endpoints.budgets.vram_mb"),
    ({"budgets": {"vram_mb": None}}, "endpoints.budgets.vram_mb"),
    ({"budgets": [1]}, "endpoint set"),
    ({"budgets": None}, "endpoint set"),
    ({"started_at": 7}, "endpoint set"),
]


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_an_endpoint_that_is_wrong_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(endpoints=[ENDPOINT, ENDPOINT | change])
    assert caught.value.field == field


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_it_is_refused_on_its_way_from_the_api_too(change: dict[str, Any], field: str) -> None:
    wire = {
        "deployment_uuid": "d",
        "sets": [{"port": 6006, "endpoints": [ENDPOINT | change], "withheld": []}],
        "aliases": [],
    }
    with pytest.raises(InvalidSpec) as caught:
        service_from_wire(wire, account="admin", ca_pem=None)
    assert caught.value.field == field.replace("endpoint set", "service")


@pytest.mark.parametrize("change", [{"ca_pem": 5}, {"broker_url": ["x"]}])
def test_a_set_that_is_wrong_is_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(**change)
    assert [caught.value.field] == list(change)
