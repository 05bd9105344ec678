"""One look at real addresses: bodies without end, silence, other protocols, TLS that fails."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec

import pytest

from muster.clock import SystemClock
from muster.discovery.probe import Probes, Target
from muster.discovery.probe_call import Caller, Outcome

P = ParamSpec("P")


def in_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@contextlib.asynccontextmanager
async def answering(text: bytes, *, at_once: bool = False, forever: bool = False) -> AsyncIterator[int]:
    """Listen on a real port and say ``text`` to everybody, perhaps before anything was asked or for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if not at_once:
                    await reader.readuntil(b"\r\n\r\n")
                writer.write(text)
                while forever:
                    writer.write(b"x" * 65536)
                    await writer.drain()
                await reader.read()
        finally:
            writer.transport.abort()
            ended.release()

    ended = asyncio.Semaphore(0)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await ended.acquire()


def caller(timeout_seconds: float = 5.0) -> Caller:
    return Caller(None, True, "/", timeout_seconds)


@in_a_loop
async def test_a_body_without_end_is_not_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
    async with answering(head, forever=True) as port:
        one = caller()
        assert await one.look(f"http://127.0.0.1:{port}") is Outcome.ANSWERED
        await one.aclose()


@in_a_loop
async def test_something_that_is_no_http_is_not_reached() -> None:
    async with answering(b"SSH-2.0-x\r\n\r\n", at_once=True) as port:
        one = caller()
        assert await one.look(f"http://127.0.0.1:{port}/") is Outcome.UNREACHABLE
        await one.aclose()


@in_a_loop
async def test_who_says_nothing_is_silent_and_not_dead() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        one = caller(0.2)
        assert await one.look(f"http://127.0.0.1:{deaf.getsockname()[1]}") is Outcome.TIMED_OUT
        await one.aclose()


@in_a_loop
async def test_a_raw_address_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        one = caller()
        assert await one.look(f"tcp://127.0.0.1:{port}") is Outcome.ANSWERED
        listening.close()
        assert await one.look(f"tcp://127.0.0.1:{port}") is Outcome.UNREACHABLE
        await one.aclose()


@in_a_loop
async def test_tls_that_fails_is_told_once_for_each_host(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(b"HTTP/1.1 400 no TLS here\r\n\r\n", at_once=True) as port:
        one = caller()
        for _ in range(3):
            assert await one.look(f"https://127.0.0.1:{port}/a") is Outcome.UNREACHABLE
        await one.aclose()
    assert len([record for record in caplog.records if f"127.0.0.1:{port}" in record.message]) == 1


@in_a_loop
async def test_the_probes_of_a_process_find_a_real_service() -> None:
    async with answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as port:
        probes = Probes(SystemClock())
        found = Target("c", 6006, f"http://127.0.0.1:{port}")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(probes.run())
            probes.follow([found])
            assert await probes.first_looks()
            assert probes.is_ready(found)
            running.cancel()
