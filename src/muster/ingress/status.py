"""What the ingress tells about itself, on a port of its own that only this host reaches.

``/healthz``: the process answers. ``/readyz``: a table is in force. ``/metrics``: for Prometheus. ``/load``: the report
that the server is sent, for whoever knows the home's secret: it names other people's containers.
"""

import asyncio
import hmac
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from muster.ingress import metrics
from muster.ingress.board import Board


def status_app(board: Board, figures: Callable[[], metrics.Figures], token: str) -> Starlette:
    """Return the application; it only reads."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if board.table is None:
            return PlainTextResponse("no route table yet: neither a snapshot nor a server\n", 503)
        return PlainTextResponse("ok\n")

    async def scrape(_: Request) -> Response:
        return Response(metrics.text(figures()), media_type=CONTENT_TYPE_LATEST)

    async def load(request: Request) -> Response:
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), token.encode()):
            return JSONResponse({"error": "the secret of the home's ingress is asked for"}, 401)
        report = board.report(asyncio.get_running_loop().time())
        return Response(report.to_json(), media_type="application/json")

    paths = {"/healthz": healthz, "/readyz": readyz, "/metrics": scrape, "/load": load}
    return Starlette(routes=[Route(path, answer) for path, answer in paths.items()])
