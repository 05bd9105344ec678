"""Metrics for Prometheus. Nobody is asked for a token, as its users expect: the sums name no account's things.

Whoever reaches the API's port reads them, so an address that is open to all (``host``) opens them too; a scraper on
another host comes through what guards the port there.
"""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from muster.api import metrics
from muster.api.context import Ctx

router = APIRouter(tags=["Health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def scrape(context: Ctx) -> Response:
    """Tell the platform's sums in the text format of Prometheus."""
    sums = await context.store.read(metrics.look)
    return Response(metrics.text(sums), media_type=CONTENT_TYPE_LATEST)
