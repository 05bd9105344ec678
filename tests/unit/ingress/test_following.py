"""Subscriber and reporter against the server's two routes, over real sockets."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.clock import SystemClock
from muster.home import INGRESS_TOKEN, PROFILE, write_profile
from muster.ingress import reporter as reporters
from muster.ingress import subscriber as subscribers
from muster.ingress.reporter import Reporter
from muster.ingress.snapshot import Snapshot
from muster.ingress.subscriber import Subscriber
from muster.ingress.upstream import Upstream
from muster.model.deployment import PortProtocol
from muster.model.ids import ContainerUuid
from muster.model.routes import RouteState
from tests.unit.ingress.ground import (
    Ground,
    connected,
    container,
    echo,
    ground,
    nobody,
    port,
    port_route,
    route,
    run,
    table,
    until,
)
from tests.unit.ingress.server import server


@contextlib.asynccontextmanager
async def following(home: Path) -> AsyncIterator[Ground]:
    """Have an ingress that follows the server of a home."""
    async with ground(home) as it:
        upstream, clock = Upstream(home), SystemClock()
        subscriber = Subscriber(upstream, Snapshot(home), it.board, clock)
        reporter = Reporter(upstream, it.board, clock)
        tasks = [asyncio.create_task(subscriber.run()), asyncio.create_task(reporter.run())]
        try:
            yield it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert [task for task in tasks if not task.cancelled()] == []
            await upstream.aclose()


def test_each_newer_table_is_in_force_at_once_kept_as_a_file_and_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server(tmp_path) as its_server, following(tmp_path) as it:
            for revision in range(1, 6):
                begun = asyncio.get_running_loop().time()
                published = table(route("c1", port_route(port(), nobody())), epoch=9, revision=revision)
                await its_server.publish(published)
                report = await its_server.told(epoch=9, revision=revision)
                assert asyncio.get_running_loop().time() - begun < 0.7  # not with the next heartbeat
                assert it.board.table == published
                assert Snapshot(tmp_path).read() == published
                assert [load.container_uuid for load in report.loads] == ["c1"]
            assert its_server.asked[-1] == (9, 5)

    run(scenario)


def test_what_is_in_flight_in_a_container_that_refuses_is_told_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporters, "HEARTBEAT_SECONDS", 3600.0)

    async def scenario() -> None:
        async with server(tmp_path) as its_server, following(tmp_path), container(echo) as backend:
            address = port_route(port(), backend, protocol=PortProtocol.TCP)
            await its_server.publish(table(route("c1", address)))
            await its_server.told(epoch=1, revision=1)
            async with connected(address.listen_port) as (reader, writer):
                writer.write(b"x")
                await reader.read(1)
                await its_server.publish(table(route("c1", address, state=RouteState.REFUSE), revision=2))
                report = await its_server.told(epoch=1, revision=2)
                assert [(load.is_refusing, load.in_flight) for load in report.loads] == [(True, 1)]
            await until(lambda: its_server.reports[-1].loads[0].in_flight == 0)
            assert its_server.reports[-1].loads[0].container_uuid == ContainerUuid("c1")

    run(scenario)


def test_at_rest_there_is_a_report_each_heartbeat_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporters, "HEARTBEAT_SECONDS", 0.1)

    async def scenario() -> None:
        async with server(tmp_path) as its_server, following(tmp_path):
            await until(lambda: len(its_server.reports) == 1)
            begun = asyncio.get_running_loop().time()
            await until(lambda: len(its_server.reports) == 6)
            assert asyncio.get_running_loop().time() - begun >= 0.45
            assert len({report.ingress for report in its_server.reports}) == 1

    run(scenario)


def test_only_newer_tables_count_and_a_greater_epoch_is_newer_whatever_its_revision(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with server(tmp_path) as its_server, ground(tmp_path) as it:
            upstream = Upstream(tmp_path)
            subscriber = Subscriber(upstream, Snapshot(tmp_path), it.board, SystemClock())
            newest = table(epoch=5, revision=7)
            its_server.table = newest
            assert await subscriber.ask()
            its_server.wait_seconds = 0.01
            for stale in (newest, table(epoch=5, revision=6), table(epoch=4, revision=99)):
                its_server.nonsense = stale.to_json().encode()
                assert not await subscriber.ask()
                assert it.board.table == newest
            its_server.nonsense = None
            assert not await subscriber.ask()  # 204
            its_server.table = table(epoch=6, revision=1)
            assert await subscriber.ask()
            assert it.board.fence == (6, 1)
            await upstream.aclose()

    run(scenario)


def test_without_a_server_the_last_table_stays_and_one_that_comes_back_elsewhere_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscribers, "LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(reporters, "HEARTBEAT_SECONDS", 0.05)

    async def scenario() -> None:
        async with following(tmp_path) as it:
            await asyncio.sleep(0.5)
            assert it.board.table is None
            async with server(tmp_path) as first:
                await first.publish(table(route("c1", port_route(port(), nobody()))))
                await first.told(epoch=1, revision=1)
            await asyncio.sleep(0.5)
            assert it.board.fence == (1, 1)
            async with server(tmp_path) as second:
                await second.publish(table(epoch=2, revision=1))
                await second.told(epoch=2, revision=1)

    with caplog.at_level(logging.INFO, logger="muster"):
        run(scenario)
    said = [record.getMessage() for record in caplog.records if record.name == "muster.ingress.upstream"]
    told = [text for text in said if "works again" not in text]
    assert len(told) == len(set(told)) <= 6  # once each, though tried dozens of times
    assert any("no server has left its address" in text for text in told)
    assert sum("works again" in record.getMessage() for record in caplog.records) == 4


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[]", b'{"schema": 99}', b"\xff\xfe"])
def test_nonsense_from_the_server_changes_nothing_and_is_not_asked_for_in_a_hurry(
    tmp_path: Path, nonsense: bytes
) -> None:
    async def scenario() -> None:
        async with server(tmp_path) as its_server, following(tmp_path) as it:
            its_server.nonsense = nonsense
            await asyncio.sleep(0.5)
            assert it.board.table is None
            assert 1 <= len(its_server.asked) <= 8
            its_server.nonsense = None
            await its_server.publish(table())
            await its_server.told(epoch=1, revision=1)

    run(scenario)


def test_a_secret_that_the_server_does_not_accept_is_told_once_with_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with server(tmp_path) as its_server:
            its_server.token = "another"
            async with following(tmp_path):
                await asyncio.sleep(0.5)

    run(scenario)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2  # of the one that asks and the one that tells
    assert all(str(tmp_path / INGRESS_TOKEN) in text for text in errors)


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://127.0.0.1:99999", "http://[::"])
def test_a_profile_that_leads_nowhere_is_only_a_server_that_does_not_answer(tmp_path: Path, url: str) -> None:
    async def scenario() -> None:
        write_profile(tmp_path / PROFILE, url, "token")
        async with following(tmp_path) as it:
            await asyncio.sleep(0.2)
            assert it.board.table is None
            async with server(tmp_path) as its_server:
                await its_server.publish(table())
                await its_server.told(epoch=1, revision=1)

    run(scenario)
