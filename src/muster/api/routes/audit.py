"""The audit log: who changed what, and when. An account reads about its own things, admins about everybody's."""

from fastapi import APIRouter, Query

from muster.api import account_schemas as bodies
from muster.api.auth import Caller
from muster.api.context import Ctx
from muster.api.convert import wire_time
from muster.errors import NotFound
from muster.model.account import Caller as CallerAccount
from muster.model.ids import AccountId
from muster.store.port import Transaction, Window

extension = APIRouter(prefix="/api/v1/muster", tags=["Muster"])


@extension.get("/audit")
async def list_audit(
    caller: Caller,
    context: Ctx,
    *,
    account: str = Query("", description="whose things; admins may name anybody, and without it ask about all"),
    target: str = Query("", max_length=500, description="only what was changed here: a uuid, a name, a path"),
    limit: int = Query(100, ge=1, le=1000),
    offset: int = Query(0, ge=0, le=2**53),
) -> bodies.AuditLog:
    """List changes, newest first."""

    def work(tx: Transaction) -> bodies.AuditLog:
        owner = _whose(tx, caller, account)
        page = tx.audit.find(owner, Window(offset, limit), target=target or None)
        names = {each.id: each.name for each in tx.accounts.all()}
        rows = [
            bodies.AuditRow(
                id=each.id,
                account=names[each.account_id],
                actor=each.actor,
                token_id=each.token_id,
                action=each.action,
                target=each.target,
                detail=each.detail,
                created_at=wire_time(each.created_at, context.zone),
            )
            for each in page.items
        ]
        return bodies.AuditLog(entries=rows, total=page.total)

    return await context.store.read(work)


def _whose(tx: Transaction, caller: CallerAccount, name: str) -> AccountId | None:
    """Return whose entries are meant, ``None`` for all; to a member other accounts look unknown."""
    if not name:
        return None if caller.is_admin else caller.id
    account = tx.accounts.by_name(name)
    if account is None or not (caller.is_admin or account.id == caller.id):
        raise NotFound("account", name)
    return account.id
