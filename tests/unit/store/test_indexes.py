"""The questions that are asked all the time find their rows by an index, in the order of the index.

SQLite's own plan is asked, for the statements that the store really runs: what is fast with a million events is so
because nothing is scanned and nothing is sorted, not because a test machine is quick.
"""

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from muster.model.event import Cursor, EventKind
from muster.model.ids import AccountId, ContainerId, ContainerUuid, DeploymentId
from muster.store.port import ContainerQuery, DeploymentQuery, EventQuery, Transaction, Window
from muster.store.sql.store import SqlStore
from muster.testing.database import empty_database

ANN = AccountId(1)
DEPLOYMENT = DeploymentId("d1")
NOW = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)


def plans(store: SqlStore, work: Callable[[Transaction], Any]) -> list[str]:
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, values))

    sa.event.listen(store._reader, "before_cursor_execute", note)
    asyncio.run(store.read(work))
    sa.event.remove(store._reader, "before_cursor_execute", note)
    with store._reader.connect() as connection:
        return [
            " / ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))
            for statement, values in statements
        ]


@pytest.mark.parametrize(
    "work",
    [
        lambda tx: tx.events.after(Cursor(5)),
        lambda tx: tx.events.after(Cursor(5), account_id=ANN),
        lambda tx: tx.events.find(EventQuery(ANN)),
        lambda tx: tx.events.find(EventQuery(ANN, kinds=frozenset(EventKind))),
        lambda tx: tx.events.find(EventQuery(ANN, deployment_id=DEPLOYMENT)),
        lambda tx: tx.events.find(EventQuery(ANN, container_uuid=ContainerUuid("u"))),
        lambda tx: tx.events.find(EventQuery(ANN, deployment_id=DEPLOYMENT, container_uuid=ContainerUuid("u"))),
        lambda tx: tx.containers.get(ContainerId("c1")),
        lambda tx: tx.containers.by_uuid(ContainerUuid("u")),
        lambda tx: tx.containers.of_deployment(DEPLOYMENT),
        lambda tx: tx.containers.unplaced(),
        lambda tx: tx.containers.on_machines(),
        lambda tx: tx.containers.taker_of(ContainerUuid("u")),
        lambda tx: tx.containers.find(ContainerQuery(ANN)),
        lambda tx: tx.containers.find(ContainerQuery(ANN, deployment_id=DEPLOYMENT)),
        lambda tx: tx.deployments.get(DEPLOYMENT),
        lambda tx: tx.deployments.find(DeploymentQuery(ANN)),
        lambda tx: tx.deployments.oldest_live(ANN, "digits"),
        lambda tx: tx.deployments.counts([DEPLOYMENT, DeploymentId("d2")]),
        lambda tx: tx.accounts.by_token("hash", NOW),
        lambda tx: tx.containers.completed(DEPLOYMENT),
        lambda tx: tx.deployments.version(DEPLOYMENT, "v1"),
        lambda tx: tx.deployments.versions(DEPLOYMENT),
        lambda tx: tx.blacklist.of(ANN, NOW),
        lambda tx: tx.listen_ports.free(range(20000, 25000), 3, NOW),
        lambda tx: tx.audit.find(ANN, Window()),
        lambda tx: tx.audit.find(None, Window(), target="d1"),
    ],
)
def test_a_question_of_every_day_is_answered_by_an_index(tmp_path: Path, work: Callable[[Transaction], Any]) -> None:
    store = SqlStore(empty_database(tmp_path))
    asked = [plan for plan in plans(store, work) if "event_horizon" not in plan]
    asyncio.run(store.aclose())
    assert asked
    for plan in asked:
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_the_newest_page_of_a_deployment_uses_the_narrowest_index(tmp_path: Path) -> None:
    store = SqlStore(empty_database(tmp_path))
    total, newest = plans(store, lambda tx: tx.events.find(EventQuery(ANN, deployment_id=DEPLOYMENT)))
    asyncio.run(store.aclose())
    assert "ix_events_account_id_deployment_id_kind_id" in newest
    assert total.startswith("SEARCH event_counts USING PRIMARY KEY") or "SEARCH event_counts USING INDEX" in total


def test_unsettled_looks_only_at_the_wanted_and_the_unfinished(tmp_path: Path) -> None:
    store = SqlStore(empty_database(tmp_path))
    (plan,) = plans(store, lambda tx: tx.deployments.unsettled())
    asyncio.run(store.aclose())
    assert "SCAN" not in plan
    assert "ix_containers_finished_at_number (finished_at=?)" in plan
