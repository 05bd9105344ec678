"""What an account has paid for: AutoDL's prepaid packages and wallet. Nothing is billed here yet, and that is told."""

from fastapi import APIRouter, Query

from muster.api import balance_schemas as bodies
from muster.api import wanted
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.convert import wire_time
from muster.api.envelope import Envelope

router = APIRouter(prefix="/api/v1/dev", tags=["AutoDL"], route_class=ObjectBodyRoute)


@router.get("/deployment/ddp/overview")
async def list_packages(
    caller: Caller, context: Ctx, deployment_uuid: str = Query(min_length=1, max_length=255)
) -> Envelope[list[bodies.PackageRow]]:
    """List the prepaid packages that a deployment may use up: there are none."""
    await context.store.read(lambda tx: wanted.own_deployment(tx, caller, deployment_uuid))
    return Envelope(data=[])


@router.post("/wallet/balance")
async def get_balance(caller: Caller, context: Ctx) -> Envelope[bodies.Wallet]:
    """Tell what the account has: nothing, as nothing costs anything yet."""
    made_at = wire_time(caller.created_at, context.zone)
    return Envelope(data=bodies.Wallet(id=caller.id, uid=caller.id, created_at=made_at, updated_at=made_at))
