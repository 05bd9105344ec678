"""``queue show`` and ``queue cancel`` against a broker over TLS: what a person is told, and whom they need to trust."""

import asyncio
import contextlib
import io
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from muster.broker.address import read_address
from muster.cli.main import run
from muster.model.deployment import PORTS
from muster.model.endpoint import ServiceKey
from muster.registry.file import FileRegistry
from muster.tls.certificate import Certificates
from tests.unit.broker.ground import KEY, NAME, TOKEN, ground, make_set
from tests.unit.cli.served import Served

MUSTER = str(Path(sys.executable).with_name("muster"))
PATIENCE_SECONDS = 10.0


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MUSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MUSTER_TOKEN", TOKEN)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """Run one with a certificate of the home's authority; return where."""
    told: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        certificates = Certificates.open(tmp_path / "home", names={"127.0.0.1"}, certificate=None, key=None)
        async with ground(listen=read_address("tls://127.0.0.1:0"), tls=certificates.context) as here:
            is_over = asyncio.Event()
            told.set_result((here.address.url, asyncio.get_running_loop(), is_over))
            await is_over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, loop, is_over = told.result(PATIENCE_SECONDS)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join(PATIENCE_SECONDS)


def said(*args: str, code: int = 0) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        assert run(args) == code, errors.getvalue()
    return output.getvalue(), errors.getvalue()


def test_a_broker_that_is_named_is_trusted_by_the_homes_authority(broker: str) -> None:
    output, _ = said("queue", "show", KEY.service, "--broker", broker)
    assert f"broker   {broker}, 1 connection, this one among them" in output
    assert "running  0 requests, 2 replicas with 2 slots" in output


def test_a_home_without_an_authority_trusts_nobody(broker: str, tmp_path: Path) -> None:
    _, errors = said("queue", "show", KEY.service, "--broker", broker, "--home", str(tmp_path / "other"), code=1)
    assert f"{broker} cannot be asked: its certificate is not trusted (" in errors


def test_a_program_reads_the_same_and_nothing_waits(broker: str) -> None:
    output, _ = said("queue", "show", KEY.service, "--broker", broker, "-o", "json")
    told = json.loads(output)
    assert (told["broker"], told["waiting"], told["asks"]) == (broker, 0, [])
    output, _ = said("queue", "cancel", KEY.service, "--broker", broker, "--all")
    assert output == f"0 requests taken out of the queue of {KEY.service}\n"
    output, _ = said("queue", "cancel", KEY.service, "--broker", broker, "--all", "-o", "json")
    assert json.loads(output) == {"action": "cancel", "service": KEY.service, "count": 0}


def test_why_a_broker_cannot_be_asked_is_said_in_words(broker: str) -> None:
    _, errors = said("queue", "show", KEY.service, "--broker", broker.replace("tls:", "tcp:"), code=1)
    assert "cannot be asked: it ended the connection without an answer" in errors
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Web) as web:
        threading.Thread(target=web.serve_forever).start()
        at = "{}:{}".format(*web.server_address)
        _, errors = said("queue", "show", KEY.service, "--broker", f"tls://{at}", code=1)
        assert errors == f"error: tls://{at} cannot be asked: TLS with it fails (wrong version number)\n"
        _, errors = said("queue", "show", KEY.service, "--broker", f"tcp://{at}", code=1)
        assert f"tcp://{at} does not answer as a broker does: " in errors
        web.shutdown()
    _, errors = said("queue", "show", KEY.service, "--broker", f"tls://{at}", code=1)
    assert errors == f"error: tls://{at} cannot be asked: Connection refused\n"


class _Web(socketserver.BaseRequestHandler):
    """What else may listen at an address."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_who_watches_follows_a_broker_to_another_address(tmp_path: Path) -> None:
    async def publish(revision: int, broker_url: str) -> None:
        registry = FileRegistry(tmp_path / "registry")
        await registry.publish(KEY, replace(make_set("a", revision=revision), broker_url=broker_url))
        await registry.aclose()

    async def told(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        return str(json.loads(await process.stdout.readline())["broker"])

    async def scenario() -> None:
        async with ground() as first, ground() as second, asyncio.timeout(2 * PATIENCE_SECONDS):
            await publish(1, first.address.url)
            words = ("queue", "show", KEY.service, "-w", "-o", "json", "--registry", (tmp_path / "registry").as_uri())
            process = await asyncio.create_subprocess_exec(
                MUSTER, *words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                assert await told(process) == first.address.url
                await publish(2, second.address.url)
                await first.stop()
                while await told(process) != second.address.url:
                    pass
            finally:
                process.kill()
                await process.wait()

    asyncio.run(scenario())


def test_whom_to_take_out_has_to_be_said() -> None:
    _, errors = said("queue", "cancel", KEY.service, code=2)
    assert "Invalid value: say which: --ask N, --tenant T, --older-than TIME or --all" in errors


def test_another_token_sees_nothing(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_TOKEN", "s3cret")
    _, errors = said("queue", "show", KEY.service, "--broker", broker, code=1)
    assert "unauthenticated" in errors
    assert "s3cret" not in errors


def test_of_a_port_without_a_set_a_registry_tells_which_ports_there_are(tmp_path: Path) -> None:
    async def publish() -> None:
        registry = FileRegistry(tmp_path)
        await registry.publish(KEY, make_set("a"))
        await registry.link(NAME, KEY)
        await registry.publish(ServiceKey("bob", KEY.service, 6008), make_set("b"))
        await registry.aclose()

    asyncio.run(publish())
    at = ("--registry", tmp_path.as_uri())
    _, errors = said("queue", "show", NAME.service, "--port", "7000", *at, code=1)
    assert errors == "error: nothing is known of digits at port 7000, but at 6006 (--port)\n"
    _, errors = said("queue", "cancel", "nonsense", "--all", *at, code=1)
    assert f"nothing is known of nonsense at port 6006: {tmp_path.as_uri()} holds {KEY}" in errors


def test_of_a_port_without_a_set_the_api_tells_which_ports_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Served(tmp_path / "home") as served:
        monkeypatch.delenv("MUSTER_TOKEN")
        for port in PORTS:
            served.publish(replace(KEY, port=port), make_set("a"))
        _, errors = said("queue", "show", KEY.service, "--port", "7000", code=1)
        assert f"nothing is known of {KEY.service} at port 7000, but at 6006 and 6008 (--port)" in errors
        _, errors = said("queue", "show", "nonsense", code=1)
        assert errors == "error: nothing is known of nonsense at port 6006: `muster ps` lists the services\n"
