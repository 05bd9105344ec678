"""Machines: AutoDL's two stock calls, and our list."""

from fastapi import APIRouter

from muster.api import convert, schemas
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.envelope import Envelope
from muster.model.deployment import Requirements
from muster.scheduler.inventory import Inventory
from muster.scheduler.stock import stock
from muster.store.port import Transaction

router = APIRouter(prefix="/api/v1/dev/machine", tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/machines", tags=["Muster"])


@router.post("/region/gpu_stock")
async def count_stock(
    body: schemas.StockFilter, _: Caller, context: Ctx
) -> Envelope[list[dict[str, schemas.StockRow]]]:
    """Count idle and total GPUs by model on the machines that match: one object per model."""
    inventory = await context.store.read(_inventory)
    found = stock(inventory, convert.stock_requirements(body))
    return Envelope(data=[{each.gpu_name: convert.stock_row(each)} for each in found])


@router.get("/gpu_stock")
async def count_all_stock(_: Caller, context: Ctx) -> Envelope[dict[str, schemas.StockRow]]:
    """Count idle and total GPUs of all machines: one object keyed by model."""
    inventory = await context.store.read(_inventory)
    return Envelope(data={each.gpu_name: convert.stock_row(each) for each in stock(inventory, Requirements())})


@extension.get("")
async def list_machines(_: Caller, context: Ctx) -> schemas.MachineList:
    """List the machines on offer and which of their GPUs are taken, by whomever."""
    offered, claims = await context.store.read(lambda tx: (tx.machines.offered(), tx.containers.claims()))
    return schemas.MachineList(machines=[convert.machine_row(each, claims.get(each.id, ())) for each in offered])


def _inventory(tx: Transaction) -> Inventory:
    return Inventory.of(tx.machines.offered(), tx.containers.claims())
