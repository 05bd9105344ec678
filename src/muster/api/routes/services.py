"""Services: what a watcher elsewhere has to know to publish the account's deployments (``discovery/stream.py``).

The list says everything, with the cursor of its moment; the stream of changes then names deployments, and each of
them is asked for. All of it is read after the request came in, since who publishes an answer relies on that.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from muster.api import service_schemas as schemas
from muster.api.auth import Caller
from muster.api.context import Context, Ctx
from muster.api.service_stream import change_lines
from muster.api.stream import NDJSON, check_cursor
from muster.errors import NotFound
from muster.model.account import Account
from muster.model.event import Cursor
from muster.model.ids import DeploymentId
from muster.model.service_wire import service_to_wire
from muster.store.port import Transaction

extension = APIRouter(prefix="/api/v1/muster/services", tags=["Muster"])


@extension.get("", response_model=schemas.Services)
async def list_services(caller: Caller, context: Ctx) -> Response:
    """Return the account's live deployments with everybody who serves, and the cursor of that moment."""
    listing = await context.feed.services(caller.id)
    whose = _whose(caller, context)
    return await asyncio.to_thread(  # of a thousand services it takes half a second
        lambda: _answer(whose, cursor=listing.cursor, services=[service_to_wire(each) for each in listing.services])
    )


@extension.get("/changes", response_class=StreamingResponse)
async def stream_service_changes(
    caller: Caller, context: Ctx, *, after: int | None = Query(None, ge=0, le=2**53), follow: bool = True
) -> StreamingResponse:
    """Stream which of the account's deployments changed after a cursor, as ``{"deployments", "cursor"}``, one a line.

    Without ``after`` it starts now. 410 when events after the cursor are gone: list again.
    """

    def work(tx: Transaction) -> Cursor:
        cursor = tx.events.last() if after is None else Cursor(after)
        check_cursor(tx, cursor)
        return cursor

    cursor = await context.store.read(work)
    return StreamingResponse(change_lines(context, caller, cursor, follow=follow), media_type=NDJSON)


@extension.get("/{deployment_uuid}", response_model=schemas.Service)
async def get_service(caller: Caller, context: Ctx, deployment_uuid: str) -> Response:
    """Return one deployment as discovery sees it, also when it is stopped or deleted: then nobody serves."""
    deployment_id = DeploymentId(deployment_uuid)

    def work(tx: Transaction) -> bool:
        deployment = tx.deployments.get(deployment_id)
        if deployment is None or deployment.account_id != caller.id:
            raise NotFound("deployment", deployment_uuid)
        return deployment.is_wanted or bool(tx.containers.of_deployment(deployment_id, finished_limit=0))

    is_live = await context.store.read(work)
    state = await context.feed.service(deployment_id)
    return _answer(_whose(caller, context), is_live=is_live, service=service_to_wire(state))


def _whose(caller: Account, context: Context) -> Mapping[str, Any]:
    return {"source": context.installation, "account": caller.name, "ca_pem": context.ca_pem()}


def _answer(whose: Mapping[str, Any], **wire: Any) -> Response:
    text = json.dumps({**whose, **wire}, ensure_ascii=False, separators=(",", ":"))
    return Response(text, media_type="application/json")
