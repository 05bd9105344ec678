"""Machines: AutoDL's two stock calls, our list, and what admins want of single machines."""

from collections.abc import Callable

from fastapi import APIRouter

from muster.api import audit, convert, fleet, machine_schemas, schemas, wanted
from muster.api.auth import Admin, Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Context, Ctx
from muster.api.envelope import Envelope
from muster.errors import Conflict, NotFound
from muster.model import account
from muster.model.deployment import Requirements
from muster.model.ids import MachineId
from muster.model.machine import Drain, MachineState
from muster.scheduler.inventory import Inventory
from muster.scheduler.stock import fits_by_size, stock
from muster.store.port import Transaction

router = APIRouter(prefix="/api/v1/dev/machine", tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/machines", tags=["Muster"], route_class=ObjectBodyRoute)


@router.post("/region/gpu_stock")
async def count_stock(
    body: schemas.StockFilter, caller: Caller, context: Ctx
) -> Envelope[list[dict[str, schemas.StockRow]]]:
    """Count idle and total GPUs by model on the machines that match: one object per model."""
    rows = await _stock(context, caller, convert.stock_requirements(body))
    return Envelope(data=[{each.gpu_name: each} for each in rows])


@router.get("/gpu_stock")
async def count_all_stock(caller: Caller, context: Ctx) -> Envelope[dict[str, schemas.StockRow]]:
    """Count idle and total GPUs of all machines: one object keyed by model."""
    return Envelope(data={each.gpu_name: each for each in await _stock(context, caller, Requirements())})


@extension.get("")
async def list_machines(caller: Caller, context: Ctx) -> machine_schemas.MachineList:
    """List the machines on offer: which of their GPUs are taken, whether they can be used, what failed there lately."""
    now = context.clock.now()
    found = await context.store.read(lambda tx: fleet.machine_rows(tx, caller, now, context.zone))
    return machine_schemas.MachineList(machines=list(found))


@extension.post("/{machine_id}/cordon")
async def cordon_machine(machine_id: str, caller: Admin, context: Ctx) -> machine_schemas.MachineRow:
    """Place nothing new on a machine; what runs there stays."""

    def work(tx: Transaction, state: MachineState) -> None:
        tx.machines.set_placing(MachineId(machine_id), is_cordoned=True, drain=state.drain)

    return await _change(context, caller, machine_id, "machine.cordon", "", work)


@extension.post("/{machine_id}/uncordon")
async def uncordon_machine(machine_id: str, caller: Admin, context: Ctx) -> machine_schemas.MachineRow:
    """Let a machine be used again; also takes a drain back."""

    def work(tx: Transaction, _: MachineState) -> None:
        tx.machines.set_placing(MachineId(machine_id), is_cordoned=False, drain=Drain.NONE)

    return await _change(context, caller, machine_id, "machine.uncordon", "", work)


@extension.post("/{machine_id}/drain")
async def drain_machine(
    machine_id: str, body: machine_schemas.DrainMachine, caller: Admin, context: Ctx
) -> machine_schemas.MachineRow:
    """Cordon a machine and replace what runs there; returns at once, the list tells how many are left."""
    drain = Drain.NOW if body.now else Drain.GENTLE

    def work(tx: Transaction, _: MachineState) -> None:
        tx.machines.set_placing(MachineId(machine_id), is_cordoned=True, drain=drain)

    return await _change(context, caller, machine_id, "machine.drain", drain.value, work)


@extension.post("/{machine_id}/lost")
async def declare_machine_lost(machine_id: str, caller: Admin, context: Ctx) -> machine_schemas.MachineRow:
    """Replace at once what ran on a machine that does not answer, whatever the brake says."""

    def work(tx: Transaction, state: MachineState) -> None:
        if state.answers:
            raise Conflict(f"machine {machine_id} answers: drain it instead")
        if state.lost_at is None:
            tx.machines.set_lost(MachineId(machine_id), context.clock.now())

    return await _change(context, caller, machine_id, "machine.declare_lost", "", work)


async def _change(  # noqa: PLR0917  who, what, to what, how
    context: Context,
    caller: account.Caller,
    machine_id: str,
    action: str,
    detail: str,
    work: Callable[[Transaction, MachineState], None],
) -> machine_schemas.MachineRow:
    """Change one machine on offer and show it as it is then."""
    now = context.clock.now()

    def change(tx: Transaction) -> machine_schemas.MachineRow:
        if all(each.id != machine_id for each in tx.machines.offered()):
            raise NotFound("machine", machine_id)
        work(tx, tx.machines.states().get(MachineId(machine_id), MachineState()))
        audit.note(tx, caller, action, machine_id, detail, now)
        rows = fleet.machine_rows(tx, caller, now, context.zone)
        return next(row for row in rows if row.machine_id == machine_id)

    return await wanted.write(context.store, change)


async def _stock(context: Context, caller: account.Caller, requirements: Requirements) -> list[schemas.StockRow]:
    """Count what the caller could get: a machine that is banned, cordoned or broken is owned, and has nothing idle."""

    def work(tx: Transaction) -> tuple[Inventory, frozenset[MachineId]]:
        inventory = Inventory.of(tx.machines.offered(), tx.containers.claims())
        unusable = {machine_id for machine_id, state in tx.machines.states().items() if not state.is_usable}
        banned = {entry.machine_id for entry in tx.blacklist.of(caller.id, context.clock.now())}
        return inventory, frozenset(unusable | banned)

    inventory, closed = await context.store.read(work)
    return [
        convert.stock_row(each, fits_by_size(inventory, requirements, each.gpu_name, unavailable=closed))
        for each in stock(inventory, requirements, unavailable=closed)
    ]
