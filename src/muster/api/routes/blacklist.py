"""Blacklists: keep an account's deployments off a machine for a time, as AutoDL does, and our own removal."""

import datetime

from fastapi import APIRouter

from muster.api import audit, wanted
from muster.api import blacklist_schemas as bodies
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.convert import wire_time
from muster.api.envelope import Envelope
from muster.api.machine_schemas import BlacklistHost
from muster.errors import NotFound
from muster.model.blacklist import BlacklistEntry
from muster.model.ids import MachineId
from muster.store.port import Transaction

router = APIRouter(prefix="/api/v1/dev/deployment", tags=["AutoDL"], route_class=ObjectBodyRoute)
extension = APIRouter(prefix="/api/v1/muster/blacklist", tags=["Muster"], route_class=ObjectBodyRoute)


@router.post("/blacklist")
@router.post("/scheduling/blacklist", include_in_schema=False)
async def blacklist_machine(body: bodies.BlacklistMachine, caller: Caller, context: Ctx) -> Envelope[None]:
    """Place nothing of the account on a container's machine for a time; what runs there stays.

    Again for the same machine, it starts anew.
    """
    now = context.clock.now()

    def work(tx: Transaction) -> None:
        container = wanted.own_container(tx, caller, body.deployment_container_uuid)
        assert container.placement is not None  # a uuid is made by placement
        entry = BlacklistEntry(
            account_id=caller.id,
            machine_id=container.placement.machine_id,
            data_center=container.placement.data_center,
            comment=body.comment,
            created_at=now,
            updated_at=now,
            expires_at=now + datetime.timedelta(minutes=body.expire_in_minutes),
        )
        tx.blacklist.put(entry)
        audit.note(tx, caller, "machine.blacklist", entry.machine_id, f"for {body.expire_in_minutes} minutes", now)

    await wanted.write(context.store, work)
    return Envelope(data=None)


@router.get("/blacklist")
@router.get("/scheduling/blacklist", include_in_schema=False)
@router.post("/blacklist/list", include_in_schema=False)
async def list_blacklist(caller: Caller, context: Ctx) -> Envelope[list[bodies.BlacklistRow]]:
    """List the account's entries in force, by machine: an array, not a page."""
    now = context.clock.now()
    found = await context.store.read(lambda tx: tx.blacklist.of(caller.id, now))
    return Envelope(data=[_autodl_row(each, context.zone) for each in found])


@extension.get("")
async def list_blacklisted(caller: Caller, context: Ctx) -> bodies.BlacklistedList:
    """List the machines that nothing of the account is placed on for now."""
    now = context.clock.now()
    found = await context.store.read(lambda tx: tx.blacklist.of(caller.id, now))
    return bodies.BlacklistedList(machines=[_row(each, context.zone) for each in found])


@extension.put("/{machine_id}")
async def blacklist_host(machine_id: str, body: BlacklistHost, caller: Caller, context: Ctx) -> bodies.BlacklistedRow:
    """Place nothing of the account on a machine for a time; what runs there stays. Again, it starts anew."""
    now = context.clock.now()

    def work(tx: Transaction) -> BlacklistEntry:
        machine = tx.machines.get(MachineId(machine_id))
        if machine is None:
            raise NotFound("machine", machine_id)
        entry = BlacklistEntry(
            account_id=caller.id,
            machine_id=machine.id,
            data_center=machine.data_center,
            comment=body.comment,
            created_at=now,
            updated_at=now,
            expires_at=now + datetime.timedelta(minutes=body.expire_in_minutes),
        )
        tx.blacklist.put(entry)
        audit.note(tx, caller, "machine.blacklist", machine.id, f"for {body.expire_in_minutes} minutes", now)
        return next(each for each in tx.blacklist.of(caller.id, now) if each.machine_id == machine.id)

    return _row(await wanted.write(context.store, work), context.zone)


@extension.delete("/{machine_id}")
async def unblacklist_machine(machine_id: str, caller: Caller, context: Ctx) -> bodies.BlacklistedRow:
    """Allow a machine again; returns the entry that it was."""
    now = context.clock.now()

    def work(tx: Transaction) -> BlacklistEntry:
        for entry in tx.blacklist.of(caller.id, now):
            if entry.machine_id == machine_id:
                tx.blacklist.remove(caller.id, MachineId(machine_id))
                audit.note(tx, caller, "machine.unblacklist", machine_id, "", now)
                return entry
        raise NotFound("blacklisted machine", machine_id)

    return _row(await wanted.write(context.store, work), context.zone)


def _autodl_row(entry: BlacklistEntry, zone: datetime.tzinfo) -> bodies.BlacklistRow:
    return bodies.BlacklistRow(
        created_at=wire_time(entry.created_at, zone),
        data_center=entry.data_center,
        expired_time=wire_time(entry.expires_at, zone),
        machine_id=entry.machine_id,
        msg=entry.comment,
        updated_at=wire_time(entry.updated_at, zone),
    )


def _row(entry: BlacklistEntry, zone: datetime.tzinfo) -> bodies.BlacklistedRow:
    return bodies.BlacklistedRow(
        machine_id=entry.machine_id,
        data_center=entry.data_center,
        comment=entry.comment,
        created_at=wire_time(entry.created_at, zone),
        updated_at=wire_time(entry.updated_at, zone),
        expires_at=wire_time(entry.expires_at, zone),
    )
