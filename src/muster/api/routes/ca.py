"""The certificate authority to trust at containers' addresses: for curl, browsers, and whoever has no SDK.

It asks for no token: an authority's certificate is public, and is wanted on computers that have none.
"""

from fastapi import APIRouter, Response

from muster.api.context import Ctx
from muster.errors import NotFound

MEDIA_TYPE = "application/x-pem-file"

extension = APIRouter(prefix="/api/v1/muster/ca", tags=["Muster"])


class _Pem(Response):
    media_type = MEDIA_TYPE


@extension.get("", response_class=_Pem, openapi_extra={"security": []})
async def get_authority(context: Ctx) -> Response:
    """Return the authority as PEM, with no token; 404 where containers' addresses need none."""
    pem = context.ca_pem()
    if pem is None:
        raise NotFound(
            "certificate authority",
            "ca",
            "there is no authority to tell: either there is no ingress, or its certificate is the operator's, who named"
            " none in tls_ca because clients know it",
        )
    return _Pem(pem)
