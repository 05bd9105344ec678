"""What a scrape of a process that balances holds, read by Prometheus' own parser."""

import math
from collections.abc import Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muster.balancer import metrics
from muster.balancer.statistics import Statistics, TenantStatistics
from muster.balancer.statistics_json import Snapshot, from_json, to_json
from tests.unit.balancer.told import BUSY, FAST, NEW

DIGITS = ("service", "admin/digits/6006")

Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(*services: Statistics) -> Found:
    return {
        (sample.name.removeprefix("muster_client_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text(services))
        for sample in family.samples
    }


def of(found: Found, name: str, *labels: tuple[str, str]) -> float:
    return found[name, frozenset((DIGITS, *labels))]


def named(found: Found, name: str, label: str) -> Sequence[str]:
    return sorted(dict(labels)[label] for each, labels in found if each == name)


def test_a_service_is_told_with_its_queue_and_its_totals() -> None:
    found = scraped(BUSY, NEW)
    assert of(found, "in_flight") == 3
    assert of(found, "waiting") == 4
    assert of(found, "expected_wait_seconds") == 0.4
    assert of(found, "granted_total") == 151
    assert of(found, "answered_total") == 147
    assert of(found, "resent_total") == 3
    assert of(found, "refused_total") == 6
    assert of(found, "refused_early_total") == 2
    assert of(found, "timed_out_total") == 1
    assert of(found, "waited_seconds_total") == 30.2
    assert of(found, "busy_seconds_total") == 31.5
    assert of(found, "replicas") == 2
    assert of(found, "set_revision") == 7
    assert named(found, "waiting", "service") == ["admin/digits/6006", "admin/ocr/6006"]


def test_each_replica_is_told() -> None:
    found, a, b = scraped(BUSY), ("replica", "a"), ("replica", "b")
    assert of(found, "replica_in_flight", a) == 3
    assert of(found, "replica_others", a) == 1
    assert of(found, "replica_limit", b) == 2
    assert (of(found, "replica_limit_declared", a), of(found, "replica_limit_declared", b)) == (1, 0)
    assert of(found, "replica_slowness", b) == 1.62
    assert of(found, "replica_served_total", b) == 31
    assert of(found, "replica_aside_seconds", b) == 0.25
    assert of(found, "replica_leaving", a) == 0
    assert of(found, "replica_info", b, ("gpu", "RTX 3090")) == 1
    assert of(found, "replica_budget_held", a, ("budget", "vram_mb")) == 9000
    assert of(found, "replica_budget_whole", a, ("budget", "vram_mb")) == 24000


def test_what_was_learned_of_costs_is_told_where_something_was() -> None:
    found = scraped(BUSY, NEW)
    assert of(found, "cost_observations_total") == 150
    assert of(found, "cost_unmatched_total") == 2
    assert of(found, "cost_spread") == 0.21
    assert of(found, "cost_crowding") == 0.4
    assert of(found, "gpu_slowness", ("gpu", "RTX 3090")) == 1.6
    assert named(found, "cost_spread", "service") == ["admin/digits/6006"]


def test_a_replica_that_left_is_no_longer_told() -> None:
    found = scraped(BUSY._replace(replicas=(FAST,)))
    assert {dict(labels)["replica"] for _, labels in found if "replica" in dict(labels)} == {"a"}


def test_callers_cannot_make_labels_without_end() -> None:
    many = tuple(TenantStatistics(f"t{number:03}", 200 - number, float(number)) for number in range(100))
    found = scraped(BUSY._replace(tenants=many))
    told = named(found, "tenant_waiting", "tenant")
    assert told == ["(others)", *(f"t{number:03}" for number in range(metrics.MOST_TENANTS))]
    assert of(found, "tenant_waiting", ("tenant", "t000")) == 200
    assert of(found, "tenant_waiting", ("tenant", "(others)")) == sum(each.waiting for each in many[20:])
    assert of(found, "tenant_oldest_seconds", ("tenant", "(others)")) == 99


def test_a_tenant_that_is_called_like_the_rest_is_counted_with_it() -> None:
    many = [TenantStatistics(f"t{number:02}", 2, 1.0) for number in range(metrics.MOST_TENANTS)]
    listed = (TenantStatistics("(others)", 9, 5.0), *many)
    found = scraped(BUSY._replace(tenants=listed))
    assert of(found, "tenant_waiting", ("tenant", "(others)")) == 9 + 2
    assert of(found, "tenant_oldest_seconds", ("tenant", "(others)")) == 5


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a}b,c=", "ä", "", "\\n"])
def test_any_name_survives_the_format(name: str) -> None:
    found = scraped(BUSY._replace(tenants=(TenantStatistics(name, 1, 0.0),)))
    assert named(found, "tenant_waiting", "tenant") == [name]


def test_numbers_that_are_none_are_written_as_prometheus_reads_them() -> None:
    found = scraped(NEW._replace(service="admin/digits/6006"))
    assert of(found, "expected_wait_seconds") == math.inf
    assert math.isnan(of(found, "set_epoch"))


def test_large_counters_are_exact() -> None:
    assert 'granted_total{service="admin/digits/6006"} 9007199254740993\n' in metrics.text(
        [BUSY._replace(granted=2**53 + 1)]
    )


def test_no_services_are_no_metrics() -> None:
    assert metrics.text([]) == ""


def test_json_brings_everything_back() -> None:
    assert from_json(to_json(7, [BUSY, NEW])) == Snapshot(7, (BUSY, NEW))


def test_json_holds_no_password_of_an_address() -> None:
    replica = FAST._replace(url="https://user:secret@gpu1.lab:20001/?key=secret")
    data = to_json(7, [BUSY._replace(replicas=(replica,))])
    assert b"secret" not in data
    assert from_json(data).services[0].replicas[0].url == "https://gpu1.lab:20001/"


def test_json_of_a_newer_process_is_read_as_far_as_it_is_known() -> None:
    data = to_json(7, [BUSY]).replace(b'"waiting":', b'"weather": "fair", "waiting":')
    assert data.count(b"weather") == 3
    assert from_json(data) == Snapshot(7, (BUSY,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"services": []}',
        b'{"schema": 2, "pid": 1, "services": []}',
        b'{"schema": 1, "pid": 1, "services": [1]}',
        b'{"schema": 1, "pid": 1, "services": [{}]}',
        to_json(7, [BUSY]).replace(b'"in_flight": 3', b'"in_flight": "3"'),
        to_json(7, [BUSY]).replace(b'"budgets": {', b'"budgets": {"x": 1, '),
        to_json(7, [BUSY]).replace(b'"gpus": {', b'"gpus": {"x": [], '),
        to_json(7, [BUSY]).replace(b'"kinds": {', b'"kinds": {"x": {}, '),
    ],
)
def test_what_is_no_such_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 json's own is one, too
        from_json(data)
