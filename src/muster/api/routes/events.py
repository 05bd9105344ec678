"""Events: AutoDL's list, and our stream."""

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from muster.api import convert, schemas, wanted
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.envelope import Envelope
from muster.api.stream import NDJSON, check_cursor, event_lines
from muster.model.event import Cursor
from muster.model.ids import DeploymentId
from muster.store.port import Transaction

router = APIRouter(prefix="/api/v1/dev/deployment/container/event", tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/events", tags=["Muster"])


@router.post("/list")
async def list_events(
    body: schemas.ListEvents, caller: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.EventRow]]:
    """List lifecycle events, newest first."""
    query = convert.event_query(body, caller.id)

    def work(tx: Transaction) -> schemas.PageOf[schemas.EventRow]:
        wanted.own_deployment(tx, caller, body.deployment_uuid)
        found = tx.events.find(query)
        return convert.page_of(found, [convert.event_row(each, context.zone) for each in found.items], body)

    return Envelope(data=await context.store.read(work))


@extension.get("", response_class=StreamingResponse)
async def stream_events(
    caller: Caller,
    context: Ctx,
    *,
    after: int | None = Query(None, ge=0, le=2**53),
    deployment_uuid: str = "",
    follow: bool = True,
) -> StreamingResponse:
    """Stream the account's events of every kind after a cursor, one JSON object a line, oldest first.

    Without ``after`` it starts now. 410 when events after the cursor are gone: list again.
    """

    def work(tx: Transaction) -> Cursor:
        cursor = tx.events.last() if after is None else Cursor(after)
        check_cursor(tx, cursor)
        if deployment_uuid:
            wanted.own_deployment(tx, caller, deployment_uuid)
        return cursor

    cursor = await context.store.read(work)
    only = DeploymentId(deployment_uuid) if deployment_uuid else None
    lines = event_lines(context, caller, cursor, deployment_id=only, follow=follow)
    return StreamingResponse(lines, media_type=NDJSON)
