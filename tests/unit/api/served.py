"""A world whose API listens on loopback, on an event loop in a thread of its own: for clients that block."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.compat.world import World

T = TypeVar("T")


class ThreadRunner:
    """Runs coroutines like ``asyncio.Runner``, but in another thread that never rests between them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)
        self._thread.start()

    def run(self, coro: Coroutine[Any, Any, T], /) -> T:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result(20)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class SharedRunner:
    """A runner that others go on using when a world is closed."""

    def __init__(self, runner: ThreadRunner) -> None:
        self.run = runner.run

    def close(self) -> None:
        """Leave it running."""


class Server:
    """Whatever app is put on stage, on one port: starting and stopping a server takes longer than most tests."""

    def __init__(self) -> None:
        self.runner = ThreadRunner()
        self.app: ASGIApp | None = None
        config = uvicorn.Config(
            self._play,
            host="127.0.0.1",
            port=0,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self.url = self.runner.run(self._start())
        self._is_running = True

    def stop(self) -> None:
        """End the server; streams that are open are cut off."""
        if self._is_running:
            self.runner.run(self._stop())
        self._is_running = False

    def close(self) -> None:
        """End the server and its thread."""
        self.stop()
        self.runner.close()

    async def _play(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)

    async def _start(self) -> str:
        self._serving = asyncio.ensure_future(self._server.serve())
        async with asyncio.timeout(10):
            while not self._server.started:  # noqa: ASYNC110 uvicorn tells it no other way
                await asyncio.sleep(0.005)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        self._server.should_exit = True
        await self._serving


@contextmanager
def on_stage(server: Server, folder: Path) -> Iterator[World]:
    """Serve the database in a folder."""
    with World(folder, runner=SharedRunner(server.runner)) as world:
        server.app = world.app
        try:
            yield world
        finally:
            server.app = None
