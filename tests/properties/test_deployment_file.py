"""Whatever stands in a deployment file, it is read or told what is wrong; and what was read is itself a file."""

import json
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.cli.spec.deployment import read_deployment

FIELDS = [
    "name",
    "type",
    "replicas",
    "parallelism",
    "image",
    "cmd",
    "gpu",
    "cpu",
    "memory",
    "cuda",
    "price",
    "data_centers",
    "env",
    "ports",
    "reuse",
    "service",
    "deployment_type",
    "replica_num",
    "container_template",
    "gpu_name_set",
    "gpu_num",
    "cuda_v",
    "price_to",
    "health_check",
    "drain",
    "path",
    "port",
    "concurrency",
    "budgets",
    "model",
    "count",
    "6006",
    "<<",
]

scalars = st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | st.text(max_size=8)
scalars |= st.sampled_from(["4..8", "..", "24GB", "RTX 4090:2", "12.8", "job", "http", "30s", "none", "A=b", "/x"])
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=15,
)


def is_judged(source: str) -> None:
    reading = read_deployment(source, {"A": "1"})
    for problem in reading.problems:
        assert problem.line >= 1
        assert problem.text
        assert "\n" not in problem.at("f.yml").replace(problem.field, "")
    if not reading.problems:
        again = read_deployment(json.dumps(reading.body), {})
        assert again.problems == ()
        assert again.body == reading.body


@given(st.text(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_is_judged(source: str) -> None:
    is_judged(source)


@given(st.dictionaries(st.sampled_from(FIELDS), trees, max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_document_is_judged(document: dict[str, Any]) -> None:
    is_judged(yaml.safe_dump(document, allow_unicode=True))


@given(st.dictionaries(st.sampled_from(FIELDS), trees, max_size=4))
@settings(max_examples=100, deadline=None)
def test_a_complete_document_is_judged(document: dict[str, Any]) -> None:
    is_judged(yaml.safe_dump({"name": "n", "image": "i", "cmd": "c", **document}, allow_unicode=True))
