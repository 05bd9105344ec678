"""Wire to model and back."""

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.api import convert, schemas
from muster.errors import InvalidSpec
from muster.model.ids import AccountId
from muster.model.quantity import Range
from tests.compat.world import body

CHINA = datetime.timezone(datetime.timedelta(hours=8))
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=12)
protocols = st.sampled_from(["http", "tcp", ""])


def is_variable(text: str) -> bool:
    return "=" not in text and not any(map(str.isspace, text))


def bounds(name: str, most: int) -> st.SearchStrategy[dict[str, int]]:
    pairs = st.tuples(st.integers(0, most), st.integers(0, most)).map(sorted)
    return pairs.map(lambda pair: {f"{name}_from": pair[0], f"{name}_to": pair[1]})


templates = st.builds(
    lambda *parts: {key: value for part in parts for key, value in part.items()},
    st.fixed_dictionaries(
        {"gpu_num": st.integers(1, 16), "image_uuid": words, "cmd": words.map(lambda text: f"run {text}")},
        optional={
            "dc_list": st.lists(words, max_size=3),
            "region_sign": words,
            "gpu_name_set": st.lists(words, max_size=3),
            "cuda_v": st.integers(0, 200),
            "cmd_before_shutdown": words,
            "env_vars": st.dictionaries(words.filter(is_variable), words, max_size=3),
            "service_6006_port_protocol": protocols,
            "reuse_container": st.booleans(),
            "reuse_container_scope": st.sampled_from(["all", "deployment", ""]),
        },
    ),
    bounds("cpu_num", 512),
    bounds("memory_size", 4096),
    bounds("price", 10**6),
    st.one_of(st.just({}), bounds("cuda_v", 200)),
)
checks = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "port": st.sampled_from([6006, 6008]),
        "path": st.sampled_from(["", "/healthz"]),
        "unhealthy_after": st.integers(1, 9),
    },
)
bodies = st.fixed_dictionaries(
    {
        "name": words,
        "deployment_type": st.sampled_from(["ReplicaSet", "Job", "Container"]),
        "replica_num": st.integers(1, 10_000),
        "parallelism_num": st.integers(1, 10_000),
        "container_template": templates,
    },
    optional={
        "service_port_protocol": protocols,
        "service_6008_port_protocol": protocols,
        "reuse_container": st.booleans(),
        "service": st.fixed_dictionaries(
            {},
            optional={
                "concurrency": st.integers(1, 1000),
                "budgets": st.dictionaries(words, st.integers(0, 10**9), max_size=2),
                "drain_seconds": st.floats(0, 86400),
                "health_check": checks,
            },
        ),
    },
)


@given(asked=bodies)
def test_a_spec_written_out_means_the_same_deployment(asked: dict[str, Any]) -> None:
    spec = convert.spec_from(schemas.CreateDeployment.model_validate(asked))
    written = convert.spec_to_wire(spec)
    assert convert.spec_from(schemas.CreateDeployment.model_validate(written)) == spec


def window(**asked: int) -> tuple[int, int]:
    found = convert.window(schemas.PageRequest.model_validate(asked))
    return found.offset, found.limit


def test_pages_become_windows() -> None:
    assert window() == window(page_index=0) == window(page_index=1) == window(page_index=-3) == (0, 10)
    assert window(page_index=3, page_size=20) == (40, 20)
    assert window(page_index=3, page_size=20, offset=7) == (7, 20)
    assert window(page_size=-1) == (0, 10)
    assert window(page_index=2, page_size=5000) == (1000, 1000)


def moments(date_from: str, date_to: str) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    asked = schemas.ListContainers(date_from=date_from, date_to=date_to)
    query = convert.container_query(asked, AccountId(1), CHINA)
    return query.created_from, query.created_to


def test_a_time_without_a_zone_is_of_the_configured_one() -> None:
    expected = datetime.datetime(2026, 3, 2, 1, 14, 31, tzinfo=datetime.UTC)
    for text in ("2026-03-02 09:14:31", "2026-03-02T09:14:31", "2026-03-02T09:14:31+08:00", "2026-03-02T01:14:31Z"):
        assert moments(text, text) == (expected, expected)


def test_a_day_as_an_end_is_the_whole_day() -> None:
    begin, end = moments("2026-03-02", "2026-03-02")
    assert begin == datetime.datetime(2026, 3, 2, tzinfo=CHINA)
    assert end == datetime.datetime(2026, 3, 2, 23, 59, 59, 999999, tzinfo=CHINA)


def test_fractional_prices_are_rounded_up_so_that_no_bound_becomes_none() -> None:
    asked = schemas.ListContainers(price_from=0.2, price_to=0.5)
    assert convert.container_query(asked, AccountId(1), CHINA).price_milliyuan == Range(1, 1)


def test_the_largest_memory_is_a_pebibyte() -> None:
    largest = schemas.CreateDeployment.model_validate(body(template__memory_size_to=2**20))
    assert convert.spec_from(largest).requirements.memory_bytes.upper == 2**50
    larger = schemas.CreateDeployment.model_validate(body(template__memory_size_to=2**20 + 1))
    with pytest.raises(InvalidSpec, match=r"container_template.memory_size_to: is in GB, 1048577 looks like bytes"):
        convert.spec_from(larger)


def test_times_carry_a_numeric_zone_and_no_fraction() -> None:
    moment = datetime.datetime(2026, 3, 2, 1, 14, 31, 999999, tzinfo=datetime.UTC)
    assert convert.wire_time(moment, CHINA) == "2026-03-02T09:14:31+08:00"
    assert convert.wire_time(moment, datetime.UTC) == "2026-03-02T01:14:31+00:00"
