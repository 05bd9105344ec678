"""SSH: the public keys that open an account's containers, and the key by which the gateway is known."""

import datetime

from fastapi import APIRouter

from muster.api import ssh_schemas as bodies
from muster.api import wanted
from muster.api.audit import note
from muster.api.auth import Caller
from muster.api.body import ObjectBodyRoute
from muster.api.context import Ctx
from muster.api.convert import wire_time
from muster.api.public_key import parse_public_key
from muster.errors import Conflict, NotFound
from muster.model.ssh_key import SshKey
from muster.store.port import Transaction

extension = APIRouter(prefix="/api/v1/muster/ssh", tags=["Muster"], route_class=ObjectBodyRoute)

_MOST_KEYS = 100
"""Of one account: each is in every route of its containers."""
_LONGEST_NAME = 100


@extension.get("/keys")
async def list_ssh_keys(caller: Caller, context: Ctx) -> bodies.SshKeyList:
    """List the public keys that open the account's containers."""
    found = await context.store.read(lambda tx: tx.ssh_keys.all_of(caller.id))
    return bodies.SshKeyList(keys=[_row(each, context.zone) for each in found])


@extension.post("/keys", status_code=201)
async def add_ssh_key(body: bodies.NewSshKey, caller: Caller, context: Ctx) -> bodies.SshKeyRow:
    """Let the owner of a public key into the account's containers, also those that run; 409 if it is there."""
    key, now = parse_public_key(body.key), context.clock.now()
    name = body.name or _printable(key.comment)[:_LONGEST_NAME]

    def work(tx: Transaction) -> SshKey:
        if len(tx.ssh_keys.all_of(caller.id)) >= _MOST_KEYS:
            raise Conflict(f"the account has {_MOST_KEYS} keys already: remove one first")
        added = tx.ssh_keys.add(caller.id, name, key.line, key.fingerprint, now)
        note(tx, caller, "ssh_key.add", key.fingerprint, name, now)
        return added

    return _row(await wanted.write(context.store, work), context.zone)


@extension.delete("/keys/{fingerprint:path}")
async def remove_ssh_key(fingerprint: str, caller: Caller, context: Ctx) -> bodies.SshKeyRow:
    """Let nobody in by a key any more, and return what it was; who is in stays in."""
    now = context.clock.now()

    def work(tx: Transaction) -> SshKey:
        found = [each for each in tx.ssh_keys.all_of(caller.id) if each.fingerprint == fingerprint]
        if not found or not tx.ssh_keys.remove(caller.id, fingerprint):
            raise NotFound("SSH key", fingerprint)
        note(tx, caller, "ssh_key.remove", fingerprint, found[0].name, now)
        return found[0]

    return _row(await wanted.write(context.store, work), context.zone)


@extension.get("/host-key")
async def get_ssh_host_key(caller: Caller, context: Ctx) -> bodies.HostKey:  # noqa: ARG001  any account may know it
    """Tell the public key by which the SSH gateway is known; 409 where there is none."""
    if context.host_key is None:
        raise Conflict("this server has no ingress, so its containers have no SSH login; muster exec works without")
    return bodies.HostKey(host_key=context.host_key())


def _printable(text: str) -> str:
    return "".join(each for each in text if each.isprintable())


def _row(key: SshKey, zone: datetime.tzinfo) -> bodies.SshKeyRow:
    return bodies.SshKeyRow(
        fingerprint=key.fingerprint, name=key.name, key=key.key, created_at=wire_time(key.created_at, zone)
    )
