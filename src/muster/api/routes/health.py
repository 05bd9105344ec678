"""Health: whether the process answers, and whether it serves. Neither asks for a token."""

from fastapi import APIRouter, Response

from muster.api.context import Ctx
from muster.api.schemas import Health

router = APIRouter(tags=["Health"])


@router.get("/healthz")
async def is_alive() -> Health:
    """Answer, which is all there is to say."""
    return Health(status="ok")


@router.get("/readyz")
async def is_ready(context: Ctx, response: Response) -> Health:
    """Answer 200 once the server is ready to serve, 503 before."""
    if context.is_ready():
        return Health(status="ok")
    response.status_code = 503
    return Health(status="starting")
