"""``muster ingress`` as a process of its own, before a server that a test plays: killed, stopped, left alone.

Clients, containers and the server's two routes are in the test's own process, over real sockets; the ingress is what a
person starts.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest

from muster.home import INGRESS_TOKEN, shared_secret
from muster.ingress.snapshot import Snapshot
from muster.model.container import Address
from muster.model.deployment import PortProtocol
from muster.model.password import hash_password
from muster.model.routes import LoadReport, PortRoute, Route, RouteState, RouteTable, SshRoute
from muster.processes.ingress import LOCK
from muster.processes.locks import holder_of
from tests.unit.ingress.ground import (
    HOST,
    connected,
    container,
    echo,
    nobody,
    port,
    port_route,
    route,
    run,
    table,
    trust,
    until,
)
from tests.unit.ingress.server import server

pytestmark = pytest.mark.slow

MUSTER = str(Path(sys.executable).with_name("muster"))
PATIENCE_SECONDS = 20.0
"""Much for anything on a busy machine, and less than the 30 s of a drain that nobody has cut short."""


@dataclass(slots=True)
class Ingress:
    """A process that runs, and what it wrote so far."""

    home: Path
    process: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        """Where it tells its state; empty until it does."""
        holder = holder_of(self.home / LOCK)
        return holder.url if holder is not None and holder.pid == self.process.pid else ""

    async def ready(self) -> None:
        """Wait until a table is in force."""
        async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
            while True:
                assert self.process.returncode is None, self.log.read_text()
                with contextlib.suppress(httpx.HTTPError):
                    if self.url and (await client.get(f"{self.url}/readyz")).is_success:
                        return
                await asyncio.sleep(0.02)

    async def ended(self) -> int:
        """Wait for its end; return the exit code."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    async def load(self) -> LoadReport:
        """Return what it says to whoever knows the secret."""
        headers = {"Authorization": shared_secret(self.home / INGRESS_TOKEN)}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            return LoadReport.from_json((await client.get(f"{self.url}/load")).content)


@contextlib.asynccontextmanager
async def ingress(home: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[Ingress]:
    """Have the process; on the way out it is asked to stop, and must."""
    log = home.parent / "ingress.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            MUSTER,
            "ingress",
            "--home",
            str(home),
            "--ingress-status-port",
            "0",
            env={
                "PYTHONOPTIMIZE": "1",
                "PATH": os.environ["PATH"],
                "HOME": str(home.parent),
                "MUSTER_CONFIG": os.devnull,
                **(environ or {}),
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    it = Ingress(home, process, log)
    try:
        yield it
        if process.returncode is None:
            process.terminate()
            assert await it.ended() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def speaks_slowly(goes: asyncio.Event) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Answer requests; the second half of what /slow gets comes when the test says so."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await speaks_http(reader, writer, goes)

    return speak


async def speaks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, goes: asyncio.Event) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        if head.startswith(b"GET /slow"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nnot")
            await writer.drain()
            await goes.wait()
            writer.write(b" so fast")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")


async def container_speaks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await speaks_slowly(asyncio.Event())(reader, writer)


def tcp(listen_port: int, backend: Address) -> PortRoute:
    return port_route(listen_port, backend, container_port=6008, protocol=PortProtocol.TCP)


def client_of(home: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=trust(home), trust_env=False, timeout=PATIENCE_SECONDS)


def test_killed_it_is_back_with_addresses_and_certificate_though_the_server_is_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def certificate(listen: int) -> bytes | None:
        with socket.create_connection((HOST, listen)) as raw, trust(home).wrap_socket(raw, server_hostname=HOST) as tls:
            return tls.getpeercert(binary_form=True)

    async def scenario() -> None:
        https, raw = port(), port()
        async with container(container_speaks) as backend, container(echo) as echoing:
            async with server(home) as its_server, ingress(home) as first:
                await its_server.publish(table(route("c1", port_route(https, backend), tcp(raw, echoing))))
                await its_server.told(epoch=1, revision=1)
                async with client_of(home) as client:
                    assert (await client.get(f"https://{HOST}:{https}/")).text == "hello"
                shown = await asyncio.to_thread(certificate, https)
                first.process.kill()
                await first.ended()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, https)
            async with ingress(home) as second:
                async with client_of(home) as client, asyncio.timeout(PATIENCE_SECONDS):
                    while True:  # how long it takes is measured in benchmarks
                        with contextlib.suppress(httpx.ConnectError):
                            assert (await client.get(f"https://{HOST}:{https}/")).text == "hello"
                            break
                        await asyncio.sleep(0.02)
                assert await asyncio.to_thread(certificate, https) == shown
                async with connected(raw) as (reader, writer):
                    writer.write(b"raw too")
                    assert await reader.read(10) == b"raw too"
                async with server(home) as its_server:  # and it finds the next server, and counts anew
                    await its_server.told(epoch=1, revision=1)
                    await until(lambda: sum(load.served for load in its_server.reports[-1].loads) == 2)
                    await its_server.publish(table(epoch=2))
                    await its_server.told(epoch=2, revision=1)
                await second.ready()

    run(scenario)
    assert "Traceback" not in (tmp_path / "ingress.log").read_text()


def test_without_its_server_what_is_established_and_what_is_new_goes_on(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        https, raw, goes = port(), port(), asyncio.Event()
        async with container(speaks_slowly(goes)) as backend, container(echo) as echoing, ingress(home):
            async with server(home) as its_server:
                await its_server.publish(table(route("c1", port_route(https, backend), tcp(raw, echoing))))
                await its_server.told(epoch=1, revision=1)
                client = client_of(home)
                slow = await client.send(client.build_request("GET", f"https://{HOST}:{https}/slow"), stream=True)
                stream = await asyncio.open_connection(HOST, raw)
            goes.set()
            assert await slow.aread() == b"not so fast"
            stream[1].write(b"on")
            assert await stream[0].read(10) == b"on"
            assert (await client.get(f"https://{HOST}:{https}/")).text == "hello"
            stream[1].close()
            await client.aclose()

    run(scenario)


def test_asked_to_stop_it_accepts_nothing_more_and_lets_what_is_in_flight_end(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        https, goes = port(), asyncio.Event()
        async with container(speaks_slowly(goes)) as backend, server(home) as its_server, ingress(home) as it:
            await its_server.publish(table(route("c1", port_route(https, backend))))
            await its_server.told(epoch=1, revision=1)
            async with client_of(home) as client, client.stream("GET", f"https://{HOST}:{https}/slow") as answer:
                it.process.terminate()
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while True:
                        try:
                            _, writer = await asyncio.open_connection(HOST, https)
                        except ConnectionError:  # reset: it was made, but not accepted any more
                            break
                        writer.close()
                goes.set()
                assert await answer.aread() == b"not so fast"
            assert await it.ended() == 0

    run(scenario)


def test_asked_to_stop_it_ends_connections_that_are_only_kept_and_waits_for_the_others(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        https, raw = port(), port()
        async with (
            container(container_speaks) as backend,
            container(echo) as echoing,
            server(home) as its_server,
            ingress(home) as it,
        ):
            await its_server.publish(table(route("c1", port_route(https, backend)), route("c2", tcp(raw, echoing))))
            await its_server.told(epoch=1, revision=1)
            async with connected(https, trust(home)) as (kept, asking), connected(raw) as (reader, writer):
                asking.write(b"GET / HTTP/1.1\r\nhost: it\r\n\r\n")
                assert (await kept.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
                writer.write(b"before")
                assert await reader.readexactly(6) == b"before"
                it.process.terminate()
                assert await kept.read() == b""
                writer.write(b"after")
                assert await reader.readexactly(5) == b"after"
            assert await it.ended() == 0

    run(scenario)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_twice_it_ends_at_once_and_told_a_time_it_waits_no_longer(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        raw = port()
        async with container(echo) as echoing, server(home) as its_server:
            await its_server.publish(table(route("c1", tcp(raw, echoing))))
            async with ingress(home, {"MUSTER_DRAIN_SECONDS": "600"}) as it:
                await its_server.told(epoch=1, revision=1)
                async with connected(raw) as (reader, writer):
                    writer.write(b"x")
                    await reader.read(1)
                    it.process.send_signal(number)
                    with contextlib.suppress(ConnectionError):
                        while True:
                            (await asyncio.open_connection(HOST, raw))[1].close()
                    assert it.process.returncode is None
                    it.process.send_signal(number)
                    assert await it.ended() == -number
            async with ingress(home, {"MUSTER_DRAIN_SECONDS": "0.2"}) as it:
                await it.ready()
                async with connected(raw) as (reader, writer):
                    writer.write(b"x")
                    await reader.read(1)
                    it.process.send_signal(number)
                    assert await it.ended() == 0

    run(scenario)


def test_a_second_one_on_the_same_home_refuses_to_start(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        Snapshot(home).write(table().to_json())
        async with ingress(home) as first:
            await first.ready()
            async with ingress(home) as second:
                assert await second.ended() != 0
            assert f"process {first.process.pid} already runs muster ingress on {home}" in first.log.read_text()

    run(scenario)


def test_a_torn_snapshot_and_a_taken_status_port_are_warnings(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        snapshot = Snapshot(home)
        snapshot.path.parent.mkdir(parents=True)
        snapshot.path.write_text('{"schema": 1, "epo')
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            environ = {"MUSTER_INGRESS_STATUS_PORT": str(taken.getsockname()[1])}
            async with server(home) as its_server, ingress(home, environ) as it:
                await its_server.publish(table())
                await it.ready()
                text = it.log.read_text()
                assert f"{snapshot.path}: " in text
                assert "WARNING" in text

    run(scenario)


_ONE_TEXT = 'muster_ingress_failed_connections_total{reason="text"} 1.0'


def test_noise_on_the_wire_leaves_no_traceback_and_plain_http_is_told_what_is_right(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        https = port()
        async with container(container_speaks) as backend, server(home) as its_server, ingress(home) as it:
            await its_server.publish(table(route("c1", port_route(https, backend))))
            await its_server.told(epoch=1, revision=1)
            for noise in (
                b"\x16\x03\x01\x02\x00" + os.urandom(600),
                b"\x16" * 2000,
                b"\xff" + os.urandom(3000),  # a first byte that no method of HTTP begins with
                b"",
                b"\x16\x03",
            ):
                with contextlib.suppress(OSError):
                    async with connected(https) as (reader, writer):
                        writer.write(noise)
                        writer.write_eof()
                        await reader.read()
            with pytest.raises(ssl.SSLError):
                async with connected(https, ssl.create_default_context()):
                    pass
            async with client_of(home) as client:
                answer = await client.get(f"http://{HOST}:{https}/x")
                assert answer.status_code == 400
                assert f"https://{HOST}:{https}/x" in answer.json()["error"]
                assert (await client.get(f"https://{HOST}:{https}/")).text == "hello"
                async with asyncio.timeout(PATIENCE_SECONDS):  # counted once the connection is closed
                    while True:
                        if _ONE_TEXT in (await client.get(f"{it.url}/metrics")).text:
                            break
                        await asyncio.sleep(0.05)
            assert "Traceback" not in it.log.read_text()
            assert "ERROR" not in it.log.read_text()

    run(scenario)


def test_ssh_logins_open_once_the_home_has_an_engine_and_ports_that_are_taken_are_reported(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        login = port()
        ssh = SshRoute(login, hash_password("secret", "salt"))
        async with server(home) as its_server, ingress(home) as it:
            await its_server.publish(table(replace(route("c1", port_route(port(), nobody())), ssh=ssh)))
            await its_server.told(epoch=1, revision=1)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, login)
            (home / "installation").write_text("0123456789abcdef\n")
            with socket.socket() as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taken.bind((HOST, login))
                taken.listen()
                (home / "engine").write_text("local\n")
                await until(lambda: login in its_server.reports[-1].bind_failures)
            await until(lambda: not its_server.reports[-1].bind_failures)
            async with connected(login) as (reader, _):
                assert (await reader.readline()).startswith(b"SSH-2.0-")
            assert "Traceback" not in it.log.read_text()

    run(scenario)


def thousand(backend: Address, state: RouteState) -> tuple[Route, ...]:
    """Return a thousand containers with two addresses each, at ports of an address that nobody else listens on."""
    return tuple(
        route(
            f"c{index}",
            port_route(20_000 + index, backend),
            port_route(22_000 + index, backend, container_port=6008),
            state=state,
        )
        for index in range(1000)
    )


def test_a_thousand_containers_are_back_soon_and_refuse_at_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environ = {"MUSTER_INGRESS_HOST": "127.9.8.7"}

    def listeners(pid: int) -> int:
        return sum(each.status == psutil.CONN_LISTEN for each in psutil.Process(pid).net_connections("tcp"))

    async def scenario() -> None:
        first = RouteTable(1, 1, thousand(nobody(), RouteState.ACCEPT))
        Snapshot(home).write(first.to_json())
        async with ingress(home, environ) as once:  # which makes the certificate
            await once.ready()
        async with ingress(home, environ) as it:
            await it.ready()  # `python -m benchmarks ingress` tells how soon
            assert listeners(it.process.pid) == 2001
            memory = psutil.Process(it.process.pid).memory_info().rss
            assert memory < 200 * 2**20
            async with server(home) as its_server:
                await its_server.told(epoch=1, revision=1)
                await its_server.publish(RouteTable(1, 2, thousand(nobody(), RouteState.REFUSE)))
                report = await its_server.told(epoch=1, revision=2)
                assert len(report.loads) == 1000
                assert all(load.is_refusing for load in report.loads)
                assert report.bind_failures == {}

    run(scenario)


def test_a_host_that_is_not_of_this_host_is_refused_at_the_start(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def scenario() -> None:
        async with ingress(home, {"MUSTER_INGRESS_HOST": "203.0.113.7"}) as it:
            assert await it.ended() != 0
            assert "ingress_host: cannot listen on 203.0.113.7" in it.log.read_text()

    run(scenario)
