"""What is counted of requests, summed over processes that come and go."""

import math

from muster.balancer.statistics import ReplicaStatistics, Statistics, TenantStatistics
from muster.gateway.merging import Totals, by_service
from muster.gateway.metrics import BOUNDS, Counters, Sums
from muster.gateway.port import Record


def record(service: str = "digits", status: int = 200, **fields: float) -> Record:
    return Record("p", "GET", "/", service=service, status=status, attempts=1, **fields)  # type: ignore[arg-type]


def counters(*records: Record) -> Counters:
    made = Counters(lambda name: name == "digits")
    for each in records:
        made.count(each)
    return made


def samples(sums: Sums) -> dict[str, float]:
    lines = [each.rpartition(" ") for each in sums.text(processes=2).splitlines() if not each.startswith("#")]
    return {name.removeprefix("muster_gateway_"): float(value) for name, _, value in lines}


def taken(*all_counters: Counters, in_flight: int = 0) -> Sums:
    sums = Sums()
    for at, each in enumerate(all_counters):
        sums.take(at, each.snapshot(in_flight=in_flight, open_connections=2, log_lost=1))
    return sums


def test_requests_are_counted_by_service_status_and_reason() -> None:
    refused = record(status=503)
    refused.reason = "queue_full"
    found = samples(taken(counters(record(), record(status=204), refused), counters(record(status=0))))
    assert found['requests_total{service="digits",status="2xx",reason=""}'] == 2
    assert found['requests_total{service="digits",status="5xx",reason="queue_full"}'] == 1
    assert found['requests_total{service="digits",status="gone",reason=""}'] == 1


def test_names_that_nobody_has_do_not_become_labels() -> None:
    found = samples(taken(counters(*(record(f"x{at}", 404) for at in range(100)), record(""))))
    assert found['requests_total{service="(unknown)",status="4xx",reason=""}'] == 100
    assert not any('"x' in name for name in found)


def test_a_histogram_counts_up_to_each_bound() -> None:
    found = samples(taken(counters(record(seconds=0.001), record(seconds=0.3), record(seconds=1e6))))
    buckets = [
        found[f'request_seconds_bucket{{service="digits",le="{bound:g}"}}']
        for bound in (*BOUNDS, math.inf)
        if bound != math.inf
    ]
    assert buckets[0] == 1
    assert found['request_seconds_bucket{service="digits",le="0.25"}'] == 1
    assert found['request_seconds_bucket{service="digits",le="0.5"}'] == 2
    assert found['request_seconds_bucket{service="digits",le="1800"}'] == 2
    assert found['request_seconds_bucket{service="digits",le="+Inf"}'] == 3
    assert found['request_seconds_count{service="digits"}'] == 3
    assert found['request_seconds_sum{service="digits"}'] == 1000000.301
    assert buckets == sorted(buckets)


def test_who_never_waited_is_not_in_the_queue_histogram() -> None:
    refused = Record("p", "GET", "/", service="digits", status=429)
    found = samples(taken(counters(refused, record(queue_seconds=0.2))))
    assert found['queue_seconds_count{service="digits"}'] == 1


def test_bytes_sends_and_what_is_so_now_add_up() -> None:
    again = record(bytes_in=1, bytes_out=5)
    again.attempts = 3
    found = samples(taken(counters(again), counters(record(bytes_in=2, bytes_out=6)), in_flight=4))
    assert found['received_bytes_total{service="digits"}'] == 3
    assert found['sent_bytes_total{service="digits"}'] == 11
    assert found['resent_total{service="digits"}'] == 2
    assert (found["in_flight"], found["open_connections"], found["access_log_lost_total"]) == (8, 4, 2)


def test_no_sum_goes_back_when_a_process_begins_anew() -> None:
    sums = taken(counters(record(seconds=1.0), record()), counters(record()))
    before = samples(sums)
    sums.ended(0)
    assert samples(sums)["in_flight"] == 0
    without = {name: value for name, value in samples(sums).items() if "in_flight" not in name and "open" not in name}
    assert without == {name: value for name, value in before.items() if name in without}
    sums.take(0, counters(record()).snapshot(in_flight=0, open_connections=0))
    assert samples(sums)['requests_total{service="digits",status="2xx",reason=""}'] == 4


def test_every_metric_is_explained_once() -> None:
    text = taken(counters(record(), record(status=404))).text(processes=1)
    helped = [each.split(" ")[2] for each in text.splitlines() if each.startswith("# HELP")]
    assert len(helped) == len(set(helped))
    for line in text.splitlines():
        if not line.startswith("#"):
            name = line.partition("{")[0].partition(" ")[0]
            assert any(name == each or name in {f"{each}_bucket", f"{each}_sum", f"{each}_count"} for each in helped)


def a_replica(name: str = "r0", **fields: object) -> ReplicaStatistics:
    base = ReplicaStatistics(name, "http://x", "", 0, 0, 4, True, 0, 1.0, {}, False, 0.0, "")
    return base._replace(**fields)  # type: ignore[arg-type]


def picture(*replicas: ReplicaStatistics, service: str = "admin/a/6006", **fields: object) -> Statistics:
    base = Statistics(service, (1, 1), replicas, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, (), None)
    return base._replace(**fields)  # type: ignore[arg-type]


def test_one_service_of_several_processes_is_one() -> None:
    first = picture(
        a_replica(in_flight=2, others=1, served=5, budgets={"vram": (3, 9)}),
        in_flight=2,
        granted=5,
        answered=5,
        waiting=1,
        tenants=(TenantStatistics("t", 1, 2.0),),
        fence=(1, 3),
    )
    second = picture(
        a_replica(in_flight=1, others=2, served=1, budgets={"vram": (1, 9)}),
        a_replica("r1"),
        in_flight=1,
        granted=1,
        answered=1,
        tenants=(TenantStatistics("t", 2, 1.0), TenantStatistics("u", 1, 1.0)),
    )
    (found,) = by_service([first, second])
    assert (found.in_flight, found.granted, found.waiting, found.fence) == (3, 6, 1, (1, 1))
    assert found.tenants == (TenantStatistics("t", 3, 2.0), TenantStatistics("u", 1, 1.0))
    replica, other = found.replicas
    assert (replica.in_flight, replica.others, replica.served, replica.budgets) == (3, 0, 6, {"vram": (4, 9)})
    assert other.id == "r1"


def test_what_is_others_to_all_processes_stays_others() -> None:
    (found,) = by_service([picture(a_replica(in_flight=1, others=4)), picture(a_replica(in_flight=2, others=3))])
    assert found.replicas[0].others == 2


def test_counts_of_a_process_that_ended_stay_with_the_service() -> None:
    totals = Totals()
    totals.take(0, [picture(a_replica(served=3), granted=3, released=2, in_flight=1)])
    totals.take(1, [picture(a_replica(served=1), granted=1, released=1)])
    totals.ended(0)
    (found,) = totals.services()
    assert (found.granted, found.released, found.in_flight) == (4, 4, 0)
    assert found.replicas[0].served == 4
    totals.take(0, [picture(a_replica(served=1), granted=1)])
    assert totals.services()[0].granted == 5
