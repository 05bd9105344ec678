"""The two routes of the server that the ingress speaks to, over a real socket, with a test in the place of the rest."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path_

from muster.home import INGRESS_TOKEN, PROFILE, shared_secret, write_profile
from muster.ingress.upstream import REPORT, ROUTES
from muster.model.routes import LoadReport, RouteTable
from muster.processes.http import HttpServer, listening
from tests.unit.ingress.ground import HOST, PATIENCE_SECONDS


class Server:
    """Publishes tables and keeps what it is told. ``asked`` are the fences that were asked for."""

    def __init__(self, token: str, wait_seconds: float) -> None:
        self.token = token
        self.wait_seconds = wait_seconds
        self.table: RouteTable | None = None
        self.nonsense: bytes | None = None
        self.asked: list[tuple[int, int]] = []
        self.reports: list[LoadReport] = []
        self._is_stopping = False
        self._changed = asyncio.Condition()

    async def publish(self, table: RouteTable) -> None:
        async with self._changed:
            self.table = table
            self._changed.notify_all()

    async def stop(self) -> None:
        """Let nobody wait any longer, as a server does that is asked to stop."""
        async with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    async def told(self, *, epoch: int, revision: int) -> LoadReport:
        """Wait until it is told that a table is in force; return the first report that says so."""

        def first() -> LoadReport | None:
            return next((each for each in self.reports if (each.epoch, each.revision) == (epoch, revision)), None)

        async with asyncio.timeout(PATIENCE_SECONDS):
            while (report := first()) is None:  # noqa: ASYNC110  plain and soon enough
                await asyncio.sleep(0.005)
        return report

    def app(self) -> Starlette:
        return Starlette(routes=[Path_(ROUTES, self._routes), Path_(REPORT, self._report, methods=["POST"])])

    async def _routes(self, request: Request) -> Response:
        if request.headers.get("authorization") != self.token:
            return Response(status_code=401)
        fence = (int(request.query_params["epoch"]), int(request.query_params["revision"]))
        self.asked.append(fence)
        if self.nonsense is not None:
            return Response(self.nonsense)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.wait_seconds), self._changed:
                await self._changed.wait_for(lambda: self._is_stopping or self._is_newer_than(fence))
                if self.table is not None and self._is_newer_than(fence):
                    return Response(self.table.to_json(), media_type="application/json")
        return Response(status_code=204)

    def _is_newer_than(self, fence: tuple[int, int]) -> bool:
        return self.table is not None and self.table.fence > fence

    async def _report(self, request: Request) -> Response:
        if request.headers.get("authorization") != self.token:
            return Response(status_code=401)
        self.reports.append(LoadReport.from_json(await request.body()))
        return Response(status_code=204)


@contextlib.asynccontextmanager
async def server(home: Path, *, port: int = 0, wait_seconds: float = 20.0) -> AsyncIterator[Server]:
    """Have a server of a home: it leaves its address there, and knows the home's secret."""
    with listening(HOST, port) as listener:
        write_profile(home / PROFILE, f"http://{HOST}:{listener.getsockname()[1]}", "an admin's token")
        it = Server(shared_secret(home / INGRESS_TOKEN), wait_seconds)
        serving = asyncio.create_task(HttpServer(listener).run(it.app()))
        try:
            yield it
        finally:
            await it.stop()
            serving.cancel()
            await asyncio.wait([serving])
