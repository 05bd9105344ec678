"""What is old is forgotten in small batches, and nothing that anybody still needs or counts goes with it."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from muster import store
from muster.controller.retention import AUDIT, BATCH, CONTAINERS, EVENTS, PAUSE, Keep, RetentionReconciler
from muster.model.audit import NewAuditEntry
from muster.model.container import Container
from muster.model.event import EventKind
from muster.model.ids import DeploymentId
from muster.store.port import EventQuery, Transaction, Window
from muster.testing.clock import EPOCH, FakeClock, VirtualLoop
from muster.testing.database import empty_database
from muster.testing.executor import InlineExecutor
from muster.testing.harness import OPTIONS, TERMS, Harness

A_WHILE = 900.0
FIVE_MINUTES = 5 / 1440
SHORT = replace(
    OPTIONS,
    terms=replace(TERMS, keep_stopped_seconds=60.0, pool_seconds=120.0),
    keep=Keep(events_days=FIVE_MINUTES, containers_days=FIVE_MINUTES, audit_days=4 * FIVE_MINUTES),
    full_pass_seconds=60.0,
)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    with Harness(tmp_path, options=SHORT) as harness:
        yield harness


def get(harness: Harness, path: str, **params: Any) -> httpx.Response:
    return harness.do(harness._api.get(f"/api/v1/muster{path}", params=params))


def row(harness: Harness, deployment_id: DeploymentId) -> Any:
    return get(harness, f"/deployments/{deployment_id}").json()


def ids(containers: list[Container]) -> set[str]:
    return {each.id for each in containers}


def test_released_containers_are_forgotten_and_still_counted(harness: Harness) -> None:
    uuid = harness.create(replica_num=3)
    harness.settle()
    harness.scale(uuid, 1)
    harness.settle()
    (kept,) = harness.running(uuid)
    assert len(harness.containers(uuid)) == 3
    before = row(harness, uuid)
    assert before["finished_num"] == 2
    harness.advance(A_WHILE)
    assert ids(harness.containers(uuid)) == {kept.id}
    after = row(harness, uuid)
    assert (after["finished_num"], after["running_num"], after["ready_num"]) == (2, 1, 1)


def test_a_job_counts_what_is_forgotten_and_runs_nothing_twice(harness: Harness) -> None:
    uuid = harness.create(replica_num=2, deployment_type="Job", parallelism_num=1)
    harness.advance(60)
    (first,) = harness.running(uuid)
    harness.world.finish(first.id, exit_code=0)
    harness.advance(60)
    (second,) = harness.running(uuid)
    harness.advance(A_WHILE)
    assert ids(harness.containers(uuid)) == {second.id}, "the first is forgotten"
    assert harness.read(lambda tx: tx.containers.completed(uuid)) == 1
    harness.world.finish(second.id, exit_code=0)
    harness.advance(120)
    assert harness.running(uuid) == []
    assert not harness.is_wanted(uuid), "both are done"
    assert row(harness, uuid)["finished_num"] == 2


def test_what_a_running_container_took_over_stays_as_long_as_it_does(harness: Harness) -> None:
    uuid = harness.create(replica_num=1, reuse_container=True)
    harness.settle()
    harness.advance(60)
    (old,) = harness.running(uuid)
    harness.scale(uuid, 0)
    harness.settle()
    harness.scale(uuid, 1)
    harness.settle()
    (taker,) = harness.running(uuid)
    assert taker.reused_from == old.uuid
    figures = get(harness, "/stats").json()
    harness.advance(A_WHILE)
    assert ids(harness.containers(uuid)) == {old.id, taker.id}
    harness.stop_container(taker, no_cache=True)
    harness.scale(uuid, 0)
    harness.advance(A_WHILE)
    assert harness.containers(uuid) == []
    assert get(harness, "/stats").json() == {**figures, "pooled": 0}
    metrics = harness.do(harness._api.get("/metrics")).text
    assert f"muster_container_reuses_total {figures['reuses']:.1f}" in metrics
    assert f"muster_container_starts_total {figures['starts']:.1f}" in metrics


def test_a_cursor_into_forgotten_events_has_expired_and_the_present_one_has_not(harness: Harness) -> None:
    uuid = harness.create(replica_num=1)
    harness.settle()
    oldest = get(harness, "/events", after=0, follow=False).text.splitlines()
    last = harness.read(lambda tx: tx.events.last())
    harness.advance(A_WHILE)
    expired = get(harness, "/events", after=0, follow=False)
    assert (expired.status_code, expired.json()["error"]["code"]) == (410, "CursorExpired")
    assert len(oldest) > 0
    harness.scale(uuid, 0)
    harness.advance(60)
    newer = get(harness, "/events", after=last, follow=False)
    assert newer.status_code == 200
    assert newer.text.splitlines()
    listed = harness.call(
        "POST", "/api/v1/dev/deployment/container/event/list", {"deployment_uuid": uuid, "page_size": 100}
    )
    assert listed["result_total"] == len(listed["list"]) == 2


def test_the_audit_log_reaches_back_as_far_as_it_is_told(harness: Harness) -> None:
    uuid = harness.create(replica_num=1)
    harness.advance(A_WHILE)
    harness.scale(uuid, 0)
    assert get(harness, "/audit").json()["total"] == 2
    harness.advance(600)
    (entry,) = get(harness, "/audit").json()["entries"]
    assert entry["action"] == "deployment.scale"


def test_a_batch_is_small_and_the_next_one_waits(tmp_path: Path) -> None:
    loop = VirtualLoop()
    clock = FakeClock(loop)
    storage = store.connect(empty_database(tmp_path), executor=InlineExecutor())
    old = NewAuditEntry(1, "ann", "0123456789", "deployment.scale", "d1", "", EPOCH - datetime.timedelta(days=2))  # type: ignore[arg-type]

    def fill(tx: Transaction) -> None:
        for _ in range(2 * BATCH + 1):
            tx.audit.append(old)
        tx.audit.append(replace(old, created_at=EPOCH))

    def left(tx: Transaction) -> int:
        return tx.audit.find(None, Window()).total

    async def scenario() -> None:
        await storage.write(fill)
        pruner = RetentionReconciler(storage, clock, Keep(audit_days=1))
        for expected in (BATCH + 2, 2):
            assert await pruner.reconcile(AUDIT) == clock.now() + PAUSE
            assert await storage.read(left) == expected
        assert await pruner.reconcile(AUDIT) is None
        assert await storage.read(left) == 1
        await storage.aclose()

    loop.run_until_complete(scenario())
    loop.close()


def test_zero_days_are_for_ever(harness: Harness) -> None:
    async def keys(keep: Keep) -> list[str]:
        return list(await RetentionReconciler(harness._store, harness.clock, keep).keys())

    assert harness.do(keys(Keep())) == []
    assert harness.do(keys(Keep(containers_days=1, audit_days=0))) == [CONTAINERS]
    assert harness.do(keys(Keep(1, 1, 1))) == [EVENTS, CONTAINERS, AUDIT]


def test_totals_of_lists_follow_what_is_forgotten(harness: Harness) -> None:
    uuid = harness.create(replica_num=2)
    harness.settle()
    harness.advance(A_WHILE)

    def totals(tx: Transaction) -> list[int]:
        deployment = tx.deployments.get(uuid)
        assert deployment is not None
        every = EventQuery(deployment.account_id, kinds=frozenset(EventKind))
        own = replace(every, deployment_id=uuid)
        return [tx.events.find(query).total for query in (every, own)]

    assert harness.read(totals) == [0, 0]
