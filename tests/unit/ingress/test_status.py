"""What the ingress tells about itself."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from muster.ingress.gate import Visit
from muster.ingress.metrics import AnswerCounts, Figures
from muster.ingress.status import status_app
from muster.model.ids import ContainerUuid
from muster.model.routes import LoadReport, RouteState
from muster.processes.http import HttpServer, listening
from tests.unit.ingress.ground import HOST, Ground, ask, ground, nobody, port, port_route, route, run

TOKEN = "the secret of this home"


@contextlib.asynccontextmanager
async def status(it: Ground, answers: AnswerCounts) -> AsyncIterator[httpx.AsyncClient]:
    def figures() -> Figures:
        epoch, revision = it.board.fence
        return Figures(
            gates=tuple(it.board.gates.values()),
            answers=answers,
            epoch=epoch,
            revision=revision,
            bind_failures=len(it.board.bind_failures),
            open_connections=it.reception.open,
            turned_away=it.reception.turned_away,
            failed_connections=dict(it.reception.failures),
            certificate_expires_at=1_800_000_000.0,
            ssh_sessions=2,
            failed_logins=3,
        )

    with listening(HOST, 0) as listener:
        serving = asyncio.create_task(HttpServer(listener).run(status_app(it.board, figures, TOKEN)))
        url = f"http://{HOST}:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client
        serving.cancel()
        await asyncio.wait([serving])


def test_it_is_ready_when_a_table_is_in_force(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, status(it, AnswerCounts()) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503
            it.apply()
            assert (await client.get("/readyz")).status_code == 200

    run(scenario)


def test_the_load_is_told_to_whoever_knows_the_secret(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ground(tmp_path) as it, status(it, AnswerCounts()) as client:
            it.apply(route("c1", port_route(port(), nobody())))
            for wrong in (b"", b"guess", b"\xfc"):
                assert (await client.get("/load", headers={b"Authorization": wrong})).status_code == 401
            answer = await client.get("/load", headers={"Authorization": TOKEN})
            assert LoadReport.from_json(answer.content).loads == it.board.report(0.0).loads

    run(scenario)


def test_metrics_tell_what_goes_on_behind_each_container_port_and_in_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        answers = AnswerCounts()
        async with ground(tmp_path) as it, status(it, answers) as client:
            address = port_route(port(), nobody())
            it.apply(route("c1", address), revision=4)
            assert (await ask(address.listen_port, it.tls))[0] == 200
            gate = it.board.gates[ContainerUuid("c1")]
            visit = gate.enter(6006, 0.0)
            assert isinstance(visit, Visit)
            answers.note(gate, 6006, 200, 0.1)
            answers.note(gate, 6006, 0, 0.1)
            answers.note(None, 0, 421, 0.1)
            it.apply(route("c1", address, state=RouteState.REFUSE), revision=5)
            assert (await ask(address.listen_port, it.tls))[0] == 503
            text = (await client.get("/metrics")).text
            visit.leave(1.0, failed=True)
        found = {
            (sample.name, *sorted((k, v) for k, v in sample.labels.items() if k not in {"deployment", "container"})): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        port_label = ("port", "6006")
        assert found["muster_ingress_in_flight", port_label] == 1
        assert found["muster_ingress_requests_total", ("outcome", "served"), port_label] == 1
        assert found["muster_ingress_request_seconds_count", port_label] == 1
        assert found["muster_ingress_answers_total", port_label, ("status", "2xx")] == 1
        assert found["muster_ingress_answers_total", port_label, ("status", "none")] == 1
        assert found["muster_ingress_refused_total", ("reason", "draining")] == 1
        assert found["muster_ingress_table_revision",] == 5
        assert found["muster_ingress_unknown_names_total",] == 1
        assert found["muster_ingress_certificate_expiry_timestamp_seconds",] == 1_800_000_000
        assert found["muster_ingress_ssh_sessions",] == 2
        assert found["muster_ingress_ssh_failed_logins_total",] == 3

    run(scenario)


def test_answers_are_forgotten_with_their_container(tmp_path: Path) -> None:
    async def scenario() -> None:
        answers = AnswerCounts()
        async with ground(tmp_path) as it:
            it.apply(route("c1", port_route(port(), nobody())))
            answers.note(it.board.gates[ContainerUuid("c1")], 6006, 200, 0.1)
            it.apply(revision=2)
        gc.collect()
        assert len(answers._by_gate) == 0

    run(scenario)
