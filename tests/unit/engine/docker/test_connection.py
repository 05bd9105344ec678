"""What a daemon that cannot be used is told to be, in one line that says what to do."""

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiodocker.exceptions import DockerError

from muster.engine.docker.connection import Connection, check, converted, refusal
from muster.errors import EngineRejected, EngineUnavailable, SetupError
from muster.model.container import Reason


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a path that is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="mu") as name:
        yield Path(name)


async def checked(url: str) -> str:
    """Check a daemon; return what is wrong with it."""
    connection = Connection(url)
    try:
        with pytest.raises(SetupError) as said:
            await check(connection)
    finally:
        await connection.close()
    return str(said.value)


async def checked_with(folder: Path, status: str, content: bytes, kind: str = "application/json") -> str:
    """Check a server that always answers the same."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + content)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(answer, folder / "docker.sock"):
        return await checked(f"unix://{folder}/docker.sock")


def test_no_daemon_at_all(folder: Path) -> None:
    url = f"unix://{folder}/docker.sock"
    said = asyncio.run(checked(url))
    assert said == f"Docker at {url} cannot be reached: No such file or directory; is dockerd running?"


def test_a_socket_that_nobody_listens_to(folder: Path) -> None:
    async def scenario() -> str:
        server = await asyncio.start_unix_server(lambda *_: None, folder / "docker.sock")
        server.close()
        await server.wait_closed()
        return await checked(f"unix://{folder}/docker.sock")

    assert asyncio.run(scenario()).endswith("cannot be reached: Connection refused; is dockerd running?")


def test_nobody_at_a_port() -> None:
    assert "Connection refused; is dockerd running?" in asyncio.run(checked("tcp://127.0.0.1:1"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without permission")
def test_no_permission_for_the_socket(folder: Path) -> None:
    async def scenario() -> str:
        async with await asyncio.start_unix_server(lambda *_: None, folder / "docker.sock"):
            (folder / "docker.sock").chmod(0o600)
            with somebody_else():
                return await checked(f"unix://{folder}/docker.sock")

    folder.chmod(0o755)
    assert asyncio.run(scenario()) == (
        f"no permission for the Docker socket {folder}/docker.sock:"
        " run as root, or add this user to the group docker and log in again"
    )


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_docker_that_is_too_old(folder: Path) -> None:
    version = json.dumps({"Version": "18.06.3-ce", "ApiVersion": "1.38"}).encode()
    said = asyncio.run(checked_with(folder, "200 OK", version))
    assert said == (
        f"Docker at unix://{folder}/docker.sock is 18.06.3-ce and speaks API 1.38;"
        " Muster needs 1.40 (Docker 19.03) or newer"
    )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>hello</html>", "text/html"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b"{", "text/plain"),
    ],
)
def test_something_else_than_docker(content: bytes, kind: str, folder: Path) -> None:
    said = asyncio.run(checked_with(folder, "200 OK", content, kind))
    assert said == f"what answers at unix://{folder}/docker.sock is not Docker"


def test_a_docker_that_refuses(folder: Path) -> None:
    said = asyncio.run(checked_with(folder, "403 Forbidden", b'{"message": "authorization denied by plugin"}'))
    assert said == f"Docker at unix://{folder}/docker.sock refuses: authorization denied by plugin"


def test_a_docker_that_never_answers(folder: Path) -> None:
    async def scenario() -> str:
        is_over = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()  # until whoever asks has given up
            writer.close()
            await writer.wait_closed()
            is_over.set()

        async with await asyncio.start_unix_server(hang, folder / "docker.sock"):
            connection = Connection(f"unix://{folder}/docker.sock", call_seconds=0.05)
            with pytest.raises(EngineUnavailable) as said:
                await connection.call("GET", "info")
            await connection.close()
            await is_over.wait()
            return str(said.value)

    assert asyncio.run(scenario()).endswith("does not answer (GET info took over 0.05 s)")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("write /var/lib/docker: no space left on device", "no space left on the disk of Docker"),
        ('could not select device driver "" with capabilities: [[gpu]]', "install the nvidia-container-toolkit"),
        ("could not find an available, non-overlapping IPv4 address pool", "add default-address-pools"),
        ("max depth exceeded", "copied or saved so often"),
        ('exec: "/bin/sh": stat /bin/sh: no such file or directory', "the image has no /bin/sh"),
        ("Failed to Setup IP tables: (iptables failed: iptables --wait", "restart Docker"),
    ],
)
def test_refusals_say_what_to_do_where_docker_does_not(said: str, words: str) -> None:
    told = refusal(Reason.START_FAILED, "start of x", DockerError(500, said))
    assert words in str(told)
    assert said in str(told)
    assert told.reason == Reason.START_FAILED


def test_what_docker_says_no_to_is_final_only_where_the_container_is_the_cause() -> None:
    with pytest.raises(EngineUnavailable, match="observe: odd"), converted("observe"):
        raise DockerError(500, "odd")
    with pytest.raises(EngineRejected, match="create: odd"), converted("create", Reason.START_FAILED):
        raise DockerError(500, "odd")
