"""A hosted AutoDL that does as a test says: a scripted account behind a real socket, or behind an httpx transport.

::

    with ScriptedApi() as api:                     # listens on loopback, in a thread of its own: any process may call
        uuid = api.world.add_deployment("asr")
        one, two = api.world.run(uuid, 2)          # running, and serving port 6006: their addresses answer 200
        api.world.stop(one)                        # with its events; the address answers 502 from now on
        new = api.world.reuse(one)                 # a new uuid
        api.world.troubles.order("stall", 3, seconds=5)   # the next three calls; see scripted_trouble.KINDS
        api.world.troubles.chance(0.2)             # one call in five, of any kind
        api.world.refuses_account_wide = True      # as an API that insists on a deployment
        api.world.is_down = True                   # every connection to the API breaks; services still answer
        AsyncApi(api.url, api.world.token)
        assert api.world.calls["/api/v1/dev/deployment/container/list"] < 10

A container's address is ``http://127.0.0.1:PORT/c/UUID/6006``: 502 as long as nobody serves there, as a gateway says
it. ``stop`` closes the socket and ``start`` opens the same port again, which is what a restart of the API looks like.
``ScriptedTransport`` is the same without sockets, in the time of the test's loop.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from muster.testing.scripted_trouble import Reply
from muster.testing.scripted_world import ScriptedWorld

_HEAD_BYTES = 64 * 1024
_START_SECONDS = 10.0


class ScriptedTransport(httpx.AsyncBaseTransport):
    """Reaches a scripted world from the test's own loop; stalls take virtual time if the loop's is virtual."""

    def __init__(self, world: ScriptedWorld) -> None:
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, or fail as a real transport would."""
        body = await request.aread()
        headers = {name.lower(): value for name, value in request.headers.items()}
        reply = self._world.respond(request.method, request.url.path, headers, body)
        patience = request.extensions["timeout"].get("read")
        if patience is not None and reply.stalls >= patience:
            await asyncio.sleep(patience)
            raise httpx.ReadTimeout("stalled", request=request)
        await asyncio.sleep(reply.stalls)
        if reply.is_broken:
            kind = httpx.ConnectError if self._world.is_cut_off else httpx.RemoteProtocolError
            raise kind("broken", request=request)
        return httpx.Response(reply.status, headers=dict(reply.headers), content=reply.body, request=request)


class ScriptedApi:
    """A scripted world that listens on 127.0.0.1 from ``start`` to ``stop``, or as a context manager."""

    def __init__(self, *, seed: int = 0, port: int = 0) -> None:
        self.world = ScriptedWorld(seed=seed, monotonic=time.monotonic)
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; the port stays the same over ``stop`` and ``start``."""
        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), name="scripted api")
        self._thread.start()
        if not listening.wait(_START_SECONDS):
            raise RuntimeError(f"nothing listens on port {self.port}: is it taken?")

    def stop(self) -> None:
        """Close the socket and every connection."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        """Listen."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self.stop()

    async def _serve(self, listening: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    while await self._answer_one(reader, writer):
                        pass
            finally:
                connections.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", self.port, limit=_HEAD_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        self.world.address = f"127.0.0.1:{self.port}"
        listening.set()
        await self._closing.wait()
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request of a connection; return whether another may come."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        reply = self.world.respond(method, target.partition("?")[0], headers, body)
        if reply.stalls:
            await asyncio.sleep(reply.stalls)
        if reply.is_broken:
            return False
        writer.write(_head(reply) + (b"" if method == "HEAD" else reply.body))
        await writer.drain()
        return headers.get("connection", "").lower() != "close"


def _head(reply: Reply) -> bytes:
    headers: Mapping[str, str] = {"content-type": "text/plain", **reply.headers, "content-length": str(len(reply.body))}
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
