"""What lies between an API that is on stage and its readers: it can be cut and mended."""

import asyncio
from contextlib import suppress

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.unit.api.served import Server


class Line:
    """The way to an app. Cutting it breaks off all answers that are under way; others are a proxy's, until mended."""

    def __init__(self, server: Server, app: ASGIApp) -> None:
        self._server = server
        self._app = app
        self._is_cut = False
        self._under_way: set[asyncio.Future[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_cut:
            await PlainTextResponse("<html>bad gateway", status_code=502)(scope, receive, send)
            return
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        self._under_way.add(answering)
        with suppress(asyncio.CancelledError):
            await answering
        self._under_way.discard(answering)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def cut(self) -> None:
        async def work() -> None:
            self._is_cut = True
            for answering in self._under_way:
                answering.cancel()

        self._server.runner.run(work())

    def mend(self) -> None:
        self._is_cut = False
