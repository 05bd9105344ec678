"""Exports as the real nginx and haproxy read them (Debian packages ``nginx-light`` and ``haproxy``)."""

import asyncio
import contextlib
import datetime
import http.server
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from muster.clock import SystemClock
from muster.discovery.export import Exporter
from muster.discovery.export_templates import (
    Template,
    block_names,
    haproxy_block,
    join_blocks,
    nginx_block,
    read_service,
    title,
)
from muster.model.deployment import PortProtocol
from muster.model.endpoint import Endpoint, EndpointSet, ServiceKey
from muster.registry.file import FileRegistry
from muster.tls.authority import FOLDER, ca_pem, ensure_authority
from muster.tls.leaf import SERVER_KEY, SERVER_PEM, OwnLeaf
from tests.servers import require

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _proxies() -> None:
    require("nginx", "haproxy")


KEY = ServiceKey("admin", "digits")
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
DEADLINE_SECONDS = 60.0

NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/muster.conf;
    server {{
        listen unix:{folder}/socket;
        location / {{ {location} }}
    }}
}}
"""

NGINX_TLS = """
            proxy_pass https://digits_6006;
            proxy_ssl_verify on;
            proxy_ssl_server_name on;
            proxy_ssl_trusted_certificate {folder}/digits_6006.ca.pem;
            proxy_ssl_name localhost;
"""

HAPROXY = """
global
    stats socket {folder}/admin mode 600 level admin
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
frontend front
    bind unix@{folder}/socket
    default_backend digits_6006
"""


class Backend(http.server.ThreadingHTTPServer):
    """A replica that answers its name, over TLS if it is given a certificate."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name: str, tls: ssl.SSLContext | None = None) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = self.headers["Host"] if self.path == "/host" else name
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.name = name
        self.scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, f"{self.scheme}://127.0.0.1:{self.server_port}", concurrency=100)

    def handle_error(self, *_: object) -> None:
        """Say nothing of a proxy's check that hung up."""

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def signed(home: Path) -> ssl.SSLContext:
    """Return what a server shows that an authority of its own has signed."""
    OwnLeaf(home, ()).open(datetime.datetime.now(datetime.UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / FOLDER / SERVER_PEM, home / FOLDER / SERVER_KEY)
    return context


@pytest.fixture
def backends() -> Iterator[dict[str, Backend]]:
    running = {name: Backend(name) for name in "abc"}
    yield running
    for backend in running.values():
        backend.end()


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(DEADLINE_SECONDS)


@contextlib.asynccontextmanager
async def exporting(exporter: Exporter) -> AsyncIterator[None]:
    task = asyncio.create_task(exporter.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Caller(threading.Thread):
    """Asks without pause, and remembers who answered and what went wrong."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self._transport = httpx.HTTPTransport(uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0))
        self._ended = threading.Event()
        self.answers: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        with httpx.Client(transport=self._transport, base_url="http://digits", timeout=10) as client:
            while not self._ended.is_set():
                try:
                    answer = client.get("/")
                    (self.answers if answer.status_code == 200 else self.failures).append(answer.text)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))

    async def until_answered_by(self, *names: str) -> None:
        """Return when a hundred answers in a row came from all of these and nobody else."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            assert time.monotonic() < deadline, f"{set(self.answers[-100:])} answer, {self.failures[:3]}"
            begun = len(self.answers)
            while len(self.answers) < begun + 100 and time.monotonic() < deadline:  # noqa: ASYNC110 a thread adds them
                await asyncio.sleep(0.01)
            if set(self.answers[begun:]) == set(names):
                return

    def end(self) -> None:
        self._ended.set()
        self.join()


def listens(path: Path) -> bool:
    """Tell whether a proxy takes connections: its socket has a name before it does."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not is_so():  # noqa: ASYNC110 another process makes it so
            await asyncio.sleep(0.02)


def test_requests_go_on_while_the_export_reloads_nginx(tmp_path: Path, backends: dict[str, Backend]) -> None:
    config, written, pid = tmp_path / "nginx.conf", tmp_path / "muster.conf", tmp_path / "nginx.pid"
    config.write_text(NGINX.format(folder=tmp_path, location="proxy_pass http://digits_6006;"))
    registry = FileRegistry(tmp_path / "registry")
    reload = f"nginx -t -q -p {tmp_path} -c {config} && {{ test ! -s {pid} || kill -HUP $(cat {pid}); }}"
    exporter = Exporter(registry, [KEY], SystemClock(), template="nginx", output=written, command=reload)

    async def put(revision: int, *names: str) -> None:
        endpoints = tuple(backends[name].endpoint for name in names)
        await registry.publish(KEY, EndpointSet(1, revision, endpoints, published_at=NOW))

    async def scenario() -> None:
        async with exporting(exporter):
            await put(1, "a")
            await until(written.exists)
            with process("nginx", "-p", str(tmp_path), "-c", str(config)):
                await until(lambda: listens(tmp_path / "socket"))
                caller = Caller(tmp_path / "socket")
                caller.start()
                try:
                    await caller.until_answered_by("a")
                    await put(2, "a", "b")
                    await caller.until_answered_by("a", "b")
                    await put(3, "b", "c")
                    await caller.until_answered_by("b", "c")
                    await asyncio.to_thread(backends.pop("a").end)
                    await put(4, "c")
                    await caller.until_answered_by("c")
                finally:
                    caller.end()
                assert caller.failures == []

    asyncio.run(scenario())


@pytest.mark.parametrize("template", list(Template))
def test_tls_goes_to_whom_the_authority_of_the_set_has_signed_and_to_nobody_else(
    tmp_path: Path, template: Template
) -> None:
    ours, theirs = (signed(tmp_path / name) for name in ("ours", "theirs"))
    backends = [Backend("ours", ours), Backend("theirs", theirs)]
    registry = FileRegistry(tmp_path / "registry")
    main, written = tmp_path / "main.conf", tmp_path / "muster.conf"
    if template is Template.NGINX:
        main.write_text(NGINX.format(folder=tmp_path, location=NGINX_TLS.format(folder=tmp_path)))
        command = ["nginx", "-p", str(tmp_path), "-c", str(main)]
    else:
        main.write_text(HAPROXY.format(folder=tmp_path))
        command = ["haproxy", "-db", "-f", str(main), "-f", str(written)]
    exporter = Exporter(registry, [KEY], SystemClock(), template=template, output=written)

    async def scenario() -> None:
        async with exporting(exporter):
            endpoints = tuple(backend.endpoint for backend in backends)
            pem = ca_pem(tmp_path / "ours")
            await registry.publish(KEY, EndpointSet(1, 1, endpoints, published_at=NOW, ca_pem=pem))
            await until(written.exists)
        with process(*command):
            await until(lambda: listens(tmp_path / "socket"))
            caller = Caller(tmp_path / "socket")
            caller.start()
            try:
                await caller.until_answered_by("ours")
            finally:
                caller.end()
            assert "theirs" not in caller.answers

    try:
        asyncio.run(scenario())
    finally:
        for backend in backends:
            backend.end()


def test_haproxy_asks_a_container_by_the_name_that_its_address_has(tmp_path: Path) -> None:
    backend = Backend("a")
    authority = f"127.1:{backend.server_port}"  # to every resolver a name for 127.0.0.1
    found = EndpointSet(1, 1, (Endpoint("a", f"http://{authority}"),), NOW)
    main, written = tmp_path / "main.cfg", tmp_path / "muster.cfg"
    main.write_text(HAPROXY.format(folder=tmp_path))
    block = haproxy_block(read_service("digits_6006", found, tmp_path))
    written.write_text(join_blocks(Template.HAPROXY, {"digits_6006": block}))
    transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"))
    try:
        with process("haproxy", "-db", "-f", str(main), "-f", str(written)):
            asyncio.run(until(lambda: listens(tmp_path / "socket")))
            with httpx.Client(transport=transport, base_url="http://digits") as client:
                assert client.get("/host").text == authority
    finally:
        backend.end()


HOSTILE = (
    Endpoint("x;y", "http://127.0.0.1:1"),
    Endpoint("x", "http://127.0.0.1:1; } evil {"),
    Endpoint("y", "http://127.0.0.1:1\nglobal\n"),
)


@pytest.mark.parametrize("template", list(Template))
def test_whatever_is_written_is_accepted(tmp_path: Path, template: Template) -> None:
    ensure_authority(tmp_path)
    pem = ca_pem(tmp_path)
    sets = {
        KEY: EndpointSet(1, 1, (Endpoint("a", "http://127.0.0.1:1", concurrency=3), *HOSTILE), NOW),
        ServiceKey("admin", "Digits"): EndpointSet(1, 1, (Endpoint("a", "https://[::1]:1"),), NOW),
        ServiceKey("admin", "数字 {}"): EndpointSet(1, 1, (Endpoint("a", "https://localhost:1"),), NOW, ca_pem=pem),
        ServiceKey("admin", "db"): EndpointSet(1, 1, (Endpoint("a", "tcp://127.0.0.1:1", PortProtocol.TCP),), NOW),
        ServiceKey("admin", "a\n}\\\n\r\x85\u2028'\" { b\\"): EndpointSet(1, 1, (), NOW),
        ServiceKey("admin", "nobody"): EndpointSet(1, 1, (), NOW),
        ServiceKey("admin", "x" * 300): EndpointSet(1, 1, (), NOW),
    }
    block = nginx_block if template is Template.NGINX else haproxy_block
    names = block_names(sets)
    services = {key: read_service(names[key], found, tmp_path) for key, found in sets.items()}
    for service in services.values():
        if service.ca is not None:
            service.ca.write_text(service.ca_pem or "")
    text = join_blocks(template, {names[key]: title(key) + block(service) for key, service in services.items()})
    assert "evil" not in text
    written = tmp_path / "muster.conf"
    written.write_text(text)
    if template is Template.NGINX:
        main = tmp_path / "nginx.conf"
        main.write_text(NGINX.format(folder=tmp_path, location="proxy_pass http://digits_6006;"))
        command = ["nginx", "-t", "-p", str(tmp_path), "-c", str(main)]
    else:
        main = tmp_path / "haproxy.cfg"
        main.write_text(HAPROXY.format(folder=tmp_path))
        command = ["haproxy", "-c", "-f", str(main), "-f", str(written)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[ALERT]" not in checked.stderr
    assert "warn" not in checked.stderr.lower()
