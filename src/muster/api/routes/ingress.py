"""What the ingress asks and tells: route tables, by long poll, and load reports.

It is no account: it shows the token that lies in the home of both. Nobody else is told hashes of passwords, or which
backend is whose.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.requests import HTTPConnection

from muster.api.context import Context, Ctx, IngressLink
from muster.errors import Conflict, Unauthenticated
from muster.model.routes import LoadReport

extension = APIRouter(prefix="/api/v1/muster/routes", tags=["Ingress"], include_in_schema=False)
LONGEST_WAIT_SECONDS = 30.0


async def _link(connection: HTTPConnection, context: Ctx) -> IngressLink:
    link = _of(context)
    if not link.is_ingress(connection.headers.get("authorization", "").removeprefix("Bearer ").strip()):
        raise Unauthenticated("this is for the ingress: it shows the token in ingress.token of the server's home")
    return link


Link = Annotated[IngressLink, Depends(_link)]


@extension.get("")
async def next_table(
    link: Link,
    *,
    epoch: int = Query(0, ge=0),
    revision: int = Query(0, ge=0),
    wait_seconds: float = Query(20.0, ge=0, le=LONGEST_WAIT_SECONDS),
) -> Response:
    """Answer the present route table once it is newer than the one named; 204 when that takes too long."""
    table = await link.next_table((epoch, revision), wait_seconds)
    if table is None:
        return Response(status_code=204)
    return Response(table, media_type="application/json")


@extension.post("/report")
async def take_report(link: Link, request: Request) -> Response:
    """Take a load report."""
    link.report(LoadReport.from_json(await request.body()))
    return Response(status_code=204)


def _of(context: Context) -> IngressLink:
    if context.ingress is None:
        raise Conflict("this server has no ingress: its setting `ingress` is false")
    return context.ingress
