"""Images: an account's own, and those of the platform."""

from fastapi import APIRouter

from muster.api import convert, schemas
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.envelope import Envelope

router = APIRouter(tags=["AutoDL"], route_class=ObjectBodyRoute)


@router.post("/api/v1/dev/image/private/list")
async def list_private_images(
    body: schemas.PageRequest, caller: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.ImageRow]]:
    """List the account's images, newest first."""
    found = await context.store.read(lambda tx: tx.images.find(caller.id, convert.window(body)))
    rows = [convert.image_row(each, context.zone) for each in found.items]
    return Envelope(data=convert.page_of(found, rows, body))


@router.post("/api/v2/image/list")
async def list_base_images(
    body: schemas.PageRequest, _: Caller, context: Ctx
) -> Envelope[schemas.PageOf[schemas.BaseImageRow]]:
    """List the images of the platform, newest first."""
    found = await context.store.read(lambda tx: tx.images.find(None, convert.window(body)))
    return Envelope(data=convert.page_of(found, [convert.base_image_row(each) for each in found.items], body))
