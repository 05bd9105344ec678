"""Exec over a real socket: the client against the API, and the API against clients that behave otherwise."""

import contextlib
import hashlib
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from muster.api.exec_relay import MISUSED
from muster.client import Client
from muster.client.exec import ExecStream
from muster.errors import ApiError, ApiUnavailable, InvalidSpec, NotFound, Unauthenticated
from muster.model import exec_wire
from muster.model.container import Container, ContainerStatus, Reason
from muster.model.exec_wire import SUBPROTOCOL, WINDOW_BYTES, Channel
from muster.testing.exec_session import MemorySession
from tests.compat.world import ADMIN, MEMBER, World
from tests.unit.api.served import Server, on_stage


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furnished")
    World.furnish(folder)
    return folder / "muster.db"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture
def world(server: Server, furnished: Path, tmp_path: Path) -> Iterator[World]:
    shutil.copy(furnished, tmp_path)
    with on_stage(server, tmp_path) as opened:
        yield opened


@pytest.fixture
def client(server: Server, world: World) -> Iterator[Client]:
    with Client(server.url, ADMIN) as opened:
        yield opened


@pytest.fixture
def container(world: World) -> Container:
    return world.up(world.place(world.create()))


def uuid_of(container: Container) -> str:
    assert container.uuid is not None
    return container.uuid


def gather(stream: ExecStream) -> tuple[bytes, bytes]:
    written = {1: bytearray(), 2: bytearray()}
    for number, chunk in stream.output():
        written[number] += chunk
    return bytes(written[1]), bytes(written[2])


def until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def last(world: World) -> MemorySession:
    return world.access.sessions[-1]


@contextlib.contextmanager
def raw(server: Server, container: Container, query: str, **options: Any) -> Iterator[ClientConnection]:
    """Open the socket as somebody would who does not use our client."""
    url = f"{server.url.replace('http', 'ws')}/api/v1/muster/containers/{container.uuid}/exec?{query}"
    headers = {"Authorization": options.pop("token", ADMIN)}
    protocols = options.pop("subprotocols", [Subprotocol(SUBPROTOCOL)])
    with connect(url, additional_headers=headers, subprotocols=protocols, proxy=None, **options) as opened:
        yield opened


def send_until_closed(opened: ClientConnection, messages: Sequence[bytes | str]) -> None:
    for message in messages:
        opened.send(message)
    while True:
        opened.recv(10)


def test_output_errors_and_exit_code_arrive(client: Client, world: World, container: Container) -> None:
    with client.execute(uuid_of(container), ["fail", "7"]) as stream:
        assert gather(stream) == (b"out\n", b"err\n")
        assert stream.exit_code() == 7
    assert last(world).ref.container_id == container.id
    assert not last(world).is_hung_up


def test_words_and_terminal_are_passed_on_as_they_are(client: Client, container: Container) -> None:
    words = ["how", "a b", "", "$x;&=+%#?/ü", "--flag"]
    for tty, size in ((False, None), (True, (120, 40)), (True, None)):
        with client.execute(uuid_of(container), words, tty=tty, size=size) as stream:
            assert gather(stream)[0].decode() == repr((tuple(words), tty, size))


def test_megabytes_go_both_ways_at_once_and_input_ends(client: Client, container: Container) -> None:
    sent = random.Random(7).randbytes(5_000_000)

    def give(stream: ExecStream) -> None:
        stream.write(sent)
        stream.write_eof()

    with client.execute(uuid_of(container), ["cat"]) as stream:
        giving = threading.Thread(target=give, args=(stream,))
        giving.start()
        output, _ = gather(stream)
        giving.join()
        assert stream.exit_code() == 0
    assert hashlib.sha256(output).digest() == hashlib.sha256(sent).digest()


def test_a_reader_that_rests_holds_up_the_command_and_nothing_else(
    client: Client, world: World, container: Container
) -> None:
    with client.execute(uuid_of(container), ["yes"], tty=True) as stream:
        output = stream.output()
        next(output)
        until(lambda: last(world).written_bytes >= WINDOW_BYTES)
        stream.resize(100, 30)
        until(lambda: last(world).size == (100, 30))
        assert last(world).written_bytes <= WINDOW_BYTES + 3 * 4096
        for _ in range(200):
            next(output)
        assert last(world).written_bytes > WINDOW_BYTES + 3 * 4096
    until(lambda: last(world).is_hung_up)


def test_a_command_that_does_not_read_holds_up_its_input_and_nothing_else(
    client: Client, world: World, container: Container
) -> None:
    with client.execute(uuid_of(container), ["deaf", "2"], tty=True) as stream:
        giving = threading.Thread(target=stream.write, args=(bytes(WINDOW_BYTES * 2),))
        giving.start()
        output = stream.output()
        stream.resize(81, 25)
        assert next(output) == (1, b"(81, 25)\n")
        assert giving.is_alive()
        stream.resize(82, 26)
        assert next(output) == (1, b"(82, 26)\n")
        assert next(output, None) is None
        assert stream.exit_code() == 0
        giving.join(10)
        assert not giving.is_alive()


def test_leaving_early_hangs_up(client: Client, world: World, container: Container) -> None:
    with client.execute(uuid_of(container), ["cat"]):
        assert not last(world).is_hung_up
    until(lambda: last(world).is_hung_up)


def test_a_connection_that_breaks_hangs_up(server: Server, world: World, container: Container) -> None:
    with raw(server, container, "command=deaf&command=1", close_timeout=0.1) as opened:
        for _ in range(4):
            opened.send(exec_wire.message(Channel.STDIN, bytes(WINDOW_BYTES // 4)))
        opened.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: last(world).is_hung_up)


def test_an_engine_that_is_lost_is_told_with_its_words(client: Client, container: Container) -> None:
    with client.execute(uuid_of(container), ["break"]) as stream:
        assert gather(stream) == (b"before\n", b"")
        with pytest.raises(ApiError, match="the daemon went away"):
            stream.exit_code()


def test_a_server_that_stops_ends_the_stream(furnished: Path, tmp_path: Path) -> None:
    shutil.copy(furnished, tmp_path)
    server = Server()
    try:
        with on_stage(server, tmp_path) as world, Client(server.url, ADMIN) as client:
            container = world.up(world.place(world.create()))
            with client.execute(uuid_of(container), ["cat"]) as stream:
                server.stop()
                assert gather(stream) == (b"", b"")
                stream.write(b"too late")
                with pytest.raises(ApiUnavailable, match="lost the connection"):
                    stream.exit_code()
            assert last(world).is_hung_up
            with pytest.raises(ApiUnavailable, match="muster up"):
                client.execute(uuid_of(container), ["cat"])
    finally:
        server.close()


def test_it_is_refused_before_it_opens_like_any_other_call(
    server: Server, client: Client, world: World, container: Container
) -> None:
    with pytest.raises(NotFound):
        client.execute("no-such-container", ["cat"])
    with Client(server.url, MEMBER) as stranger, pytest.raises(NotFound):
        stranger.execute(uuid_of(container), ["cat"])
    for token in ("", "mst_wrong"):
        with Client(server.url, token) as unknown, pytest.raises(Unauthenticated):
            unknown.execute(uuid_of(container), ["cat"])
    with pytest.raises(ApiError, match="NUL") as refused:
        client.execute(uuid_of(container), ["a\0b"])
    assert (refused.value.code, refused.value.status) == ("RequestParameterIsWrong", 422)
    with pytest.raises(ApiError, match="command: is required"):
        client.execute(uuid_of(container), [])
    with pytest.raises(ApiError, match="columns: must be at least 1"):
        client.execute(uuid_of(container), ["cat"], tty=True, size=(0, 10))
    with pytest.raises(InvalidSpec, match="too long"):
        client.execute(uuid_of(container), ["x" * 10_000])
    assert world.access.sessions == []


@pytest.mark.parametrize(
    ("statuses", "changes", "words"),
    [
        ((), {}, "does not run yet: it is creating"),
        ((ContainerStatus.CREATED, ContainerStatus.STARTING), {}, "does not run yet: it is starting"),
        ((ContainerStatus.SHUTDOWN,), {"exit_code": 3}, "has ended: exit code 3"),
        ((ContainerStatus.SHUTDOWN,), {"exit_code": 137, "reason": Reason.OOM_KILLED}, "has ended: oom_killed"),
    ],
)
def test_a_container_that_does_not_run_is_a_conflict_in_words(
    client: Client, world: World, statuses: Sequence[ContainerStatus], changes: dict[str, Any], words: str
) -> None:
    container = world.advance(world.place(world.create()), *statuses, **changes)
    with pytest.raises(ApiError, match=words) as refused:
        client.execute(uuid_of(container), ["cat"])
    assert refused.value.status == 409


def test_an_engine_that_cannot_is_a_conflict(client: Client, world: World, container: Container) -> None:
    world.access.capabilities = replace(world.access.capabilities, has_exec=False)
    with pytest.raises(ApiError, match="cannot run commands beside a container's own") as refused:
        client.execute(uuid_of(container), ["cat"])
    assert refused.value.status == 409


def test_another_protocol_is_refused(server: Server, container: Container) -> None:
    for offered in (None, [Subprotocol("v5.channel.k8s.io")]):
        with pytest.raises(InvalidStatus) as refused, raw(server, container, "command=cat", subprotocols=offered):
            pass
        assert refused.value.response.status_code == 422
        assert b"must offer v1.exec.muster" in (refused.value.response.body or b"")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([b""], "must begin with the number of a channel"),
        ([b"\x09data"], "must begin with the number of a channel"),
        (["text"], "must be binary"),
        ([b"\x01data"], "channel 1 is the server's"),
        ([b"\x04[]"], "resize: must be"),
        ([b"\x05\x00"], "credit: must be four bytes"),
        ([b"\xff\x01"], "close: must name channel 0"),
        ([b"\xff\x00", b"\x00more"], "stdin: goes on after its end"),
        ([bytes(WINDOW_BYTES // 2 + 1)] * 5, "stdin: is more than what was credited"),
    ],
)
def test_a_client_that_does_not_keep_to_the_protocol_is_told_how(
    server: Server, world: World, container: Container, messages: Sequence[bytes | str], reason: str
) -> None:
    with raw(server, container, "command=deaf&command=1") as opened, pytest.raises(ConnectionClosed) as closed:
        send_until_closed(opened, messages)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == MISUSED
    assert reason in closed.value.rcvd.reason
    until(lambda: last(world).is_hung_up)


def test_who_gives_no_credit_is_sent_one_window_and_is_not_forgotten(server: Server, container: Container) -> None:
    with raw(server, container, "command=yes") as opened:
        received = 0
        while received < WINDOW_BYTES:
            received += len(opened.recv(10)) - 1
        assert received == WINDOW_BYTES
        with pytest.raises(TimeoutError):
            opened.recv(0.1)
        opened.ping().wait(10)
        opened.send(exec_wire.credit(5))
        assert len(opened.recv(10)) == 1 + 5
