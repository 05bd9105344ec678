"""Endpoints: who serves a service now, as the registry has it."""

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from muster.api import service_schemas as schemas
from muster.api.auth import Caller
from muster.api.context import Ctx
from muster.api.service_stream import set_lines
from muster.api.stream import NDJSON
from muster.errors import NotFound
from muster.model.deployment import PORTS
from muster.model.endpoint import ServiceKey

extension = APIRouter(prefix="/api/v1/muster/endpoints", tags=["Muster"])


@extension.get("")
async def get_endpoints(
    caller: Caller, context: Ctx, *, service: str = Query(min_length=1, max_length=255), port: int = PORTS[0]
) -> Response:
    """Return the present EndpointSet of a name or deployment uuid; 404 while none was published."""
    found = await context.registry.get(ServiceKey(caller.name, service, port))
    if found is None:
        raise NotFound("service", f"{service}:{port}")
    return Response(found.to_json(), media_type="application/json")


@extension.get("/keys")
async def list_endpoint_keys(caller: Caller, context: Ctx) -> schemas.EndpointKeys:
    """Return for which services and ports of the account there are sets, by uuid: names are not among them."""
    keys = [key for key in await context.registry.keys() if key.account == caller.name]
    rows = [schemas.EndpointKey(service=key.service, port=key.port) for key in keys]
    return schemas.EndpointKeys(account=caller.name, keys=rows)


@extension.get("/watch", response_class=StreamingResponse)
async def watch_endpoints(
    caller: Caller,
    context: Ctx,
    *,
    service: str = Query(min_length=1, max_length=255),
    port: int = PORTS[0],
    follow: bool = True,
) -> StreamingResponse:
    """Stream the EndpointSet of a name or deployment uuid: the present one, then each newer one, one JSON value a line.

    While none was published there is none: that means unknown, not that nobody serves.
    """
    lines = set_lines(context, ServiceKey(caller.name, service, port), follow=follow)
    return StreamingResponse(lines, media_type=NDJSON)
